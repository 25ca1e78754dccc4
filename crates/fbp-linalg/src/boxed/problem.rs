use super::bounds::Bounds;
use crate::Real;

/// One sample of the problem.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<'a, T> {
    /// The point to stay near, `v0`.
    pub(super) start: &'a [T],
    /// `A v0 + b`.
    pub(super) image: &'a [T],
    /// Lower ends of the rows' boxes.
    pub(super) lower: &'a [T],
    /// Upper ends of the rows' boxes.
    pub(super) upper: &'a [T],
    /// Bounds `l` and `u` of every entry of `v`.
    pub(super) bounds: Bounds<'a, T>,
    /// Multipliers to start from; zero if `None`.
    pub(super) multipliers: Option<&'a [T]>,
}

impl<T: Real> Sample<'_, T> {
    /// Whether the starting point already satisfies every constraint.
    pub(super) fn is_feasible(&self) -> bool {
        self.bounds.contain(self.start)
            && (0..self.image.len())
                .fold(true, |inside, i| inside & (self.lower[i] <= self.image[i]) & (self.image[i] <= self.upper[i]))
    }

    /// Rounds a point to the scalar of the sample: within its bounds, and to a finite number whatever it is.
    pub(super) fn narrow(&self, wide: &[f64], solution: &mut [T]) {
        for (entry, ((to, &v), &start)) in solution.iter_mut().zip(wide).zip(self.start).enumerate() {
            let (low, high) = self.bounds.at(entry);
            *to = if v.is_nan() { start } else { T::from_f64(v).clip(low.max(-T::MAX), high.min(T::MAX)) };
        }
    }
}

/// How the solve of one sample ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SampleOutcome {
    /// Newton steps taken.
    pub(super) iters: usize,
    /// The iteration ended at a solution (or at the smallest possible violation).
    pub(super) converged: bool,
    /// Every row is in its box up to the rounding of the iteration.
    pub(super) reached: bool,
}

/// What is missing in row `i` of `image` to be in its box.
#[inline(always)]
pub(super) fn gap<T: Real>(sample: &Sample<'_, T>, image: &[T], i: usize) -> T {
    image[i].clip(sample.lower[i], sample.upper[i]) - image[i]
}
