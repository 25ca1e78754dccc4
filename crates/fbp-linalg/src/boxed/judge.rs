//! Whether the point that is returned attains its box: by the definition in [`attained`](crate::attained), row by row, from
//! the rounded point, in `f64` and, where the rounding of that would decide, beyond it.

use faer::dyn_stack::{MemStack, StackReq};

use super::problem::{Sample, gap};
use super::rows::{GramSelection, RowSource};
use crate::Real;
use crate::attained::{attained_slack, observed_slack};

/// What the rows miss.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    /// Largest distance of a row to its interval, in units of the unscaled outputs.
    pub(super) violation: f64,
    /// No row misses by more than the definition allows.
    pub(super) attained: bool,
}

/// A row at a point.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowAt {
    /// `w0 + a·(v - v0)`.
    pub(super) image: f64,
    /// `Σ abs(a_j v_j) + abs(b)`.
    pub(super) scale: f64,
    /// `Σ abs(a_j v0_j) + abs(w0)`, the scale of the observed output.
    from: f64,
    /// Coefficients that are not zero.
    terms: usize,
}

impl RowAt {
    /// Distance to the interval that counts as none, for data and point in the precision of `T`.
    #[inline(always)]
    pub(super) fn slack<T: Real>(&self) -> f64 {
        // The bias is a term too.
        attained_slack::<T>(self.terms + 1, self.scale) + observed_slack::<T>(self.terms + 1, self.from)
    }

    /// Rounding of the image.
    #[inline(always)]
    pub(super) fn rounding(&self) -> f64 {
        2.0 * f64::EPSILON * ((self.terms + 1) as f64).sqrt() * (self.scale + self.from)
    }
}

/// Evaluates a row at `v`, whose output at `start` is `image`.
#[inline(always)]
pub(super) fn row_at<A: Real, T: Real>(row: &[A], start: &[T], image: f64, v: &[T]) -> RowAt {
    const LANES: usize = 8;
    let (rows, row_tail) = row.as_chunks::<LANES>();
    let (starts, start_tail) = start.as_chunks::<LANES>();
    let (points, point_tail) = v.as_chunks::<LANES>();
    // Moved, scale, output and scale at the start, terms.
    let mut lanes = [[0.0; LANES]; 5];
    let add = |[moved, scale, output, from, terms]: [&mut f64; 5], a: A, v0: T, v: T| {
        let (a, v0, v) = (a.to_f64(), v0.to_f64(), v.to_f64());
        let product = a * v0;
        *moved += a * (v - v0);
        *scale += (a * v).abs();
        *output += product;
        *from += product.abs();
        *terms += if a == 0.0 { 0.0 } else { 1.0 };
    };
    let [moved, scale, output, from, terms] = &mut lanes;
    for ((row, start), point) in rows.iter().zip(starts).zip(points) {
        for l in 0..LANES {
            let sums = [&mut moved[l], &mut scale[l], &mut output[l], &mut from[l], &mut terms[l]];
            add(sums, row[l], start[l], point[l]);
        }
    }
    for ((&a, &v0), &v) in row_tail.iter().zip(start_tail).zip(point_tail) {
        add([&mut moved[0], &mut scale[0], &mut output[0], &mut from[0], &mut terms[0]], a, v0, v);
    }
    let [moved, scale, output, from, terms] = lanes.map(|lanes| lanes.into_iter().sum::<f64>());
    let from = from + image.abs();
    RowAt { image: image + moved, scale: scale + (image - output).abs(), from, terms: terms as usize }
}

/// The image of [`row_at`] without the rounding of its sum: the value and what it lacks.
#[cold]
#[inline(never)]
pub(super) fn exact_image<A: Real, T: Real>(row: &[A], start: &[T], image: f64, v: &[T]) -> (f64, f64) {
    let (mut sum, mut rest) = (image, 0.0);
    let mut add = |a: f64, b: f64| {
        let product = a * b;
        let next = sum + product;
        let taken = next - sum;
        rest += (sum - (next - taken)) + (product - taken) + f64::mul_add(a, b, -product);
        sum = next;
    };
    for ((a, start), v) in row.iter().zip(start).zip(v) {
        add(a.to_f64(), v.to_f64());
        add(-a.to_f64(), start.to_f64());
    }
    (sum, rest)
}

