use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use fbp_linalg::{Real, zeroed_scratch};

use super::function::Function;
use super::rotations::{BASIS, Rotations};
use crate::sequence::ALIGN;
use crate::tape::TapeMut;

/// Entries of a batch that are worked on together; more samples go one group after the other.
const GROUP: usize = 1 << 17;
/// Fewest and most samples of a group.
const SAMPLES: [usize; 2] = [8, 256];
/// Pairs of a step and a change of the gradient that are remembered. Twelve save a tenth of the steps of a residual block, and
/// end half a percent farther away.
pub(super) const PAIRS: usize = 3;

/// Lengths that the memory is made for.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Inputs and outputs of the function.
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Outputs of what follows it; 0 for nothing.
    pub(super) above: usize,
    /// Sum of the lengths on the tape.
    pub(super) tape: usize,
    /// Samples of a group.
    pub(super) group: usize,
}

impl Sizes {
    pub(super) fn new<T: Real>(function: &dyn Function<T>, above: usize, batch: usize) -> Self {
        let (inputs, outputs) = (function.in_len(), function.out_len());
        let group = (GROUP / inputs.max(outputs).max(1)).clamp(SAMPLES[0], SAMPLES[1]).min(batch);
        Self { inputs, outputs, above, tape: function.tape_lens().iter().sum(), group }
    }

    pub(super) fn is_square(&self) -> bool {
        self.inputs == self.outputs
    }

    /// Vectors of the basis of the Krylov space, or those that quasi-Newton steps remember.
    fn basis(&self) -> usize {
        if self.is_square() { BASIS + 1 } else { 2 * PAIRS }
    }

    pub(super) fn scratch<T: Real>(&self) -> StackReq {
        let numbers = |len: usize| StackReq::new_aligned::<T>(len * self.group, ALIGN);
        let rotations = if self.is_square() { self.group } else { 0 };
        StackReq::all_of(&[
            // One request each: an array of requests is not padded to their alignment.
            StackReq::all_of(&[numbers(self.inputs); 8]),
            StackReq::all_of(&[numbers(self.outputs); 4]),
            numbers(self.above),
            numbers(self.tape),
            numbers(self.basis() * self.inputs),
            StackReq::new::<Slot>(self.group),
            StackReq::new::<Place>(self.group),
            StackReq::new::<Rotations>(rotations),
        ])
    }
}

/// How far a sample has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// Not finished by any solver yet.
    #[default]
    Open,
    /// At the goal.
    Reached,
    /// No step makes it better.
    Stalled,
    /// At the limit of steps.
    OutOfSteps,
}

/// A sample of the group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// Its place in the batch.
    pub(super) sample: usize,
    pub(super) state: State,
    /// Distance of its output to the target box that is good enough.
    pub(super) goal: f64,
    /// That which the last solver came to.
    pub(super) reached: f64,
    /// Misses of single outputs of the function that ask for nothing, so that rounding does not decide which of the outputs at an
    /// end of their interval are held there.
    pub(super) ignored: f64,
    /// Linearisations.
    pub(super) steps: usize,
    /// Whether steps towards the observed input still make it nearer.
    pub(super) improves: bool,
}

/// A sample that is worked on, in a compact batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    /// Its place in the group.
    pub(super) place: usize,
    /// Norm of the residual.
    pub(super) norm: f64,
    /// Distance of what follows the function to the target box.
    pub(super) distance: f64,
    /// Whether no step makes it better.
    pub(super) stalled: bool,
    /// Length of the step that is tried, relative to that of the linear solve.
    pub(super) length: f64,
    /// Share of the residual that the linear solve may leave; of quasi-Newton steps, their length along the gradient.
    pub(super) share: f64,
    /// Norm of the linear residual in the beginning, and now; of quasi-Newton steps, that of the residual some steps ago.
    pub(super) first: f64,
    pub(super) now: f64,
    /// Squared norm of the gradient in the beginning of a round, and now.
    pub(super) gradient_first: f64,
    pub(super) gradient: f64,
    /// Whether the current loop still works on it.
    pub(super) open: bool,
    /// Whether the current round of the linear solve is for it.
    pub(super) works: bool,
    /// Whether its linear problem may have changed with the ends that are active.
    pub(super) changed: bool,
    /// Whether a step failed that took the ends active at the point for those of the solution.
    pub(super) careful: bool,
    /// Pairs that a quasi-Newton step remembers, and where the next one belongs.
    pub(super) pairs: usize,
    pub(super) next: usize,
}

