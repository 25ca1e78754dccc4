//! Newton steps until every sample has reached its goal or cannot go on.

use faer::dyn_stack::MemStack;
use fbp_linalg::Real;

use super::linear::Start;
use super::memory::{Memory, Place, Slot, State};
use super::problem::{Newton, Wanted};
use super::vectors::{distance, of, of_mut};
use crate::InverseError;

/// Share of the residual that a linear solve may leave: at least the first, and the second where the range spoils it anyway; at
/// most the third.
const SHARES: [f64; 3] = [0.1, 0.3, 0.5];
/// What a solve leaves, relative to the goal, if no more is needed.
const ENOUGH: f64 = 0.5;
/// Share of the predicted decrease that a step has to give, and a quasi-Newton step, of which there are many.
const DECREASE: [f64; 2] = [1e-2, 1e-4];
/// Residual of the function, as a share of the goal, that leaves nothing to do.
const MET: f64 = 1e-2;
/// Times that a step is halved.
const HALVINGS: usize = 4;

/// Who solves the linear problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Solver {
    Square,
    Quasi,
    LeastSquares,
}

impl<T: Real> Newton<'_, T> {
    /// Makes the samples with these properties the compact batch, at their results, and runs the function there; returns their
    /// number.
    pub(super) fn load(
        &self,
        wanted: &Wanted<'_, T>,
        memory: &mut Memory<'_, T>,
        stack: &mut MemStack,
        is_meant: impl Fn(&Place) -> bool,
    ) -> Result<usize, InverseError> {
        let (inputs, mut count) = (memory.sizes.inputs, 0);
        for place in 0..memory.used {
            if is_meant(&memory.places[place]) {
                memory.slots[count] = Slot { place, ..Default::default() };
                of_mut(memory.trial, inputs, count).copy_from_slice(of(memory.result, inputs, place));
                count += 1;
            }
        }
        if count > 0 {
            self.evaluate_trial(memory, count, stack)?;
            accept_all(memory, count);
            self.measure(wanted, memory, count, stack)?;
        }
        Ok(count)
    }

    /// Runs Newton steps on the first `count` samples, which have been measured, and writes their results.
    pub(super) fn search(
        &self,
        solver: Solver,
        wanted: &Wanted<'_, T>,
        memory: &mut Memory<'_, T>,
        count: usize,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let mut count = count;
        let least = if wanted.range.is_everything() { SHARES[0] } else { SHARES[1] };
        for step in 0..=self.params.max_steps {
            count = leave(memory, count, step == self.params.max_steps);
            if count == 0 {
                break;
            }
            for slot in &mut memory.slots[..count] {
                let place = &mut memory.places[slot.place];
                place.steps += 1;
                slot.share = (ENOUGH * place.goal / slot.distance).clamp(least, SHARES[2]);
            }
            match solver {
                Solver::Square => self.solve_square(wanted, memory, count, stack)?,
                Solver::Quasi | Solver::LeastSquares => {
                    self.solve_linear(Start::Point, wanted, memory, count, stack)?;
                }
            }
            self.shorten(solver, wanted, memory, count, stack)?;
            self.measure(wanted, memory, count, stack)?;
        }
        Ok(())
    }

    /// Tries the steps, and shorter ones where the residual does not fall; moves the samples there.
    pub(super) fn shorten(
        &self,
        solver: Solver,
        wanted: &Wanted<'_, T>,
        memory: &mut Memory<'_, T>,
        count: usize,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let (inputs, outputs) = (memory.sizes.inputs, memory.sizes.outputs);
        let decrease = DECREASE[usize::from(solver == Solver::Quasi)];
        for slot in &mut memory.slots[..count] {
            (slot.length, slot.open) = (1.0, !slot.stalled);
        }
        for halving in 0..=HALVINGS {
            for at in 0..count {
                write_trial(wanted, memory, at);
            }
            self.evaluate_trial(memory, count, stack)?;
            let Memory { places, slots, product, .. } = memory;
            for (at, slot) in slots[..count].iter_mut().enumerate().filter(|(_, slot)| slot.open) {
                let (lower, upper) = wanted.ends(places[slot.place].sample);
                let reached = distance(of(product, outputs, at), lower, upper);
                let falls = reached <= (1.0 - decrease * slot.length) * slot.norm && reached.is_finite();
                slot.open = !falls;
                if !falls && halving < HALVINGS {
                    slot.length *= 0.5;
                }
            }
            if slots[..count].iter().all(|slot| !slot.open) {
                break;
            }
        }
        // A first failure may be due to ends that became active within the step.
        let mut again = false;
        for slot in memory.slots[..count].iter_mut().filter(|slot| slot.open) {
            slot.stalled = solver == Solver::Square || slot.careful || !slot.changed;
            (slot.careful, slot.length) = (true, 0.0);
            again |= !slot.stalled;
        }
        if again {
            // The tape of these samples is that of a failed trial.
            (0..count).for_each(|at| write_trial(wanted, memory, at));
            self.evaluate_trial(memory, count, stack)?;
        }
        let Memory { slots, point, trial, output, product, .. } = memory;
        for at in (0..count).filter(|&at| !slots[at].stalled) {
            of_mut(point, inputs, at).copy_from_slice(of(trial, inputs, at));
            of_mut(output, outputs, at).copy_from_slice(of(product, outputs, at));
        }
        Ok(())
    }

    /// Moves the first `count` samples by whole steps, without asking whether that is better.
    pub(super) fn jump(
        &self,
        wanted: &Wanted<'_, T>,
        memory: &mut Memory<'_, T>,
        count: usize,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        for at in 0..count {
            memory.slots[at].length = 1.0;
            write_trial(wanted, memory, at);
        }
        self.evaluate_trial(memory, count, stack)?;
        accept_all(memory, count);
        self.measure(wanted, memory, count, stack)
    }
}