/// Judges the point `v` of a sample; `row(i)` is row `i` times `scale(i)`, while the sample is not scaled. Rows whose scaled
/// `gaps` are known to be attained are taken as that.
#[inline(always)]
pub(super) fn judge<'r, A: Real, T: Real>(
    row: impl Fn(usize) -> &'r [A],
    scale: impl Fn(usize) -> f64,
    sample: &Sample<'_, T>,
    v: &[T],
    gaps: Option<&[T]>,
) -> Verdict {
    let mut verdict = Verdict { violation: 0.0, attained: true };
    for i in 0..sample.image.len() {
        let scale = scale(i);
        if let Some(gap) = gaps.map(|gaps| gaps[i]).filter(|gap| !gap.is_nan()) {
            verdict.violation = verdict.violation.max(gap.to_f64() / scale);
            continue;
        }
        let image = sample.image[i].to_f64() * scale;
        let at = row_at(row(i), sample.start, image, v);
        let (lower, upper) = (sample.lower[i].to_f64() * scale, sample.upper[i].to_f64() * scale);
        let mut gap = (at.image - at.image.clip(lower, upper)).abs();
        if gap <= 4.0 * at.slack::<T>() && gap + at.rounding() > at.slack::<T>() {
            let (sum, rest) = exact_image(row(i), sample.start, image, v);
            gap = ((sum - sum.clip(lower, upper)) + rest).abs();
        }
        verdict.violation = if gap.is_nan() { f64::INFINITY } else { verdict.violation.max(gap / scale) };
        // Not the other way round: what is no number is a miss.
        verdict.attained &= gap <= at.slack::<T>();
    }
    verdict
}

/// Rows up to which the gaps are turned into a sharper proof.
const MOST_ROWS: usize = 64;
/// Shift of the Gram matrix for that, relative to its largest diagonal entry.
const SHIFT: f64 = 1e-10;

/// Smallest weight that takes part in the sharper proof, as a share of all.
const LEAST_WEIGHT: f64 = 1e-8;

/// Workspace of [`is_out_of_reach`].
pub(super) fn reach_scratch(m: usize, n: usize) -> StackReq {
    let sharper = if m <= MOST_ROWS {
        StackReq::all_of(&[
            StackReq::new::<f64>(m * m),
            StackReq::new::<(u32, f64)>(m + 1),
            StackReq::new::<u32>(m),
            StackReq::new::<bool>(n),
        ])
    } else {
        StackReq::EMPTY
    };
    StackReq::all_of(&[StackReq::new::<f64>(m).array(2), StackReq::new::<f64>(n), sharper])
}

/// Whether the rows that `v` misses prove that no point within its bounds attains the box, as far as `farthest` lengths of
/// the point and the start from it. From a start at 0 nothing is far.
///
/// For weights `g` of the rows and `p = Aᵀg`, a point `v + d` of the box has `p·d = g·Ad >= Σ g_i (end_i - w_i)`, with the
/// lower ends where `g` is positive and the upper ones where it is negative. Where bounds hold `v` against `p` the
/// entries of `d` only take away from that; what the others can give is at most `|p| |d|`. The weights are the gaps of
/// the rows and, where their rounding spoils the proof, the gaps after an inverse iteration that makes `p` small.
#[inline(always)]
pub(super) fn is_out_of_reach<T: Real, R: RowSource<f64>>(
    rows: &R,
    norms: &[f64],
    sample: &Sample<'_, f64>,
    v: &[f64],
    farthest: f64,
    stack: &mut MemStack,
) -> bool {
    let (m, n) = (rows.nrows(), rows.ncols());
    let (mut image, stack) = stack.make_with(m, |_| 0.0);
    let (mut weights, stack) = stack.make_with(m, |_| 0.0);
    let (mut pull, stack) = stack.make_with(n, |_| 0.0);
    let (mut start_sq, mut point_sq) = (0.0, 0.0);
    for ((moved, v), start) in pull.iter_mut().zip(v).zip(sample.start) {
        *moved = v - start;
        start_sq += start * start;
        point_sq += v * v;
    }
    rows.multiply(&pull, &mut image);
    image.iter_mut().zip(sample.image).for_each(|(image, start)| *image += start);
    weights.iter_mut().enumerate().for_each(|(i, weight)| *weight = gap(sample, &image, i));
    let size = start_sq.sqrt() + point_sq.sqrt();
    if start_sq == 0.0 {
        return false;
    }
    let mut proves = |weights: &[f64]| {
        let (mut needed, mut slack, mut rounding) = (0.0, 0.0, 0.0);
        for (i, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
            let end = if weight > 0.0 { sample.lower[i] } else { sample.upper[i] };
            needed += weight * (end - image[i]);
            slack += weight.abs() * attained_slack::<T>(n + 1, norms[i] * size + image[i].abs());
            rounding += 4.0 * f64::EPSILON * norms[i] * weight.abs();
        }
        pull.fill(0.0);
        rows.add_weighted_rows(weights, &mut pull);
        let gives = |entry: usize, pull: f64, v: f64| {
            let (low, high) = sample.bounds.at(entry);
            !(v == low && pull <= 0.0 || v == high && pull >= 0.0)
        };
        let pulls = pull.iter().zip(v).enumerate().filter(|&(entry, (&pull, &v))| gives(entry, pull, v));
        let rest: f64 = pulls.map(|(_, (pull, _))| pull * pull).sum();
        needed.is_finite() && farthest * size * (rest.sqrt() + rounding) + 4.0 * slack < 0.5 * needed
    };
    proves(&weights) || m <= MOST_ROWS && sharpen(rows, sample, v, &mut weights, stack) && proves(&weights)
}

