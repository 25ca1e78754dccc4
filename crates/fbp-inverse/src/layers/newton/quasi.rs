//! Steps of a projected quasi-Newton method: one evaluation and one product with `Jᵀ` each.
//!
//! Where a range holds about as many inputs as there are free ones, the solution of a linearisation without its ends is far from
//! that within them, and most products of a linear solve are spent on what the next change of the active ends throws away. Here
//! the active ends may change with every product.

use std::mem::MaybeUninit;

use faer::dyn_stack::{MemStack, StackReq};
use fbp_linalg::{Real, for_each_part};
use pulp::{Arch, NullaryFnOnce};

use super::memory::Memory;
use super::pairs::{Follow, Learn, Samples};
use super::problem::{Newton, Wanted};
use super::search::{Solver, leave};
use super::vectors::{dot, of, of_mut, view, write_residual};
use crate::InverseError;

/// Steps that count as one linearisation with its linear solve, which takes as many pairs of products or more.
const STEPS: usize = 25;
/// Steps after which a sample has to have lost half of its residual, or is left to another solver.
const PATIENCE: usize = 40;

impl<T: Real> Newton<'_, T> {
    /// Runs quasi-Newton steps on the first `count` samples, which have been measured, and writes their results.
    pub(super) fn descend(
        &self,
        wanted: &Wanted<'_, T>,
        memory: &mut Memory<'_, T>,
        count: usize,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let (mut count, steps) = (count, STEPS * self.params.max_steps);
        self.set_descent(wanted, memory, count, stack)?;
        for step in 0..=steps {
            if step % PATIENCE == 0 {
                for slot in &mut memory.slots[..count] {
                    slot.stalled |= step > 0 && slot.norm > 0.5 * slot.first;
                    slot.first = slot.norm;
                }
            }
            count = leave(memory, count, step == steps);
            if count == 0 {
                break;
            }
            if step % STEPS == 0 {
                let Memory { places, slots, .. } = memory;
                slots[..count].iter().for_each(|slot| places[slot.place].steps += 1);
            }
            for slot in &mut memory.slots[..count] {
                // A step that failed may be due to what is remembered.
                slot.pairs = if slot.careful { 0 } else { slot.pairs };
                (slot.careful, slot.changed) = (false, slot.pairs > 0);
            }
            self.set_scales(memory, count, stack)?;
            self.each(memory, count, |samples| {
                Arch::new().dispatch(Dispatch { samples, work: Work::Follow(Follow { range: wanted.range }) });
            });
            self.shorten(Solver::Quasi, wanted, memory, count, stack)?;
            self.measure(wanted, memory, count, stack)?;
            self.set_descent(wanted, memory, count, stack)?;
            self.each(memory, count, |samples| {
                Arch::new().dispatch(Dispatch { samples, work: Work::Learn(Learn) });
            });
        }
        Ok(())
    }

    /// `gradient = Jᵀ r`, along which the residual falls the fastest.
    fn set_descent(
        &self,
        wanted: &Wanted<'_, T>,
        memory: &mut Memory<'_, T>,
        count: usize,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let Memory { sizes, places, slots, point, output, residual, gradient, tape, .. } = memory;
        for (at, slot) in slots[..count].iter().enumerate() {
            let (lower, upper) = wanted.ends(places[slot.place].sample);
            let (output, residual) = (of(output, sizes.outputs, at), of_mut(residual, sizes.outputs, at));
            write_residual(output, lower, upper, residual);
        }
        let place = (view(point, sizes.inputs, count), &*tape);
        self.pull(place, view(residual, sizes.outputs, count), gradient, stack)
    }

    /// The best length of a step along the gradient, for samples that know nothing better.
    fn set_scales(&self, memory: &mut Memory<'_, T>, count: usize, stack: &mut MemStack) -> Result<(), InverseError> {
        let Memory { sizes, slots, point, gradient, product, tape, .. } = memory;
        if slots[..count].iter().all(|slot| slot.pairs > 0) {
            return Ok(());
        }
        let (inputs, outputs) = (sizes.inputs, sizes.outputs);
        self.push((view(point, inputs, count), &*tape), view(gradient, inputs, count), product, stack)?;
        for (at, slot) in slots[..count].iter_mut().enumerate().filter(|(_, slot)| slot.pairs == 0) {
            let (gradient, product) = (of(gradient, inputs, at), of(product, outputs, at));
            let scale = dot(gradient, gradient) / dot(product, product);
            slot.share = if scale.is_finite() { scale } else { 0.0 };
        }
        Ok(())
    }

    /// Works on all samples, on as many threads as there are.
    fn each(&self, memory: &mut Memory<'_, T>, count: usize, work: impl Fn(Samples<'_, T>) + Sync) {
        let samples = Samples::of(memory, count);
        // Room to align nothing.
        let mut room = [MaybeUninit::uninit(); 128];
        let stack = MemStack::new(&mut room);
        for_each_part(samples, StackReq::EMPTY, self.par, stack, &|samples, _| work(samples), &|(), ()| ());
    }
}

/// What is done with samples.
enum Work<T> {
    Follow(Follow<T>),
    Learn(Learn),
}

/// That work with wide registers.
struct Dispatch<'m, T> {
    samples: Samples<'m, T>,
    work: Work<T>,
}

impl<T: Real> NullaryFnOnce for Dispatch<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        match self.work {
            Work::Follow(follow) => follow.all(self.samples),
            Work::Learn(learn) => learn.all(self.samples),
        }
    }
}
