//! Exact dual solver: semismooth Newton inside a proximal method of multipliers, one sample at a time.
//!
//! The problem `min ½|v - v0|², lo <= w0 + A(v - v0) <= hi, l <= v <= u` has the dual variables `λ` (one per row)
//! with `v(λ) = clip(v0 + Aᵀλ, l, u)`. The inner iteration maximises the concave, piecewise quadratic dual with the
//! proximal term `-ε/2 |λ - λ_k|²` by Newton steps `(A_R D A_Rᵀ + εI) Δ = g_R`: `R` the rows that are active or
//! violated, `D` the entries of `v` strictly between their bounds. The outer iteration moves the centre `λ_k`. On
//! feasible problems it converges to the exact solution; on infeasible ones `A(v - v0)` converges to the point at the
//! smallest distance from the box and `v` to the point nearest to `v0` among those that reach it. Where the inner iteration
//! does not end, the second try solves the inner problem in `v` instead.
//!
//! # Source
//! Method of multipliers and its limit on infeasible problems: Chiche & Gilbert, "How the augmented Lagrangian
//! algorithm can deal with an infeasible convex quadratic optimization problem", J. Convex Analysis 23 (2016).
//! Projected Newton on the dual: Bertsekas, SIAM J. Control Optim. 20 (1982). The combination is our own.

mod primal;
mod stall;
mod step;

use std::marker::PhantomData;

use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use faer::linalg::cholesky::llt;
use faer::linalg::temp_mat_scratch;

pub(super) use self::primal::primal_scratch;
use super::bounds::with_ends;
use super::problem::{Sample, SampleOutcome, gap};
use super::rows::{RowSource, SystemRows};
use super::scaling::Weights;
use crate::Real;

/// Newton steps that may overshoot the maximum along their direction; later ones must raise the dual.
const FREE_STEPS: usize = 20;

/// Operations that the second try may spend on a sample, unless that were less than 50 steps.
const CAREFUL_OPERATIONS: f64 = 5e10;

/// Caps and tolerances of the dual solver; all finite.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewtonLimits {
    /// Newton steps per sample, over all outer iterations.
    pub(super) newton_steps: usize,
    /// Newton steps per inner iteration.
    pub(super) inner_steps: usize,
    /// Moves of the proximal centre per sample.
    pub(super) outer_steps: usize,
    /// Proximal weight ε relative to the mean squared row norm. Any value gives the same limit: a small one needs
    /// fewer moves of the centre, a large one keeps the multipliers of infeasible problems, about `violation/ε`,
    /// small enough for their rounding.
    pub(super) proximal_weight: f64,
    /// The distance to the box has settled when a move of the centre leaves more than this share of it.
    pub(super) settled_ratio: f64,
    /// Rounding of large multipliers that a violation may be put down to, in tolerances. Without such a bound, all of it
    /// would pass for rounding where the proximal weight is about a rounding itself.
    pub(super) most_rounding: f64,
    /// Whether an inner iteration that does not end is repeated in `v`, and boxes out of reach are proved to be.
    pub(super) is_careful: bool,
}

/// Limits of the first try, in the scalar of the batch.
pub(super) fn fast_limits<T: Real>() -> NewtonLimits {
    NewtonLimits {
        newton_steps: 30,
        inner_steps: 30,
        outer_steps: 20,
        proximal_weight: 64.0 * T::EPSILON.to_f64(),
        settled_ratio: 0.9,
        most_rounding: 7.0,
        is_careful: false,
    }
}

/// Limits of the second try, always in `f64`; large systems get fewer steps, each of which takes `rows³/3` operations.
pub(super) fn careful_limits(rows: usize) -> NewtonLimits {
    let step = (rows as f64).powi(3) / 3.0;
    NewtonLimits {
        newton_steps: (CAREFUL_OPERATIONS / step.max(1.0)).clamp(50.0, 1000.0) as usize,
        inner_steps: 50,
        outer_steps: 400,
        proximal_weight: f64::EPSILON.sqrt(),
        settled_ratio: 1.0 - 1e-8,
        most_rounding: 4096.0,
        is_careful: true,
    }
}

/// The exact dual solver for one matrix.
#[derive(Clone, Debug)]
pub(super) struct DualNewton<T, R = SystemRows<T>> {
    rows: R,
    limits: NewtonLimits,
    scalar: PhantomData<T>,
}

