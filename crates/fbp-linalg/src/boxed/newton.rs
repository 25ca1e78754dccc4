//! Exact dual solver: semismooth Newton inside a proximal method of multipliers, one sample at a time.
//!
//! The problem `min ½|v - v0|², lo <= w0 + A(v - v0) <= hi, l <= v <= u` has the dual variables `λ` (one per row)
//! with `v(λ) = clip(v0 + Aᵀλ, l, u)`. The inner iteration maximises the concave, piecewise quadratic dual with the
//! proximal term `-ε/2 |λ - λ_k|²` by Newton steps `(A_R D A_Rᵀ + εI) Δ = g_R`: `R` the rows that are active or
//! violated, `D` the entries of `v` strictly between their bounds. The outer iteration moves the centre `λ_k`. On
//! feasible problems it converges to the exact solution; on infeasible ones `A(v - v0)` converges to the point at the
//! smallest distance from the box and `v` to the point nearest to `v0` among those that reach it.
//!
//! # Source
//! Method of multipliers and its limit on infeasible problems: Chiche & Gilbert, "How the augmented Lagrangian
//! algorithm can deal with an infeasible convex quadratic optimization problem", J. Convex Analysis 23 (2016).
//! Projected Newton on the dual: Bertsekas, SIAM J. Control Optim. 20 (1982). The combination is our own.

use faer::dyn_stack::{MemStack, StackReq};
use faer::linalg::cholesky::llt;
use faer::linalg::temp_mat_scratch;
use faer::{MatMut, Par};

use super::rows::{GramSelection, RowSource, SystemRows};
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
    /// Moves of the proximal centre per sample.
    pub(super) outer_steps: usize,
    /// Proximal weight ε relative to the mean squared row norm. Any value gives the same limit: a small one needs
    /// fewer moves of the centre, a large one keeps the multipliers of infeasible problems, about `violation/ε`,
    /// small enough for their rounding.
    pub(super) proximal_weight: f64,
    /// The distance to the box has settled when a move of the centre leaves more than this share of it.
    pub(super) settled_ratio: f64,
}

/// Limits of the first try, in the scalar of the batch.
pub(super) fn fast_limits<T: Real>() -> NewtonLimits {
    NewtonLimits { newton_steps: 30, outer_steps: 20, proximal_weight: 64.0 * T::EPSILON.to_f64(), settled_ratio: 0.9 }
}

/// Limits of the second try, always in `f64`; large systems get fewer steps, each of which takes `rows³/3` operations.
pub(super) fn careful_limits(rows: usize) -> NewtonLimits {
    let step = (rows as f64).powi(3) / 3.0;
    NewtonLimits {
        newton_steps: (CAREFUL_OPERATIONS / step.max(1.0)).clamp(50.0, 1000.0) as usize,
        outer_steps: 400,
        proximal_weight: f64::EPSILON.sqrt(),
        settled_ratio: 1.0 - 1e-8,
    }
}

/// The exact dual solver for one matrix.
#[derive(Clone, Debug)]
pub(super) struct DualNewton<T, R = SystemRows<T>> {
    rows: R,
    /// Proximal weight ε.
    epsilon: T,
    /// Largest row norm, for tolerances.
    row_norm: T,
    limits: NewtonLimits,
}

/// One sample of the problem.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<'a, T> {
    /// The point to stay near, `v0`.
    pub(super) start: &'a [T],
    /// `A v0 + b`.
    pub(super) image: &'a [T],
    /// Lower ends of the rows' boxes.
    pub(super) lower: &'a [T],
    /// Upper ends of the rows' boxes.
    pub(super) upper: &'a [T],
    /// Bounds `l` and `u` of every entry of `v`.
    pub(super) bounds: (T, T),
    /// Multipliers to start from; zero if `None`.
    pub(super) multipliers: Option<&'a [T]>,
}

impl<T: Real> Sample<'_, T> {
    /// Whether the starting point already satisfies every constraint.
    pub(super) fn is_feasible(&self) -> bool {
        let (low, high) = self.bounds;
        let inside = self.start.iter().fold(true, |inside, &v| inside & (low <= v) & (v <= high));
        inside
            && (0..self.image.len())
                .fold(true, |inside, i| inside & (self.lower[i] <= self.image[i]) & (self.image[i] <= self.upper[i]))
    }
}

