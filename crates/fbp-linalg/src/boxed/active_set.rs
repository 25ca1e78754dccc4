//! Last resort for samples of bad condition: the dual active-set method, by orthogonal factors of the active rows.
//!
//! Multipliers of a system of condition `κ` are about `κ` times as large as the step that they describe, and `v0 + Aᵀλ`
//! carries their rounding. Here the point comes from an orthonormal basis of the active rows instead, so that the rows are
//! met to their own rounding whatever the condition is. Starting from the constraints that the Newton method has left
//! active, or from none, the most violated one is added until none is left; those that lose their weight on the way are
//! dropped. Bounds are active by taking their entry out of the basis.
//!
//! Data that were rounded may describe a problem that is feasible but for their rounding, and the exact nearest point of a
//! nearly dependent system moves by the rounding times the condition. So the boxes are widened by a part of what counts
//! as attained: the point is then as near as any that attains the box by the other part.
//!
//! # Source
//! Goldfarb & Idnani, *A numerically stable dual method for solving strictly convex quadratic programs*, Math.
//! Programming 27 (1983). Gram-Schmidt twice: Giraud, Langou & Rozložník, Computers & Math. with Appl. 50 (2005).

mod basis;

use faer::dyn_stack::{MemStack, StackReq};

use self::basis::{dot, square};
use super::judge::{RowAt, exact_image, row_at};
use super::problem::Sample;
use super::rows::RowSource;
use crate::Real;

/// Entries of the basis that are held at most.
const MOST_ENTRIES: usize = 1 << 21;
/// Operations that the last try may take.
pub(super) const MOST_OPERATIONS: f64 = 5e9;
/// A row this close to the span of the others, relative to its free part, counts as a combination of them. Systems of
/// condition 1e12 are above, what Gram-Schmidt leaves of a dependent row is below.
const DEPENDENT: f64 = 1e-14;
/// Share of a trade of multipliers that is rounding.
const NO_TRADE: f64 = 4.0 * f64::EPSILON;
/// By which shares of what counts as attained the boxes are widened, one try after the other: the scales of the rows are
/// those at the point before, and what is within rounding of being out of reach needs more than the rounding of the data.
const SHARES: [f64; 3] = [0.125, 0.125, 0.5];
/// Further share that a row may miss without being added, so that rounding does not.
const MARGIN: f64 = 0.0625;
/// Distance to an end, in roundings of the sum, below which a row is evaluated beyond double precision.
const FEW_ROUNDINGS: f64 = 64.0;
/// Rounds of dropping what the Newton method has wrongly left active.
const ROUNDS: usize = 20;
/// Smallest pivot of the active rows, over the largest, below which one of them may be active for the rounding of the point alone,
/// whose worth grows with the multipliers.
const TOUCHY: f64 = 1e-7;

/// How the method ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rescue {
    /// The point is the nearest one.
    Solved,
    /// The constraints contradict each other.
    OutOfReach,
    /// The steps ran out, or the system is too large.
    GaveUp,
}

/// Whether a basis for `m` rows and `n` columns fits.
pub(super) const fn fits(m: usize, n: usize) -> bool {
    (if m < n { m } else { n }).saturating_mul(n) <= MOST_ENTRIES
}

/// Workspace of [`rescue`].
pub(super) fn rescue_scratch(m: usize, n: usize) -> StackReq {
    if !fits(m, n) {
        return StackReq::EMPTY;
    }
    let rank = m.min(n);
    StackReq::all_of(&[
        StackReq::new::<usize>(rank),
        StackReq::new::<f64>(rank).array(5),
        StackReq::new::<f64>(n).array(6),
        StackReq::new::<f64>(m),
        StackReq::new::<Side>(n),
        StackReq::new::<f64>(n * rank),
        StackReq::new::<f64>(rank * rank),
        StackReq::new::<u8>(256).array(16),
    ])
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Free,
    Lower,
    Upper,
}