/// Memory of one group, all of it compact: the first columns are those of the samples that are worked on.
pub(super) struct Memory<'m, T> {
    pub(super) sizes: Sizes,
    /// Samples of the group, and their number.
    pub(super) places: &'m mut [Place],
    pub(super) used: usize,
    pub(super) slots: &'m mut [Slot],
    /// Point, and the one that is tried.
    pub(super) point: &'m mut [T],
    pub(super) trial: &'m mut [T],
    /// Solution of the linear problem.
    pub(super) step: &'m mut [T],
    /// Search direction, gradient, and which inputs may move, of the linear solve.
    pub(super) direction: &'m mut [T],
    pub(super) gradient: &'m mut [T],
    pub(super) free: &'m mut [T],
    /// Results, by place, and earlier ones.
    pub(super) result: &'m mut [T],
    pub(super) saved: &'m mut [T],
    /// Output at the point.
    pub(super) output: &'m mut [T],
    /// Linear residual, products, and which outputs ask for something.
    pub(super) residual: &'m mut [T],
    pub(super) product: &'m mut [T],
    pub(super) asking: &'m mut [T],
    /// Output of what follows.
    pub(super) above: &'m mut [T],
    /// Vectors of the Krylov space, one after the other, or the pairs of quasi-Newton steps, sample after sample.
    pub(super) basis: &'m mut [T],
    pub(super) rotations: &'m mut [Rotations],
    pub(super) tape: TapeMut<'m, T>,
}

/// Lends the memory of a group to `run`.
pub(super) fn with_memory<T: Real, R>(
    sizes: Sizes,
    lens: &[usize],
    par: Par,
    stack: &mut MemStack,
    run: impl FnOnce(Memory<'_, T>, &mut MemStack) -> R,
) -> R {
    let Sizes { inputs, outputs, above, tape, group } = sizes;
    let (point, stack) = zeroed_scratch(inputs * group, par, stack);
    let (trial, stack) = zeroed_scratch(inputs * group, par, stack);
    let (step, stack) = zeroed_scratch(inputs * group, par, stack);
    let (direction, stack) = zeroed_scratch(inputs * group, par, stack);
    let (gradient, stack) = zeroed_scratch(inputs * group, par, stack);
    let (free, stack) = zeroed_scratch(inputs * group, par, stack);
    let (result, stack) = zeroed_scratch(inputs * group, par, stack);
    let (saved, stack) = zeroed_scratch(inputs * group, par, stack);
    let (output, stack) = zeroed_scratch(outputs * group, par, stack);
    let (residual, stack) = zeroed_scratch(outputs * group, par, stack);
    let (product, stack) = zeroed_scratch(outputs * group, par, stack);
    let (asking, stack) = zeroed_scratch(outputs * group, par, stack);
    let (above, stack) = zeroed_scratch(above * group, par, stack);
    let (tape, stack) = zeroed_scratch(tape * group, par, stack);
    let (basis, stack) = zeroed_scratch(sizes.basis() * inputs * group, par, stack);
    let (mut slots, stack) = stack.make_with(group, |_| Slot::default());
    let (mut places, stack) = stack.make_with(group, |_| Place::default());
    let (mut rotations, stack) = stack.make_with(if sizes.is_square() { group } else { 0 }, |_| Rotations::new());
    let memory = Memory {
        sizes,
        places: &mut places,
        used: 0,
        slots: &mut slots,
        point,
        trial,
        step,
        direction,
        gradient,
        free,
        result,
        saved,
        output,
        residual,
        product,
        asking,
        above,
        basis,
        rotations: &mut rotations,
        tape: TapeMut::from_slice(tape, lens, group),
    };
    run(memory, stack)
}
