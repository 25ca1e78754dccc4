use faer::MatRef;
use faer::dyn_stack::{MemStack, StackReq};

use super::newton::{DualNewton, fast_limits, newton_scratch};
use super::problem::Sample;
use super::rows::SampleRows;
use crate::{LinalgError, Real, SolveReport, SolveSide, StopReason, expect_shape};

/// One box-constrained nearest point with a matrix of its own, of few rows and any number of columns:
///
/// ```text
/// min ½|v - v0|²   subject to   lo <= A v + b <= hi,   l <= v <= u
/// ```
///
/// The steps of a Gauss-Newton iteration are of this kind. For one matrix and many samples use a
/// [`BoxedPlan`](super::BoxedPlan).
///
/// # Examples
/// The point of the positive quadrant nearest to `(1, 0)` with `v₀ - v₁ <= -1`:
///
/// ```
/// use faer::dyn_stack::{MemBuffer, MemStack};
/// use fbp_linalg::BoxedSample;
///
/// let rows = faer::mat![[1.0_f64], [-1.0]]; // one row of A, as a column
/// let mut solution = [0.0; 2];
/// let mut memory = MemBuffer::new(BoxedSample::<f64>::solve_scratch(1, 2));
/// let report = BoxedSample {
///     rows: rows.as_ref(),
///     observed_in: &[1.0, 0.0],
///     observed_out: &[1.0],
///     lower: &[f64::NEG_INFINITY],
///     upper: &[-1.0],
///     bounds: (0.0, f64::INFINITY),
///     solution: &mut solution,
/// }
/// .solve(MemStack::new(&mut memory))?;
/// assert!((solution[0] - 0.0).abs() < 1e-12 && (solution[1] - 1.0).abs() < 1e-12);
/// assert_eq!(report.unattained, 0);
/// # Ok::<(), fbp_linalg::LinalgError>(())
/// ```
#[derive(Debug)]
pub struct BoxedSample<'a, T> {
    /// `Aᵀ`: column `i` is row `i` of `A`; `n × m`, contiguous columns.
    pub rows: MatRef<'a, T>,
    /// The point to stay near, `v0`, within the bounds: `n`.
    pub observed_in: &'a [T],
    /// `A v0 + b`: `m`.
    pub observed_out: &'a [T],
    /// Lower ends of the rows' boxes: `m`.
    pub lower: &'a [T],
    /// Upper ends: `m`.
    pub upper: &'a [T],
    /// Bounds `l` and `u` of every entry of `v`.
    pub bounds: (T, T),
    /// The nearest point; write-only: `n`.
    pub solution: &'a mut [T],
}

impl<T: Real> BoxedSample<'_, T> {
    /// Workspace of [`solve`](Self::solve) for up to `rows` rows and `cols` columns of `A`.
    pub fn solve_scratch(rows: usize, cols: usize) -> StackReq {
        newton_scratch::<T>(rows, cols)
    }

    /// Writes the nearest point, by the dual solver in the scalar of the data.
    ///
    /// A box that cannot be reached gets a point at about the smallest distance from it, and the report counts it as
    /// unattained; unlike a [`BoxedPlan`](super::BoxedPlan), nothing is repeated in higher precision.
    ///
    /// # Errors
    /// [`LinalgError::Shape`], [`LinalgError::Strided`], [`LinalgError::NonFinite`] or [`LinalgError::EmptyBox`] for
    /// data that do not describe a problem.
    pub fn solve(self, stack: &mut MemStack) -> Result<SolveReport, LinalgError> {
        self.check()?;
        let newton = DualNewton::over_rows(SampleRows { rows: self.rows }, fast_limits::<T>());
        let Self { observed_in, observed_out, lower, upper, bounds, .. } = self;
        let sample = Sample { start: observed_in, image: observed_out, lower, upper, bounds, multipliers: None };
        let mut report = SolveReport::direct(SolveSide::Boxed, self.rows.ncols().min(self.rows.nrows()));
        if sample.is_feasible() {
            self.solution.copy_from_slice(observed_in);
            report.satisfied = 1;
            return Ok(report);
        }
        let outcome = newton.solve(sample, self.solution, stack);
        report.stop = if outcome.converged { StopReason::Converged } else { StopReason::MaxIterations };
        report.iters = outcome.iters;
        (report.violation_max, report.violation_sum) = (outcome.violation, outcome.violation);
        report.unattained = usize::from(outcome.violation > outcome.tolerance);
        Ok(report)
    }

    fn check(&self) -> Result<(), LinalgError> {
        let (cols, rows) = self.rows.shape();
        if cols > 1 && self.rows.row_stride() != 1 {
            return Err(LinalgError::Strided { what: "boxed: rows", row_stride: self.rows.row_stride() });
        }
        for (what, found, expected) in [
            ("boxed: observed_in", self.observed_in.len(), cols),
            ("boxed: observed_out", self.observed_out.len(), rows),
            ("boxed: lower", self.lower.len(), rows),
            ("boxed: upper", self.upper.len(), rows),
            ("boxed: solution", self.solution.len(), cols),
        ] {
            expect_shape(what, (found, 1), (expected, 1))?;
        }
        crate::expect_finite("boxed: rows", self.rows)?;
        for (what, values) in [("boxed: observed_in", self.observed_in), ("boxed: observed_out", self.observed_out)] {
            crate::expect_finite(what, MatRef::from_column_major_slice(values, values.len(), 1))?;
        }
        let ends = |values| MatRef::from_column_major_slice(values, rows, 1);
        crate::expect_box("boxed: row bounds", ends(self.lower), ends(self.upper))?;
        expect_bounds(self.bounds)
    }
}

/// Checks that the bounds of `v` hold a finite number.
pub(super) fn expect_bounds<T: Real>(bounds: (T, T)) -> Result<(), LinalgError> {
    if !crate::holds_finite_number(bounds.0, bounds.1) {
        return Err(LinalgError::EmptyBox { what: "boxed: bounds of v", row: 0, column: 0 });
    }
    Ok(())
}