/// How the solve of one sample ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SampleOutcome {
    /// Newton steps taken.
    pub(super) iters: usize,
    /// The iteration ended at a solution (or at the smallest possible violation).
    pub(super) converged: bool,
    /// Largest distance of a row to its box.
    pub(super) violation: f64,
    /// Largest distance of a row to its box that counts as zero.
    pub(super) tolerance: f64,
}

/// Working memory of one sample.
struct Work<'a, T> {
    lambda: &'a mut [T],
    centre: &'a mut [T],
    trial: &'a mut [T],
    gradient: &'a mut [T],
    image: &'a mut [T],
    previous: &'a mut [T],
    step: &'a mut [T],
    free_sum: &'a mut [T],
    moved: &'a mut [T],
    gram: &'a mut [T],
    gather: &'a mut [(u32, T)],
    position: &'a mut [u32],
    free: &'a mut [bool],
}

impl<T: Real> DualNewton<T> {
    pub(super) fn new(a: faer::MatRef<'_, f64>, limits: NewtonLimits) -> Self {
        Self::over_rows(SystemRows::new(a), limits)
    }
}

impl<T: Real, R: RowSource<T>> DualNewton<T, R> {
    pub(super) fn over_rows(rows: R, limits: NewtonLimits) -> Self {
        let mut sum = 0.0;
        let mut largest = 0.0_f64;
        for i in 0..rows.nrows() {
            let norm_sq = rows.row(i).iter().map(|a| a.to_f64() * a.to_f64()).sum::<f64>();
            sum += norm_sq;
            largest = largest.max(norm_sq);
        }
        let mean = if sum > 0.0 { sum / rows.nrows() as f64 } else { 1.0 };
        let epsilon = T::from_f64(mean * limits.proximal_weight);
        Self { rows, epsilon, row_norm: T::from_f64(largest.sqrt()), limits }
    }

    pub(super) fn nrows(&self) -> usize {
        self.rows.nrows()
    }

    pub(super) fn ncols(&self) -> usize {
        self.rows.ncols()
    }

    /// Workspace of [`solve`](Self::solve).
    pub(super) fn scratch(&self) -> StackReq {
        newton_scratch::<T>(self.rows.nrows(), self.rows.ncols())
    }

    /// Solves one sample; `solution` is write-only.
    pub(super) fn solve(&self, sample: Sample<'_, T>, solution: &mut [T], stack: &mut MemStack) -> SampleOutcome {
        let (m, n) = (self.rows.nrows(), self.rows.ncols());
        let (mut lambda, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut centre, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut trial, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut gradient, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut image, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut previous, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut step, stack) = stack.make_with(m, |_| T::ZERO);
        let (mut free_sum, stack) = stack.make_with(n, |_| T::ZERO);
        let (mut moved, stack) = stack.make_with(n, |_| T::ZERO);
        let (mut gram, stack) = stack.make_with(m * m, |_| T::ZERO);
        let (mut gather, stack) = stack.make_with(m + 1, |_| (0, T::ZERO));
        let (mut position, stack) = stack.make_with(m, |_| 0);
        let (mut free, stack) = stack.make_with(n, |_| false);
        let mut work = Work {
            lambda: &mut lambda,
            centre: &mut centre,
            trial: &mut trial,
            gradient: &mut gradient,
            image: &mut image,
            previous: &mut previous,
            step: &mut step,
            free_sum: &mut free_sum,
            moved: &mut moved,
            gram: &mut gram,
            gather: &mut gather,
            position: &mut position,
            free: &mut free,
        };
        pulp::Arch::new().dispatch(|| self.iterate(sample, solution, &mut work, stack))
    }

