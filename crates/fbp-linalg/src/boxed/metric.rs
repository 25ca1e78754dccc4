//! Nearest points in a metric that couples all entries: block principal pivoting on the multipliers.

use faer::dyn_stack::{MemStack, StackReq};
use faer::linalg::cholesky::llt;
use faer::{MatMut, MatRef, Par};

use super::bounds::Bounds;
use super::judge::{Verdict, row_at};
use crate::{LinalgError, Real, SolveReport, SolveSide, StopReason, compile_once, expect_finite, expect_shape};

/// Most exchanges of active constraints; a few are usual.
const MOST_EXCHANGES: usize = 200;
/// Exchanges of everything that may follow one another without fewer constraints being wrong.
const PATIENCE: usize = 3;

/// Share of their squared norm, in roundings, that is added to the diagonal of the rows' Gram matrix.
const SHIFT: f64 = 64.0;

/// One nearest point in the metric `C⁻¹`, with few one-sided rows, within bounds of every entry:
///
/// ```text
/// min ½ (v - v0)ᵀ C⁻¹ (v - v0)   subject to   A v + b >= lo,   l <= v <= u
/// ```
///
/// The solution is `v = v0 + C (Aᵀ λ + μ)`; `λ >= 0` belongs to rows at their lower ends and `μ` to entries at their
/// bounds, and both are zero elsewhere. The multipliers of a set of active constraints solve a positive definite system
/// of the order of the set, and what has the wrong sign or is violated changes sides until nothing is wrong. As `C` is
/// given, nothing of order `n` is factorised.
///
/// # Source
/// Portugal, Júdice & Vicente, "A comparison of block pivoting and interior-point algorithms for linear least squares
/// problems with nonnegative variables", Math. Comp. 63 (1994); for rows and two-sided bounds: own derivation.
///
/// # Examples
/// Entries that vary together: raising the first one takes the second along.
///
/// ```
/// use faer::dyn_stack::{MemBuffer, MemStack};
/// use fbp_linalg::MetricSample;
///
/// let covariance = faer::mat![[1.0_f64, 0.5], [0.5, 1.0]];
/// let rows = faer::mat![[1.0_f64], [0.0]]; // one row of A, as a column
/// let mapped = &covariance * &rows;
/// let mut solution = [0.0; 2];
/// let mut memory = MemBuffer::new(MetricSample::<f64>::solve_scratch(1, 2));
/// MetricSample {
///     covariance: covariance.as_ref(),
///     rows: rows.as_ref(),
///     mapped: mapped.as_ref(),
///     observed_in: &[1.0, 1.0],
///     observed_out: &[1.0],
///     lower: &[3.0],
///     bounds: (0.0, f64::INFINITY).into(),
///     solution: &mut solution,
/// }
/// .solve(MemStack::new(&mut memory))?;
/// assert!((solution[0] - 3.0).abs() < 1e-12 && (solution[1] - 2.0).abs() < 1e-12);
/// # Ok::<(), fbp_linalg::LinalgError>(())
/// ```
#[derive(Debug)]
pub struct MetricSample<'a, T> {
    /// `C`: symmetric and positive definite, `n × n`.
    pub covariance: MatRef<'a, T>,
    /// `Aᵀ`: column `i` is row `i` of `A`; `n × m`, contiguous columns.
    pub rows: MatRef<'a, T>,
    /// `C Aᵀ`: `n × m`, contiguous columns.
    pub mapped: MatRef<'a, T>,
    /// The point to stay near, `v0`, within the bounds: `n`.
    pub observed_in: &'a [T],
    /// `A v0 + b`: `m`.
    pub observed_out: &'a [T],
    /// Lower ends of the rows: `m`.
    pub lower: &'a [T],
    /// Bounds `l` and `u` of every entry of `v`.
    pub bounds: Bounds<'a, T>,
    /// The nearest point; write-only: `n`.
    pub solution: &'a mut [T],
}

/// Where a constraint stands: not active, or active at one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Side {
    Free,
    Lower,
    Upper,
}

/// Working memory: constraints are the rows, then the entries.
struct Work<'a> {
    sides: &'a mut [Side],
    right: &'a mut [Side],
    active: &'a mut [usize],
    multipliers: &'a mut [f64],
    /// `A C Aᵀ + εI`, lower triangle.
    rows_gram: &'a mut [f64],
}

impl<'a, T: Real> MetricSample<'a, T> {
    /// Workspace of [`solve`](Self::solve) for up to `rows` rows and `cols` columns of `A`.
    pub fn solve_scratch(rows: usize, cols: usize) -> StackReq {
        let all = rows + cols;
        StackReq::all_of(&[
            StackReq::new::<Side>(all).array(2),
            StackReq::new::<usize>(all),
            StackReq::new::<f64>(all).array(2),
            StackReq::new::<f64>(rows * rows),
            StackReq::new::<f64>(all * all),
            llt::factor::cholesky_in_place_scratch::<f64>(all, Par::Seq, Default::default()),
            llt::solve::solve_in_place_scratch::<f64>(all, 1, Par::Seq),
        ])
    }

