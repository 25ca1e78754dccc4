use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatRef, Par};
use fbp_linalg::{Real, SplitBatch, for_each_part, parts_scratch};

use super::function::Function;
use super::memory::{Memory, PAIRS, Slot};
use super::params::NewtonParams;
use super::vectors::{distance, of, of_mut, view, view_mut};
use crate::layers::columns::column;
use crate::sequence::Sequence;
use crate::tape::{Tape, TapeMut};
use crate::{Interval, InverseError, JvpPass, VjpPass};

/// A function to be reversed, with what follows it.
pub(in crate::layers) struct Newton<'a, T> {
    /// Name of the layer, for errors.
    pub(in crate::layers) name: &'a str,
    pub(in crate::layers) function: &'a dyn Function<T>,
    /// What has been reversed before, and gave the boxes of the function; the goal is that of its output.
    pub(in crate::layers) above: Sequence<'a, T>,
    pub(in crate::layers) params: NewtonParams,
    pub(in crate::layers) par: Par,
}

/// What is wanted of all samples of a batch.
pub(super) struct Wanted<'a, T> {
    pub(super) observed_in: MatRef<'a, T>,
    /// Target boxes at the output of the function.
    pub(super) lower: MatRef<'a, T>,
    pub(super) upper: MatRef<'a, T>,
    /// Those of what follows it.
    pub(super) final_lower: MatRef<'a, T>,
    pub(super) final_upper: MatRef<'a, T>,
    pub(super) range: Interval<T>,
}

impl<T: Real> Wanted<'_, T> {
    /// The target box of a sample at the output of the function.
    pub(super) fn ends(&self, sample: usize) -> (&[T], &[T]) {
        (column(self.lower, sample), column(self.upper, sample))
    }

    /// Whether all outputs of a sample have one target each.
    pub(super) fn is_point(&self, sample: usize) -> bool {
        let (lower, upper) = self.ends(sample);
        lower == upper
    }

    /// Writes the observed input within the range.
    pub(super) fn write_anchor(&self, sample: usize, out: &mut [T]) {
        out.iter_mut().zip(column(self.observed_in, sample)).for_each(|(out, &x)| *out = self.range.clip(x));
    }
}

impl<T: Real> Newton<'_, T> {
    pub(super) fn above_len(&self) -> usize {
        if self.above.operators.is_empty() { 0 } else { self.above.out_len() }
    }

    /// Runs the function on the first `count` trial points, into `product` and the tape.
    pub(super) fn evaluate_trial(
        &self,
        memory: &mut Memory<'_, T>,
        count: usize,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let Memory { sizes, trial, product, tape, .. } = memory;
        let output = view_mut(product, sizes.outputs, count);
        self.function.forward(view(trial, sizes.inputs, count), output, tape.with_batch(count), self.par, stack)
    }

    /// `product = J · from` at the points of the tape.
    pub(super) fn push(
        &self,
        (point, tape): (MatRef<'_, T>, &TapeMut<'_, T>),
        from: MatRef<'_, T>,
        product: &mut [T],
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let (count, outputs) = (from.ncols(), self.function.out_len());
        let tangent_out = view_mut(product, outputs, count);
        let pass = JvpPass { at: point, tangent_in: from, tangent_out };
        self.function.jvp(pass, tape.rb().samples(0, count), self.par, stack)
    }

    /// `gradient = Jᵀ · from` at the points of the tape, on every thread for samples of its own, if there are enough: a layer at a time
    /// would have the threads wait for each other after every layer.
    pub(super) fn pull(
        &self,
        (point, tape): (MatRef<'_, T>, &TapeMut<'_, T>),
        from: MatRef<'_, T>,
        gradient: &mut [T],
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let (count, inputs) = (from.ncols(), self.function.in_len());
        let cotangent_in = view_mut(gradient, inputs, count);
        let pass = VjpPass { at: point, cotangent_out: from, cotangent_in };
        let (pull, threads) = (Pull { pass, tape: tape.rb().samples(0, count) }, self.par.degree());
        if count < threads {
            return self.function.vjp(pull.pass, pull.tape, self.par, stack);
        }
        let part = part_scratch(self.function, count.div_ceil(threads));
        let run = |pull: Pull<'_, T>, stack: &mut MemStack| self.function.vjp(pull.pass, pull.tape, Par::Seq, stack);
        for_each_part(pull, part, self.par, stack, &run, &|left, right| left.and(right))
    }

    /// Measures the outputs of the first `count` samples: their residuals, and the distances of what follows to the goal.
    pub(super) fn measure(
        &self,
        wanted: &Wanted<'_, T>,
        memory: &mut Memory<'_, T>,
        count: usize,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let Memory { sizes, places, slots, output, above, .. } = memory;
        let above_len = self.above_len();
        if above_len > 0 {
            let input = view(output, sizes.outputs, count);
            self.above.forward(self.name, input, view_mut(above, above_len, count), self.par, stack)?;
        }
        for (at, slot) in slots[..count].iter_mut().enumerate() {
            let sample = places[slot.place].sample;
            let (lower, upper) = wanted.ends(sample);
            slot.norm = distance(of(output, sizes.outputs, at), lower, upper);
            slot.distance = slot.norm;
            if above_len > 0 {
                let (lower, upper) = (column(wanted.final_lower, sample), column(wanted.final_upper, sample));
                slot.distance = distance(of(above, above_len, at), lower, upper);
            }
        }
        Ok(())
    }
}

