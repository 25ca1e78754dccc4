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
    /// Coefficients of every row that are not zero, and the bias.
    pub(super) terms: &'a [T],
}

/// Scales and sizes of the rows of a matrix, in the scalar of one solver.
#[derive(Clone, Debug)]
pub(super) struct RowScaling<T> {
    /// What every row and its outputs are multiplied with.
    pub(super) scales: Vec<T>,
    /// Norms of the scaled rows.
    pub(super) norms: Vec<T>,
    /// Coefficients of every row that are not zero, and the bias.
    pub(super) terms: Vec<T>,
    /// Equal proximal weights.
    pub(super) even: Vec<T>,
    /// Proximal weights in the metric of the outputs; none if the scales are 1 and the metric is that of `even`.
    pub(super) metric: Option<Vec<T>>,
}

impl<T: Real> RowScaling<T> {
    /// For rows of the given sizes, with `share` of their mean square as proximal weight.
    pub(super) fn new(rows: &[RowSize], share: f64) -> Self {
        let mut norms: Vec<f64> = rows.iter().map(|row| row.norm).collect();
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
        let terms = rows.iter().map(|row| T::from_f64(row.terms)).collect();
        Self { scales, norms, terms, even, metric }
    }
}

/// Size of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowSize {
    pub(super) norm: f64,
    /// Coefficients that are not zero, and the bias.
    pub(super) terms: f64,
}

/// Measures a row.
#[inline(always)]
pub(super) fn row_size<T: Real>(row: &[T]) -> RowSize {
    let (square, terms) = square_sum(row);
    if square > f64::MIN_POSITIVE && square.is_finite() {
        return RowSize { norm: square.sqrt(), terms };
    }
    // The squares of the entries under- or overflow.
    let largest = row.iter().fold(0.0_f64, |most, a| most.max(a.to_f64().abs()));
    if largest == 0.0 {
        return RowSize { norm: 0.0, terms };
    }
    let square = row.iter().map(|a| (a.to_f64() / largest).powi(2)).sum::<f64>();
    RowSize { norm: largest * square.sqrt(), terms }
}

/// Sum of squares and the number of terms with the bias, in independent lanes so that it vectorises.
#[inline(always)]
fn square_sum<T: Real>(row: &[T]) -> (f64, f64) {
    const LANES: usize = 16;
    let (body, tail) = row.as_chunks::<LANES>();
    let (mut lanes, mut terms) = ([0.0; LANES], [T::ZERO; LANES]);
    for chunk in body {
        for l in 0..LANES {
            lanes[l] += chunk[l].to_f64() * chunk[l].to_f64();
            terms[l] += if chunk[l] == T::ZERO { T::ZERO } else { T::ONE };
        }
    }
    let mut square = lanes.into_iter().sum::<f64>();
    let mut count = 1.0 + terms.into_iter().map(T::to_f64).sum::<f64>();
    for a in tail {
        square += a.to_f64() * a.to_f64();
        count += if *a == T::ZERO { 0.0 } else { 1.0 };
    }
    (square, count)
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
        *norm *= *scale;
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