impl Side {
    /// Sign of the multiplier that holds an entry there.
    fn sign(self) -> f64 {
        match self {
            Self::Free => 0.0,
            Self::Lower => 1.0,
            Self::Upper => -1.0,
        }
    }
}

/// What is active, or may become so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Constraint {
    Row(usize),
    Entry(usize),
}

/// A constraint that is missed, and by how much; the sign is that of its multiplier.
#[derive(Clone, Copy, Debug)]
struct Missed {
    constraint: Constraint,
    sign: f64,
}

/// The method at work on one sample.
struct ActiveSet<'a, R> {
    rows: &'a R,
    sample: Sample<'a, f64>,
    /// The active rows, the signs of their ends and their multipliers.
    active: &'a mut [usize],
    signs: &'a mut [f64],
    weights: &'a mut [f64],
    count: usize,
    /// Where every entry stands, and the multiplier of its bound.
    sides: &'a mut [Side],
    pushes: &'a mut [f64],
    /// Orthonormal basis of the free parts of the active rows, and its coefficients.
    basis: &'a mut [f64],
    triangle: &'a mut [f64],
    moved: &'a mut [f64],
    point: &'a mut [f64],
    across: &'a mut [f64],
    change: &'a mut [f64],
    /// Size of the terms of every change.
    terms: &'a mut [f64],
    along: &'a mut [f64],
    trade: &'a mut [f64],
    right: &'a mut [f64],
    /// By how much the box of every row is widened.
    widened: &'a mut [f64],
    operations: f64,
    most_operations: f64,
}

/// Solves one sample whose outputs are scaled like the rows, with data in the precision of `T`; starts from the
/// active constraints of `solution` and `multipliers`, and overwrites `solution` if it succeeds.
pub(super) fn rescue<T: Real, R: RowSource<f64>>(
    rows: &R,
    sample: Sample<'_, f64>,
    multipliers: &[f64],
    solution: &mut [f64],
    most_operations: f64,
    stack: &mut MemStack,
) -> Rescue {
    let (m, n) = (rows.nrows(), rows.ncols());
    if !fits(m, n) || sample.bounds.fix_some(n) {
        return Rescue::GaveUp;
    }
    let rank = m.min(n);
    let (mut active, stack) = stack.make_with(rank, |_| 0);
    let (mut signs, stack) = stack.make_with(rank, |_| 0.0);
    let (mut weights, stack) = stack.make_with(rank, |_| 0.0);
    let (mut along, stack) = stack.make_with(rank, |_| 0.0);
    let (mut trade, stack) = stack.make_with(rank, |_| 0.0);
    let (mut right, stack) = stack.make_with(rank, |_| 0.0);
    let (mut sides, stack) = stack.make_with(n, |_| Side::Free);
    let (mut pushes, stack) = stack.make_with(n, |_| 0.0);
    let (mut moved, stack) = stack.make_with(n, |_| 0.0);
    let (mut point, stack) = stack.make_with(n, |_| 0.0);
    let (mut across, stack) = stack.make_with(n, |_| 0.0);
    let (mut change, stack) = stack.make_with(n, |_| 0.0);
    let (mut terms, stack) = stack.make_with(n, |_| 0.0);
    let (mut widened, stack) = stack.make_with(m, |_| 0.0);
    let (mut basis, stack) = stack.make_with(n * rank, |_| 0.0);
    let (mut triangle, _) = stack.make_with(rank * rank, |_| 0.0);
    let mut set = ActiveSet {
        rows,
        sample,
        active: &mut active,
        signs: &mut signs,
        weights: &mut weights,
        count: 0,
        sides: &mut sides,
        pushes: &mut pushes,
        basis: &mut basis,
        triangle: &mut triangle,
        moved: &mut moved,
        point: &mut point,
        across: &mut across,
        change: &mut change,
        terms: &mut terms,
        along: &mut along,
        trade: &mut trade,
        right: &mut right,
        widened: &mut widened,
        operations: 0.0,
        most_operations,
    };
    crate::dispatch(
        #[inline(always)]
        || {
            let mut ended = Rescue::GaveUp;
            set.point.copy_from_slice(solution);
            for (attempt, share) in SHARES.into_iter().enumerate() {
                set.widen::<T>(share);
                if attempt == 0 {
                    set.take_active(multipliers, solution);
                }
                set.drop_all_wrong();
                ended = set.run::<T>();
                if ended == Rescue::GaveUp {
                    break;
                }
                if ended == Rescue::Solved && set.attains::<T>() {
                    solution.copy_from_slice(set.point);
                    if set.is_touchy() && set.is_nearer_from_the_start::<T>(solution) {
                        solution.copy_from_slice(set.point);
                    }
                    sample.bounds.clip_all(solution);
                    break;
                }
            }
            ended
        },
    )
}

