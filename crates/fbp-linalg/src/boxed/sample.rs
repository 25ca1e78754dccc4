use faer::MatRef;
use faer::dyn_stack::{MemStack, StackReq};

use super::active_set::{MOST_OPERATIONS, Rescue, rescue, rescue_scratch};
use super::bounds::Bounds;
use super::judge::{Verdict, is_out_of_reach, judge, reach_scratch};
use super::newton::{DualNewton, Found, fast_limits, newton_scratch};
use super::problem::{Sample, SampleOutcome};
use super::rows::{RowSource, SampleRows};
use super::scaling::{Weights, even_out, even_weights, row_size};
use crate::{LinalgError, Real, SolveReport, SolveSide, StopReason, compile_once, expect_shape};

/// How far a box is looked for before it counts as out of reach, in lengths of the point and the start: cuts of the joint
/// iteration often contradict each other, and a point that far would not be taken.
const FARTHEST: f64 = 100.0;

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
///     bounds: (0.0, f64::INFINITY).into(),
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
    /// Bounds `l` and `u` of the entries of `v`.
    pub bounds: Bounds<'a, T>,
    /// The nearest point; write-only: `n`.
    pub solution: &'a mut [T],
}

impl<T: Real> BoxedSample<'_, T> {
    /// Workspace of [`solve`](Self::solve) for up to `rows` rows and `cols` columns of `A`.
    pub fn solve_scratch(rows: usize, cols: usize) -> StackReq {
        let sizes = StackReq::new::<T>(rows).array(9);
        let scaled = StackReq::new::<T>(rows * cols);
        let widened = StackReq::all_of(&[
            StackReq::new::<f64>(rows * cols),
            StackReq::new::<f64>(rows).array(5),
            StackReq::new::<f64>(cols).array(4),
        ]);
        let second = widened.and(rescue_scratch(rows, cols).or(reach_scratch(rows, cols)));
        sizes.and(scaled.and(newton_scratch::<T>(rows, cols)).or(second))
    }

    /// Writes the nearest point: by the dual solver in the scalar of the data, and where that does not attain the box by
    /// active sets in `f64`.
    ///
    /// A box that cannot be reached gets a point at about the smallest distance from it (rows of very different norms
    /// in units of their norms), and the report counts it as unattained.
    ///
    /// # Errors
    /// [`LinalgError::Shape`], [`LinalgError::Strided`], [`LinalgError::NonFinite`] or [`LinalgError::EmptyBox`] for
    /// data that do not describe a problem.
    pub fn solve(self, stack: &mut MemStack) -> Result<SolveReport, LinalgError> {
        solve(self, stack)
    }

    fn solve_here(self, stack: &mut MemStack) -> Result<SolveReport, LinalgError> {
        self.check()?;
        let Self { rows, observed_in, observed_out, lower, upper, bounds, solution } = self;
        let sample = Sample { start: observed_in, image: observed_out, lower, upper, bounds, multipliers: None };
        let mut report = SolveReport::direct(SolveSide::Boxed, rows.ncols().min(rows.nrows()));
        if sample.is_feasible() {
            solution.copy_from_slice(observed_in);
            report.satisfied = 1;
            return Ok(report);
        }
        let rows = SampleRows { rows };
        let m = rows.nrows();
        let (mut scales, stack) = stack.make_with(m, |_| T::ONE);
        let (mut multipliers, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut gaps, stack) = stack.make_with(m, |_| T::ZERO);
        let found = Found { multipliers: &mut multipliers, gaps: &mut gaps };
        let outcome = solve_first(rows, &sample, solution, &mut scales, found, stack);
        let mut verdict = judge_point(rows, &scales, &sample, solution, Some(&mut gaps));
        let mut converged = outcome.converged;
        if !verdict.attained
            && let Some(better) = solve_again(rows, &sample, solution, (&scales, &multipliers), stack)
        {
            (verdict, converged) = (better, true);
        }
        report.stop = if converged { StopReason::Converged } else { StopReason::MaxIterations };
        report.iters = outcome.iters;
        (report.violation_max, report.violation_sum) = (verdict.violation, verdict.violation);
        report.unattained = usize::from(!verdict.attained);
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
        self.bounds.check("boxed: bounds of v", cols)
    }
}

compile_once! {
    fn solve<'a, T>(sample: BoxedSample<'a, T>, stack: &'a mut MemStack) -> Result<SolveReport, LinalgError> = BoxedSample::<T>::solve_here;
}