    /// Writes the nearest point; rows that contradict each other or the bounds get a compromise within the bounds, and
    /// the report counts the sample as unattained.
    ///
    /// # Errors
    /// [`LinalgError::Shape`], [`LinalgError::Strided`], [`LinalgError::NonFinite`] or [`LinalgError::EmptyBox`] for
    /// data that do not describe a problem.
    pub fn solve(self, stack: &mut MemStack) -> Result<SolveReport, LinalgError> {
        solve(self, stack)
    }

    fn solve_here(self, stack: &mut MemStack) -> Result<SolveReport, LinalgError> {
        self.check()?;
        let (n, m) = self.rows.shape();
        let (mut sides, stack) = stack.make_with(m + n, |_| Side::Free);
        let (mut right, stack) = stack.make_with(m + n, |_| Side::Free);
        let (mut active, stack) = stack.make_with(m + n, |_| 0);
        let (mut multipliers, stack) = stack.make_with(m + n, |_| 0.0);
        let (mut rows_gram, stack) = stack.make_with(m * m, |_| 0.0);
        let mut work = Work {
            sides: &mut sides,
            right: &mut right,
            active: &mut active,
            multipliers: &mut multipliers,
            rows_gram: &mut rows_gram,
        };
        Ok(pulp::Arch::new().dispatch(
            #[inline(always)]
            || self.pivot(&mut work, stack),
        ))
    }

    #[inline(always)]
    fn pivot(mut self, work: &mut Work<'_>, stack: &mut MemStack) -> SolveReport {
        let (n, m) = self.rows.shape();
        let mut report = SolveReport::direct(SolveSide::Boxed, n.min(m));
        self.gram_of_rows(work);
        let (mut fewest, mut patience) = (usize::MAX, PATIENCE);
        report.stop = StopReason::MaxIterations;
        while report.iters < MOST_EXCHANGES {
            let count = self.collect(work);
            if !self.multipliers(count, work, stack) {
                break;
            }
            self.move_point(count, work);
            let (wrong, last) = self.judge(count, work);
            if wrong == 0 {
                report.stop = StopReason::Converged;
                break;
            }
            report.iters += 1;
            // All at once while that helps; else one by one, which cannot go round in circles.
            let alone = wrong >= fewest && patience == 0;
            (fewest, patience) = if wrong < fewest { (wrong, PATIENCE) } else { (fewest, patience.saturating_sub(1)) };
            if alone {
                work.sides[last] = work.right[last];
            } else {
                work.sides.copy_from_slice(work.right);
            }
        }
        self.bounds.clip_all(self.solution);
        let verdict = self.verdict();
        (report.violation_max, report.violation_sum) = (verdict.violation, verdict.violation);
        report.unattained = usize::from(!verdict.attained);
        report.satisfied = usize::from(report.iters == 0);
        report
    }

    /// What the rows miss at the solution.
    #[inline(always)]
    fn verdict(&self) -> Verdict {
        let mut verdict = Verdict { violation: 0.0, attained: true };
        for row in 0..self.rows.ncols() {
            let image = self.observed_out[row].to_f64();
            let at = row_at(slice(self.rows, row), self.observed_in, image, self.solution);
            let gap = self.lower[row].to_f64() - at.image;
            verdict.violation = if gap.is_nan() { f64::INFINITY } else { verdict.violation.max(gap) };
            verdict.attained &= gap <= at.slack::<T>();
        }
        verdict
    }

    /// `A v + b` of one row from the multipliers of the active constraints, and how much of it is rounding.
    #[inline(always)]
    fn image_of_multipliers(&self, row: usize, count: usize, work: &Work<'_>) -> (f64, f64) {
        let (m, mapped) = (self.rows.ncols(), slice(self.mapped, row));
        let weights = work.active[..count].iter().zip(work.multipliers.iter());
        let product = |(&constraint, &weight): (&usize, &f64)| match constraint.checked_sub(m) {
            None => weight * work.rows_gram[constraint.min(row) * m + constraint.max(row)],
            Some(entry) => weight * mapped[entry].to_f64(),
        };
        let (mut sum, mut size) = (self.observed_out[row].to_f64(), self.lower[row].to_f64().abs());
        size = size.max(sum.abs());
        for term in weights.map(product) {
            sum += term;
            size = size.max(term.abs());
        }
        (sum, 64.0 * T::EPSILON.to_f64() * size)
    }

