//! The inner problem in `v`, for samples on which the dual goes in circles.
//!
//! With boxes out of reach the multipliers are about `violation/ε`, and on that scale every bound of `v` is a kink of the
//! dual: Newton's method meets them one by one. In `v` the same problem,
//!
//! ```text
//! min ½|v - v0|² + Σ (s - clip(s))²_i / 2ε_i   subject to l <= v <= u,   s_i = (w0 + A(v - v0))_i - ε_i (λ_k)_i
//! ```
//!
//! is piecewise quadratic with few pieces. Each step is Newton's in the entries that are not held by a bound, projected to
//! the bounds, as long as the slope at its end shows that it went downhill. The multipliers are `(clip(s) - s)_i / ε_i`; a few
//! steps of the dual from there mend what `ε` costs in accuracy.
//!
//! # Source
//! Bertsekas, SIAM J. Control Optim. 20 (1982), projected Newton methods; the same problem in `v` and in `λ`:
//! Rockafellar, SIAM J. Control Optim. 12 (1974). The slope in place of values, which cancel: own.

use faer::dyn_stack::{MemStack, StackReq};
use faer::linalg::cholesky::llt;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par};

use super::{CAREFUL_OPERATIONS, DualNewton, Sample, Work};
use crate::Real;
use crate::boxed::bounds::Bounds;
use crate::boxed::problem::SampleOutcome;
use crate::boxed::rows::RowSource;

/// Largest number of rows or columns of a matrix whose inner problem is also solved in `v`; each step factorises a matrix
/// of the order of the columns.
const PRIMAL_LIMIT: usize = 1024;
/// Fewest and most steps that one inner problem may take; most need fewer than ten.
const PRIMAL_STEPS: (f64, f64) = (20.0, 1000.0);

/// Whether the inner problem of an `m × n` matrix is solved in `v` where that in `λ` fails.
pub(super) const fn pays_in_primal(m: usize, n: usize) -> bool {
    m <= PRIMAL_LIMIT && n <= PRIMAL_LIMIT
}

/// Workspace of the inner problem in `v`.
pub(in crate::boxed) fn primal_scratch<T: Real>(m: usize, n: usize) -> StackReq {
    if !pays_in_primal(m, n) {
        return StackReq::EMPTY;
    }
    StackReq::all_of(&[
        StackReq::new::<T>(n).array(4),
        StackReq::new::<u32>(n),
        StackReq::new::<T>(m).array(2),
        StackReq::new::<T>(m * n),
        StackReq::new::<T>(n * n),
        llt::factor::cholesky_in_place_scratch::<T>(n, Par::Seq, Default::default()),
        llt::solve::solve_in_place_scratch::<T>(n, 1, Par::Seq),
        StackReq::new::<u8>(256).array(8),
    ])
}

/// Working memory of the inner problem in `v`.
struct PrimalWork<'a, T> {
    gradient: &'a mut [T],
    step: &'a mut [T],
    from: &'a mut [T],
    rhs: &'a mut [T],
    /// Entries of `v` that no bound holds.
    free: &'a mut [u32],
    /// `s - clip(s)`.
    residual: &'a mut [T],
    /// The same, weighted like the squares of the rows: by the largest `ε` over that of the row.
    weighted: &'a mut [T],
    gathered: &'a mut [T],
    hessian: &'a mut [T],
}

impl<T: Real, R: RowSource<T>> DualNewton<T, R> {
    /// Solves the inner problem around `work.centre` in `v`, from `solution` on; true if that succeeded.
    #[cold]
    #[inline(never)]
    pub(super) fn inner_in_primal(
        &self,
        sample: &Sample<'_, T>,
        solution: &mut [T],
        work: &mut Work<'_, T>,
        outcome: &mut SampleOutcome,
        stack: &mut MemStack,
    ) -> bool {
        let (m, n) = (self.rows.nrows(), self.rows.ncols());
        if !pays_in_primal(m, n) {
            return false;
        }
        {
            let (mut gradient, stack) = stack.make_with(n, |_| T::ZERO);
            let (mut step, stack) = stack.make_with(n, |_| T::ZERO);
            let (mut from, stack) = stack.make_with(n, |_| T::ZERO);
            let (mut rhs, stack) = stack.make_with(n, |_| T::ZERO);
            let (mut free, stack) = stack.make_with(n, |_| 0);
            let (mut residual, stack) = stack.make_with(m, |_| T::ZERO);
            let (mut weighted, stack) = stack.make_with(m, |_| T::ZERO);
            let (mut gathered, stack) = stack.make_with(m * n, |_| T::ZERO);
            let (mut hessian, stack) = stack.make_with(n * n, |_| T::ZERO);
            let mut primal = PrimalWork {
                gradient: &mut gradient,
                step: &mut step,
                from: &mut from,
                rhs: &mut rhs,
                free: &mut free,
                residual: &mut residual,
                weighted: &mut weighted,
                gathered: &mut gathered,
                hessian: &mut hessian,
            };
            if !self.descend(sample, solution, work, &mut primal, outcome, stack) {
                return false;
            }
            for (i, (lambda, &residual)) in work.lambda.iter_mut().zip(primal.residual.iter()).enumerate() {
                *lambda = -residual / work.epsilon[i];
            }
        }
        self.polish(sample, solution, work, outcome, stack);
        true
    }

