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
    pub(super) bounds: (T, T),
    /// Multipliers to start from; zero if `None`.
    pub(super) multipliers: Option<&'a [T]>,
}

impl<T: Real> Sample<'_, T> {
    /// Whether the starting point already satisfies every constraint.
    pub(super) fn is_feasible(&self) -> bool {
        let (low, high) = self.bounds;
        let inside = self.start.iter().fold(true, |inside, &v| inside & (low <= v) & (v <= high));
        inside
            && (0..self.image.len())
                .fold(true, |inside, i| inside & (self.lower[i] <= self.image[i]) & (self.image[i] <= self.upper[i]))
    }
}

/// How the solve of one sample ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SampleOutcome {
    /// Newton steps taken.
    pub(super) iters: usize,
    /// The iteration ended at a solution (or at the smallest possible violation).
    pub(super) converged: bool,
    /// Largest distance of a row to its box.
    pub(super) violation: f64,
    /// Largest distance of a row to its box that counts as zero.
    pub(super) tolerance: f64,
}

/// Squared Euclidean distance of `image` to its box.
#[inline(always)]
pub(super) fn squared_distance<T: Real>(sample: &Sample<'_, T>, image: &[T]) -> T {
    gaps(sample, image).fold(T::ZERO, |sum, gap| sum + gap * gap)
}

/// Largest distance of a row of `image` to its box.
#[inline(always)]
pub(super) fn worst_violation<T: Real>(sample: &Sample<'_, T>, image: &[T]) -> T {
    gaps(sample, image).fold(T::ZERO, |worst, gap| worst.max(gap.abs()))
}

/// What is missing in every row to be in its box.
#[inline(always)]
fn gaps<T: Real>(sample: &Sample<'_, T>, image: &[T]) -> impl Iterator<Item = T> {
    let ends = sample.lower.iter().zip(sample.upper);
    image.iter().zip(ends).map(|(&value, (&lower, &upper))| value.clip(lower, upper) - value)
}