    /// What counts as rounding in sums of the given size.
    fn rounding(values: &[T], more: &[T]) -> T {
        let largest = values.iter().chain(more).fold(T::ZERO, |largest, value| largest.max(value.abs()));
        T::from_f64(64.0) * T::EPSILON * largest
    }

    #[inline(always)]
    fn gram_of_rows(&self, work: &mut Work<'_>) {
        let m = self.rows.ncols();
        for j in 0..m {
            for i in j..m {
                let products = slice(self.rows, i).iter().zip(slice(self.mapped, j)).map(|(a, b)| *a * *b);
                work.rows_gram[j * m + i] = products.sum::<T>().to_f64();
            }
        }
        // Rows may repeat each other, and the rounding of their products must not make the matrix indefinite.
        // Relative to each row: the factorisation does not mind rows of uneven size.
        let shift = SHIFT * T::EPSILON.to_f64();
        let largest = (0..m).map(|i| work.rows_gram[i * (m + 1)]).fold(0.0, f64::max);
        for diagonal in (0..m).map(|i| i * (m + 1)) {
            let size = work.rows_gram[diagonal];
            work.rows_gram[diagonal] += shift * if size > 0.0 { size } else { largest };
        }
    }

    /// Lists the active constraints; returns their number.
    #[inline(always)]
    fn collect(&self, work: &mut Work<'_>) -> usize {
        let mut count = 0;
        for (constraint, side) in work.sides.iter().enumerate() {
            if *side != Side::Free {
                work.active[count] = constraint;
                count += 1;
            }
        }
        count
    }

    /// Solves for the multipliers of the active constraints; false if their matrix is not positive definite.
    #[inline(always)]
    fn multipliers(&self, count: usize, work: &mut Work<'_>, stack: &mut MemStack) -> bool {
        if count == 0 {
            return true;
        }
        let m = self.rows.ncols();
        let (mut gram, stack) = stack.make_with(count * count, |_| 0.0);
        let active = &work.active[..count];
        let rows = active.partition_point(|&constraint| constraint < m);
        for (at, &constraint) in active.iter().enumerate() {
            let below = &mut gram[at * count..(at + 1) * count];
            if constraint < m {
                for (to, &row) in below[at..rows].iter_mut().zip(&active[at..rows]) {
                    *to = work.rows_gram[constraint * m + row];
                }
            }
            let column = self.direction(constraint);
            let first = at.max(rows);
            for (to, &entry) in below[first..].iter_mut().zip(&active[first..]) {
                *to = column[entry - m].to_f64();
            }
            work.multipliers[at] = self.missing(constraint, work.sides[constraint]);
        }
        let mut gram = MatMut::from_column_major_slice_mut(&mut gram, count, count);
        if llt::factor::cholesky_in_place(gram.as_mut(), Default::default(), Par::Seq, stack, Default::default())
            .is_err()
        {
            return false;
        }
        let (mut again, stack) = stack.make_with(count, |_| 0.0);
        let multipliers = &mut work.multipliers[..count];
        llt::solve::solve_in_place(
            gram.as_ref(),
            MatMut::from_column_major_slice_mut(multipliers, count, 1),
            Par::Seq,
            stack,
        );
        // Once more for what the shift of the rows has left.
        for ((again, &multiplier), &row) in again.iter_mut().zip(multipliers.iter()).zip(&active[..rows]) {
            *again = SHIFT * T::EPSILON.to_f64() * work.rows_gram[row * (m + 1)] * multiplier;
        }
        llt::solve::solve_in_place(
            gram.as_ref(),
            MatMut::from_column_major_slice_mut(&mut again, count, 1),
            Par::Seq,
            stack,
        );
        multipliers.iter_mut().zip(again.iter()).for_each(|(multiplier, again)| *multiplier += again);
        work.multipliers[..count].iter().all(|multiplier| multiplier.is_finite())
    }

