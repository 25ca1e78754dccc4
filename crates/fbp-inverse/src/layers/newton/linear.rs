//! The linear problem of a step by conjugate gradients on the normal equations, within target box and input range.

use faer::dyn_stack::MemStack;
use fbp_linalg::Real;

use super::memory::Memory;
use super::problem::{Newton, Wanted};
use super::vectors::{add_scaled, apply, dot, norm, of, of_mut, scale_and_add, view};
use crate::InverseError;

/// Times that the linear problem of a careful sample is solved with other active ends. One is the rule: the next linearisation
/// costs no more than the product that finds out about them.
const ROUNDS: usize = 6;
/// Most products with `J` and `Jᵀ` in a round, in pairs.
const PAIRS: usize = 100;
/// Smallest gradient that is worth following, relative to the share of the residual that is asked for.
const FLAT: f64 = 1e-3;

/// Where the linear problem begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// At the point: the solution is the shortest step.
    Point,
    /// At the observed input: the solution is the step to the nearest point that the linearisation allows.
    Observed,
}

impl<T: Real> Newton<'_, T> {
    /// Writes the step of the first `count` samples, which have an output and a tape at their points.
    pub(super) fn solve_linear(
        &self,
        start: Start,
        wanted: &Wanted<'_, T>,
        memory: &mut Memory<'_, T>,
        count: usize,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let inputs = memory.sizes.inputs;
        memory.step[..inputs * count].fill(T::ZERO);
        if start == Start::Observed {
            for at in 0..count {
                let sample = memory.places[memory.slots[at].place].sample;
                let step = of_mut(memory.step, inputs, at);
                wanted.write_anchor(sample, step);
                step.iter_mut().zip(of(memory.point, inputs, at)).for_each(|(step, &x)| *step -= x);
            }
        }
        for round in 0..ROUNDS {
            // What is done for one sample must not depend on what others need.
            for slot in &mut memory.slots[..count] {
                slot.works = round == 0 || slot.works && slot.changed && (slot.careful || start == Start::Observed);
            }
            if memory.slots[..count].iter().all(|slot| !slot.works) {
                break;
            }
            let moved = round > 0 || start == Start::Observed;
            if moved {
                let Memory { point, step, product, tape, .. } = memory;
                self.push((view(point, inputs, count), tape), view(step, inputs, count), product, stack)?;
            }
            set_residuals(wanted, memory, count, (round, moved));
            if memory.slots[..count].iter().all(|slot| !slot.open) {
                break;
            }
            self.set_gradients(wanted, memory, count, stack)?;
            self.follow(memory, count, stack)?;
            clip_steps(wanted, memory, count);
        }
        Ok(())
    }

    /// The gradients of a round, and which inputs may move: those that the range lets follow it.
    fn set_gradients(
        &self,
        wanted: &Wanted<'_, T>,
        memory: &mut Memory<'_, T>,
        count: usize,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let Memory { sizes, slots, point, step, direction, gradient, free, residual, tape, .. } = memory;
        let (inputs, outputs, range) = (sizes.inputs, sizes.outputs, wanted.range);
        self.pull((view(point, inputs, count), tape), view(residual, outputs, count), gradient, stack)?;
        for (at, slot) in slots[..count].iter_mut().enumerate() {
            let (gradient, free) = (of_mut(gradient, inputs, at), of_mut(free, inputs, at));
            let reached = of(point, inputs, at).iter().zip(of(step, inputs, at)).map(|(&x, &d)| x + d);
            for ((free, x), &g) in free.iter_mut().zip(reached).zip(&*gradient) {
                let held = (x <= range.lower && g < T::ZERO) || (x >= range.upper && g > T::ZERO);
                *free = if held { T::ZERO } else { T::ONE };
            }
            apply(gradient, free);
            of_mut(direction, inputs, at).copy_from_slice(gradient);
            slot.gradient = dot(gradient, gradient);
            slot.gradient_first = slot.gradient;
            slot.open &= slot.gradient > 0.0 && slot.gradient.is_finite();
        }
        Ok(())
    }

    /// Conjugate gradients until every sample has reached its share.
    fn follow(&self, memory: &mut Memory<'_, T>, count: usize, stack: &mut MemStack) -> Result<(), InverseError> {
        let Memory { sizes, slots, point, step, direction, gradient, free, residual, product, asking, tape, .. } =
            memory;
        let (inputs, outputs, slots) = (sizes.inputs, sizes.outputs, &mut slots[..count]);
        for _ in 0..PAIRS {
            if slots.iter().all(|slot| !slot.open) {
                break;
            }
            let place = (view(point, inputs, count), &*tape);
            self.push(place, view(direction, inputs, count), product, stack)?;
            for (at, slot) in slots.iter_mut().enumerate().filter(|(_, slot)| slot.open) {
                let product = of_mut(product, outputs, at);
                apply(product, of(asking, outputs, at));
                let length = slot.gradient / dot(product, product);
                if !length.is_finite() {
                    slot.open = false;
                    continue;
                }
                add_scaled(of_mut(step, inputs, at), length, of(direction, inputs, at));
                let residual = of_mut(residual, outputs, at);
                add_scaled(residual, -length, product);
                slot.now = norm(residual);
                slot.open = slot.now > slot.share * slot.first;
            }
            if slots.iter().all(|slot| !slot.open) {
                break;
            }
            self.pull(place, view(residual, outputs, count), gradient, stack)?;
            for (at, slot) in slots.iter_mut().enumerate().filter(|(_, slot)| slot.open) {
                let gradient = of_mut(gradient, inputs, at);
                apply(gradient, of(free, inputs, at));
                let square = dot(gradient, gradient);
                scale_and_add(of_mut(direction, inputs, at), square / slot.gradient, gradient);
                slot.gradient = square;
                let flat = FLAT * slot.share;
                slot.open = square > flat * flat * slot.gradient_first;
            }
        }
        Ok(())
    }
}

