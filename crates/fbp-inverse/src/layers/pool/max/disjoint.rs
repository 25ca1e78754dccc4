//! Disjoint windows: the reverse separates into windows.

use fbp_linalg::Real;
use fbp_linalg::attained::attained_slack;

use crate::layers::columns::{Outcome, Sample, SampleBox, SampleMap, SampleReverse, distance_to};
use crate::layers::pool::window::DisjointWindows;

/// The larger value; the first one on ties.
#[inline(always)]
fn larger<T: Real>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

/// Forward kernel.
pub(super) struct Forward<'a>(pub(super) &'a DisjointWindows);

impl<T: Real> SampleMap<T> for Forward<'_> {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        let windows = self.0;
        let (width, cols) = (windows.in_shape.width, windows.out_shape.width);
        for (index, out_row) in out.chunks_exact_mut(cols).enumerate() {
            let corner = windows.corner(index / windows.out_shape.height, index % windows.out_shape.height, 0);
            if windows.kernel == [2, 2] {
                let (upper, lower) = (&input[corner..][..2 * cols], &input[corner + width..][..2 * cols]);
                let pairs = upper.as_chunks::<2>().0.iter().zip(lower.as_chunks::<2>().0);
                for (out, (&[a, b], &[c, d])) in out_row.iter_mut().zip(pairs) {
                    *out = larger(larger(a, b), larger(c, d));
                }
            } else {
                for (col, out) in out_row.iter_mut().enumerate() {
                    *out = input[argmax(windows, input, corner + col * windows.kernel[1])];
                }
            }
        }
    }
}

/// Index of the largest site of a window, the first one on ties.
#[inline(always)]
fn argmax<T: Real>(windows: &DisjointWindows, input: &[T], corner: usize) -> usize {
    let mut best = corner;
    for row in 0..windows.kernel[0] {
        let start = corner + row * windows.in_shape.width;
        for site in start..start + windows.kernel[1] {
            best = if input[site] > input[best] { site } else { best };
        }
    }
    best
}

/// Reverse kernel.
pub(super) struct Reverse<'a>(pub(super) &'a DisjointWindows);

impl<T: Real> SampleReverse<T> for Reverse<'_> {
    #[inline(always)]
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome {
        let windows = self.0;
        windows.for_each_leftover(|sites| {
            target.lower[sites.clone()].fill(sample.in_range.lower);
            target.upper[sites.clone()].fill(sample.in_range.upper);
            for site in sites {
                target.point[site] = sample.in_range.clip(sample.observed_in[site]);
            }
        });
        let cols = windows.out_shape.width;
        let mut attained = true;
        for index in 0..windows.out_shape.channels * windows.out_shape.height {
            let corner = windows.corner(index / windows.out_shape.height, index % windows.out_shape.height, 0);
            let row = index * cols..(index + 1) * cols;
            let ends = (&sample.lower[row.clone()], &sample.upper[row]);
            attained &= if windows.kernel == [2, 2] {
                reverse_row_2x2(windows.in_shape.width, corner, ends, sample, target)
            } else {
                reverse_row(windows, corner, ends, sample, target)
            };
        }
        if attained { Outcome::MET } else { judged(windows, sample, target.point) }
    }
}

