use faer::dyn_stack::{MemStack, StackReq};
use faer::reborrow::ReborrowMut;
use faer::{MatMut, MatRef, Par};

use super::newton::{DualNewton, NewtonLimits, Sample, SampleOutcome};
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
}

/// Largest number of rows or columns of a [`BoxedPlan`].
pub const BOXED_LIMIT: usize = 4096;

const FAST: NewtonLimits = NewtonLimits { newton_steps: 60, outer_steps: 40 };
const CAREFUL: NewtonLimits = NewtonLimits { newton_steps: 400, outer_steps: 60 };

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
        Ok(Self { fast: DualNewton::new(a, FAST), careful: DualNewton::new(a, CAREFUL) })
    }

    /// Number of rows `m` and columns `n` of `A`.
    pub fn shape(&self) -> (usize, usize) {
        (self.fast.nrows(), self.fast.ncols())
    }

    fn sample_scratch(&self) -> StackReq {
        let (m, n) = self.shape();
        let widened = StackReq::all_of(&[StackReq::new::<f64>(n).array(2), StackReq::new::<f64>(m).array(3)]);
        StackReq::any_of(&[self.fast.scratch(), widened.and(self.careful.scratch())])
    }

    /// Workspace of [`solve`](Self::solve) for `batch` samples.
    pub fn solve_scratch(&self, batch: usize, par: Par) -> StackReq {
        parts_scratch(self.sample_scratch(), batch, par)
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
        if pass.bounds.0.partial_cmp(&pass.bounds.1).is_none_or(|order| order.is_gt()) {
            return Err(LinalgError::EmptyBox { what: "boxed: bounds of v", row: 0, column: 0 });
        }
        let run = |part: BoxedPass<'_, T>, stack: &mut MemStack| self.solve_part(part, stack);
        let merge = |left: Result<SolveReport, LinalgError>, right| Ok(left?.merge(right?));
        for_each_part(pass, self.sample_scratch(), par, stack, &run, &merge)
    }

    fn solve_part(&self, mut pass: BoxedPass<'_, T>, stack: &mut MemStack) -> Result<SolveReport, LinalgError> {
        let (m, n) = self.shape();
        let mut report = SolveReport::direct(SolveSide::Boxed, m.min(n));
        for index in 0..pass.batch() {
            let sample = Sample {
                start: column("boxed: observed_in", pass.observed_in, index)?,
                image: column("boxed: observed_out", pass.observed_out, index)?,
                lower: column("boxed: lower", pass.lower, index)?,
                upper: column("boxed: upper", pass.upper, index)?,
                bounds: pass.bounds,
            };
            let solution = column_mut("boxed: solution", pass.solution.rb_mut(), index)?;
            if sample.is_feasible() {
                solution.copy_from_slice(sample.start);
                report.satisfied += 1;
                continue;
            }
            let mut outcome = self.fast.solve(sample, solution, stack);
            if !outcome.converged || outcome.violation > outcome.tolerance {
                outcome = self.solve_carefully(sample, solution, stack);
            }
            report.iters = report.iters.max(outcome.iters);
            report.violation_max = report.violation_max.max(outcome.violation);
            report.violation_sum += outcome.violation;
            report.unattained += usize::from(outcome.violation > outcome.tolerance);
            let stop = if outcome.converged { StopReason::Converged } else { StopReason::MaxIterations };
            report.stop = report.stop.worse(stop);
        }
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
        let widened = Sample { start: &start, image: &image, lower: &lower, upper: &upper, bounds };
        let mut outcome = self.careful.solve(widened, &mut wide, stack);
        for (narrow, &wide) in solution.iter_mut().zip(wide.iter()) {
            *narrow = T::from_f64(wide);
        }
        // The data of the sample carry the rounding of `T`, so nothing below that counts as a violation.
        outcome.tolerance *= T::EPSILON.to_f64() / f64::EPSILON;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use faer::Mat;
    use faer::dyn_stack::MemBuffer;
    fn rngf(s: &mut u64) -> f64 {
        *s ^= *s << 13;
        *s ^= *s >> 7;
        *s ^= *s << 17;
        (*s >> 11) as f64 / (1u64 << 53) as f64
    }
    fn normal(s: &mut u64) -> f64 {
        (0..12).map(|_| rngf(s)).sum::<f64>() - 6.0
    }
    fn conv(ci: usize, co: usize, k: usize, h: usize, s: &mut u64) -> Mat<f64> {
        let o = h - k + 1;
        let mut a = Mat::zeros(co * o * o, ci * h * h);
        let w: Vec<f64> = (0..co * ci * k * k).map(|_| normal(s) / ((ci * k * k) as f64).sqrt()).collect();
        for c in 0..co {
            for d in 0..ci {
                for y in 0..o {
                    for x in 0..o {
                        for p in 0..k {
                            for q in 0..k {
                                a[(c * o * o + y * o + x, d * h * h + (y + p) * h + x + q)] =
                                    w[((c * ci + d) * k + p) * k + q];
                            }
                        }
                    }
                }
            }
        }
        a
    }
    fn run<T: Real>(ci: usize, co: usize, h: usize, n: usize) {
        let mut s = 88172645463325252u64;
        let k = 5;
        let o = h - k + 1;
        let a = conv(ci, co, k, h, &mut s);
        let plan = BoxedPlan::<T>::new(a.as_ref()).unwrap();
        let nn = ci * h * h;
        let m = co * o * o;
        let v0 = Mat::from_fn(nn, n, |_, _| normal(&mut s).max(0.0));
        let b = -0.1;
        let w0 = &a * &v0;
        let mut lo = Mat::from_fn(m, n, |_, _| f64::NEG_INFINITY);
        let mut hi = Mat::from_fn(m, n, |_, _| f64::INFINITY);
        for j in 0..n {
            for c in 0..co {
                for y in 0..o / 2 {
                    for x in 0..o / 2 {
                        let idx = |p: usize, q: usize| c * o * o + (2 * y + p) * o + 2 * x + q;
                        let all = [idx(0, 0), idx(0, 1), idx(1, 0), idx(1, 1)];
                        let best = *all.iter().max_by(|&&p, &&q| w0[(p, j)].total_cmp(&w0[(q, j)])).unwrap();
                        let t = ((w0[(best, j)] + b).max(0.0)
                            + 0.2 * normal(&mut s) * if rngf(&mut s) < 0.7 { 1.0 } else { 0.0 })
                        .max(0.0);
                        for i in all {
                            hi[(i, j)] = t - b;
                        }
                        if t > 0.0 {
                            lo[(best, j)] = t - b;
                        }
                    }
                }
            }
        }
        let cv = |m: &Mat<f64>| Mat::from_fn(m.nrows(), m.ncols(), |i, j| T::from_f64(m[(i, j)]));
        let (v0, w0, lo, hi) = (cv(&v0), cv(&w0), cv(&lo), cv(&hi));
        let mut out = Mat::<T>::zeros(nn, n);
        let mut mem = MemBuffer::new(plan.solve_scratch(n, Par::Seq));
        let t = std::time::Instant::now();
        let r = plan
            .solve(
                BoxedPass {
                    observed_in: v0.as_ref(),
                    observed_out: w0.as_ref(),
                    lower: lo.as_ref(),
                    upper: hi.as_ref(),
                    bounds: (T::ZERO, T::INFINITY),
                    solution: out.as_mut(),
                },
                Par::Seq,
                MemStack::new(&mut mem),
            )
            .unwrap();
        let dt = t.elapsed();
        let d = &out - &v0;
        eprintln!(
            "{} {ci}->{co} h{h}: {:?} per sample, mean iters {:.2}, viol {:e}, unattained {}, dist {:.4} {:?}",
            T::NAME,
            dt / n as u32,
            r.iters,
            r.violation_max,
            r.unattained,
            (d.norm_l2().to_f64() / v0.norm_l2().to_f64()),
            r.stop
        );
    }
    #[test]
    fn speed() {
        run::<f32>(3, 3, 12, 200);
        run::<f64>(3, 3, 12, 200);
        run::<f32>(10, 20, 12, 4);
        run::<f64>(10, 20, 12, 4);
    }
}
