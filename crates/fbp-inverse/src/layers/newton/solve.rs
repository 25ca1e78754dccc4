use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use fbp_linalg::Real;
use fbp_linalg::attained::attained_slack;

use super::function::Function;
use super::linear::Start;
use super::memory::{Memory, Place, Sizes, State, with_memory};
use super::problem::{Newton, Wanted, pull_scratch};
use super::search::Solver;
use super::vectors::{distance, of, of_mut, view, view_mut};
use crate::layers::columns::{column, column_mut, is_within, squared_norms};
use crate::sequence::Sequence;
use crate::{InverseError, ReversePass, TargetBox};

/// Share of the residual that may be left when the nearest point is looked for: the tolerance, but within these ends.
const SHARP: [f64; 2] = [1e-8, 1e-2];

/// Share of the tolerance that is used by quasi-Newton steps, whose last one is short: the block as a whole may round otherwise,
/// and the report has to agree.
const SAFE: f64 = 0.99;

/// Multiple of the goal within which others go on where quasi-Newton steps end.
const CLOSE: f64 = 10.0;

/// Share of the tolerance that single outputs may miss their intervals by before they ask for anything.
const IGNORED: f64 = 1e-2;

/// What the iteration did.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::layers) struct Effort {
    /// Most linearisations of a sample.
    pub(in crate::layers) steps: usize,
    /// Whether some sample ended at the limit of steps.
    pub(in crate::layers) stopped_early: bool,
}

/// Workspace of [`Newton::solve`].
pub(in crate::layers) fn newton_scratch<T: Real>(
    function: &dyn Function<T>,
    above: Sequence<'_, T>,
    batch: usize,
    par: Par,
) -> StackReq {
    let above_len = if above.operators.is_empty() { 0 } else { above.out_len() };
    let sizes = Sizes::new(function, above_len, batch);
    let mut runs = StackReq::EMPTY;
    // Samples leave the group, and a smaller batch may ask for more.
    for count in [1, sizes.group] {
        let products = function.forward_scratch(count, par).or(function.product_scratch(count, par));
        runs = runs.or(products).or(above.forward_scratch(count, par));
    }
    runs = runs.or(pull_scratch(function, sizes.group, par));
    sizes.scratch::<T>().and(runs)
}