/// The first try, in the scalar of the data; fills the scales of the rows and the multipliers of the scaled rows.
fn solve_first<T: Real>(
    rows: SampleRows<'_, T>,
    sample: &Sample<'_, T>,
    solution: &mut [T],
    scales: &mut [T],
    found: Found<'_, T>,
    stack: &mut MemStack,
) -> SampleOutcome {
    let (m, n) = (rows.nrows(), rows.ncols());
    let limits = fast_limits::<T>();
    let (mut norms, stack) = stack.make_with(m, |_| T::ZERO);
    let (mut epsilon, stack) = stack.make_with(m, |_| T::ZERO);
    let (mut terms, stack) = stack.make_with(m, |_| T::ZERO);
    crate::dispatch(
        #[inline(always)]
        || {
            for (i, (norm, terms)) in norms.iter_mut().zip(terms.iter_mut()).enumerate() {
                let size = row_size(rows.row(i));
                (*norm, *terms) = (T::from_f64(size.norm), T::from_f64(size.terms));
            }
        },
    );
    let is_uneven = even_out(&mut norms, scales);
    even_weights(limits.proximal_weight, &norms, &mut epsilon);
    let weights = Weights { norms: &norms, epsilon: &epsilon, terms: &terms };
    if !is_uneven {
        return DualNewton::over_rows(rows, limits).solve(*sample, weights, solution, found, stack);
    }
    let scale = |values: &[T], i: usize| values[i] * scales[i];
    let (image, stack) = stack.collect((0..m).map(|i| scale(sample.image, i)));
    let (lower, stack) = stack.collect((0..m).map(|i| scale(sample.lower, i)));
    let (upper, stack) = stack.collect((0..m).map(|i| scale(sample.upper, i)));
    let (mut even, stack) = stack.make_with(m * n, |_| T::ZERO);
    for (i, to) in even.chunks_exact_mut(n.max(1)).enumerate() {
        to.iter_mut().zip(rows.row(i)).for_each(|(to, &a)| *to = a * scales[i]);
    }
    let scaled = Sample { image: &image, lower: &lower, upper: &upper, ..*sample };
    let rows = SampleRows { rows: MatRef::from_column_major_slice(&even, n, m) };
    DualNewton::over_rows(rows, limits).solve(scaled, weights, solution, found, stack)
}

/// The second try, in `f64`: none if the box is out of reach, or seems to be.
#[cold]
#[inline(never)]
fn solve_again<T: Real>(
    rows: SampleRows<'_, T>,
    sample: &Sample<'_, T>,
    solution: &mut [T],
    (scales, multipliers): (&[T], &[T]),
    stack: &mut MemStack,
) -> Option<Verdict> {
    let (m, n) = (rows.nrows(), rows.ncols());
    let scale = |values: &[T], i: usize| values[i].to_f64() * scales[i].to_f64();
    let (image, stack) = stack.collect((0..m).map(|i| scale(sample.image, i)));
    let (lower, stack) = stack.collect((0..m).map(|i| scale(sample.lower, i)));
    let (upper, stack) = stack.collect((0..m).map(|i| scale(sample.upper, i)));
    let (mut even, stack) = stack.make_with(m * n, |_| 0.0);
    for (i, to) in even.chunks_exact_mut(n.max(1)).enumerate() {
        let scale = scales[i].to_f64();
        to.iter_mut().zip(rows.row(i)).for_each(|(to, a)| *to = a.to_f64() * scale);
    }
    let even = SampleRows { rows: MatRef::from_column_major_slice(&even, n, m) };
    let (norms, stack) = stack.collect((0..m).map(|i| row_size(even.row(i)).norm));
    let (multipliers, stack) = stack.collect(multipliers.iter().map(|weight| weight.to_f64()));
    let (start, stack) = stack.collect(sample.start.iter().map(|v| v.to_f64()));
    let (mut wide, stack) = stack.collect(solution.iter().map(|v| v.to_f64()));
    let (low, stack) = stack.collect((0..sample.bounds.own()).map(|entry| sample.bounds.at(entry).0.to_f64()));
    let (high, stack) = stack.collect((0..sample.bounds.own()).map(|entry| sample.bounds.at(entry).1.to_f64()));
    let bounds = sample.bounds.widen(&low, &high);
    let widened = Sample { start: &start, image: &image, lower: &lower, upper: &upper, bounds, multipliers: None };
    if crate::dispatch(
        #[inline(always)]
        || is_out_of_reach::<T, _>(&even, &norms, &widened, &wide, FARTHEST, stack),
    ) || rescue::<T, _>(&even, widened, &multipliers, &mut wide, MOST_OPERATIONS, stack) != Rescue::Solved
    {
        return None;
    }
    sample.narrow(&wide, solution);
    Some(judge_point(rows, scales, sample, solution, None))
}

/// Judges a point by the rows as they are; `gaps` are in units of the scaled ones.
fn judge_point<T: Real>(
    rows: SampleRows<'_, T>,
    scales: &[T],
    sample: &Sample<'_, T>,
    v: &[T],
    gaps: Option<&mut [T]>,
) -> Verdict {
    let gaps = gaps.map(|gaps| {
        gaps.iter_mut().zip(scales).for_each(|(gap, &scale)| *gap /= scale);
        &*gaps
    });
    crate::dispatch(
        #[inline(always)]
        || judge(|i| rows.row(i), |_| 1.0, sample, v, gaps),
    )
}