/// What a solve finds beside the point.
pub(super) struct Found<'a, T> {
    /// The multipliers of the rows.
    pub(super) multipliers: &'a mut [T],
    /// How far every row is from its box; NaN where that might be a miss, and has to be looked at again.
    pub(super) gaps: &'a mut [T],
}

/// Working memory of one sample.
struct Work<'a, T> {
    /// Norm of every row.
    norms: &'a [T],
    /// Proximal weight ε of every row.
    epsilon: &'a [T],
    /// Largest of the norms.
    row_norm: T,
    /// Largest of the proximal weights.
    largest_epsilon: T,
    /// Distance of every row to its box that counts as zero.
    tolerance: &'a mut [T],
    lambda: &'a mut [T],
    centre: &'a mut [T],
    trial: &'a mut [T],
    gradient: &'a mut [T],
    image: &'a mut [T],
    previous: &'a mut [T],
    step: &'a mut [T],
    free_sum: &'a mut [T],
    moved: &'a mut [T],
    along: &'a mut [T],
    gram: &'a mut [T],
    gather: &'a mut [(u32, T)],
    position: &'a mut [u32],
    free: &'a mut [bool],
}

impl<T: Real> DualNewton<T> {
    /// The solver for `a`, whose rows have been scaled.
    pub(super) fn new(a: faer::MatRef<'_, f64>, limits: NewtonLimits) -> Self {
        Self::over_rows(SystemRows::new(a), limits)
    }
}

impl<T: Real, R: RowSource<T>> DualNewton<T, R> {
    pub(super) fn over_rows(rows: R, limits: NewtonLimits) -> Self {
        Self { rows, limits, scalar: PhantomData }
    }

    pub(super) fn rows(&self) -> &R {
        &self.rows
    }

    /// Solves one sample, whose outputs have been scaled like the rows; `solution` and `found` are write-only.
    pub(super) fn solve(
        &self,
        sample: Sample<'_, T>,
        weights: Weights<'_, T>,
        solution: &mut [T],
        found: Found<'_, T>,
        stack: &mut MemStack,
    ) -> SampleOutcome {
        let Found { multipliers, gaps } = found;
        let (m, n) = (self.rows.nrows(), self.rows.ncols());
        let (mut tolerance, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut centre, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut trial, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut gradient, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut image, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut previous, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut step, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut free_sum, stack) = stack.make_with(n, |_| T::ZERO);
        let (mut moved, stack) = stack.make_with(n, |_| T::ZERO);
        let (mut along, stack) = stack.make_with(n, |_| T::ZERO);
        let (mut gram, stack) = stack.make_with(m * m, |_| T::ZERO);
        let (mut gather, stack) = stack.make_with(m + 1, |_| (0, T::ZERO));
        let (mut position, stack) = stack.make_with(m, |_| 0);
        let (mut free, stack) = stack.make_with(n, |_| false);
        let largest = |values: &[T]| values.iter().fold(T::ZERO, |most, &value| most.max(value));
        multipliers.fill(T::ZERO);
        let mut work = Work {
            norms: weights.norms,
            epsilon: weights.epsilon,
            row_norm: largest(weights.norms),
            largest_epsilon: largest(weights.epsilon),
            tolerance: &mut tolerance,
            lambda: multipliers,
            centre: &mut centre,
            trial: &mut trial,
            gradient: &mut gradient,
            image: &mut image,
            previous: &mut previous,
            step: &mut step,
            free_sum: &mut free_sum,
            moved: &mut moved,
            along: &mut along,
            gram: &mut gram,
            gather: &mut gather,
            position: &mut position,
            free: &mut free,
        };
        crate::dispatch(
            #[inline(always)]
            || {
                let outcome = self.iterate(sample, solution, &mut work, stack);
                self.note_gaps(&sample, &work, weights.terms, gaps);
                outcome
            },
        )
    }