/// The point of a slot after its step, within the range and finite.
fn write_trial<T: Real>(wanted: &Wanted<'_, T>, memory: &mut Memory<'_, T>, at: usize) {
    let (inputs, range) = (memory.sizes.inputs, wanted.range.finite());
    let length = T::from_f64(if memory.slots[at].stalled { 0.0 } else { memory.slots[at].length });
    let (point, step) = (of(memory.point, inputs, at), of(memory.step, inputs, at));
    for ((trial, &x), &d) in of_mut(memory.trial, inputs, at).iter_mut().zip(point).zip(step) {
        let moved = if length == T::ZERO { x } else { x + length * d };
        *trial = range.clip(moved);
    }
}

/// Makes all trial points the points.
fn accept_all<T: Real>(memory: &mut Memory<'_, T>, count: usize) {
    let Memory { sizes, point, trial, output, product, .. } = memory;
    point[..sizes.inputs * count].copy_from_slice(&trial[..sizes.inputs * count]);
    output[..sizes.outputs * count].copy_from_slice(&product[..sizes.outputs * count]);
}

/// Writes the results of samples that are finished and lets them leave; returns the number of the others.
pub(super) fn leave<T: Real>(memory: &mut Memory<'_, T>, count: usize, last: bool) -> usize {
    let mut kept = 0;
    for at in 0..count {
        let slot = memory.slots[at];
        let place = &mut memory.places[slot.place];
        place.reached = slot.distance;
        // What follows may miss its box by more than it does at its own best point; no step changes that.
        place.state = if slot.distance <= place.goal || slot.norm <= MET * place.goal {
            State::Reached
        } else if slot.stalled || !slot.norm.is_finite() {
            State::Stalled
        } else if last {
            State::OutOfSteps
        } else {
            State::Open
        };
        if place.state == State::Open {
            memory.move_slot(at, kept);
            kept += 1;
        } else {
            memory.keep(at);
        }
    }
    kept
}
