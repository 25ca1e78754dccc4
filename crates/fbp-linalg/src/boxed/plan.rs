use faer::dyn_stack::{MemStack, StackReq};
use faer::linalg::{temp_mat_scratch, temp_mat_zeroed};
use faer::mat::AsMatMut;
use faer::reborrow::ReborrowMut;
use faer::{Mat, MatMut, MatRef, Par};

use super::active_set::{MOST_OPERATIONS, Rescue, rescue, rescue_scratch};
use super::admm::{AdmmPlan, admm_scratch};
use super::bounds::Bounds;
use super::judge::{Verdict, is_out_of_reach, judge, reach_scratch};
use super::newton::{DualNewton, Found, careful_limits, fast_limits, newton_scratch, primal_scratch};
use super::problem::Sample;
use super::rows::RowSource;
use super::scaling::{RowScaling, RowSize, Weights, row_size};
use crate::parallel::{SplitBatch, for_each_part, parts_scratch};
use crate::{
    LinalgError, Real, SolveReport, SolveSide, StopReason, column, column_mut, compile_once, expect_box, expect_finite,
    expect_shape,
};

/// Plan for the box-constrained nearest point of one matrix `A` (`m × n`):
///
/// ```text
/// min ½|v - v0|²   subject to   lo <= A v + b <= hi,   l <= v <= u
/// ```
#[derive(Clone, Debug)]
pub struct BoxedPlan<T> {
    fast: DualNewton<T>,
    fast_scaling: RowScaling<T>,
    careful: DualNewton<f64>,
    careful_scaling: RowScaling<f64>,
    admm: Option<AdmmPlan<T>>,
}

/// Largest number of rows or columns of a [`BoxedPlan`].
pub const BOXED_LIMIT: usize = 4096;

/// Samples that the batched iteration handles together.
const PANEL: usize = 32;

/// How far a box is looked for before it counts as out of reach, in lengths of the point and the start.
const FARTHEST: f64 = 1e4;