    /// Improves the solution by steps in `λ`; keeps it where they do not end.
    fn polish(
        &self,
        sample: &Sample<'_, T>,
        solution: &mut [T],
        work: &mut Work<'_, T>,
        outcome: &mut SampleOutcome,
        stack: &mut MemStack,
    ) {
        let (kept, stack) = stack.collect(solution.iter().copied());
        let (multipliers, stack) = stack.collect(work.lambda.iter().copied());
        self.move_to_lambda(sample, solution, work);
        if !self.inner(sample, solution, work, outcome, stack) {
            work.lambda.copy_from_slice(&multipliers);
            self.move_to_lambda(sample, solution, work);
            solution.copy_from_slice(&kept);
            self.image_of(sample, solution, work);
        }
    }

    /// `w0 + A(v - v0)` into `work.image`, `v - v0` into `work.moved`.
    fn image_of(&self, sample: &Sample<'_, T>, v: &[T], work: &mut Work<'_, T>) {
        crate::dispatch(
            #[inline(always)]
            || {
                for ((moved, &v), &start) in work.moved.iter_mut().zip(v).zip(sample.start) {
                    *moved = v - start;
                }
                self.rows.multiply(work.moved, work.image);
                for (image, &start) in work.image.iter_mut().zip(sample.image) {
                    *image += start;
                }
            },
        )
    }

    /// Steps until the gradient vanishes in all entries that no bound holds; false where they run out or lead nowhere.
    fn descend(
        &self,
        sample: &Sample<'_, T>,
        solution: &mut [T],
        work: &mut Work<'_, T>,
        primal: &mut PrimalWork<'_, T>,
        outcome: &mut SampleOutcome,
        stack: &mut MemStack,
    ) -> bool {
        let (m, n) = (self.rows.nrows() as f64, self.rows.ncols() as f64);
        let operations = m * n * n + n * n * n / 3.0;
        let steps = (CAREFUL_OPERATIONS / operations.max(1.0)).clamp(PRIMAL_STEPS.0, PRIMAL_STEPS.1) as usize;
        self.primal_gradient(sample, solution, work, primal);
        for _ in 0..steps {
            let size = release(sample.bounds, solution, primal);
            let small = small_gradient(work, primal);
            if primal.free[..size].iter().all(|&i| primal.gradient[i as usize].abs() <= small) {
                return true;
            }
            outcome.iters += 1;
            if !self.primal_direction(sample.bounds, solution, work.epsilon, primal, size, stack)
                || !self.go_downhill(sample, solution, work, primal)
            {
                return false;
            }
        }
        false
    }

    /// Residuals and gradient at `v`.
    fn primal_gradient(&self, sample: &Sample<'_, T>, v: &[T], work: &mut Work<'_, T>, primal: &mut PrimalWork<'_, T>) {
        self.image_of(sample, v, work);
        for (i, (residual, weighted)) in primal.residual.iter_mut().zip(primal.weighted.iter_mut()).enumerate() {
            let shifted = work.image[i] - work.epsilon[i] * work.centre[i];
            *residual = shifted - shifted.clip(sample.lower[i], sample.upper[i]);
            *weighted = *residual * (work.largest_epsilon / work.epsilon[i]);
        }
        for (gradient, &moved) in primal.gradient.iter_mut().zip(work.moved.iter()) {
            *gradient = work.largest_epsilon * moved;
        }
        crate::dispatch(
            #[inline(always)]
            || self.rows.add_weighted_rows(primal.weighted, primal.gradient),
        )
    }

    /// Newton's step in the first `size` entries of `primal.free`, without those that it would push through their bound.
    fn primal_direction(
        &self,
        bounds: Bounds<'_, T>,
        v: &[T],
        epsilon: &[T],
        primal: &mut PrimalWork<'_, T>,
        mut size: usize,
        stack: &mut MemStack,
    ) -> bool {
        loop {
            primal.step.fill(T::ZERO);
            if size == 0 || !self.solve_free(epsilon, primal, size, stack) {
                return false;
            }
            let mut kept = 0;
            for k in 0..size {
                let i = primal.free[k] as usize;
                let (lower, upper) = bounds.at(i);
                let outward = v[i] == lower && primal.step[i] < T::ZERO || v[i] == upper && primal.step[i] > T::ZERO;
                if !outward {
                    primal.free[kept] = primal.free[k];
                    kept += 1;
                }
            }
            if kept == size {
                return true;
            }
            size = kept;
        }
    }