/// Replaces the gaps by two steps of inverse iteration with the Gram matrix of their rows on the free entries; false if
/// that is not possible.
#[inline(always)]
fn sharpen<R: RowSource<f64>>(
    rows: &R,
    sample: &Sample<'_, f64>,
    v: &[f64],
    weights: &mut [f64],
    stack: &mut MemStack,
) -> bool {
    let (m, n) = (rows.nrows(), rows.ncols());
    let (mut gram, stack) = stack.make_with(m * m, |_| 0.0);
    let (mut gather, stack) = stack.make_with(m + 1, |_| (0, 0.0));
    let (mut position, stack) = stack.make_with(m, |_| u32::MAX);
    let (mut free, _) = stack.make_with(n, |_| false);
    for (entry, (free, &v)) in free.iter_mut().zip(v).enumerate() {
        let (low, high) = sample.bounds.at(entry);
        *free = low < v && v < high;
    }
    let mut size = 0;
    for (position, _) in position.iter_mut().zip(weights.iter()).filter(|(_, weight)| **weight != 0.0) {
        *position = size as u32;
        size += 1;
    }
    rows.masked_gram(GramSelection { position: &position, size, free: &free }, &mut gather, &mut gram);
    let shift = SHIFT * (0..size).map(|k| gram[k * (size + 1)]).fold(f64::MIN_POSITIVE, f64::max);
    // Cholesky factors of the shifted matrix, in its lower triangle.
    for k in 0..size {
        let mut pivot = gram[k * (size + 1)] + shift;
        (0..k).for_each(|l| pivot -= gram[l * size + k] * gram[l * size + k]);
        if pivot <= 0.0 {
            return false;
        }
        let pivot = pivot.sqrt();
        gram[k * (size + 1)] = pivot;
        for i in k + 1..size {
            let mut entry = gram[k * size + i];
            (0..k).for_each(|l| entry -= gram[l * size + i] * gram[l * size + k]);
            gram[k * size + i] = entry / pivot;
        }
    }
    let mut packed = [0.0; MOST_ROWS];
    let taken = || (0..m).filter(|&i| position[i] != u32::MAX);
    taken().for_each(|i| packed[position[i] as usize] = weights[i]);
    let before = packed[..size].iter().map(|weight| weight * weight).sum::<f64>().sqrt();
    for _ in 0..2 {
        for k in 0..size {
            (0..k).for_each(|l| packed[k] -= gram[l * size + k] * packed[l]);
            packed[k] /= gram[k * (size + 1)];
        }
        for k in (0..size).rev() {
            (k + 1..size).for_each(|l| packed[k] -= gram[k * size + l] * packed[l]);
            packed[k] /= gram[k * (size + 1)];
        }
        let after = packed[..size].iter().map(|weight| weight * weight).sum::<f64>().sqrt();
        packed[..size].iter_mut().for_each(|weight| *weight *= before / after);
    }
    for i in taken() {
        let weight = packed[position[i] as usize];
        let end = if weight > 0.0 { sample.lower[i] } else { sample.upper[i] };
        // Rows that take no part are left with rounding, which may push to where they have no end.
        weights[i] = if weight.abs() > LEAST_WEIGHT * before && end.is_finite() { weight } else { 0.0 };
    }
    true
}