    #[inline(always)]
    fn iterate(
        &self,
        sample: Sample<'_, T>,
        solution: &mut [T],
        work: &mut Work<'_, T>,
        stack: &mut MemStack,
    ) -> SampleOutcome {
        self.set_tolerances(&sample, work);
        let mut outcome = SampleOutcome::default();
        let mut least = T::INFINITY;
        for (i, &weight) in sample.multipliers.unwrap_or(&[]).iter().enumerate() {
            let wrong_side = (weight > T::ZERO && sample.lower[i] == T::NEG_INFINITY)
                || (weight < T::ZERO && sample.upper[i] == T::INFINITY);
            work.lambda[i] = if wrong_side { T::ZERO } else { weight };
            work.centre[i] = work.lambda[i];
        }
        self.move_to_lambda(&sample, solution, work);
        for _ in 0..self.limits.outer_steps {
            let inner_converged = self.inner(&sample, solution, work, &mut outcome, stack)
                || self.limits.is_careful && self.inner_in_primal(&sample, solution, work, &mut outcome, stack);
            outcome.reached = self.is_reached(&sample, work);
            // A point that reaches the box need not be the nearest while the inner iteration goes on.
            if !inner_converged {
                break;
            }
            if outcome.reached {
                outcome.converged = true;
                break;
            }
            // The distance to the box never grows. Where it no longer shrinks, the problem is infeasible, or seems to be.
            let distance = distance(&sample, work);
            if distance >= least * T::from_f64(self.limits.settled_ratio)
                && !(self.limits.is_careful && self.nears_a_kink(&sample, work))
            {
                outcome.converged = true;
                break;
            }
            least = distance;
            work.centre.copy_from_slice(work.lambda);
        }
        outcome
    }

    /// Maximises the proximal dual around `work.centre`; true if its gradient vanished.
    #[inline(always)]
    fn inner(
        &self,
        sample: &Sample<'_, T>,
        solution: &mut [T],
        work: &mut Work<'_, T>,
        outcome: &mut SampleOutcome,
        stack: &mut MemStack,
    ) -> bool {
        let last = self.limits.newton_steps.min(outcome.iters + self.limits.inner_steps);
        loop {
            dual_gradient(sample, work.epsilon, work.lambda, work.image, work.centre, work.gradient);
            if vanishes(work) {
                return true;
            }
            if outcome.iters >= last {
                return false;
            }
            outcome.iters += 1;
            if !self.newton_step(sample, solution, work, outcome.iters, stack) {
                return false;
            }
        }
    }

    /// `v(λ)` into `solution`, `w0 + A(v - v0)` into `work.image`.
    #[inline(always)]
    fn move_to_lambda(&self, sample: &Sample<'_, T>, solution: &mut [T], work: &mut Work<'_, T>) {
        work.free_sum.copy_from_slice(sample.start);
        self.rows.add_weighted_rows(work.lambda, work.free_sum);
        let entries = solution.iter_mut().zip(work.moved.iter_mut()).zip(work.free_sum.iter()).zip(sample.start);
        with_ends!(sample.bounds, entries, (((v, moved), &sum), &start), (lower, upper) => {
            *v = sum.clip(lower, upper);
            *moved = *v - start;
        });
        self.rows.multiply(work.moved, work.image);
        for (image, &start) in work.image.iter_mut().zip(sample.image) {
            *image += start;
        }
    }

    /// Writes the gap of every row, NaN where it might not count as attained.
    ///
    /// The scale of a row is at least the magnitude of its output, and its rounding in the scalar of the solver is
    /// about that of a sum in sixteen lanes; only where these do not tell the row has to be evaluated again.
    #[inline(always)]
    fn note_gaps(&self, sample: &Sample<'_, T>, work: &Work<'_, T>, terms: &[T], gaps: &mut [T]) {
        let moved = norm(work.moved);
        let depth = T::from_f64(2.0 * (self.rows.ncols() as f64 / 16.0).sqrt() + 8.0);
        let sixteen = T::from_f64(16.0);
        for (i, to) in gaps.iter_mut().enumerate() {
            let (lower, upper, image) = (sample.lower[i], sample.upper[i], work.image[i]);
            let missing = gap(sample, work.image, i).abs();
            let inside = (image - lower).min(upper - image).max(T::ZERO);
            let rounding = T::EPSILON * (depth * work.norms[i] * moved + T::from_f64(2.0) * sample.image[i].abs());
            let slack = T::EPSILON * sixteen * terms[i].sqrt() * image.abs();
            *to = if missing + rounding <= slack + inside { missing } else { T::from_f64(f64::NAN) };
        }
    }