    /// `(A_RFᵀ W A_RF + εI) step_F = -gradient_F` with the rows `R` that miss their boxes and their weights `W`.
    fn solve_free(&self, epsilon: &[T], primal: &mut PrimalWork<'_, T>, size: usize, stack: &mut MemStack) -> bool {
        let largest = epsilon.iter().fold(T::ZERO, |most, &epsilon| most.max(epsilon));
        let free = &primal.free[..size];
        let mut count = 0;
        for (i, &residual) in primal.residual.iter().enumerate() {
            if residual != T::ZERO {
                let row = self.rows.row(i);
                let gathered = &mut primal.gathered[count * size..][..size];
                let weight = (largest / epsilon[i]).sqrt();
                gathered.iter_mut().zip(free).for_each(|(to, &j)| *to = weight * row[j as usize]);
                count += 1;
            }
        }
        let gathered = MatRef::from_column_major_slice(&primal.gathered[..count * size], size, count);
        let mut hessian = MatMut::from_column_major_slice_mut(&mut primal.hessian[..size * size], size, size);
        triangular::matmul(
            hessian.as_mut(),
            BlockStructure::TriangularLower,
            Accum::Replace,
            gathered,
            BlockStructure::Rectangular,
            gathered.transpose(),
            BlockStructure::Rectangular,
            T::ONE,
            Par::Seq,
        );
        for (k, (rhs, &j)) in primal.rhs.iter_mut().zip(free).enumerate() {
            hessian[(k, k)] += largest;
            *rhs = -primal.gradient[j as usize];
        }
        let factor =
            llt::factor::cholesky_in_place(hessian.as_mut(), Default::default(), Par::Seq, stack, Default::default());
        if factor.is_err() {
            return false;
        }
        let rhs = MatMut::from_column_major_slice_mut(&mut primal.rhs[..size], size, 1);
        llt::solve::solve_in_place(hessian.as_ref(), rhs, Par::Seq, stack);
        for (&j, &step) in free.iter().zip(primal.rhs.iter()) {
            primal.step[j as usize] = step;
        }
        primal.step.iter().all(|step| step.is_finite())
    }

    /// Goes along the projected step to where the slope, seen from the start, is about zero.
    fn go_downhill(
        &self,
        sample: &Sample<'_, T>,
        solution: &mut [T],
        work: &mut Work<'_, T>,
        primal: &mut PrimalWork<'_, T>,
    ) -> bool {
        primal.from.copy_from_slice(solution);
        let slope = primal.step.iter().zip(primal.gradient.iter()).fold(T::ZERO, |sum, (&s, &g)| sum + s * g);
        let (mut low, mut high, mut length) = (T::ZERO, T::ONE, T::ONE);
        for _ in 0..60 {
            let steps = primal.from.iter().zip(primal.step.iter());
            for (entry, (v, (&from, &step))) in solution.iter_mut().zip(steps).enumerate() {
                *v = sample.bounds.clip(entry, from + length * step);
            }
            self.primal_gradient(sample, solution, work, primal);
            let ways = solution.iter().zip(primal.from.iter());
            let end = ways.zip(primal.gradient.iter()).fold(T::ZERO, |sum, ((&v, &from), &g)| sum + g * (v - from));
            if end > slope.abs() * T::EPSILON.sqrt() {
                high = length;
            } else if end < T::from_f64(0.5) * length * slope && length < T::ONE {
                low = length;
            } else {
                return true;
            }
            length = if low == T::ZERO { high * T::from_f64(0.25) } else { (low + high) * T::from_f64(0.5) };
        }
        low > T::ZERO
    }
}

/// What counts as rounding in the gradient at the present point.
fn small_gradient<T: Real>(work: &Work<'_, T>, primal: &PrimalWork<'_, T>) -> T {
    let (mut tolerance, mut residuals) = (T::ZERO, T::ZERO);
    for (i, weighted) in primal.weighted.iter().enumerate() {
        let weight = work.norms[i] * (work.largest_epsilon / work.epsilon[i]);
        tolerance = tolerance.max(weight * work.tolerance[i]);
        residuals += weighted.abs() * work.norms[i];
    }
    tolerance + T::EPSILON * work.row_norm * residuals
}

/// Fills `primal.free` with the entries that no bound holds against the gradient, and returns how many there are.
fn release<T: Real>(bounds: Bounds<'_, T>, v: &[T], primal: &mut PrimalWork<'_, T>) -> usize {
    let mut size = 0;
    for (i, (&v, &gradient)) in v.iter().zip(primal.gradient.iter()).enumerate() {
        let (lower, upper) = bounds.at(i);
        let held = v == lower && gradient >= T::ZERO || v == upper && gradient <= T::ZERO;
        if !held {
            primal.free[size] = i as u32;
            size += 1;
        }
    }
    size
}
