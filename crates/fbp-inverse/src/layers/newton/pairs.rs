//! What quasi-Newton steps remember: the last steps, and how they changed the gradient.

use fbp_linalg::{Real, SplitBatch};

use super::memory::{Memory, PAIRS, Slot};
use super::vectors::{dot, of, of_mut};
use crate::Interval;

/// Smallest cosine of a step and the change of the gradient that says something about the curvature.
const COSINE: f64 = 1e-4;
/// Sums that run side by side.
const WIDTH: usize = 8;

/// Samples that are worked on, divisible.
pub(super) struct Samples<'m, T> {
    inputs: usize,
    slots: &'m mut [Slot],
    point: &'m [T],
    gradient: &'m [T],
    step: &'m mut [T],
    free: &'m mut [T],
    history: &'m mut [T],
}

impl<'m, T: Real> Samples<'m, T> {
    /// The first `count` samples.
    pub(super) fn of(memory: &'m mut Memory<'_, T>, count: usize) -> Self {
        let Memory { sizes, slots, point, gradient, step, free, basis, .. } = memory;
        let inputs = sizes.inputs;
        Self {
            inputs,
            slots: &mut slots[..count],
            point: &point[..inputs * count],
            gradient: &gradient[..inputs * count],
            step: &mut step[..inputs * count],
            free: &mut free[..inputs * count],
            history: &mut basis[..2 * PAIRS * inputs * count],
        }
    }
}

impl<T: Real> SplitBatch for Samples<'_, T> {
    fn batch(&self) -> usize {
        self.slots.len()
    }

    fn split_at(self, count: usize) -> (Self, Self) {
        let (inputs, len) = (self.inputs, self.inputs * count);
        let (slots, slots_right) = self.slots.split_at_mut(count);
        let (point, point_right) = self.point.split_at(len);
        let (gradient, gradient_right) = self.gradient.split_at(len);
        let (step, step_right) = self.step.split_at_mut(len);
        let (free, free_right) = self.free.split_at_mut(len);
        let (history, history_right) = self.history.split_at_mut(2 * PAIRS * len);
        let left = Self { inputs, slots, point, gradient, step, free, history };
        let right = Self {
            inputs,
            slots: slots_right,
            point: point_right,
            gradient: gradient_right,
            step: step_right,
            free: free_right,
            history: history_right,
        };
        (left, right)
    }
}

/// Writes the steps, and leaves point and gradient where the next pair belongs.
pub(super) struct Follow<T> {
    pub(super) range: Interval<T>,
}

impl<T: Real> Follow<T> {
    #[inline(always)]
    pub(super) fn all(&self, samples: Samples<'_, T>) {
        let Samples { inputs, slots, point, gradient, step, free, history } = samples;
        for (at, slot) in slots.iter_mut().enumerate() {
            let (point, gradient) = (of(point, inputs, at), of(gradient, inputs, at));
            let (step, free) = (of_mut(step, inputs, at), of_mut(free, inputs, at));
            let history = of_mut(history, 2 * PAIRS * inputs, at);
            // What a step along the gradient takes to an end goes there on its own: mixed with others, it bends their path.
            let (range, along) = (self.range, T::from_f64(slot.share));
            let entries = point.iter().zip(gradient).zip(free.iter_mut().zip(step.iter_mut()));
            for ((&x, &g), (free, step)) in entries {
                let held =
                    (x + along * g <= range.lower && g < T::ZERO) || (x + along * g >= range.upper && g > T::ZERO);
                *free = if held { T::ZERO } else { T::ONE };
                *step = if held { T::ZERO } else { g };
            }
            two_loops(slot, history, free, step);
            for ((step, &free), &g) in step.iter_mut().zip(&*free).zip(gradient) {
                *step += (T::ONE - free) * along * g;
            }
            let (last_point, last_gradient) = pair_mut(history, inputs, slot.next);
            last_point.copy_from_slice(point);
            last_gradient.copy_from_slice(gradient);
        }
    }
}