/// One row of 2 × 2 windows, without branches. Tells whether all their intervals are attained.
#[inline(always)]
fn reverse_row_2x2<T: Real>(
    width: usize,
    corner: usize,
    ends: (&[T], &[T]),
    sample: &Sample<'_, T>,
    target: &mut SampleBox<'_, T>,
) -> bool {
    let (count, range) = (ends.0.len(), sample.in_range);
    let split = 2 * count;
    let observed_above = sample.observed_in[corner..][..split].as_chunks::<2>().0;
    let observed_below = sample.observed_in[corner + width..][..split].as_chunks::<2>().0;
    let mut attained = true;
    let (point_above, point_below) = target.point[corner..].split_at_mut(width);
    let (lower_above, lower_below) = target.lower[corner..].split_at_mut(width);
    let (upper_above, upper_below) = target.upper[corner..].split_at_mut(width);
    let point_above = point_above[..split].as_chunks_mut::<2>().0;
    let point_below = point_below[..split].as_chunks_mut::<2>().0;
    let lower_above = lower_above[..split].as_chunks_mut::<2>().0;
    let lower_below = lower_below[..split].as_chunks_mut::<2>().0;
    let upper_above = upper_above[..split].as_chunks_mut::<2>().0;
    let upper_below = upper_below[..split].as_chunks_mut::<2>().0;
    for j in 0..count {
        let (lo, hi) = (ends.0[j], ends.1[j]);
        let (floor, ceiling) = (range.clip(lo), range.clip(hi));
        let ([a, b], [c, d]) = (observed_above[j], observed_below[j]);
        let largest = larger(larger(a, b), larger(c, d));
        let first = a == largest;
        let second = !first & (b == largest);
        let third = !first & !second & (c == largest);
        let fourth = !first & !second & !third;
        let low = |witness: bool| if witness { floor } else { range.lower };
        let lows = [low(first), low(second), low(third), low(fourth)];
        point_above[j] = [a.clip(lows[0], ceiling), b.clip(lows[1], ceiling)];
        point_below[j] = [c.clip(lows[2], ceiling), d.clip(lows[3], ceiling)];
        lower_above[j] = [lows[0], lows[1]];
        lower_below[j] = [lows[2], lows[3]];
        upper_above[j] = [ceiling, ceiling];
        upper_below[j] = [ceiling, ceiling];
        attained &= (lo <= ceiling) & (floor <= hi);
    }
    attained
}

/// One row of windows of any size. Tells whether all their intervals are attained.
#[inline(always)]
fn reverse_row<T: Real>(
    windows: &DisjointWindows,
    corner: usize,
    ends: (&[T], &[T]),
    sample: &Sample<'_, T>,
    target: &mut SampleBox<'_, T>,
) -> bool {
    let ([kh, kw], width, range) = (windows.kernel, windows.in_shape.width, sample.in_range);
    let mut attained = true;
    for (col, (&lo, &hi)) in ends.0.iter().zip(ends.1).enumerate() {
        let corner = corner + col * kw;
        let (floor, ceiling) = (range.clip(lo), range.clip(hi));
        for row in 0..kh {
            let sites = corner + row * width..corner + row * width + kw;
            target.lower[sites.clone()].fill(range.lower);
            target.upper[sites.clone()].fill(ceiling);
            for (point, &x) in target.point[sites.clone()].iter_mut().zip(&sample.observed_in[sites]) {
                *point = x.clip(range.lower, ceiling);
            }
        }
        let witness = argmax(windows, sample.observed_in, corner);
        target.lower[witness] = floor;
        target.point[witness] = sample.observed_in[witness].clip(floor, ceiling);
        attained &= (lo <= ceiling) & (floor <= hi);
    }
    attained
}

/// Compares every window's maximum with its interval.
fn judged<T: Real>(windows: &DisjointWindows, sample: &Sample<'_, T>, point: &[T]) -> Outcome {
    let mut outcome = Outcome::MET;
    windows.for_each_window(|index, corner| {
        let largest = point[argmax(windows, point, corner)];
        let distance = distance_to(largest, sample.lower[index], sample.upper[index]);
        outcome.note(distance, || attained_slack::<T>(1, largest.to_f64().abs()));
    });
    outcome
}

/// `tangent_out` of a window is the tangent at its largest site.
pub(super) struct Gather<'a>(pub(super) &'a DisjointWindows);

impl<T: Real> SampleMap<T> for Gather<'_> {
    #[inline(always)]
    fn map_sample(&self, at: &[T], tangent: &[T], out: &mut [T]) {
        self.0.for_each_window(|index, corner| out[index] = tangent[argmax(self.0, at, corner)]);
    }
}

/// The adjoint of [`Gather`].
pub(super) struct Scatter<'a>(pub(super) &'a DisjointWindows);

impl<T: Real> SampleMap<T> for Scatter<'_> {
    #[inline(always)]
    fn map_sample(&self, at: &[T], cotangent: &[T], out: &mut [T]) {
        out.fill(T::ZERO);
        self.0.for_each_window(|index, corner| out[argmax(self.0, at, corner)] = cotangent[index]);
    }
}