/// Workspace of [`Newton::pull`] for up to `count` samples.
pub(super) fn pull_scratch<T: Real>(function: &dyn Function<T>, count: usize, par: Par) -> StackReq {
    let threads = par.degree().max(1);
    let few = (1..threads.min(count + 1)).map(|count| function.product_scratch(count, par));
    let parts = parts_scratch(part_scratch(function, count.div_ceil(threads)), count, par);
    few.fold(parts, StackReq::or)
}

/// What a thread needs for up to so many samples, of which fewer may need more.
fn part_scratch<T: Real>(function: &dyn Function<T>, samples: usize) -> StackReq {
    (1..=samples).fold(StackReq::EMPTY, |req, samples| req.or(function.product_scratch(samples, Par::Seq)))
}

/// A product with the tape of its samples, divisible.
struct Pull<'a, T> {
    pass: VjpPass<'a, T>,
    tape: Tape<'a, T>,
}

impl<T: Real> SplitBatch for Pull<'_, T> {
    fn batch(&self) -> usize {
        self.pass.at.ncols()
    }

    fn split_at(self, count: usize) -> (Self, Self) {
        let Self { pass: VjpPass { at, cotangent_out, cotangent_in }, tape } = self;
        let rest = tape.samples(count, at.ncols() - count);
        let (at, at_right) = at.split_at_col(count);
        let (out, out_right) = cotangent_out.split_at_col(count);
        let (cotangent_in, in_right) = cotangent_in.split_at_col_mut(count);
        let left = VjpPass { at, cotangent_out: out, cotangent_in };
        let right = VjpPass { at: at_right, cotangent_out: out_right, cotangent_in: in_right };
        (Self { pass: left, tape: tape.samples(0, count) }, Self { pass: right, tape: rest })
    }
}

impl<T: Real> Memory<'_, T> {
    /// Copies a sample of the compact batch to another slot.
    pub(super) fn move_slot(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        let (inputs, outputs) = (self.sizes.inputs, self.sizes.outputs);
        self.slots[to] = self.slots[from];
        self.point.copy_within(inputs * from..inputs * (from + 1), inputs * to);
        self.output.copy_within(outputs * from..outputs * (from + 1), outputs * to);
        self.gradient.copy_within(inputs * from..inputs * (from + 1), inputs * to);
        let history = 2 * PAIRS * inputs;
        self.basis.copy_within(history * from..history * (from + 1), history * to);
        self.tape.move_sample(from, to);
    }

    /// Keeps the point of a slot as the result of its place.
    pub(super) fn keep(&mut self, at: usize) {
        let Slot { place, .. } = self.slots[at];
        let inputs = self.sizes.inputs;
        of_mut(self.result, inputs, place).copy_from_slice(of(self.point, inputs, at));
    }
}
