//! One step of the dual solver: which rows and unknowns take part, the Newton direction, and how far to go.

use faer::dyn_stack::MemStack;
use faer::linalg::cholesky::llt;
use faer::{MatMut, Par};

use super::{DualNewton, FREE_STEPS, Sample, Work, dual_gradient};
use crate::Real;
use crate::boxed::bounds::{Bounds, with_ends};
use crate::boxed::rows::{GramSelection, RowSource};

/// Multipliers that may end at zero in one guarded step; the next step sees to the others.
const MOST_PIECES: usize = 16;

/// How a part of a guarded step ended.
enum Piece<T> {
    /// Nothing raises the dual.
    Nowhere,
    /// At the end of the step, or where the dual stops to grow.
    Ends,
    /// Where the multiplier of a row is zero, with this share of the step left.
    Blocked { row: usize, left: T },
}

impl<T: Real, R: RowSource<T>> DualNewton<T, R> {
    /// One Newton step with line search; false if no step makes progress.
    #[inline(always)]
    pub(super) fn newton_step(
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

    /// The step for kinks and degenerate rows: blocked rows are left out, and no multiplier crosses zero. Where one ends
    /// there the others go on without it, because it may have nothing to do with what they have to do.
    #[cold]
    #[inline(never)]
    fn guarded_step(
        &self,
        size: usize,
        sample: &Sample<'_, T>,
        solution: &mut [T],
        work: &mut Work<'_, T>,
        stack: &mut MemStack,
    ) -> bool {
        // What is not inlined has to ask for wide registers of its own.
        crate::dispatch(
            #[inline(always)]
            || self.guarded_step_on_lanes(size, sample, solution, work, stack),
        )
    }

    #[inline(always)]
    fn guarded_step_on_lanes(
        &self,
        mut size: usize,
        sample: &Sample<'_, T>,
        solution: &mut [T],
        work: &mut Work<'_, T>,
        stack: &mut MemStack,
    ) -> bool {
        // `work.gradient` is still that of `work.previous`.
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
        work.free_sum.copy_from_slice(sample.start);
        self.rows.add_weighted_rows(work.previous, work.free_sum);
        let mut advanced = false;
        for _ in 0..MOST_PIECES {
            match self.guarded_piece(sample, work) {
                Piece::Nowhere => break,
                Piece::Ends => {
                    self.move_to_lambda(sample, solution, work);
                    return true;
                }
                Piece::Blocked { row, left } => {
                    advanced = true;
                    self.move_to_lambda(sample, solution, work);
                    dual_gradient(sample, work.epsilon, work.lambda, work.image, work.centre, work.gradient);
                    work.step[row] = T::ZERO;
                    work.step.iter_mut().for_each(|step| *step *= left);
                    work.previous.copy_from_slice(work.lambda);
                    if inner_product(work.step, work.gradient) <= T::ZERO {
                        return true;
                    }
                }
            }
        }
        // The last piece may have tried where it does not go.
        work.lambda.copy_from_slice(work.previous);
        self.move_to_lambda(sample, solution, work);
        advanced
    }

    /// The part of a step up to where the first multiplier is zero, or the slope of the dual along it near zero: into
    /// `work.lambda`. It raises the dual. `work.free_sum` and `work.gradient` are those of `work.previous`.
    ///
    /// No multiplier changes sides on the way, so that every row keeps its goal, and the slope needs no product with the
    /// matrix but one: with `p = Aᵀ step` and `s` the unclipped sum, it falls from its first value by
    /// `t Σ ε step² + p · (clip(s + t p) - clip(s))`.
    #[inline(always)]
    fn guarded_piece(&self, sample: &Sample<'_, T>, work: &mut Work<'_, T>) -> Piece<T> {
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
        work.along.fill(T::ZERO);
        self.rows.add_weighted_rows(work.step, work.along);
        let damping =
            work.step.iter().zip(work.epsilon).fold(T::ZERO, |sum, (&step, &weight)| sum + weight * step * step);
        let (mut low, mut high) = (T::ZERO, longest);
        let mut length = longest;
        for _ in 0..80 {
            let end = slope - length * damping - fall(work.along, work.free_sum, length, sample.bounds);
            if end < T::ZERO {
                high = length;
            } else if end > T::from_f64(0.5) * slope && length < longest {
                low = length;
            } else {
                go(work, length);
                return match blocker {
                    Some(row) if length == longest => {
                        work.lambda[row] = T::ZERO;
                        Piece::Blocked { row, left: T::ONE - longest }
                    }
                    _ => Piece::Ends,
                };
            }
            length = if low == T::ZERO {
                high * T::from_f64(0.03)
            } else if high > low * T::from_f64(16.0) {
                (low * high).sqrt()
            } else {
                (low + high) * T::from_f64(0.5)
            };
        }
        if low == T::ZERO {
            return Piece::Nowhere;
        }
        go(work, low);
        Piece::Ends
    }

    /// Moves to `work.lambda` and returns the slope of the dual there, along the way from `work.previous`.
    #[inline(always)]
    fn slope_at_lambda(&self, sample: &Sample<'_, T>, solution: &mut [T], work: &mut Work<'_, T>) -> T {
        self.move_to_lambda(sample, solution, work);
        dual_gradient(sample, work.epsilon, work.lambda, work.image, work.centre, work.trial);
        let mut slope = T::ZERO;
        for i in 0..work.lambda.len() {
            let mut gradient = work.trial[i];
            if work.lambda[i] == T::ZERO && work.previous[i] != T::ZERO {
                // The way ends at the kink of this row: its slope is the one on the side that it came from.
                let goal = if work.previous[i] > T::ZERO { sample.lower[i] } else { sample.upper[i] };
                gradient = goal - work.image[i] + work.epsilon[i] * work.centre[i];
            }
            slope += gradient * (work.lambda[i] - work.previous[i]);
        }
        slope
    }

    /// Fills `work.free`, `work.position`; returns the number of selected rows.
    #[inline(always)]
    fn select(&self, sample: &Sample<'_, T>, work: &mut Work<'_, T>, first: bool) -> usize {
        let entries = work.free.iter_mut().zip(work.free_sum.iter());
        with_ends!(sample.bounds, entries, (free, &sum), (lower, upper) => *free = lower < sum && sum < upper);
        if first {
            // Entries that start exactly at a bound are free if the gradient pulls them inside.
            let pull = &mut *work.moved;
            pull.fill(T::ZERO);
            self.rows.add_weighted_rows(work.gradient, pull);
            let entries = work.free.iter_mut().zip(work.free_sum.iter()).zip(pull.iter());
            with_ends!(sample.bounds, entries, ((free, &sum), &pull), (lower, upper) => {
                *free |= ((sum == lower) & (pull > T::ZERO)) | ((sum == upper) & (pull < T::ZERO));
            });
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
                *diagonal += work.epsilon[i];
            }
        }
        let mut gram = MatMut::from_column_major_slice_mut(&mut work.gram[..size * size], size, size);
        let factor = llt::factor::cholesky_in_place(
            gram.as_mut(),
            llt::factor::LltRegularization {
                dynamic_regularization_delta: work.largest_epsilon,
                dynamic_regularization_epsilon: work.largest_epsilon * T::EPSILON,
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

/// `work.lambda` at this length of the step from `work.previous`.
#[inline(always)]
fn go<T: Real>(work: &mut Work<'_, T>, length: T) {
    for i in 0..work.lambda.len() {
        work.lambda[i] = work.previous[i] + length * work.step[i];
    }
}

/// `p · (clip(s + t p) - clip(s))`, in independent lanes so that it vectorises.
#[inline(always)]
fn fall<T: Real>(p: &[T], s: &[T], t: T, bounds: Bounds<'_, T>) -> T {
    let moved = |p: T, s: T, (low, high): (T, T)| p * ((s + t * p).clip(low, high) - s.clip(low, high));
    let ((p_body, _), (s_body, _)) = (p.as_chunks::<16>(), s.as_chunks::<16>());
    let mut lanes = [T::ZERO; 16];
    match bounds {
        Bounds::Same(low, high) => {
            for (p, s) in p_body.iter().zip(s_body) {
                for ((lane, &p), &s) in lanes.iter_mut().zip(p).zip(s) {
                    *lane += moved(p, s, (low, high));
                }
            }
        }
        Bounds::Each { lower, upper } => {
            let ((low_body, _), (high_body, _)) = (lower.as_chunks::<16>(), upper.as_chunks::<16>());
            for (((p, s), low), high) in p_body.iter().zip(s_body).zip(low_body).zip(high_body) {
                for ((((lane, &p), &s), &low), &high) in lanes.iter_mut().zip(p).zip(s).zip(low).zip(high) {
                    *lane += moved(p, s, (low, high));
                }
            }
        }
    }
    let tail = 16 * p_body.len()..p.len();
    tail.fold(lanes.into_iter().sum::<T>(), |sum, entry| sum + moved(p[entry], s[entry], bounds.at(entry)))
}
