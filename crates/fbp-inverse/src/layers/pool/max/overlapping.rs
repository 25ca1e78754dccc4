//! Windows that share sites, are padded or are cut off by an edge.

use std::ops::Range;

use faer::dyn_stack::{MemStack, StackReq};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::{LinalgError, Real};

use super::cover::{CoverMemory, Plane, log_len};
use super::relax::{RelaxMemory, Wanted, relax};
use crate::layers::columns::{Outcome, Sample, SampleBox, SampleMap, distance_to};
use crate::layers::parts::ScratchReverse;
use crate::layers::pool::window::{Windows, split};

/// Index within its plane of the largest site of a window, the first one on ties.
///
/// The other way to the same sites, for all windows at once, is [`each_argmax`].
#[inline(always)]
fn argmax<T: Real>(windows: &Windows, plane: &[T], window: usize) -> usize {
    let (row, col) = split(window, windows.cols.count);
    let (rows, cols) = (windows.rows.sites(row), windows.cols.sites(col));
    let width = windows.in_shape.width;
    let mut best = rows.start * width + cols.start;
    for row in rows {
        for site in row * width + cols.start..row * width + cols.end {
            best = if plane[site] > plane[best] { site } else { best };
        }
    }
    best
}

/// Sites of a row of a plane that are looked at together.
const SPAN: usize = 128;

/// Calls `f` with every window of a plane and its [`argmax`], row by row.
///
/// Down the columns first, for many columns at once, and then along the row: a window of 3 × 3 costs three comparisons of vectors
/// and three of numbers in place of nine.
#[inline(always)]
fn each_argmax<T: Real>(windows: &Windows, plane: &[T], mut f: impl FnMut(usize, usize)) {
    let (width, count) = (windows.in_shape.width, windows.cols.count);
    if windows.cols.kernel > SPAN {
        return (0..windows.out_shape.plane()).for_each(|window| f(window, argmax(windows, plane, window)));
    }
    let (mut largest, mut site) = ([T::ZERO; SPAN], [0_u32; SPAN]);
    for row in 0..windows.rows.count {
        let rows = windows.rows.sites(row);
        let mut col = 0;
        while col < count {
            let start = windows.cols.sites(col).start;
            let end = width.min(start + SPAN);
            let (largest, site) = (&mut largest[..end - start], &mut site[..end - start]);
            largest.copy_from_slice(&plane[rows.start * width + start..][..end - start]);
            site.iter_mut().zip(0..).for_each(|(site, place)| *site = place);
            for (below, row) in rows.clone().enumerate().skip(1) {
                let values = &plane[row * width + start..][..end - start];
                let first = (below * width) as u32;
                for ((largest, site), (&x, place)) in largest.iter_mut().zip(&mut *site).zip(values.iter().zip(first..))
                {
                    let more = x > *largest;
                    *largest = if more { x } else { *largest };
                    *site = if more { place } else { *site };
                }
            }
            let from = rows.start * width + start;
            while col < count && windows.cols.sites(col).end <= end {
                let sites = windows.cols.sites(col);
                let (mut most, mut at) = (largest[sites.start - start], site[sites.start - start]);
                for place in sites.start - start + 1..sites.end - start {
                    let (x, other) = (largest[place], site[place]);
                    // Of equal sites the first one, row by row.
                    let wins = x > most || (x == most && other < at);
                    most = if wins { x } else { most };
                    at = if wins { other } else { at };
                }
                f(row * count + col, from + at as usize);
                col += 1;
            }
        }
    }
}

/// Forward kernel.
pub(super) struct Forward<'a>(pub(super) &'a Windows);

impl<T: Real> SampleMap<T> for Forward<'_> {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        let planes = input.chunks_exact(self.0.in_shape.plane()).zip(out.chunks_exact_mut(self.0.out_shape.plane()));
        for (input, out) in planes {
            each_argmax(self.0, input, |window, site| out[window] = input[site]);
        }
    }
}

/// `tangent_out` of a window is the tangent at its largest site.
pub(super) struct Gather<'a>(pub(super) &'a Windows);

impl<T: Real> SampleMap<T> for Gather<'_> {
    #[inline(always)]
    fn map_sample(&self, at: &[T], tangent: &[T], out: &mut [T]) {
        let plane = self.0.in_shape.plane();
        let inputs = at.chunks_exact(plane).zip(tangent.chunks_exact(plane));
        for ((at, tangent), out) in inputs.zip(out.chunks_exact_mut(self.0.out_shape.plane())) {
            each_argmax(self.0, at, |window, site| out[window] = tangent[site]);
        }
    }
}

