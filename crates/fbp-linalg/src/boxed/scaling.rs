//! Rows of one size: powers of two that the rows and their outputs are multiplied with, which rounds nothing.
//!
//! Beside a row of large weights one of small weights is lost: in the Gram matrix of the rows it is below the proximal
//! weight, or below the rounding. Rows of about one size keep their scale, and with it the metric in which boxes out of
//! reach are missed by the least.

use crate::Real;

/// Largest ratio of two row norms that is left as it is. The square of it, times the proximal weight of single precision
/// (8e-6), is the share of the distance that a move of the centre leaves in the smallest row.
const MOST_UNEVEN: f64 = 16.0;
/// Powers of two that a row may be scaled by, so that nothing overflows.
const MOST_POWERS: f64 = 60.0;
/// Proximal weights in the metric of the outputs: that of the smallest row, and the least one that the factorisations
/// of double precision resolve. Between them lie rows up to `1e6` times as large as the smallest.
const METRIC_WEIGHTS: (f64, f64) = (1e-2, 1e-14);

/// Sizes of the rows as the dual solver wants them, after scaling.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a, T> {
    /// Norm of every row.
    pub(super) norms: &'a [T],
    /// Proximal weight of every row.
    pub(super) epsilon: &'a [T],
}

/// Scales and sizes of the rows of a matrix, in the scalar of one solver.
#[derive(Clone, Debug)]
pub(super) struct RowScaling<T> {
    /// What every row and its outputs are multiplied with.
    pub(super) scales: Vec<T>,
    /// Norms of the scaled rows.
    pub(super) norms: Vec<T>,
    /// Equal proximal weights.
    pub(super) even: Vec<T>,
    /// Proximal weights in the metric of the outputs; none if the scales are 1 and the metric is that of `even`.
    pub(super) metric: Option<Vec<T>>,
}

impl<T: Real> RowScaling<T> {
    /// For rows of the given norms, with `share` of their mean square as proximal weight.
    pub(super) fn new(row_norms: &[f64], share: f64) -> Self {
        let mut norms = row_norms.to_vec();
        let mut scales = vec![1.0; norms.len()];
        let is_uneven = even_out(&mut norms, &mut scales);
        let narrow = |values: &[f64]| values.iter().map(|&value| T::from_f64(value)).collect::<Vec<T>>();
        let (norms, scales) = (narrow(&norms), narrow(&scales));
        let mut even = vec![T::ZERO; norms.len()];
        even_weights(share, &norms, &mut even);
        let metric = is_uneven.then(|| {
            let mut metric = vec![T::ZERO; norms.len()];
            metric_weights(&scales, &mut metric);
            metric
        });
        Self { scales, norms, even, metric }
    }
}

/// Norm of a row.
#[inline(always)]
pub(super) fn row_norm<T: Real>(row: &[T]) -> f64 {
    let square = square_sum(row);
    if square > f64::MIN_POSITIVE && square.is_finite() {
        return square.sqrt();
    }
    // The squares of the entries under- or overflow.
    let largest = row.iter().fold(0.0_f64, |most, a| most.max(a.to_f64().abs()));
    if largest == 0.0 {
        return 0.0;
    }
    largest * row.iter().map(|a| (a.to_f64() / largest).powi(2)).sum::<f64>().sqrt()
}

/// Sum of squares, in independent lanes so that it vectorises.
#[inline(always)]
fn square_sum<T: Real>(row: &[T]) -> f64 {
    const LANES: usize = 8;
    let (body, tail) = row.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in body {
        for (lane, a) in lanes.iter_mut().zip(chunk) {
            *lane += a.to_f64() * a.to_f64();
        }
    }
    tail.iter().fold(lanes.into_iter().sum::<f64>(), |sum, a| sum + a.to_f64() * a.to_f64())
}

/// Turns `norms` into those of the scaled rows and fills `scales`; false if all scales are 1.
pub(super) fn even_out<T: Real>(norms: &mut [T], scales: &mut [T]) -> bool {
    let sizes = || norms.iter().map(|norm| norm.to_f64()).filter(|&norm| norm > 0.0);
    let (least, most) = sizes().fold((f64::INFINITY, 0.0_f64), |(least, most), n| (least.min(n), most.max(n)));
    scales.fill(T::ONE);
    if most <= MOST_UNEVEN * least {
        return false;
    }
    for (norm, scale) in norms.iter_mut().zip(scales.iter_mut()).filter(|(norm, _)| **norm > T::ZERO) {
        let power = (-norm.to_f64().log2().floor()).clamp(-MOST_POWERS, MOST_POWERS);
        *scale = T::from_f64(power.exp2());
        *norm = *norm * *scale;
    }
    true
}

/// Fills equal proximal weights: `share` of the mean squared norm.
pub(super) fn even_weights<T: Real>(share: f64, norms: &[T], epsilon: &mut [T]) {
    let sum: f64 = norms.iter().map(|norm| norm.to_f64().powi(2)).sum();
    let mean = if sum > 0.0 { sum / norms.len() as f64 } else { 1.0 };
    epsilon.fill(T::from_f64(share * mean));
}

/// Fills the proximal weights with which boxes out of reach are missed by the least as the outputs are, unscaled.
pub(super) fn metric_weights<T: Real>(scales: &[T], epsilon: &mut [T]) {
    let most = scales.iter().fold(0.0_f64, |most, scale| most.max(scale.to_f64()));
    let (largest, least) = METRIC_WEIGHTS;
    for (epsilon, scale) in epsilon.iter_mut().zip(scales) {
        *epsilon = T::from_f64((largest * (scale.to_f64() / most).powi(2)).max(least));
    }
}