    #[inline(always)]
    fn iterate(
        &self,
        sample: Sample<'_, T>,
        solution: &mut [T],
        work: &mut Work<'_, T>,
        stack: &mut MemStack,
    ) -> SampleOutcome {
        let tolerance = self.tolerance(&sample);
        let mut outcome = SampleOutcome::default();
        let mut least = T::INFINITY;
        let mut violation = T::INFINITY;
        for (i, &weight) in sample.multipliers.unwrap_or(&[]).iter().enumerate() {
            let wrong_side = (weight > T::ZERO && sample.lower[i] == T::NEG_INFINITY)
                || (weight < T::ZERO && sample.upper[i] == T::INFINITY);
            work.lambda[i] = if wrong_side { T::ZERO } else { weight };
            work.centre[i] = work.lambda[i];
        }
        self.move_to_lambda(&sample, solution, work);
        for _ in 0..self.limits.outer_steps {
            let inner_converged = self.inner(&sample, solution, work, tolerance, &mut outcome, stack);
            violation = worst_violation(&sample, work.image);
            let tolerance = tolerance + self.rounding(work.lambda);
            outcome.tolerance = tolerance.to_f64();
            if violation <= tolerance {
                outcome.converged = true;
                break;
            }
            if !inner_converged {
                break;
            }
            // The distance to the box never grows; where it no longer shrinks, the problem is infeasible.
            let distance = squared_distance(&sample, work.image).sqrt();
            if distance >= least * T::from_f64(self.limits.settled_ratio) {
                outcome.converged = true;
                break;
            }
            least = distance;
            work.centre.copy_from_slice(work.lambda);
        }
        outcome.violation = violation.to_f64();
        outcome
    }