    /// Whether every row is in its box, up to rounding.
    #[inline(always)]
    fn is_reached(&self, sample: &Sample<'_, T>, work: &Work<'_, T>) -> bool {
        // Multipliers of a box out of reach grow without end, and their rounding must not pass for the box reached.
        let most = T::from_f64(self.limits.most_rounding);
        let rounding = rounding(work);
        (0..work.image.len()).fold(true, |reached, i| {
            let tolerance = work.tolerance[i] + (work.norms[i] * rounding).min(most * work.tolerance[i]);
            reached & (gap(sample, work.image, i).abs() <= tolerance)
        })
    }

    /// Sets what counts as rounding in every row: it grows with the norm of the row, the point and the wanted output.
    #[inline(always)]
    fn set_tolerances(&self, sample: &Sample<'_, T>, work: &mut Work<'_, T>) {
        let start = norm(sample.start);
        for (i, tolerance) in work.tolerance.iter_mut().enumerate() {
            let goal = sample.image[i].clip(sample.lower[i], sample.upper[i]);
            let size = work.norms[i] * start + sample.image[i].abs().max(goal.abs());
            *tolerance = T::EPSILON * T::from_f64(16.0) * size;
        }
    }
}

/// Gradient of the proximal dual at `lambda`.
#[inline(always)]
fn dual_gradient<T: Real>(
    sample: &Sample<'_, T>,
    epsilon: &[T],
    lambda: &[T],
    image: &[T],
    centre: &[T],
    gradient: &mut [T],
) {
    for i in 0..lambda.len() {
        let value = image[i] + epsilon[i] * (lambda[i] - centre[i]);
        let goal = if lambda[i] > T::ZERO {
            sample.lower[i]
        } else if lambda[i] < T::ZERO {
            sample.upper[i]
        } else {
            value.clip(sample.lower[i], sample.upper[i])
        };
        gradient[i] = goal - value;
    }
}

/// Whether the gradient is rounding in every row.
#[inline(always)]
fn vanishes<T: Real>(work: &Work<'_, T>) -> bool {
    let (half, rounding) = (T::from_f64(0.5), rounding(work));
    let rows = work.gradient.iter().zip(work.tolerance.iter()).zip(work.norms);
    rows.fold(true, |vanishes, ((gradient, &tolerance), &norm)| {
        vanishes & (gradient.abs() <= half * tolerance + norm * rounding)
    })
}

/// Rounding of the image of `v0 + Aᵀλ` in a row of norm 1.
#[inline(always)]
fn rounding<T: Real>(work: &Work<'_, T>) -> T {
    T::EPSILON * work.lambda.iter().zip(work.norms).fold(T::ZERO, |sum, (weight, &norm)| sum + norm * weight.abs())
}

/// Distance of the image to its box in the metric that the proximal weights belong to.
#[inline(always)]
fn distance<T: Real>(sample: &Sample<'_, T>, work: &Work<'_, T>) -> T {
    let square = |i: usize| gap(sample, work.image, i) * gap(sample, work.image, i) / work.epsilon[i];
    (0..work.image.len()).fold(T::ZERO, |sum, i| sum + square(i)).sqrt()
}

/// Euclidean norm, in independent lanes so that it vectorises.
#[inline(always)]
fn norm<T: Real>(values: &[T]) -> T {
    let (body, tail) = values.as_chunks::<16>();
    let mut lanes = [T::ZERO; 16];
    for chunk in body {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += v * v;
        }
    }
    tail.iter().fold(lanes.into_iter().sum::<T>(), |sum, &v| sum + v * v).sqrt()
}

/// Workspace of the dual solver for `m` rows and `n` columns.
pub(super) fn newton_scratch<T: Real>(m: usize, n: usize) -> StackReq {
    StackReq::all_of(&[
        StackReq::new::<T>(m).array(7),
        StackReq::new::<T>(n).array(3),
        StackReq::new::<T>(m * m),
        StackReq::new::<(u32, T)>(m + 1),
        StackReq::new::<u32>(m),
        StackReq::new::<bool>(n),
        temp_mat_scratch::<T>(m, 1),
        llt::factor::cholesky_in_place_scratch::<T>(m, Par::Seq, Default::default()),
        llt::solve::solve_in_place_scratch::<T>(m, 1, Par::Seq),
        StackReq::new::<u8>(256).array(16),
    ])
}