impl<R: RowSource<f64>> ActiveSet<'_, R> {
    /// Takes over what is active at `solution`.
    fn take_active(&mut self, multipliers: &[f64], solution: &[f64]) {
        for (entry, (side, &v)) in self.sides.iter_mut().zip(solution).enumerate() {
            let (low, high) = self.sample.bounds.at(entry);
            *side = if v == low {
                Side::Lower
            } else if v == high {
                Side::Upper
            } else {
                Side::Free
            };
        }
        self.count = 0;
        for (i, &weight) in multipliers.iter().enumerate() {
            if weight != 0.0 && weight.is_finite() && self.count < self.active.len() {
                (self.active[self.count], self.signs[self.count]) = (i, weight.signum());
                self.count += 1;
            }
        }
    }

    /// Drops what pushes to the wrong side, until nothing does.
    fn drop_all_wrong(&mut self) {
        for _ in 0..ROUNDS {
            self.factorise();
            self.settle();
            if !self.drop_wrong() {
                return;
            }
        }
        self.drop_all();
    }

    /// Goes back to the start, which is the nearest point without constraints.
    fn drop_all(&mut self) {
        self.count = 0;
        self.sides.fill(Side::Free);
        self.settle();
    }

    /// Whether the active rows nearly depend on each other.
    fn is_touchy(&self) -> bool {
        let rank = self.active.len();
        let pivots = (0..self.count).map(|k| self.triangle[k * (rank + 1)]);
        let (least, most) = pivots.fold((f64::INFINITY, 0.0_f64), |(least, most), p| (least.min(p), most.max(p)));
        least < TOUCHY * most
    }

    /// Begins anew without anything active, with more room for rounding; whether that ends at a point that attains the box nearer
    /// than `found`.
    fn is_nearer_from_the_start<T: Real>(&mut self, found: &[f64]) -> bool {
        self.widen::<T>(SHARES[SHARES.len() - 1]);
        let start = self.sample.start;
        let way = |v: &[f64]| v.iter().zip(start).map(|(v, start)| (v - start).powi(2)).sum::<f64>();
        self.drop_all();
        self.run::<T>() == Rescue::Solved && self.attains::<T>() && way(self.point) < way(found)
    }

    /// Widens the box of every row by a share of what counts as attained at the present point.
    fn widen<T: Real>(&mut self, share: f64) {
        for row in 0..self.rows.nrows() {
            self.widened[row] = share * self.row_at(row).slack::<T>();
        }
    }

    fn row_at(&self, row: usize) -> RowAt {
        row_at(self.rows.row(row), self.sample.start, self.sample.image[row], self.point)
    }

    /// What a row lacks to its box as it was.
    fn gap(&self, row: usize, at: &RowAt) -> f64 {
        let (lower, upper) = (self.sample.lower[row], self.sample.upper[row]);
        if (at.image - lower).abs().min((upper - at.image).abs()) > FEW_ROUNDINGS * at.rounding() {
            return at.image.clip(lower, upper) - at.image;
        }
        let (sum, rest) = exact_image(self.rows.row(row), self.sample.start, self.sample.image[row], self.point);
        (sum.clip(lower, upper) - sum) - rest
    }

    /// What a row lacks to `end` at the present point, which rounding does not decide.
    fn lacks(&self, row: usize, end: f64) -> f64 {
        let (sum, rest) = exact_image(self.rows.row(row), self.sample.start, self.sample.image[row], self.point);
        (end - sum) - rest
    }

    /// Whether every row attains its box, with some room left for rounding the point.
    fn attains<T: Real>(&self) -> bool {
        (0..self.rows.nrows()).all(|row| {
            let at = self.row_at(row);
            self.gap(row, &at).abs() <= 0.75 * at.slack::<T>()
        })
    }

    /// Drops every constraint whose multiplier has the wrong sign; whether there were any.
    fn drop_wrong(&mut self) -> bool {
        let mut kept = 0;
        for k in 0..self.count {
            if self.signs[k] * self.weights[k] >= 0.0 {
                (self.active[kept], self.signs[kept]) = (self.active[k], self.signs[k]);
                kept += 1;
            }
        }
        let mut dropped = kept < self.count;
        self.count = kept;
        for (side, push) in self.sides.iter_mut().zip(self.pushes.iter()) {
            if side.sign() * push < 0.0 {
                *side = Side::Free;
                dropped = true;
            }
        }
        dropped
    }

    fn run<T: Real>(&mut self) -> Rescue {
        let steps = 50 + 4 * (self.rows.nrows() + self.rows.ncols());
        let mut left = steps;
        while let Some(missed) = self.most_missed::<T>() {
            let mut weight = 0.0;
            loop {
                if left == 0 || self.operations > self.most_operations {
                    return Rescue::GaveUp;
                }
                left -= 1;
                let square = self.direction(missed);
                let (partial, blocking) = self.blocking();
                let full = if square > 0.0 { self.missing(missed) / square } else { f64::INFINITY };
                let step = full.min(partial);
                if !step.is_finite() {
                    return if step.is_nan() { Rescue::GaveUp } else { Rescue::OutOfReach };
                }
                self.advance(step);
                weight += step;
                match blocking {
                    Some(constraint) if partial < full => self.drop_one(constraint),
                    _ => break,
                }
            }
            if !self.add(missed, weight) {
                return Rescue::GaveUp;
            }
            self.settle();
        }
        if self.point.iter().all(|v| v.is_finite()) { Rescue::Solved } else { Rescue::GaveUp }
    }

    /// The nearest point at which everything active holds with equality, and the multipliers, afresh.
    fn settle(&mut self) {
        let n = self.sides.len();
        let sides = self.sides.iter().zip(self.sample.start);
        for (entry, (moved, (&side, &start))) in self.moved.iter_mut().zip(sides).enumerate() {
            let (low, high) = self.sample.bounds.at(entry);
            *moved = match side {
                Side::Free => 0.0,
                Side::Lower => low - start,
                Side::Upper => high - start,
            };
        }
        self.along[..self.count].fill(0.0);
        // Once more from what is left, because the right-hand sides cancel.
        for _ in 0..2 {
            for k in 0..self.count {
                self.right[k] = self.end_of(self.active[k], self.signs[k]) - self.image(self.active[k]);
            }
            self.move_along();
        }
        self.update_point();
        // And from the point itself: near 0 it is finer than its distance from the start.
        for k in 0..self.count {
            self.right[k] = self.lacks(self.active[k], self.end_of(self.active[k], self.signs[k]));
        }
        self.move_along();
        for k in 0..self.count {
            let weight = self.right[k];
            let column = &self.basis[k * n..][..n];
            self.point.iter_mut().zip(column).for_each(|(v, q)| *v += weight * q);
        }
        self.operations += 24.0 * (n * self.count) as f64;
        let (along, mut weights) = (&*self.along, std::mem::take(&mut self.weights));
        self.solve_triangle(along, weights);
        std::mem::swap(&mut self.weights, &mut weights);
        self.pushes.copy_from_slice(self.moved);
        for k in 0..self.count {
            let weight = self.weights[k];
            let row = self.rows.row(self.active[k]);
            self.pushes.iter_mut().zip(row).for_each(|(push, a)| *push -= weight * a);
        }
        for (push, &side) in self.pushes.iter_mut().zip(self.sides.iter()) {
            *push = if side == Side::Free { 0.0 } else { *push };
        }
    }

    /// Moves along the basis by what the active rows lack, `right`, which becomes the coefficients of the move.
    fn move_along(&mut self) {
        let (n, rank) = (self.sides.len(), self.active.len());
        for k in 0..self.count {
            let column = &self.triangle[k * rank..][..=k];
            let known = dot(&column[..k], &self.right[..k]);
            self.right[k] = (self.right[k] - known) / column[k];
        }
        for k in 0..self.count {
            let weight = self.right[k];
            self.along[k] += weight;
            let column = &self.basis[k * n..][..n];
            self.moved.iter_mut().zip(column).for_each(|(moved, q)| *moved += weight * q);
        }
    }

    fn update_point(&mut self) {
        let entries = self.point.iter_mut().zip(self.moved.iter()).zip(self.sides.iter()).zip(self.sample.start);
        for (entry, (((v, moved), side), start)) in entries.enumerate() {
            let (low, high) = self.sample.bounds.at(entry);
            *v = match side {
                Side::Free => start + moved,
                Side::Lower => low,
                Side::Upper => high,
            };
        }
    }

    fn end_of(&self, row: usize, sign: f64) -> f64 {
        if sign > 0.0 { self.sample.lower[row] - self.widened[row] } else { self.sample.upper[row] + self.widened[row] }
    }

    fn image(&self, row: usize) -> f64 {
        self.sample.image[row] + dot(self.rows.row(row), self.moved)
    }

    /// The constraint that is missed by the most, by more than rounding.
    fn most_missed<T: Real>(&mut self) -> Option<Missed> {
        let (m, n) = (self.rows.nrows(), self.rows.ncols());
        let mut worst = None;
        let mut most = 0.0;
        for row in (0..m).filter(|row| !self.active[..self.count].contains(row)) {
            let at = self.row_at(row);
            let gap = self.gap(row, &at);
            let missed = gap.abs() - self.widened[row];
            if missed > most && missed > MARGIN * at.slack::<T>() {
                (most, worst) = (missed, Some(Missed { constraint: Constraint::Row(row), sign: gap.signum() }));
            }
        }
        self.operations += 8.0 * (m * n) as f64;
        for (entry, (&v, &start)) in self.point.iter().zip(self.sample.start).enumerate() {
            let gap = self.sample.bounds.clip(entry, v) - v;
            if gap.abs() > most && gap.abs() > 8.0 * f64::EPSILON * (v.abs() + start.abs()) {
                (most, worst) = (gap.abs(), Some(Missed { constraint: Constraint::Entry(entry), sign: gap.signum() }));
            }
        }
        worst
    }

    /// What a constraint lacks.
    fn missing(&self, missed: Missed) -> f64 {
        let gap = match missed.constraint {
            Constraint::Row(row) => self.lacks(row, self.end_of(row, missed.sign)),
            Constraint::Entry(entry) => {
                let (low, high) = self.sample.bounds.at(entry);
                (if missed.sign > 0.0 { low } else { high }) - self.point[entry]
            }
        };
        (missed.sign * gap).max(0.0)
    }

    /// Direction `across` that leaves everything active as it is, and how the multipliers trade; returns the squared
    /// length of the direction, zero if the constraint depends on the active ones.
    fn direction(&mut self, missed: Missed) -> f64 {
        match missed.constraint {
            Constraint::Row(row) => {
                self.change.iter_mut().zip(self.rows.row(row)).for_each(|(to, a)| *to = missed.sign * a);
            }
            Constraint::Entry(entry) => {
                self.change.fill(0.0);
                self.change[entry] = missed.sign;
            }
        }
        for ((to, &normal), &side) in self.across.iter_mut().zip(self.change.iter()).zip(self.sides.iter()) {
            *to = if side == Side::Free { normal } else { 0.0 };
        }
        self.terms.iter_mut().zip(self.change.iter()).for_each(|(terms, normal)| *terms = normal.abs());
        let size = square(self.across).sqrt();
        self.split();
        let (along, mut trade) = (&*self.along, std::mem::take(&mut self.trade));
        self.solve_triangle(along, trade);
        std::mem::swap(&mut self.trade, &mut trade);
        for k in 0..self.count {
            let weight = self.trade[k];
            let row = self.rows.row(self.active[k]);
            for ((change, terms), a) in self.change.iter_mut().zip(self.terms.iter_mut()).zip(row) {
                *change -= weight * a;
                *terms += (weight * a).abs();
            }
        }
        let rest = square(self.across);
        if rest.sqrt() <= DEPENDENT * size { 0.0 } else { rest }
    }

    /// How far the multipliers may go before one vanishes, and whose that is.
    fn blocking(&self) -> (f64, Option<Constraint>) {
        let (mut step, mut found) = (f64::INFINITY, None);
        let largest = self.trade[..self.count].iter().fold(0.0_f64, |most, r| most.max(r.abs()));
        for k in 0..self.count {
            let trade = self.signs[k] * self.trade[k];
            if trade > NO_TRADE * largest {
                let most = (self.signs[k] * self.weights[k]).max(0.0) / trade;
                if most < step {
                    (step, found) = (most, Some(Constraint::Row(k)));
                }
            }
        }
        for (entry, (side, change)) in self.sides.iter().zip(self.change.iter()).enumerate() {
            let trade = side.sign() * change;
            // Columns may be of very different size, so that each has its own rounding.
            if *side != Side::Free && trade > NO_TRADE * self.terms[entry] {
                let most = (side.sign() * self.pushes[entry]).max(0.0) / trade;
                if most < step {
                    (step, found) = (most, Some(Constraint::Entry(entry)));
                }
            }
        }
        (step, found)
    }

    fn advance(&mut self, step: f64) {
        self.moved.iter_mut().zip(self.across.iter()).for_each(|(moved, z)| *moved += step * z);
        self.point.iter_mut().zip(self.across.iter()).for_each(|(v, z)| *v += step * z);
        for k in 0..self.count {
            self.weights[k] -= step * self.trade[k];
        }
        for ((push, change), side) in self.pushes.iter_mut().zip(self.change.iter()).zip(self.sides.iter()) {
            *push -= if *side == Side::Free { 0.0 } else { step * change };
        }
    }

    /// Drops an active row, given by its place, or frees an entry.
    fn drop_one(&mut self, constraint: Constraint) {
        match constraint {
            Constraint::Row(place) => {
                self.active.copy_within(place + 1..self.count, place);
                self.signs.copy_within(place + 1..self.count, place);
                self.weights.copy_within(place + 1..self.count, place);
                self.count -= 1;
            }
            Constraint::Entry(entry) => {
                self.sides[entry] = Side::Free;
                self.pushes[entry] = 0.0;
            }
        }
        self.factorise();
    }

    /// Adds a constraint; false if it depends on the active ones.
    fn add(&mut self, missed: Missed, weight: f64) -> bool {
        match missed.constraint {
            Constraint::Row(row) => self.append(row, missed.sign, missed.sign * weight),
            Constraint::Entry(entry) => {
                self.sides[entry] = if missed.sign > 0.0 { Side::Lower } else { Side::Upper };
                self.factorise();
                true
            }
        }
    }
}