    /// How the point moves with the multiplier of a constraint.
    #[inline(always)]
    fn direction(&self, constraint: usize) -> &'a [T] {
        match constraint.checked_sub(self.rows.ncols()) {
            None => slice(self.mapped, constraint),
            Some(entry) => slice(self.covariance, entry),
        }
    }

    /// How far a constraint is from the end at which it is active, at `v0`.
    #[inline(always)]
    fn missing(&self, constraint: usize, side: Side) -> f64 {
        let m = self.rows.ncols();
        let (end, value) = match (constraint.checked_sub(m), side) {
            (None, _) => (self.lower[constraint], self.observed_out[constraint]),
            (Some(entry), Side::Upper) => (self.bounds.at(entry).1, self.observed_in[entry]),
            (Some(entry), _) => (self.bounds.at(entry).0, self.observed_in[entry]),
        };
        (end - value).to_f64()
    }

    /// The point of the present multipliers; active entries are at their bounds exactly.
    #[inline(always)]
    fn move_point(&mut self, count: usize, work: &Work<'_>) {
        let m = self.rows.ncols();
        self.solution.copy_from_slice(self.observed_in);
        for (&constraint, &multiplier) in work.active[..count].iter().zip(work.multipliers.iter()) {
            let column = self.direction(constraint);
            let weight = T::from_f64(multiplier);
            self.solution.iter_mut().zip(column).for_each(|(v, c)| *v += weight * *c);
        }
        for &constraint in &work.active[..count] {
            if let Some(entry) = constraint.checked_sub(m) {
                let (low, high) = self.bounds.at(entry);
                self.solution[entry] = if work.sides[constraint] == Side::Upper { high } else { low };
            }
        }
    }

    /// Writes where every constraint belongs by the present point and multipliers; returns how many are elsewhere, and the
    /// last of them.
    #[inline(always)]
    fn judge(&self, count: usize, work: &mut Work<'_>) -> (usize, usize) {
        let m = self.rows.ncols();
        let slack = Self::rounding(self.solution, self.observed_in);
        // Multipliers by what they move the point, in the metric.
        let length = |constraint: usize| match constraint.checked_sub(m) {
            None => work.rows_gram[constraint * (m + 1)].sqrt(),
            Some(entry) => self.covariance[(entry, entry)].to_f64().sqrt(),
        };
        let moves = work.active[..count].iter().zip(work.multipliers.iter());
        let largest = moves.fold(0.0_f64, |largest, (&at, weight)| largest.max(weight.abs() * length(at)));
        let zero = |constraint: usize| 64.0 * f64::EPSILON * largest / length(constraint);
        let (mut wrong, mut last, mut at) = (0, 0, 0);
        for constraint in 0..work.sides.len() {
            let side = work.sides[constraint];
            let right = match (side, constraint.checked_sub(m)) {
                (Side::Free, None) => {
                    let (image, rounding) = self.image_of_multipliers(constraint, count, work);
                    if self.lower[constraint].to_f64() - image > rounding { Side::Lower } else { Side::Free }
                }
                (Side::Free, Some(entry)) if self.solution[entry] < self.bounds.at(entry).0 - slack => Side::Lower,
                (Side::Free, Some(entry)) if self.solution[entry] > self.bounds.at(entry).1 + slack => Side::Upper,
                (Side::Free, Some(_)) => Side::Free,
                (Side::Lower, _) if work.multipliers[at] < -zero(constraint) => Side::Free,
                (Side::Upper, _) if work.multipliers[at] > zero(constraint) => Side::Free,
                _ => side,
            };
            at += usize::from(side != Side::Free);
            work.right[constraint] = right;
            if right != side {
                (wrong, last) = (wrong + 1, constraint);
            }
        }
        (wrong, last)
    }

    fn check(&self) -> Result<(), LinalgError> {
        let (n, m) = self.rows.shape();
        expect_shape("metric: covariance", self.covariance.shape(), (n, n))?;
        expect_shape("metric: mapped", self.mapped.shape(), (n, m))?;
        for (what, found, expected) in [
            ("metric: observed_in", self.observed_in.len(), n),
            ("metric: observed_out", self.observed_out.len(), m),
            ("metric: lower", self.lower.len(), m),
            ("metric: solution", self.solution.len(), n),
        ] {
            expect_shape(what, (found, 1), (expected, 1))?;
        }
        for (what, view) in
            [("metric: covariance", self.covariance), ("metric: rows", self.rows), ("metric: mapped", self.mapped)]
        {
            if view.nrows() > 1 && view.row_stride() != 1 {
                return Err(LinalgError::Strided { what, row_stride: view.row_stride() });
            }
        }
        expect_finite("metric: rows", self.rows)?;
        expect_finite("metric: mapped", self.mapped)?;
        for (what, values) in [
            ("metric: observed_in", self.observed_in),
            ("metric: observed_out", self.observed_out),
            ("metric: lower", self.lower),
        ] {
            expect_finite(what, MatRef::from_column_major_slice(values, values.len(), 1))?;
        }
        self.bounds.check("metric: bounds of v", n)
    }
}

compile_once! {
    fn solve<'a, T>(sample: MetricSample<'a, T>, stack: &'a mut MemStack) -> Result<SolveReport, LinalgError> = MetricSample::<T>::solve_here;
}

/// A column of a view that `check` has found contiguous.
#[inline(always)]
fn slice<T: Real>(view: MatRef<'_, T>, index: usize) -> &[T] {
    view.col(index).try_as_col_major().map_or(&[], |column| column.as_slice())
}