/// Residuals of the linearisation at the steps so far, and which outputs ask for something.
fn set_residuals<T: Real>(
    wanted: &Wanted<'_, T>,
    memory: &mut Memory<'_, T>,
    count: usize,
    (round, moved): (usize, bool),
) {
    let Memory { sizes, places, slots, output, residual, product, asking, .. } = memory;
    slots[..count].iter_mut().for_each(|slot| slot.open = false);
    for (at, slot) in slots[..count].iter_mut().enumerate().filter(|(_, slot)| slot.works) {
        let place = &places[slot.place];
        let ((lower, upper), ignored) = (wanted.ends(place.sample), T::from_f64(place.ignored));
        let (output, product) = (of(output, sizes.outputs, at), of(product, sizes.outputs, at));
        let (residual, asking) = (of_mut(residual, sizes.outputs, at), of_mut(asking, sizes.outputs, at));
        for i in 0..output.len() {
            let y = if moved { output[i] + product[i] } else { output[i] };
            let missing = y.clip(lower[i], upper[i]) - y;
            // Once an output asks for something it keeps its value in later rounds, so that no end is tried twice.
            let asks = missing.abs() > ignored || lower[i] == upper[i] || round > 0 && asking[i] != T::ZERO;
            (residual[i], asking[i]) = if asks { (missing, T::ONE) } else { (T::ZERO, T::ZERO) };
        }
        slot.now = norm(residual);
        if round == 0 {
            slot.first = slot.now;
        }
        slot.open = slot.now > slot.share * slot.first && slot.now.is_finite();
    }
}

/// Moves the steps into the range, and notes whether the linear problem may have changed: by that, or by outputs with an
/// interval.
fn clip_steps<T: Real>(wanted: &Wanted<'_, T>, memory: &mut Memory<'_, T>, count: usize) {
    let Memory { sizes, slots, point, step, asking, .. } = memory;
    for (at, slot) in slots[..count].iter_mut().enumerate().filter(|(_, slot)| slot.works) {
        slot.changed = of(asking, sizes.outputs, at).contains(&T::ZERO);
        if wanted.range.is_everything() {
            continue;
        }
        for (step, &x) in of_mut(step, sizes.inputs, at).iter_mut().zip(of(point, sizes.inputs, at)) {
            let reached = x + *step;
            let clipped = wanted.range.clip(reached);
            if clipped != reached {
                (*step, slot.changed) = (clipped - x, true);
            }
        }
    }
}
