use faer::dyn_stack::{MemStack, StackReq};
use faer::linalg::{temp_mat_scratch, temp_mat_zeroed};
use faer::mat::AsMatMut;
use faer::reborrow::ReborrowMut;
use faer::{MatMut, MatRef, Par};

use super::admm::{AdmmPlan, admm_scratch};
use super::newton::{DualNewton, careful_limits, fast_limits, newton_scratch, primal_scratch};
use super::problem::{Sample, SampleOutcome};
use super::sample::expect_bounds;
use crate::parallel::{SplitBatch, for_each_part, parts_scratch};
use crate::{
    LinalgError, Real, SolveReport, SolveSide, StopReason, column, column_mut, expect_box, expect_finite, expect_shape,
};

/// Plan for the box-constrained nearest point of one matrix `A` (`m × n`):
///
/// ```text
/// min ½|v - v0|²   subject to   lo <= A v + b <= hi,   l <= v <= u
/// ```
#[derive(Clone, Debug)]
pub struct BoxedPlan<T> {
    fast: DualNewton<T>,
    careful: DualNewton<f64>,
    admm: Option<AdmmPlan<T>>,
}

/// Largest number of rows or columns of a [`BoxedPlan`].
pub const BOXED_LIMIT: usize = 4096;

/// Samples that the batched iteration handles together.
const PANEL: usize = 32;

/// How a [`BoxedPlan`] solves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoxedRecipe {
    /// The exact dual solver, sample by sample: every step factorises a matrix of the order of the active rows.
    Newton,
    /// Batched ADMM first, so that the exact solver starts near the solution and needs few of its steps.
    AdmmThenNewton,
}

impl BoxedRecipe {
    /// Chooses from the number of rows, which bounds the order of the matrices that the exact solver factorises.
    pub const fn choose(rows: usize) -> Self {
        if rows <= 512 { Self::Newton } else { Self::AdmmThenNewton }
    }
}

/// The views of one box-constrained solve.
#[derive(Debug)]
pub struct BoxedPass<'a, T> {
    /// The point to stay near, `v0`: `n × N`, within the bounds.
    pub observed_in: MatRef<'a, T>,
    /// `A v0 + b`: `m × N`.
    pub observed_out: MatRef<'a, T>,
    /// Lower ends of the rows' boxes, `-∞` where there is none: `m × N`.
    pub lower: MatRef<'a, T>,
    /// Upper ends, `∞` where there is none: `m × N`.
    pub upper: MatRef<'a, T>,
    /// Bounds `l` and `u` of every entry of `v`.
    pub bounds: (T, T),
    /// The nearest point; write-only: `n × N`.
    pub solution: MatMut<'a, T>,
}

impl<T: Real> SplitBatch for BoxedPass<'_, T> {
    fn batch(&self) -> usize {
        self.observed_in.ncols()
    }

    fn split_at(self, count: usize) -> (Self, Self) {
        let (in_left, in_right) = self.observed_in.split_at_col(count);
        let (out_left, out_right) = self.observed_out.split_at_col(count);
        let (lower_left, lower_right) = self.lower.split_at_col(count);
        let (upper_left, upper_right) = self.upper.split_at_col(count);
        let (solution_left, solution_right) = self.solution.split_at_col_mut(count);
        let bounds = self.bounds;
        (
            Self {
                observed_in: in_left,
                observed_out: out_left,
                lower: lower_left,
                upper: upper_left,
                bounds,
                solution: solution_left,
            },
            Self {
                observed_in: in_right,
                observed_out: out_right,
                lower: lower_right,
                upper: upper_right,
                bounds,
                solution: solution_right,
            },
        )
    }
}

