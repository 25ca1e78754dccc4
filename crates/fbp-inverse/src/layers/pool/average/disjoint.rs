//! Disjoint windows: the nearest sites are the observed ones, all shifted by the same amount and clipped to the range.

use fbp_linalg::Real;
use fbp_linalg::attained::attained_slack;

use crate::Interval;
use crate::layers::columns::{Outcome, Sample, SampleBox, SampleMap, SampleReverse, distance_to};
use crate::layers::pool::window::DisjointWindows;
use crate::layers::shift::clipped_shift;

/// The sites of one window, row by row.
#[inline(always)]
fn sites(windows: &DisjointWindows, corner: usize) -> impl Iterator<Item = usize> + use<> {
    let ([kh, kw], width) = (windows.kernel, windows.in_shape.width);
    (0..kh).flat_map(move |row| corner + row * width..corner + row * width + kw)
}

/// Sum of consecutive values in lanes, so that long runs vectorise.
#[inline(always)]
fn run_sum<T: Real>(values: &[T]) -> T {
    let mut lanes = [T::ZERO; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane += x);
    }
    let lanes = lanes.iter().fold(T::ZERO, |sum, &x| sum + x);
    rest.iter().fold(lanes, |sum, &x| sum + x)
}

/// Sum of a window.
#[inline(always)]
fn window_sum<T: Real>(windows: &DisjointWindows, values: &[T], corner: usize) -> T {
    let ([kh, kw], width) = (windows.kernel, windows.in_shape.width);
    if kw == width {
        return run_sum(&values[corner..corner + kh * kw]);
    }
    let row_sum = |row: usize| values[corner + row * width..][..kw].iter().fold(T::ZERO, |sum, &x| sum + x);
    (0..kh).fold(T::ZERO, |sum, row| sum + row_sum(row))
}

/// Mean of a window, `share` the reciprocal of its number of sites.
#[inline(always)]
fn window_mean<T: Real>(windows: &DisjointWindows, values: &[T], corner: usize, share: T) -> T {
    let mean = window_sum(windows, values, corner) * share;
    if mean.is_finite() {
        return mean;
    }
    // The sum overflowed, which the mean cannot.
    sites(windows, corner).fold(T::ZERO, |sum, site| sum + values[site] * share)
}

/// Forward kernel, also the Jacobian.
pub(super) struct Forward<'a>(pub(super) &'a DisjointWindows);

impl<T: Real> SampleMap<T> for Forward<'_> {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        let share = T::from_f64(1.0 / self.0.sites() as f64);
        self.0.for_each_window(|index, corner| out[index] = window_mean(self.0, input, corner, share));
    }
}

/// The adjoint of [`Forward`].
pub(super) struct Spread<'a>(pub(super) &'a DisjointWindows);

impl<T: Real> SampleMap<T> for Spread<'_> {
    #[inline(always)]
    fn map_sample(&self, cotangent: &[T], _second: &[T], out: &mut [T]) {
        let share = T::from_f64(1.0 / self.0.sites() as f64);
        self.0.for_each_leftover(|sites| out[sites].fill(T::ZERO));
        self.0.for_each_window(|index, corner| {
            for row in 0..self.0.kernel[0] {
                let start = corner + row * self.0.in_shape.width;
                out[start..start + self.0.kernel[1]].fill(cotangent[index] * share);
            }
        });
    }
}

/// By how much the mean of a window may miss its interval.
fn slack<T: Real>(windows: &DisjointWindows, corner: usize, point: &[T]) -> f64 {
    let sizes = sites(windows, corner).map(|site| point[site].to_f64().abs());
    attained_slack::<T>(windows.sites(), sizes.sum::<f64>() / windows.sites() as f64)
}

/// Shifts of a window after the first.
const POLISHES: usize = 3;

/// Moves the sites of a window again where the first shift was so much larger than they are now that its rounding shows.
#[inline(always)]
fn polish<T: Real>(windows: &DisjointWindows, corner: usize, point: &mut [T], (lo, hi): (T, T), range: Interval<T>) {
    let count = windows.sites() as f64;
    for _ in 0..POLISHES {
        let mean = sites(windows, corner).map(|site| point[site].to_f64()).sum::<f64>() / count;
        let wanted = mean.clip(lo.to_f64(), hi.to_f64());
        let missed = (wanted - mean).abs();
        if missed.is_nan() || missed <= slack(windows, corner, point) {
            return;
        }
        let entries = || sites(windows, corner).map(|site| (point[site], range.lower, range.upper));
        let total = wanted * count;
        let shift = if total.is_finite() { clipped_shift(entries, total) } else { wanted - mean };
        for site in sites(windows, corner) {
            point[site] = range.clip(T::from_f64(point[site].to_f64() + shift));
        }
    }
}

/// Reverse kernel.
pub(super) struct Reverse<'a>(pub(super) &'a DisjointWindows);

impl<T: Real> SampleReverse<T> for Reverse<'_> {
    #[inline(always)]
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome {
        let (windows, range, count) = (self.0, sample.in_range, self.0.sites() as f64);
        windows.for_each_leftover(|sites| {
            target.lower[sites.clone()].fill(range.lower);
            target.upper[sites.clone()].fill(range.upper);
            for site in sites {
                target.point[site] = range.clip(sample.observed_in[site]);
            }
        });
        let (mut outcome, share) = (Outcome::MET, T::from_f64(1.0 / count));
        // Points are finite, also where the range is not.
        let range = range.finite();
        windows.for_each_window(|index, corner| {
            let (lo, hi) = (sample.lower[index], sample.upper[index]);
            let mean = sample.observed_out[index];
            let wanted = mean.clip(lo, hi);
            let shift = wanted - mean;
            // Without a bound in the way, the shift is the difference of the means.
            let mut inside = true;
            for row in 0..windows.kernel[0] {
                let start = corner + row * windows.in_shape.width;
                let block = start..start + windows.kernel[1];
                for (point, &x) in target.point[block.clone()].iter_mut().zip(&sample.observed_in[block]) {
                    *point = x + shift;
                    inside &= range.contains(*point);
                }
            }
            if !inside {
                let entries =
                    || sites(windows, corner).map(|site| (sample.observed_in[site], range.lower, range.upper));
                // Clipping the observed input to the range may have moved its mean into the interval already.
                let kept: f64 = entries().map(|(x, ..)| range.clip(x).to_f64()).sum();
                let total = kept.clip(lo.to_f64() * count, hi.to_f64() * count);
                // Sums of the largest numbers overflow; the wanted shift is then that of the mean, as far as there is room.
                let shift = if total.is_finite() { clipped_shift(entries, total) } else { shift.to_f64() };
                for site in sites(windows, corner) {
                    let moved = sample.observed_in[site].to_f64() + shift;
                    target.point[site] = range.clip(T::from_f64(moved));
                }
            }
            polish(windows, corner, target.point, (lo, hi), range);
            for row in 0..windows.kernel[0] {
                let start = corner + row * windows.in_shape.width;
                let block = start..start + windows.kernel[1];
                target.lower[block.clone()].copy_from_slice(&target.point[block.clone()]);
                target.upper[block.clone()].copy_from_slice(&target.point[block]);
            }
            let reached = window_mean(windows, target.point, corner, share);
            outcome.note(distance_to(reached, lo, hi), || slack(windows, corner, target.point));
        });
        outcome
    }
}