/// `step ← H step` among the free inputs, with `H` from the pairs.
#[inline(always)]
fn two_loops<T: Real>(slot: &mut Slot, history: &[T], free: &[T], step: &mut [T]) {
    let inputs = step.len();
    let (mut factors, mut curvatures, mut is_scaled) = ([0.0; PAIRS], [0.0; PAIRS], false);
    for age in 0..slot.pairs {
        let (moved, changed) = pair(history, inputs, (slot.next + PAIRS - 1 - age) % PAIRS);
        let sums = Sums::of(moved, changed, free, step);
        if !sums.is_useful() {
            continue;
        }
        curvatures[age] = sums.product;
        factors[age] = sums.along / sums.product;
        let factor = T::from_f64(factors[age]);
        for ((step, &changed), &free) in step.iter_mut().zip(changed).zip(free) {
            *step -= factor * changed * free;
        }
        if !is_scaled {
            (slot.share, is_scaled) = (sums.product / sums.changed, true);
        }
    }
    let scale = T::from_f64(slot.share);
    step.iter_mut().for_each(|step| *step *= scale);
    for age in (0..slot.pairs).rev().filter(|&age| curvatures[age] > 0.0) {
        let (moved, changed) = pair(history, inputs, (slot.next + PAIRS - 1 - age) % PAIRS);
        let back = dot(changed, step) / curvatures[age];
        let factor = T::from_f64(factors[age] - back);
        for ((step, &moved), &free) in step.iter_mut().zip(moved).zip(free) {
            *step += factor * moved * free;
        }
    }
}

/// Sums over the free inputs.
struct Sums {
    /// Of a step times the change of the gradient, and of the squares of both.
    product: f64,
    moved: f64,
    changed: f64,
    /// Of the step times a vector.
    along: f64,
}

impl Sums {
    #[inline(always)]
    fn of<T: Real>(moved: &[T], changed: &[T], free: &[T], vector: &[T]) -> Self {
        // One array for each sum: LLVM keeps those in registers.
        let (mut products, mut squares) = ([0.0_f64; WIDTH], [0.0_f64; WIDTH]);
        let (mut changes, mut alongs) = ([0.0_f64; WIDTH], [0.0_f64; WIDTH]);
        let whole = moved.len() / WIDTH * WIDTH;
        let parts = [moved, changed, free, vector].map(|values| values.split_at(whole));
        let [s, y, f, v] = parts.map(|(whole, _)| whole.chunks_exact(WIDTH));
        for (((s, y), f), v) in s.zip(y).zip(f).zip(v) {
            for k in 0..WIDTH {
                let (f, y) = (f[k].to_f64(), y[k].to_f64());
                let s = s[k].to_f64() * f;
                products[k] += s * y;
                squares[k] += s * s;
                changes[k] += y * y * f;
                alongs[k] += s * v[k].to_f64();
            }
        }
        let [s, y, f, v] = parts.map(|(_, rest)| rest.iter());
        for (k, (((s, y), f), v)) in s.zip(y).zip(f).zip(v).enumerate() {
            let (f, y) = (f.to_f64(), y.to_f64());
            let s = s.to_f64() * f;
            products[k] += s * y;
            squares[k] += s * s;
            changes[k] += y * y * f;
            alongs[k] += s * v.to_f64();
        }
        let [product, moved, changed, along] =
            [products, squares, changes, alongs].map(|sums| sums.iter().sum::<f64>());
        Self { product, moved, changed, along }
    }

    /// Whether the curvature along the step is known; never where something is not finite.
    #[inline(always)]
    fn is_useful(&self) -> bool {
        let least = COSINE * self.moved.sqrt() * self.changed.sqrt();
        self.product > 0.0 && self.product > least && self.product.is_finite() && self.changed.is_finite()
    }
}

/// Makes pairs of where samples were and where they are.
pub(super) struct Learn;

impl Learn {
    #[inline(always)]
    pub(super) fn all<T: Real>(&self, samples: Samples<'_, T>) {
        let Samples { inputs, slots, point, gradient, history, .. } = samples;
        for (at, slot) in slots.iter_mut().enumerate() {
            let (point, gradient) = (of(point, inputs, at), of(gradient, inputs, at));
            let (moved, changed) = pair_mut(of_mut(history, 2 * PAIRS * inputs, at), inputs, slot.next);
            moved.iter_mut().zip(point).for_each(|(moved, &x)| *moved = x - *moved);
            changed.iter_mut().zip(gradient).for_each(|(changed, &g)| *changed -= g);
            // The oldest pair has made room for this one, whether it is of use or not.
            let sums = Sums {
                product: dot(moved, changed),
                moved: dot(moved, moved),
                changed: dot(changed, changed),
                along: 0.0,
            };
            if sums.is_useful() {
                slot.next = (slot.next + 1) % PAIRS;
                slot.pairs = (slot.pairs + 1).min(PAIRS);
            } else {
                slot.pairs = slot.pairs.min(PAIRS - 1);
            }
        }
    }
}

/// Pair `k` of a sample.
#[inline(always)]
fn pair<T>(history: &[T], inputs: usize, k: usize) -> (&[T], &[T]) {
    of(history, 2 * inputs, k).split_at(inputs)
}

#[inline(always)]
fn pair_mut<T>(history: &mut [T], inputs: usize, k: usize) -> (&mut [T], &mut [T]) {
    of_mut(history, 2 * inputs, k).split_at_mut(inputs)
}
