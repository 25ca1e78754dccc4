use faer::dyn_stack::MemStack;

use super::map::{LinearMap, MapScale};
use super::polish::correction;
use super::solver::{Problem, norm};
use crate::LinalgError;
use crate::Real;
use crate::attained::{attained_slack, observed_slack};

/// One sample as it is given.
#[derive(Clone, Copy)]
pub(super) struct Sample<'a, T> {
    pub(super) observed_in: &'a [T],
    pub(super) observed_out: &'a [T],
    pub(super) lower: &'a [T],
    pub(super) upper: &'a [T],
    pub(super) bounds: (T, T),
}

impl<T: Real> Sample<'_, T> {
    /// Whether the observed output lies in the box already.
    pub(super) fn is_met(&self) -> bool {
        let ends = self.lower.iter().zip(self.upper);
        self.observed_out.iter().zip(ends).all(|(y, (lower, upper))| lower <= y && y <= upper)
    }
}

/// Roundings that a row may miss while the iteration goes on.
pub(super) const FIRST_TOLERANCE: f64 = 16.0;
/// Distance of a row to its end that a correction leaves as it is, in units of the largest miss.
const NEAR_END: f64 = 4.0;

/// A sample in `f64`, in vectors that the next one uses again.
#[derive(Debug, Default)]
pub(super) struct Wide {
    start: Vec<f64>,
    image: Vec<f64>,
    lower: Vec<f64>,
    upper: Vec<f64>,
    /// For judging: the point, its image, the bias and sizes of the rows.
    point: Vec<f64>,
    reached: Vec<f64>,
    bias: Vec<f64>,
    sizes: [Vec<f64>; 2],
    /// Coefficients of the rows.
    terms: Vec<f64>,
}

impl Wide {
    /// Vectors for samples of a map whose rows have so many coefficients.
    pub(super) fn new(terms: Vec<f64>) -> Self {
        Self { terms, ..Self::default() }
    }

    /// Takes a sample over, its outputs multiplied with `scales`.
    pub(super) fn take<T: Real>(&mut self, sample: &Sample<'_, T>, scales: Option<&[f64]>) {
        let parts =
            [(&mut self.image, sample.observed_out), (&mut self.lower, sample.lower), (&mut self.upper, sample.upper)];
        for (to, from) in parts {
            to.clear();
            to.extend(from.iter().map(|value| value.to_f64()));
            if let Some(scales) = scales {
                to.iter_mut().zip(scales).for_each(|(value, scale)| *value *= scale);
            }
        }
        self.start.clear();
        self.start.extend(sample.observed_in.iter().map(|value| value.to_f64()));
    }

    pub(super) fn problem<T: Real>(&self, sample: &Sample<'_, T>, scale: MapScale, share: f64) -> Problem<'_> {
        let Self { start, image, lower, upper, .. } = self;
        let size = scale.largest_row * norm(start) + reach(image, lower, upper);
        Problem {
            start,
            image,
            lower,
            upper,
            bounds: (sample.bounds.0.to_f64(), sample.bounds.1.to_f64()),
            tolerance: share * T::EPSILON.to_f64() * size,
            precision: T::EPSILON.to_f64() * (share / FIRST_TOLERANCE).min(1.0),
        }
    }

    /// What the rows of the sample miss at a rounded point, by the definition of attained: the largest distance, and the
    /// largest in units of what a row may miss. The outputs are taken as they are.
    pub(super) fn judge<T: Real>(
        &mut self,
        map: &dyn LinearMap,
        sample: &Sample<'_, T>,
        point: &[T],
        stack: &mut MemStack,
    ) -> Result<(f64, f64), LinalgError> {
        self.take(sample, None);
        let (rows, _) = map.shape();
        let Self { start, image, lower, upper, point: moved, reached, bias, sizes: [from, sizes], terms } = self;
        for to in [&mut *reached, &mut *bias, &mut *from, &mut *sizes] {
            to.resize(rows, 0.0);
        }
        moved.clear();
        moved.extend(point.iter().zip(start.iter()).map(|(v, start)| v.to_f64() - start));
        map.apply(moved, reached, stack)?;
        map.apply(start, bias, stack)?;
        moved.iter_mut().zip(start.iter()).for_each(|(to, start)| *to = start.abs());
        map.magnitudes(moved, from, stack)?;
        moved.iter_mut().zip(point).for_each(|(to, v)| *to = v.to_f64().abs());
        map.magnitudes(moved, sizes, stack)?;
        let (mut most, mut worst) = (0.0_f64, 0.0_f64);
        for i in 0..rows {
            let at = image[i] + reached[i];
            let gap = (at - at.clip(lower[i], upper[i])).abs();
            let scale = sizes[i] + (image[i] - bias[i]).abs();
            // The bias is a term too.
            let terms = terms[i] as usize + 1;
            let slack = attained_slack::<T>(terms, scale) + observed_slack::<T>(terms, from[i] + image[i].abs());
            most = if gap.is_nan() { f64::INFINITY } else { most.max(gap) };
            worst = if gap <= slack {
                worst.max(if slack > 0.0 { gap / slack } else { 0.0 })
            } else {
                worst.max(gap / slack)
            };
        }
        Ok((most, if most.is_finite() { worst } else { f64::INFINITY }))
    }
}

impl Wide {
    /// Corrects a point that was judged last, if that brings it closer; returns what it then misses.
    pub(super) fn polish<T: Real>(
        &mut self,
        map: &dyn LinearMap,
        sample: &Sample<'_, T>,
        point: &mut [T],
        before: (f64, f64),
        stack: &mut MemStack,
    ) -> Result<(f64, f64), LinalgError> {
        let (low, high) = sample.bounds;
        let at = |row: usize| self.image[row] + self.reached[row];
        let rows = 0..self.image.len();
        let mut gaps: Vec<f64> = rows.clone().map(|i| at(i).clip(self.lower[i], self.upper[i]) - at(i)).collect();
        // What comes this close to its end may not move.
        let near = NEAR_END * before.0;
        let active: Vec<bool> = rows.map(|i| at(i) - self.lower[i] <= near || self.upper[i] - at(i) <= near).collect();
        let free: Vec<bool> = point.iter().map(|v| low < *v && *v < high).collect();
        let change = correction(map, &mut gaps, (&free, &active), stack)?;
        let kept = point.to_vec();
        point.iter_mut().zip(&change).for_each(|(v, d)| *v = T::from_f64(v.to_f64() + d).clip(low, high));
        let after = self.judge(map, sample, point, stack)?;
        if after.1 < before.1 {
            return Ok(after);
        }
        point.copy_from_slice(&kept);
        self.judge(map, sample, point, stack)
    }
}

/// Largest observed or wanted output.
fn reach(image: &[f64], lower: &[f64], upper: &[f64]) -> f64 {
    let ends = lower.iter().zip(upper);
    image.iter().zip(ends).fold(0.0_f64, |most, (y, (lo, hi))| most.max(y.abs()).max(y.max(*lo).min(*hi).abs()))
}