/// Operations that active sets may take before the dual solver is tried, beside some that grow with the system.
const QUICK_OPERATIONS: f64 = 1e7;

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
        build(a)
    }

    fn build(a: MatRef<'_, f64>) -> Result<Self, LinalgError> {
        let (rows, cols) = a.shape();
        if rows.max(cols) > BOXED_LIMIT {
            return Err(LinalgError::TooLarge { what: "boxed nearest point", rows, cols, limit: BOXED_LIMIT });
        }
        expect_finite("boxed: A", a)?;
        let transposed = a.transpose().to_owned();
        let sizes: Vec<RowSize> = (0..rows).map(|i| row_size(transposed.col_as_slice(i))).collect();
        let (fast_limits, careful_limits) = (fast_limits::<T>(), careful_limits(rows));
        let fast_scaling = RowScaling::<T>::new(&sizes, fast_limits.proximal_weight);
        let careful_scaling = RowScaling::<f64>::new(&sizes, careful_limits.proximal_weight);
        let even = Mat::from_fn(rows, cols, |i, j| careful_scaling.scales[i] * a[(i, j)]);
        let admm = match BoxedRecipe::choose(rows) {
            BoxedRecipe::Newton => None,
            BoxedRecipe::AdmmThenNewton => Some(AdmmPlan::new(even.as_ref(), fast_scaling.scales.clone())?),
        };
        Ok(Self {
            fast: DualNewton::new(even.as_ref(), fast_limits),
            fast_scaling,
            careful: DualNewton::new(even.as_ref(), careful_limits),
            careful_scaling,
            admm,
        })
    }

    /// How the plan solves.
    pub fn recipe(&self) -> BoxedRecipe {
        if self.admm.is_some() { BoxedRecipe::AdmmThenNewton } else { BoxedRecipe::Newton }
    }

    /// Number of rows `m` and columns `n` of `A`.
    pub fn shape(&self) -> (usize, usize) {
        (self.fast.rows().nrows(), self.fast.rows().ncols())
    }

    /// Workspace of one thread, for a matrix of the given shape.
    fn part_scratch((m, n): (usize, usize)) -> StackReq {
        let scaled = StackReq::new::<T>(m).array(4);
        let widened = StackReq::all_of(&[StackReq::new::<f64>(n).array(2), StackReq::new::<f64>(m).array(5)]);
        let newton = newton_scratch::<f64>(m, n).and(primal_scratch::<f64>(m, n));
        let careful = widened.and(newton.or(rescue_scratch(m, n)).or(reach_scratch(m, n)));
        let sample = StackReq::new::<T>(m).and(scaled.and(newton_scratch::<T>(m, n)).or(careful));
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
        solve(self, pass, par, stack)
    }

    fn solve_batch(&self, pass: BoxedPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<SolveReport, LinalgError> {
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
        Bounds::from(pass.bounds).check("boxed: bounds of v", pass.observed_in.nrows())?;
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
            bounds: pass.bounds.into(),
            multipliers,
        };
        let solution = column_mut("boxed: solution", pass.solution.rb_mut(), index)?;
        if sample.is_feasible() {
            solution.copy_from_slice(sample.start);
            report.satisfied = 1;
            return Ok(report);
        }
        let (mut multipliers, stack) = stack.make_with(self.shape().0, |_| T::ZERO);
        let solved = match self.solve_fast(&sample, solution, &mut multipliers, stack) {
            Some(solved) => solved,
            None => self.solve_carefully(&sample, solution, &multipliers, stack),
        };
        report.stop = if solved.converged { StopReason::Converged } else { StopReason::MaxIterations };
        report.iters = solved.iters;
        report.violation_max = solved.verdict.violation;
        report.violation_sum = solved.verdict.violation;
        report.unattained = usize::from(!solved.verdict.attained);
        Ok(report)
    }

    /// The first try, in the scalar of the batch; none if it did not attain the box.
    fn solve_fast(
        &self,
        sample: &Sample<'_, T>,
        solution: &mut [T],
        multipliers: &mut [T],
        stack: &mut MemStack,
    ) -> Option<Solved> {
        let RowScaling { scales, norms, terms, even, .. } = &self.fast_scaling;
        let scale = |values: &[T], i: usize| values[i] * scales[i];
        let (m, _) = self.shape();
        let (image, stack) = stack.collect((0..m).map(|i| scale(sample.image, i)));
        let (lower, stack) = stack.collect((0..m).map(|i| scale(sample.lower, i)));
        let (upper, stack) = stack.collect((0..m).map(|i| scale(sample.upper, i)));
        let scaled = Sample { image: &image, lower: &lower, upper: &upper, ..*sample };
        let (mut gaps, stack) = stack.make_with(m, |_| T::ZERO);
        let found = Found { multipliers, gaps: &mut gaps };
        let outcome = self.fast.solve(scaled, Weights { norms, epsilon: even, terms }, solution, found, stack);
        if !(outcome.converged && outcome.reached && solution.iter().all(|v| v.is_finite())) {
            return None;
        }
        let verdict = self.judge(sample, solution, Some(&gaps));
        verdict.attained.then_some(Solved { iters: outcome.iters, converged: true, verdict })
    }

    fn judge(&self, sample: &Sample<'_, T>, v: &[T], gaps: Option<&[T]>) -> Verdict {
        let (rows, scales) = (self.careful.rows(), &self.careful_scaling.scales);
        crate::dispatch(
            #[inline(always)]
            || judge(|i| rows.row(i), |i| scales[i], sample, v, gaps),
        )
    }

    /// Repeats a sample that the first try could not finish, or that looks infeasible, in `f64`: by active sets, by the dual
    /// solver, by both, and at last, for rows of uneven size, by the dual solver in the metric of the outputs.
    ///
    /// `solution` and `tried` are what the first try left: a point and the multipliers of the scaled rows.
    fn solve_carefully(&self, sample: &Sample<'_, T>, solution: &mut [T], tried: &[T], stack: &mut MemStack) -> Solved {
        let RowScaling { scales, norms, terms, even, metric } = &self.careful_scaling;
        let scale = |values: &[T], i: usize| values[i].to_f64() * scales[i];
        let (m, n) = self.shape();
        let (start, stack) = stack.collect(sample.start.iter().map(|v| v.to_f64()));
        let (image, stack) = stack.collect((0..m).map(|i| scale(sample.image, i)));
        let (lower, stack) = stack.collect((0..m).map(|i| scale(sample.lower, i)));
        let (upper, stack) = stack.collect((0..m).map(|i| scale(sample.upper, i)));
        let (mut gaps, stack) = stack.make_with(m, |_| 0.0);
        let (mut multipliers, stack) = stack.collect(tried.iter().map(|weight| weight.to_f64()));
        let (mut wide, stack) = stack.collect(solution.iter().map(|v| v.to_f64()));
        let bounds = sample.bounds.widen(&[], &[]);
        let widened = Sample { start: &start, image: &image, lower: &lower, upper: &upper, bounds, multipliers: None };
        let mut narrow = |wide: &[f64]| {
            sample.narrow(wide, solution);
            self.judge(sample, solution, None)
        };
        let rows = self.careful.rows();
        let rescued = |multipliers: &[f64], wide: &mut [f64], most: f64, stack: &mut MemStack| {
            !is_out_of_reach::<T, _>(rows, norms, &widened, wide, FARTHEST, stack)
                && rescue::<T, _>(rows, widened, multipliers, wide, most, stack) == Rescue::Solved
        };
        // What a few steps of the dual solver take.
        let quick = QUICK_OPERATIONS + 4.0 * (m * m) as f64 * (m / 3 + n) as f64;
        if rescued(&multipliers, &mut wide, quick.min(MOST_OPERATIONS), stack) {
            let verdict = narrow(&wide);
            if verdict.attained {
                return Solved { iters: 1, converged: true, verdict };
            }
        }
        let mut solve = |epsilon: &[f64], multipliers: &mut [f64], wide: &mut [f64], stack: &mut MemStack| {
            let weights = Weights { norms, epsilon, terms };
            self.careful.solve(widened, weights, wide, Found { multipliers, gaps: &mut gaps }, stack)
        };
        let outcome = solve(even, &mut multipliers, &mut wide, stack);
        let verdict = narrow(&wide);
        let mut solved = Solved { iters: outcome.iters, converged: outcome.converged, verdict };
        if !verdict.attained && rescued(&multipliers, &mut wide, MOST_OPERATIONS, stack) {
            let verdict = narrow(&wide);
            solved = Solved { converged: verdict.attained, verdict, ..solved };
        }
        if let (false, Some(metric)) = (solved.verdict.attained, metric) {
            let outcome = solve(metric, &mut multipliers, &mut wide, stack);
            let verdict = narrow(&wide);
            solved = Solved { iters: solved.iters + outcome.iters, converged: outcome.converged, verdict };
        }
        solved
    }
}

compile_once! {
    fn build<'a, T>(a: MatRef<'a, f64>) -> Result<BoxedPlan<T>, LinalgError> = BoxedPlan::<T>::build;
    fn solve<'a, T>(plan: &'a BoxedPlan<T>, pass: BoxedPass<'a, T>, par: Par, stack: &'a mut MemStack)
        -> Result<SolveReport, LinalgError> = BoxedPlan::<T>::solve_batch;
}

/// How one sample ended.
#[derive(Clone, Copy, Debug)]
struct Solved {
    iters: usize,
    converged: bool,
    verdict: Verdict,
}