/// The adjoint of [`Gather`].
pub(super) struct Scatter<'a>(pub(super) &'a Windows);

impl<T: Real> SampleMap<T> for Scatter<'_> {
    #[inline(always)]
    fn map_sample(&self, at: &[T], cotangent: &[T], out: &mut [T]) {
        let plane = self.0.in_shape.plane();
        let planes = at.chunks_exact(plane).zip(cotangent.chunks_exact(self.0.out_shape.plane()));
        for ((at, cotangent), out) in planes.zip(out.chunks_exact_mut(plane)) {
            out.fill(T::ZERO);
            each_argmax(self.0, at, |window, site| out[site] += cotangent[window]);
        }
    }
}

/// Reverse kernel.
pub(super) struct Reverse<'a>(pub(super) &'a Windows);

impl<T: Real> ScratchReverse<T> for Reverse<'_> {
    fn sample_scratch(&self) -> StackReq {
        let (plane, overlap) = (self.0.out_shape.plane(), self.0.overlap());
        StackReq::all_of(&[
            StackReq::new::<T>(plane).array(3),
            StackReq::new::<T>(self.0.in_shape.width),
            StackReq::new::<bool>(plane),
            StackReq::new::<u8>(plane),
            StackReq::new::<usize>(plane).array(2),
            StackReq::new::<(usize, T)>(log_len(self.0)),
            StackReq::new::<usize>(overlap),
            StackReq::new::<f64>(plane * overlap),
            StackReq::new::<f64>(plane).array(3),
            StackReq::new::<[f64; 2]>(plane),
        ])
    }

    fn reverse_sample(
        &self,
        sample: &Sample<'_, T>,
        target: &mut SampleBox<'_, T>,
        stack: &mut MemStack,
    ) -> Result<(Outcome, usize), LinalgError> {
        let (count, overlap) = (self.0.out_shape.plane(), self.0.overlap());
        let (mut floors, stack) = stack.make_with(count, |_| T::ZERO);
        let (mut ceilings, stack) = stack.make_with(count, |_| T::ZERO);
        let (mut reached, stack) = stack.make_with(count, |_| T::ZERO);
        let (mut line, stack) = stack.make_with(self.0.in_shape.width, |_| T::ZERO);
        let (mut met, stack) = stack.make_with(count, |_| false);
        let (mut looks, stack) = stack.make_with(count, |_| 0_u8);
        let (mut order, stack) = stack.make_with(count, |_| 0_usize);
        let (mut witness, stack) = stack.make_with(count, |_| 0_usize);
        let (mut log, stack) = stack.make_with(log_len(self.0), |_| (0_usize, T::ZERO));
        let (mut open, stack) = stack.make_with(overlap, |_| 0_usize);
        let (mut multipliers, stack) = stack.make_with(count * overlap, |_| 0.0_f64);
        let (mut wide_floors, stack) = stack.make_with(count, |_| 0.0_f64);
        let (mut best, stack) = stack.make_with(count, |_| 0.0_f64);
        let (mut holds, stack) = stack.make_with(count, |_| [0.0_f64; 2]);
        let (mut wide_ceilings, _) = stack.make_with(count, |_| 0.0_f64);
        let mut memory = Memory {
            floors: &mut floors,
            ceilings: &mut ceilings,
            reached: &mut reached,
            line: &mut line,
            cover: CoverMemory { order: &mut order, met: &mut met, looks: &mut looks, log: &mut log, open: &mut open },
            relax: RelaxMemory {
                multipliers: &mut multipliers,
                floors: &mut wide_floors,
                ceilings: &mut wide_ceilings,
                best: &mut best,
                holds: &mut holds,
                witness: &mut witness,
            },
        };
        let mut attained = true;
        for channel in 0..self.0.in_shape.channels {
            attained &= self.reverse_plane(channel, sample, target, &mut memory);
        }
        Ok((if attained { Outcome::MET } else { self.judged(sample, target.point) }, 0))
    }
}

/// Workspace of one plane.
struct Memory<'a, T> {
    floors: &'a mut [T],
    ceilings: &'a mut [T],
    /// Largest value of every window.
    reached: &'a mut [T],
    /// One row.
    line: &'a mut [T],
    cover: CoverMemory<'a, T>,
    relax: RelaxMemory<'a>,
}

/// Indices of one channel.
fn plane_of(channel: usize, plane: usize) -> Range<usize> {
    channel * plane..(channel + 1) * plane
}

