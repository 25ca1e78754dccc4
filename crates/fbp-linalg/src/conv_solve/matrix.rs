//! Operators that are formed as matrices.

use faer::{Mat, Par};

use super::plan::{ConvSystem, bias};
use crate::conv2d::Conv2d;
use crate::dense::AffinePlan;
use crate::{LinalgError, Real, SolveParams};

/// The plan of the whole operator as a matrix.
pub(super) fn dense<T: Real, W: Real>(system: &ConvSystem<'_, W>, par: Par) -> Result<AffinePlan<T>, LinalgError> {
    let matrix = Conv2d::new(system.geometry).dense(system.weight)?;
    let matrix = if system.transposed { matrix.transpose().to_owned() } else { matrix };
    let plane = system.out_shape().plane();
    let bias: Vec<f64> = bias(system).iter().flat_map(|&b| std::iter::repeat_n(b, plane)).collect();
    AffinePlan::new(
        matrix.as_ref(),
        Some(&bias),
        &exactly::<W>(matrix.nrows(), matrix.ncols()).refine_steps(2).check()?,
        par,
    )
}

/// Parameters that drop only those singular values which rounding alone may have made.
///
/// Weights rounded to nearest differ from others by half an ε each, and so does the matrix in the Frobenius norm, which is
/// at most `√min(m, n)` times the largest singular value; four times as much allows for weights that were computed in their
/// precision. The decomposition in `f64` adds some `max(m, n)` roundings of its own: padding makes whole blocks of equations
/// dependent, and leaves them that.
fn exactly<W: Real>(rows: usize, cols: usize) -> SolveParams {
    let (short, long) = (rows.min(cols) as f64, rows.max(cols) as f64);
    let rank_tol = 2.0 * short.sqrt() * W::EPSILON.to_f64() + 16.0 * long * f64::EPSILON;
    SolveParams::new().rank_tol(rank_tol.min(0.1))
}

/// The plan of one pixel of a 1×1 kernel.
pub(super) fn pixelwise<T: Real, W: Real>(system: &ConvSystem<'_, W>, par: Par) -> Result<AffinePlan<T>, LinalgError> {
    let (rows, cols) = (system.out_shape().channels, system.in_shape().channels);
    let entry = |i: usize, j: usize| if system.transposed { j * rows + i } else { i * cols + j };
    let matrix = Mat::from_fn(rows, cols, |i, j| system.weight[entry(i, j)]);
    AffinePlan::new(matrix.as_ref(), system.bias, &exactly::<W>(rows, cols).check()?, par)
}