impl<T: Real> BoxedPlan<T> {
    /// Builds the plan for `a` (`m × n`), in `f64`.
    ///
    /// # Errors
    /// [`LinalgError::NonFinite`] if `a` is not finite, [`LinalgError::TooLarge`] above [`BOXED_LIMIT`] rows or
    /// columns.
    pub fn new(a: MatRef<'_, f64>) -> Result<Self, LinalgError> {
        let (rows, cols) = a.shape();
        if rows.max(cols) > BOXED_LIMIT {
            return Err(LinalgError::TooLarge { what: "boxed nearest point", rows, cols, limit: BOXED_LIMIT });
        }
        expect_finite("boxed: A", a)?;
        let admm = match BoxedRecipe::choose(rows) {
            BoxedRecipe::Newton => None,
            BoxedRecipe::AdmmThenNewton => Some(AdmmPlan::new(a)?),
        };
        Ok(Self {
            fast: DualNewton::new(a, fast_limits::<T>()),
            careful: DualNewton::new(a, careful_limits(rows)),
            admm,
        })
    }

    /// How the plan solves.
    pub fn recipe(&self) -> BoxedRecipe {
        if self.admm.is_some() { BoxedRecipe::AdmmThenNewton } else { BoxedRecipe::Newton }
    }

    /// Number of rows `m` and columns `n` of `A`.
    pub fn shape(&self) -> (usize, usize) {
        (self.fast.nrows(), self.fast.ncols())
    }

    /// Workspace of one thread, for a matrix of the given shape.
    fn part_scratch((m, n): (usize, usize)) -> StackReq {
        let widened = StackReq::all_of(&[StackReq::new::<f64>(n).array(2), StackReq::new::<f64>(m).array(3)]);
        let sample = newton_scratch::<T>(m, n).or(StackReq::all_of(&[
            widened,
            newton_scratch::<f64>(m, n),
            primal_scratch::<f64>(m, n),
        ]));
        match BoxedRecipe::choose(m) {
            BoxedRecipe::Newton => sample,
            BoxedRecipe::AdmmThenNewton => {
                temp_mat_scratch::<T>(m, PANEL).and(sample.or(admm_scratch::<T>((m, n), PANEL)))
            }
        }
    }

    /// Workspace of [`solve`](Self::solve) for `batch` samples.
    pub fn solve_scratch(&self, batch: usize, par: Par) -> StackReq {
        Self::largest_scratch(self.shape(), batch, par)
    }

    /// Workspace that is enough for any plan of an `m × n` matrix, before one is built.
    pub fn largest_scratch(shape: (usize, usize), batch: usize, par: Par) -> StackReq {
        parts_scratch(Self::part_scratch(shape), batch, par)
    }