    /// Maximises the proximal dual around `work.centre`; true if its gradient vanished.
    #[inline(always)]
    fn inner(
        &self,
        sample: &Sample<'_, T>,
        solution: &mut [T],
        work: &mut Work<'_, T>,
        tolerance: T,
        outcome: &mut SampleOutcome,
        stack: &mut MemStack,
    ) -> bool {
        loop {
            let worst = self.dual_gradient(sample, work.lambda, work.image, work.centre, work.gradient);
            if worst <= tolerance * T::from_f64(0.5) + self.rounding(work.lambda) {
                return true;
            }
            if outcome.iters == self.limits.newton_steps {
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
        let (lower, upper) = sample.bounds;
        for (((v, moved), &sum), &start) in
            solution.iter_mut().zip(work.moved.iter_mut()).zip(work.free_sum.iter()).zip(sample.start)
        {
            *v = sum.clip(lower, upper);
            *moved = *v - start;
        }
        self.rows.multiply(work.moved, work.image);
        for (image, &start) in work.image.iter_mut().zip(sample.image) {
            *image += start;
        }
    }

    /// Gradient of the proximal dual at `lambda`; returns its largest entry.
    #[inline(always)]
    fn dual_gradient(&self, sample: &Sample<'_, T>, lambda: &[T], image: &[T], centre: &[T], gradient: &mut [T]) -> T {
        let mut worst = T::ZERO;
        for i in 0..lambda.len() {
            let value = image[i] + self.epsilon * (lambda[i] - centre[i]);
            let goal = if lambda[i] > T::ZERO {
                sample.lower[i]
            } else if lambda[i] < T::ZERO {
                sample.upper[i]
            } else {
                value.clip(sample.lower[i], sample.upper[i])
            };
            gradient[i] = goal - value;
            worst = worst.max(gradient[i].abs());
        }
        worst
    }

    /// One Newton step with line search; false if no step makes progress.
    #[inline(always)]
    fn newton_step(
        &self,
        sample: &Sample<'_, T>,
        solution: &mut [T],
        work: &mut Work<'_, T>,
        steps: usize,
        stack: &mut MemStack,
    ) -> bool {
        let size = self.select(sample, work, steps == 1 && sample.multipliers.is_none());
        if !self.direction(size, work, stack) {
            return false;
        }
        work.previous.copy_from_slice(work.lambda);
        let slope = inner_product(work.step, work.gradient);
        for i in 0..work.lambda.len() {
            let next = work.previous[i] + work.step[i];
            // A multiplier that changes sides, or leaves zero on the wrong one, stops at zero.
            let crossed =
                next * work.previous[i] < T::ZERO || next * work.gradient[i] < T::ZERO && work.previous[i] == T::ZERO;
            let equality = sample.lower[i] == sample.upper[i];
            work.lambda[i] = if crossed && !equality { T::ZERO } else { next };
        }
        // The dual is concave, so its slope at the end of the step tells whether the step went too far. A small
        // overshoot usually pays, but without end it could go round in circles.
        let overshoot = if steps <= FREE_STEPS { T::from_f64(0.5) } else { T::ZERO };
        if self.slope_at_lambda(sample, solution, work) >= -overshoot * slope {
            return true;
        }
        self.guarded_step(size, sample, solution, work, stack)
    }

    /// The step for kinks and degenerate rows: blocked rows are left out, no multiplier crosses zero, and the slope
    /// of the dual along the step is brought near zero. Every such step raises the dual.
    #[cold]
    #[inline(never)]
    fn guarded_step(
        &self,
        mut size: usize,
        sample: &Sample<'_, T>,
        solution: &mut [T],
        work: &mut Work<'_, T>,
        stack: &mut MemStack,
    ) -> bool {
        // `work.trial` held the gradient of the rejected step; `work.gradient` is still that of `work.previous`.
        loop {
            let kept = drop_blocked_rows(sample, work);
            if kept == size {
                break;
            }
            size = kept;
            if size == 0 || !self.direction(size, work, stack) {
                return false;
            }
        }
        let slope = inner_product(work.step, work.gradient);
        let mut longest = T::ONE;
        let mut blocker = None;
        for i in 0..work.step.len() {
            let inequality = sample.lower[i] != sample.upper[i];
            if inequality && work.previous[i] * work.step[i] < T::ZERO && -work.previous[i] / work.step[i] < longest {
                longest = -work.previous[i] / work.step[i];
                blocker = Some(i);
            }
        }
        let (mut low, mut high) = (T::ZERO, longest);
        let mut length = longest;
        for _ in 0..80 {
            for i in 0..work.lambda.len() {
                work.lambda[i] = work.previous[i] + length * work.step[i];
            }
            if let (Some(blocker), true) = (blocker, length == longest) {
                work.lambda[blocker] = T::ZERO;
            }
            let end = self.slope_at_lambda(sample, solution, work) / length;
            if end < T::ZERO {
                high = length;
            } else if end > T::from_f64(0.5) * slope && length < longest {
                low = length;
            } else {
                return true;
            }
            length = if low == T::ZERO {
                high * T::from_f64(0.03)
            } else if high > low * T::from_f64(16.0) {
                (low * high).sqrt()
            } else {
                (low + high) * T::from_f64(0.5)
            };
        }
        low > T::ZERO
    }

    /// Moves to `work.lambda` and returns the slope of the dual there, along the way from `work.previous`.
    #[inline(always)]
    fn slope_at_lambda(&self, sample: &Sample<'_, T>, solution: &mut [T], work: &mut Work<'_, T>) -> T {
        self.move_to_lambda(sample, solution, work);
        self.dual_gradient(sample, work.lambda, work.image, work.centre, work.trial);
        let mut slope = T::ZERO;
        for i in 0..work.lambda.len() {
            let mut gradient = work.trial[i];
            if work.lambda[i] == T::ZERO && work.previous[i] != T::ZERO {
                // The way ends at the kink of this row: its slope is the one on the side that it came from.
                let goal = if work.previous[i] > T::ZERO { sample.lower[i] } else { sample.upper[i] };
                gradient = goal - work.image[i] + self.epsilon * work.centre[i];
            }
            slope += gradient * (work.lambda[i] - work.previous[i]);
        }
        slope
    }

    /// Fills `work.free`, `work.position`; returns the number of selected rows.
    #[inline(always)]
    fn select(&self, sample: &Sample<'_, T>, work: &mut Work<'_, T>, first: bool) -> usize {
        let (lower, upper) = sample.bounds;
        for (free, &sum) in work.free.iter_mut().zip(work.free_sum.iter()) {
            *free = lower < sum && sum < upper;
        }
        if first {
            // Entries that start exactly at a bound are free if the gradient pulls them inside.
            let pull = &mut *work.moved;
            pull.fill(T::ZERO);
            self.rows.add_weighted_rows(work.gradient, pull);
            for ((free, &pull), &sum) in work.free.iter_mut().zip(pull.iter()).zip(work.free_sum.iter()) {
                *free |= (sum == lower && pull > T::ZERO) || (sum == upper && pull < T::ZERO);
            }
        }
        let mut size = 0;
        for (i, position) in work.position.iter_mut().enumerate() {
            let selected = work.lambda[i] != T::ZERO || work.gradient[i] != T::ZERO;
            *position = if selected { size } else { u32::MAX };
            size += u32::from(selected);
        }
        size as usize
    }

    /// Newton direction into `work.step` (zero on rows that are not selected).
    #[inline(always)]
    fn direction(&self, size: usize, work: &mut Work<'_, T>, stack: &mut MemStack) -> bool {
        let selection = GramSelection { position: work.position, size, free: work.free };
        self.rows.masked_gram(selection, work.gather, work.gram);
        let packed = &mut work.trial[..size];
        for (i, &at) in work.position.iter().enumerate() {
            if at != u32::MAX {
                packed[at as usize] = work.gradient[i];
                let diagonal = &mut work.gram[at as usize * (size + 1)];
                *diagonal += self.epsilon;
            }
        }
        let mut gram = MatMut::from_column_major_slice_mut(&mut work.gram[..size * size], size, size);
        let factor = llt::factor::cholesky_in_place(
            gram.as_mut(),
            llt::factor::LltRegularization {
                dynamic_regularization_delta: self.epsilon,
                dynamic_regularization_epsilon: self.epsilon * T::EPSILON,
            },
            Par::Seq,
            stack,
            Default::default(),
        );
        if factor.is_err() {
            return false;
        }
        let rhs = MatMut::from_column_major_slice_mut(packed, size, 1);
        llt::solve::solve_in_place(gram.as_ref(), rhs, Par::Seq, stack);
        for (step, &at) in work.step.iter_mut().zip(work.position.iter()) {
            *step = if at == u32::MAX { T::ZERO } else { work.trial[at as usize] };
        }
        work.step.iter().all(|step| step.is_finite())
    }

    /// Rounding of the image of `v0 + Aᵀλ`.
    #[inline(always)]
    fn rounding(&self, lambda: &[T]) -> T {
        let sum = lambda.iter().fold(T::ZERO, |sum, &weight| sum + weight.abs());
        T::EPSILON * self.row_norm * self.row_norm * sum
    }

    /// Violations below this are rounding: it grows with the row norm, the point and the length of a row.
    #[inline(always)]
    fn tolerance(&self, sample: &Sample<'_, T>) -> T {
        let mut start_sq = T::ZERO;
        for &v in sample.start {
            start_sq += v * v;
        }
        let mut image = T::ZERO;
        for i in 0..sample.image.len() {
            let goal = sample.image[i].clip(sample.lower[i], sample.upper[i]);
            image = image.max(sample.image[i].abs()).max(goal.abs());
        }
        T::EPSILON * T::from_f64(16.0) * (self.row_norm * start_sq.sqrt() + image)
    }
}

/// Workspace of the dual solver for `m` rows and `n` columns.
pub(super) fn newton_scratch<T: Real>(m: usize, n: usize) -> StackReq {
    StackReq::all_of(&[
        StackReq::new::<T>(m).array(7),
        StackReq::new::<T>(n).array(2),
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

/// Takes rows that would leave zero against their gradient out of the selection; returns how many are left.
fn drop_blocked_rows<T: Real>(sample: &Sample<'_, T>, work: &mut Work<'_, T>) -> usize {
    let mut size = 0;
    for i in 0..work.position.len() {
        if work.position[i] == u32::MAX {
            continue;
        }
        let blocked = work.previous[i] == T::ZERO
            && work.step[i] * work.gradient[i] < T::ZERO
            && sample.lower[i] != sample.upper[i];
        work.position[i] = if blocked { u32::MAX } else { size };
        size += u32::from(!blocked);
    }
    size as usize
}

#[inline(always)]
fn inner_product<T: Real>(a: &[T], b: &[T]) -> T {
    a.iter().zip(b).fold(T::ZERO, |sum, (&a, &b)| sum + a * b)
}

/// Squared Euclidean distance of `image` to its box.
#[inline(always)]
fn squared_distance<T: Real>(sample: &Sample<'_, T>, image: &[T]) -> T {
    gaps(sample, image).fold(T::ZERO, |sum, gap| sum + gap * gap)
}

/// Largest distance of a row of `image` to its box.
#[inline(always)]
fn worst_violation<T: Real>(sample: &Sample<'_, T>, image: &[T]) -> T {
    gaps(sample, image).fold(T::ZERO, |worst, gap| worst.max(gap.abs()))
}

/// What is missing in every row to be in its box.
#[inline(always)]
fn gaps<T: Real>(sample: &Sample<'_, T>, image: &[T]) -> impl Iterator<Item = T> {
    let ends = sample.lower.iter().zip(sample.upper);
    image.iter().zip(ends).map(|(&value, (&lower, &upper))| value.clip(lower, upper) - value)
}
