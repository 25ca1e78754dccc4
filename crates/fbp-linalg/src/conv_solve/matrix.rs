//! Operators that are formed as matrices.

use faer::{Mat, Par};

use crate::conv_solve::system::{ConvSystem, bias};
use crate::conv2d::Conv2d;
use crate::dense::AffinePlan;
use crate::{LinalgError, Real, SolveParams};

/// The plan of the whole operator as a matrix.
pub(crate) fn dense<T: Real>(
    system: &ConvSystem<'_, f64>,
    epsilon: f64,
    par: Par,
) -> Result<AffinePlan<T>, LinalgError> {
    let matrix = Conv2d::new(system.geometry).dense(system.weight)?;
    let matrix = if system.transposed { matrix.transpose().to_owned() } else { matrix };
    let plane = system.out_shape().plane();
    let bias: Vec<f64> = bias(system).iter().flat_map(|&b| std::iter::repeat_n(b, plane)).collect();
    AffinePlan::new(
        matrix.as_ref(),
        Some(&bias),
        &exactly(matrix.nrows(), matrix.ncols(), epsilon).refine_steps(2).check()?,
        par,
    )
}

/// Parameters that drop only those singular values which rounding alone may have made.
///
/// Weights rounded to nearest differ from others by half an ε each, and so does the matrix in the Frobenius norm, which is
/// at most `√min(m, n)` times the largest singular value; four times as much allows for weights that were computed in their
/// precision (of the given ε). The decomposition in `f64` adds some `max(m, n)` roundings of its own: padding makes whole blocks of equations
/// dependent, and leaves them that.
fn exactly(rows: usize, cols: usize, epsilon: f64) -> SolveParams {
    let (short, long) = (rows.min(cols) as f64, rows.max(cols) as f64);
    let rank_tol = 2.0 * short.sqrt() * epsilon + 16.0 * long * f64::EPSILON;
    SolveParams::new().rank_tol(rank_tol.min(0.1))
}

/// The plan of one pixel of a 1×1 kernel.
pub(crate) fn pixelwise<T: Real>(
    system: &ConvSystem<'_, f64>,
    epsilon: f64,
    par: Par,
) -> Result<AffinePlan<T>, LinalgError> {
    let (rows, cols) = (system.out_shape().channels, system.in_shape().channels);
    let entry = |i: usize, j: usize| if system.transposed { j * rows + i } else { i * cols + j };
    let matrix = Mat::from_fn(rows, cols, |i, j| system.weight[entry(i, j)]);
    AffinePlan::new(matrix.as_ref(), system.bias, &exactly(rows, cols, epsilon).check()?, par)
}