    /// Writes the nearest point of every sample.
    ///
    /// A sample whose `observed_in` is already feasible gets it back bit for bit. A sample whose box cannot be
    /// reached gets the point nearest to `observed_in` among those at the smallest distance from the box (in the
    /// Euclidean norm); the report counts it as unattained.
    ///
    /// # Errors
    /// [`LinalgError::Shape`], [`LinalgError::Strided`], [`LinalgError::NonFinite`] or [`LinalgError::EmptyBox`] for
    /// views that do not describe a problem.
    pub fn solve(&self, pass: BoxedPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<SolveReport, LinalgError> {
        let (m, n) = self.shape();
        let batch = pass.batch();
        expect_shape("boxed: observed_in", pass.observed_in.shape(), (n, batch))?;
        expect_shape("boxed: observed_out", pass.observed_out.shape(), (m, batch))?;
        expect_shape("boxed: lower", pass.lower.shape(), (m, batch))?;
        expect_shape("boxed: upper", pass.upper.shape(), (m, batch))?;
        expect_shape("boxed: solution", pass.solution.shape(), (n, batch))?;
        expect_finite("boxed: observed_in", pass.observed_in)?;
        expect_finite("boxed: observed_out", pass.observed_out)?;
        expect_box("boxed: row bounds", pass.lower, pass.upper)?;
        expect_bounds(pass.bounds)?;
        let run = |part: BoxedPass<'_, T>, stack: &mut MemStack| self.solve_part(part, stack);
        let merge = |left: Result<SolveReport, LinalgError>, right| Ok(left?.merge(right?));
        for_each_part(pass, Self::part_scratch(self.shape()), par, stack, &run, &merge)
    }

    /// Solves the samples of one thread.
    fn solve_part(&self, mut pass: BoxedPass<'_, T>, stack: &mut MemStack) -> Result<SolveReport, LinalgError> {
        let mut report = SolveReport::direct(SolveSide::Boxed, self.shape().0.min(self.shape().1));
        let Some(admm) = &self.admm else {
            for index in 0..pass.batch() {
                report = report.merge(self.solve_sample(&mut pass, index, None, stack)?);
            }
            return Ok(report);
        };
        while pass.batch() > 0 {
            let width = PANEL.min(pass.batch());
            let (mut panel, rest) = pass.split_at(width);
            let (mut lambda, stack) = temp_mat_zeroed::<T, _, _>(self.shape().0, width, stack);
            let mut lambda = lambda.as_mat_mut();
            admm.multipliers(&panel, lambda.as_mut(), Par::Seq, stack);
            for index in 0..width {
                let start = column("boxed: multipliers", lambda.as_ref(), index)?;
                report = report.merge(self.solve_sample(&mut panel, index, Some(start), stack)?);
            }
            pass = rest;
        }
        Ok(report)
    }

    fn solve_sample(
        &self,
        pass: &mut BoxedPass<'_, T>,
        index: usize,
        multipliers: Option<&[T]>,
        stack: &mut MemStack,
    ) -> Result<SolveReport, LinalgError> {
        let mut report = SolveReport::direct(SolveSide::Boxed, 0);
        let sample = Sample {
            start: column("boxed: observed_in", pass.observed_in, index)?,
            image: column("boxed: observed_out", pass.observed_out, index)?,
            lower: column("boxed: lower", pass.lower, index)?,
            upper: column("boxed: upper", pass.upper, index)?,
            bounds: pass.bounds,
            multipliers,
        };
        let solution = column_mut("boxed: solution", pass.solution.rb_mut(), index)?;
        if sample.is_feasible() {
            solution.copy_from_slice(sample.start);
            report.satisfied = 1;
            return Ok(report);
        }
        let mut outcome = self.fast.solve(sample, solution, stack);
        if !outcome.converged || outcome.violation > outcome.tolerance {
            outcome = self.solve_carefully(sample, solution, stack);
        }
        report.stop = if outcome.converged { StopReason::Converged } else { StopReason::MaxIterations };
        report.iters = outcome.iters;
        report.violation_max = outcome.violation;
        report.violation_sum = outcome.violation;
        report.unattained = usize::from(outcome.violation > outcome.tolerance);
        Ok(report)
    }

    /// Repeats a sample that single precision could not finish, or that looks infeasible, in `f64`.
    fn solve_carefully(&self, sample: Sample<'_, T>, solution: &mut [T], stack: &mut MemStack) -> SampleOutcome {
        let (start, stack) = stack.collect(sample.start.iter().map(|v| v.to_f64()));
        let (image, stack) = stack.collect(sample.image.iter().map(|v| v.to_f64()));
        let (lower, stack) = stack.collect(sample.lower.iter().map(|v| v.to_f64()));
        let (upper, stack) = stack.collect(sample.upper.iter().map(|v| v.to_f64()));
        let (mut wide, stack) = stack.make_with(solution.len(), |_| 0.0);
        let bounds = (sample.bounds.0.to_f64(), sample.bounds.1.to_f64());
        let widened = Sample { start: &start, image: &image, lower: &lower, upper: &upper, bounds, multipliers: None };
        let mut outcome = self.careful.solve(widened, &mut wide, stack);
        for (narrow, &wide) in solution.iter_mut().zip(wide.iter()) {
            *narrow = T::from_f64(wide);
        }
        // The data of the sample carry the rounding of `T`, so nothing below that counts as a violation.
        outcome.tolerance = outcome.tolerance.max(self.fast.tolerance(&sample).to_f64());
        outcome
    }
}