impl Reverse<'_> {
    /// Tells whether all intervals of the channel are attained.
    fn reverse_plane<T: Real>(
        &self,
        channel: usize,
        sample: &Sample<'_, T>,
        target: &mut SampleBox<'_, T>,
        memory: &mut Memory<'_, T>,
    ) -> bool {
        let (windows, range) = (self.0, sample.in_range);
        let (sites, outputs) =
            (plane_of(channel, windows.in_shape.plane()), plane_of(channel, windows.out_shape.plane()));
        let mut attained = true;
        let (lower, upper) = (&sample.lower[outputs.clone()], &sample.upper[outputs]);
        let Memory { floors, ceilings, reached, line, cover, relax: projection } = memory;
        for ((&lo, &hi), (floor, ceiling)) in lower.iter().zip(upper).zip(floors.iter_mut().zip(ceilings.iter_mut())) {
            (*floor, *ceiling) = (range.clip(lo), range.clip(hi));
            attained &= (lo <= *ceiling) & (*floor <= hi);
        }
        let (values, tops, lowest) =
            (&mut target.point[sites.clone()], &mut target.upper[sites.clone()], &mut target.lower[sites.clone()]);
        windows.minima_at_sites(ceilings, range.upper, line, tops);
        windows.maxima(tops, line, reached);
        let contradictory = reached.iter().zip(floors.iter()).any(|(most, floor)| most < floor);
        if contradictory {
            relax(&Wanted { windows, lower, upper, range }, (floors, ceilings), tops, projection);
        }
        let observed = &sample.observed_in[sites];
        for (value, (&x, &top)) in values.iter_mut().zip(observed.iter().zip(tops.iter())) {
            *value = x.clip(range.lower, top);
        }
        windows.maxima(values, line, reached);
        let plane = Plane { windows, observed, floors, tops, least: range.lower };
        plane.cover(values, reached, cover);
        lowest.fill(range.lower);
        for (window, &floor) in floors.iter().enumerate() {
            if windows.sites(window).any(|site| lowest[site] >= floor) {
                continue;
            }
            lowest[argmax(windows, values, window)] = floor;
        }
        if contradictory {
            // Not every raised ceiling is needed in the end, and no site of the box may make use of the rest.
            for (window, (ceiling, &hi)) in ceilings.iter_mut().zip(upper).enumerate() {
                *ceiling = range.clip(hi).max(values[argmax(windows, values, window)]);
            }
            windows.minima_at_sites(ceilings, range.upper, line, tops);
        }
        attained & !contradictory
    }

    /// Compares every window's maximum with its interval.
    fn judged<T: Real>(&self, sample: &Sample<'_, T>, point: &[T]) -> Outcome {
        let (windows, plane, outputs) = (self.0, self.0.in_shape.plane(), self.0.out_shape.plane());
        let mut outcome = Outcome::MET;
        for (channel, point) in point.chunks_exact(plane).enumerate() {
            let ends = sample.lower[plane_of(channel, outputs)].iter().zip(&sample.upper[plane_of(channel, outputs)]);
            for (window, (&lo, &hi)) in ends.enumerate() {
                let largest = point[argmax(windows, point, window)];
                outcome.note(distance_to(largest, lo, hi), || attained_slack::<T>(1, largest.to_f64().abs()));
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use fbp_linalg::FeatureShape;

    use super::*;
    use crate::PoolWindow;

    #[test]
    fn all_windows_at_once_have_the_sites_of_each() {
        let windows = [
            ([9, 11], PoolWindow::square(3, 2, 0)),
            ([8, 8], PoolWindow::square(3, 1, 1)),
            ([7, 300], PoolWindow::square(3, 2, 1)),
            ([3, 400], PoolWindow { kernel: [2, 130], stride: [1, 7], padding: [0, 3], ceil_mode: false }),
            ([6, 500], PoolWindow { kernel: [5, 128], stride: [2, 3], padding: [2, 0], ceil_mode: true }),
        ];
        for ([height, width], window) in windows {
            let windows = Windows::new("pool", FeatureShape::image(1, height, width), window).unwrap();
            // Few values, so that there are ties in every direction.
            let plane: Vec<f32> = (0..height * width).map(|i| ((i * 7919 + i / 5) % 4) as f32).collect();
            let mut found = vec![usize::MAX; windows.out_shape.plane()];
            each_argmax(&windows, &plane, |window, site| found[window] = site);
            let expected: Vec<usize> = (0..found.len()).map(|window| argmax(&windows, &plane, window)).collect();
            assert_eq!(found, expected, "{height}×{width}");
        }
    }
}
