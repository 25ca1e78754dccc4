//! Boxes that look out of reach, but are not.
//!
//! While bounds hold `v`, the multipliers grow along a ray and the distance to the box stays what it is: for ever if the
//! box is out of reach, or until the sum `v0 + Aᵀλ` of an entry comes back to its bound, or a multiplier to zero. Own
//! derivation.

use super::{DualNewton, Sample, Work};
use crate::Real;
use crate::boxed::rows::RowSource;

/// Change of a sum relative to the largest that the ray could make; what is below is rounding.
const LEAST_PULL: f64 = 1e-6;
/// Farthest kink along the ray that is waited for, in moves of the centre.
const FARTHEST: f64 = 100.0;

impl<T: Real, R: RowSource<T>> DualNewton<T, R> {
    /// Whether the ray from `work.centre` through `work.lambda` meets a kink soon, so that the distance may yet shrink.
    /// Without one the box is out of reach. Overwrites `work.step` and `work.moved`.
    #[cold]
    #[inline(never)]
    pub(super) fn nears_a_kink(&self, sample: &Sample<'_, T>, work: &mut Work<'_, T>) -> bool {
        let mut size_sq = T::ZERO;
        for ((ray, &lambda), &centre) in work.step.iter_mut().zip(work.lambda.iter()).zip(work.centre.iter()) {
            *ray = lambda - centre;
            size_sq += *ray * *ray;
        }
        let pull = &mut *work.moved;
        pull.fill(T::ZERO);
        self.rows.add_weighted_rows(work.step, pull);
        let least = T::from_f64(LEAST_PULL) * work.row_norm * size_sq.sqrt();
        let farthest = T::from_f64(FARTHEST);
        let released = work.free_sum.iter().zip(pull.iter()).enumerate().any(|(entry, (&sum, &pull))| {
            let (lower, upper) = sample.bounds.at(entry);
            sum >= upper && pull < -least && sum - upper <= farthest * -pull
                || sum <= lower && pull > least && lower - sum <= farthest * pull
        });
        let ends = sample.lower.iter().zip(sample.upper);
        released
            || work.lambda.iter().zip(work.step.iter()).zip(ends).any(|((&lambda, &ray), (low, high))| {
                lambda * ray < T::ZERO && lambda.abs() <= farthest * ray.abs() && low != high
            })
    }
}
