use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};

use super::{BoxedPass, BoxedPlan};
use crate::{LinalgError, SolveReport, expect_shape};

/// The point nearest to `start` with `lower <= A v <= upper`, all its entries within `bounds`: one whole call with memory of
/// its own. Loops over many samples of one matrix build a [`BoxedPlan`] once.
///
/// # Shapes
/// `a`: `m × n`; `start` and the answer: `n`; `lower` and `upper`: `m`, infinite where there is no limit.
///
/// # Errors
/// As [`BoxedPlan::new`] and [`BoxedPlan::solve`]; [`LinalgError::Shape`] for slices of another length. A box that cannot be
/// reached is no error: `report.unattained` is 1 then, and the answer as near to the box as can be.
///
/// # Example
/// The point of the positive quadrant nearest to `(1, 0)` at which the second entry exceeds the first by 1:
///
/// ```
/// use faer::mat;
/// use fbp_linalg::nearest_in_box;
///
/// let (point, report) =
///     nearest_in_box(mat![[-1.0, 1.0]].as_ref(), &[1.0, 0.0], (&[1.0], &[f64::INFINITY]), (0.0, f64::INFINITY))?;
/// assert_eq!(report.unattained, 0);
/// assert!(point[0].abs() < 1e-12 && (point[1] - 1.0).abs() < 1e-12);
/// # Ok::<(), fbp_linalg::LinalgError>(())
/// ```
pub fn nearest_in_box(
    a: MatRef<'_, f64>,
    start: &[f64],
    (lower, upper): (&[f64], &[f64]),
    bounds: (f64, f64),
) -> Result<(Vec<f64>, SolveReport), LinalgError> {
    let plan = BoxedPlan::<f64>::new(a)?;
    let (rows, cols) = a.shape();
    expect_shape("nearest in box: start", (start.len(), 1), (cols, 1))?;
    let column = |values| MatRef::from_column_major_slice(values, <[f64]>::len(values), 1);
    let mut image = Mat::zeros(rows, 1);
    matmul(image.as_mut(), Accum::Replace, a, column(start), 1.0, Par::Seq);
    let mut point = Mat::zeros(cols, 1);
    let mut memory = MemBuffer::new(plan.solve_scratch(1, Par::Seq));
    let pass = BoxedPass {
        observed_in: column(start),
        observed_out: image.as_ref(),
        lower: column(lower),
        upper: column(upper),
        bounds,
        solution: point.as_mut(),
    };
    let report = plan.solve(pass, Par::Seq, MemStack::new(&mut memory))?;
    Ok((point.col_as_slice(0).to_vec(), report))
}