impl<T: Real> Newton<'_, T> {
    /// Writes the point of every sample whose observed output misses its box; `inner` is what is wanted of the function, and
    /// `pass` what is wanted of what follows it.
    pub(in crate::layers) fn solve(
        &self,
        pass: &mut ReversePass<'_, T>,
        inner: TargetBox<'_, T>,
        stack: &mut MemStack,
    ) -> Result<Effort, InverseError> {
        let wanted = Wanted {
            observed_in: pass.observed_in,
            lower: inner.lower,
            upper: inner.upper,
            final_lower: pass.target_out.lower,
            final_upper: pass.target_out.upper,
            range: pass.in_range,
        };
        let batch = pass.batch();
        let sizes = Sizes::new(self.function, self.above_len(), batch);
        let is_open = |sample: usize| {
            let (lower, upper) = (column(wanted.final_lower, sample), column(wanted.final_upper, sample));
            !is_within(column(pass.observed_out, sample), lower, upper)
        };
        let point = &mut pass.target_in.point;
        with_memory(sizes, self.function.tape_lens(), self.par, stack, |mut memory: Memory<'_, T>, stack| {
            let (mut effort, mut next) = (Effort::default(), 0);
            while next < batch {
                memory.used = 0;
                while next < batch && memory.used < sizes.group {
                    if is_open(next) {
                        memory.places[memory.used] = Place { sample: next, ..Place::default() };
                        memory.used += 1;
                    }
                    next += 1;
                }
                if memory.used == 0 {
                    break;
                }
                self.solve_group(&wanted, &mut memory, inner, stack)?;
                for (at, place) in memory.places[..memory.used].iter().enumerate() {
                    column_mut(point, place.sample).copy_from_slice(of(memory.result, sizes.inputs, at));
                    effort.steps = effort.steps.max(place.steps);
                    effort.stopped_early |= place.state == State::OutOfSteps;
                }
            }
            Ok(effort)
        })
    }

    /// Solves the samples of one group.
    fn solve_group(
        &self,
        wanted: &Wanted<'_, T>,
        memory: &mut Memory<'_, T>,
        inner: TargetBox<'_, T>,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let inputs = memory.sizes.inputs;
        for at in 0..memory.used {
            wanted.write_anchor(memory.places[at].sample, of_mut(memory.result, inputs, at));
        }
        let all = self.set_goals(wanted, memory, inner, stack)?;
        let square = memory.sizes.is_square() && wanted.range.is_everything();
        let squares = memory.places[..all].iter().filter(|place| square && wanted.is_point(place.sample)).count();
        if squares > 0 {
            // All samples have been loaded for their goals.
            let count = match squares == all {
                true => all,
                false => self.load(wanted, memory, stack, |place| wanted.is_point(place.sample))?,
            };
            self.search(Solver::Square, wanted, memory, count, stack)?;
        }
        let held = !wanted.range.is_everything();
        if held {
            self.descend(wanted, memory, all, stack)?;
            // What is out of reach is missed by the least from the observed input, whatever these steps came to; what they came
            // close to is not.
            for at in 0..memory.used {
                let place = memory.places[at];
                if place.state != State::Reached && place.reached > CLOSE * place.goal {
                    wanted.write_anchor(place.sample, of_mut(memory.result, inputs, at));
                }
            }
        }
        let count = match squares {
            0 if !held => all,
            _ => self.load(wanted, memory, stack, |place| place.state != State::Reached)?,
        };
        self.search(Solver::LeastSquares, wanted, memory, count, stack)?;
        self.move_nearer(wanted, memory, square, stack)
    }

    /// Loads all samples and sets their goals: a share of the distance at the observed input, beyond what cannot be reached.
    fn set_goals(
        &self,
        wanted: &Wanted<'_, T>,
        memory: &mut Memory<'_, T>,
        inner: TargetBox<'_, T>,
        stack: &mut MemStack,
    ) -> Result<usize, InverseError> {
        let above_len = self.above_len();
        let count = self.load(wanted, memory, stack, |_| true)?;
        let safe = if wanted.range.is_everything() { 1.0 } else { SAFE };
        for at in 0..count {
            let slot = memory.slots[at];
            let output = of(memory.output, memory.sizes.outputs, at);
            let largest = output.iter().fold(0.0_f64, |largest, y| largest.max(y.to_f64().abs()));
            let rounding = attained_slack::<T>(1, largest);
            // A distance that overflows is no scale.
            let share = if slot.distance.is_finite() { safe * self.params.tolerance * slot.distance } else { 0.0 };
            let place = &mut memory.places[slot.place];
            place.goal = share.max(rounding);
            let ignored = IGNORED * self.params.tolerance * slot.norm / (output.len() as f64).sqrt();
            place.ignored = if ignored.is_finite() { ignored } else { 0.0 };
        }
        if above_len == 0 {
            return Ok(count);
        }
        // What follows misses its box by this much at best.
        let Memory { sizes, places, slots, above, product, .. } = memory;
        for (at, slot) in slots[..count].iter().enumerate() {
            let best = column(inner.point, places[slot.place].sample);
            of_mut(product, sizes.outputs, at).copy_from_slice(best);
        }
        let best = view(product, sizes.outputs, count);
        self.above.forward(self.name, best, view_mut(above, above_len, count), self.par, stack)?;
        for (at, slot) in slots[..count].iter().enumerate() {
            let sample = places[slot.place].sample;
            let (lower, upper) = (column(wanted.final_lower, sample), column(wanted.final_upper, sample));
            let least = distance(of(above, above_len, at), lower, upper);
            places[slot.place].goal += least;
        }
        Ok(count)
    }

    /// Steps towards the observed input, back to the goal after each; kept where they lead nearer.
    fn move_nearer(
        &self,
        wanted: &Wanted<'_, T>,
        memory: &mut Memory<'_, T>,
        square: bool,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let inputs = memory.sizes.inputs;
        for place in &mut memory.places[..memory.used] {
            // A square system has isolated solutions.
            place.improves = place.state == State::Reached && !(square && wanted.is_point(place.sample));
        }
        for _ in 0..self.params.nearer_steps {
            let count = self.load(wanted, memory, stack, |place| place.improves)?;
            if count == 0 {
                break;
            }
            let share = self.params.tolerance.clamp(SHARP[0], SHARP[1]);
            memory.slots[..count].iter_mut().for_each(|slot| slot.share = share);
            self.solve_linear(Start::Observed, wanted, memory, count, stack)?;
            self.jump(wanted, memory, count, stack)?;
            memory.saved.copy_from_slice(memory.result);
            self.search(Solver::LeastSquares, wanted, memory, count, stack)?;
            let Memory { places, used, result, saved, direction, .. } = memory;
            for (at, place) in places[..*used].iter_mut().enumerate().filter(|(_, place)| place.improves) {
                let anchor = of_mut(direction, inputs, 0);
                wanted.write_anchor(place.sample, anchor);
                let (old, new) = (of(saved, inputs, at), of_mut(result, inputs, at));
                // What the tolerance lets an output miss changes the distance as well.
                let [far, near] = [old, &*new].map(|point| squared_norms(point, anchor).0.sqrt());
                let nearer = near <= (1.0 + self.params.tolerance) * far;
                if place.state != State::Reached || !nearer {
                    new.copy_from_slice(old);
                    place.improves = false;
                    place.state = State::Reached;
                }
            }
        }
        Ok(())
    }
}
