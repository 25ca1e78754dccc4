//! Box-constrained nearest points by a dual active-set method in twice the precision of `f64`.
//!
//! For problems that are too badly scaled for an interior-point method: its multipliers prove next to nothing there, and
//! its point lies outside the box. Conditions up to about 1e20 are resolved here, at a price that only small problems allow.
//!
//! # Source
//! Goldfarb & Idnani, Math. Programming 27 (1983), with the factors of the active constraints made anew in every step.

use super::affine::Affine;
use super::exact::norm;
use super::qp::Answer;
use super::svd::{Proof, power_of_two};
use super::wide::{Wide, product};

/// Exchanges of constraints after which the problem counts as too hard.
const MOST_STEPS: usize = 1000;
/// What is left of a constraint beside the active ones, relative to it, if it depends on them.
const DEPENDENT: f64 = 1e-25;

/// `normal · v >= end`, all in units of a power of two.
struct Constraint {
    normal: Vec<Wide>,
    end: Wide,
    /// What may be missing.
    rounding: f64,
    /// Row and factor from the multiplier of the constraint to that of the row; none for bounds of entries.
    row: Option<(usize, f64)>,
}

/// The active constraints and their orthogonal factors.
#[derive(Default)]
struct Active {
    list: Vec<usize>,
    weights: Vec<Wide>,
    basis: Vec<Vec<Wide>>,
    /// Column `k` holds the coefficients of constraint `k`.
    triangle: Vec<Vec<Wide>>,
}

impl Active {
    /// What is left of a normal beside the basis, and its coefficients.
    fn split(&self, normal: &[Wide]) -> (Vec<Wide>, Vec<Wide>) {
        let (mut rest, mut along) = (normal.to_vec(), vec![Wide::ZERO; self.basis.len()]);
        for _ in 0..2 {
            for (q, along) in self.basis.iter().zip(&mut along) {
                let share = product(q, &rest);
                *along = *along + share;
                rest.iter_mut().zip(q).for_each(|(rest, &q)| *rest = *rest - share * q);
            }
        }
        (rest, along)
    }

    fn push(&mut self, constraints: &[Constraint], index: usize, weight: Wide) {
        let (rest, mut along) = self.split(&constraints[index].normal);
        let size = product(&rest, &rest).sqrt();
        self.basis.push(rest.iter().map(|&rest| rest / size).collect());
        along.push(size);
        self.triangle.push(along);
        self.list.push(index);
        self.weights.push(weight);
    }

    fn remove(&mut self, constraints: &[Constraint], place: usize) {
        let old = std::mem::take(self);
        let kept = old.list.into_iter().zip(old.weights).enumerate().filter(|(k, _)| *k != place);
        kept.for_each(|(_, (index, weight))| self.push(constraints, index, weight));
    }

    /// How the weights trade against one more constraint.
    fn trade(&self, along: &[Wide]) -> Vec<Wide> {
        let mut trade = along.to_vec();
        for k in (0..trade.len()).rev() {
            trade[k] = trade[k] / self.triangle[k][k];
            let weight = trade[k];
            (0..k).for_each(|l| trade[l] = trade[l] - weight * self.triangle[k][l]);
        }
        trade
    }
}

/// The rows with their boxes widened by `widths`, and the bounds of the entries.
fn constraints(problem: &Affine, widths: &[f64]) -> Vec<Constraint> {
    let (m, n) = problem.shape();
    let mut found = Vec::new();
    for i in (0..m).filter(|&i| problem.rows[i].iter().any(|a| *a != 0.0)) {
        let scale = power_of_two(norm(&problem.rows[i]));
        for (sign, end) in [(1.0, problem.lower[i]), (-1.0, problem.upper[i])] {
            if end.is_finite() {
                let normal = problem.rows[i].iter().map(|a| Wide::from(sign * scale * a)).collect();
                let end = Wide::from(sign * scale * end) - Wide::from(sign * scale * problem.bias[i]);
                let end = end - Wide::from(scale * widths[i]);
                found.push(Constraint {
                    normal,
                    end,
                    rounding: 1e-3 * scale * widths[i],
                    row: Some((i, sign * scale)),
                });
            }
        }
    }
    for (j, start) in problem.start.iter().enumerate() {
        for (sign, end) in [(1.0, problem.range.0), (-1.0, problem.range.1)] {
            if end.is_finite() {
                let normal = (0..n).map(|k| Wide::from(if k == j { sign } else { 0.0 })).collect();
                let rounding = 1e-20 * (end.abs() + start.abs());
                found.push(Constraint { normal, end: Wide::from(sign * end), rounding, row: None });
            }
        }
    }
    found
}

/// Point and multipliers with the box of row `i` widened by `widths[i]`; `None` if there is no point, or none was found.
pub(crate) fn solve(problem: &Affine, widths: &[f64]) -> Option<Answer> {
    let constraints = constraints(problem, widths);
    let mut point: Vec<Wide> = problem.start.iter().map(|&v| Wide::from(v)).collect();
    let mut active = Active::default();
    let mut steps = 0;
    while let Some(worst) = most_missed(&constraints, &active, &point) {
        let normal = &constraints[worst].normal;
        let mut weight = Wide::ZERO;
        loop {
            steps += 1;
            if steps > MOST_STEPS {
                return None;
            }
            let (rest, along) = active.split(normal);
            let (square, trade) = (product(&rest, &rest), active.trade(&along));
            let dependent = square.sqrt().value() <= DEPENDENT * product(normal, normal).sqrt().value();
            let missing = constraints[worst].end - product(normal, &point);
            let full = if dependent { f64::INFINITY } else { (missing / square).value() };
            let ratios = trade.iter().zip(&active.weights).enumerate().filter(|(_, (trade, _))| trade.value() > 0.0);
            let blocking = ratios
                .map(|(place, (&trade, &weight))| (place, weight / trade))
                .min_by(|(_, a), (_, b)| a.value().total_cmp(&b.value()))
                .filter(|(_, ratio)| ratio.value() < full);
            let step = match blocking {
                Some((_, ratio)) => ratio,
                None if dependent => return None,
                None => missing / square,
            };
            if !dependent {
                point.iter_mut().zip(&rest).for_each(|(v, &rest)| *v = *v + step * rest);
            }
            active.weights.iter_mut().zip(&trade).for_each(|(weight, &trade)| *weight = *weight - step * trade);
            weight = weight + step;
            match blocking {
                Some((place, _)) => active.remove(&constraints, place),
                None => break,
            }
        }
        active.push(&constraints, worst, weight);
    }
    let (low, high) = problem.range;
    let mut multipliers = vec![0.0; problem.rows.len()];
    for (&index, weight) in active.list.iter().zip(&active.weights) {
        if let Some((row, factor)) = constraints[index].row {
            multipliers[row] += factor * weight.value();
        }
    }
    let point: Vec<f64> = point.into_iter().map(|v| v.value().clamp(low, high)).collect();
    let finite = point.iter().chain(&multipliers).all(|x| x.is_finite());
    finite.then_some(Answer { point, proof: Proof { multipliers, ..Proof::default() } })
}

/// The constraint that misses its end by the most.
fn most_missed(constraints: &[Constraint], active: &Active, point: &[Wide]) -> Option<usize> {
    let missing = |(index, constraint): (usize, &Constraint)| {
        let missing = (constraint.end - product(&constraint.normal, point)).value();
        (missing > constraint.rounding && !active.list.contains(&index)).then_some((index, missing))
    };
    constraints.iter().enumerate().filter_map(missing).max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}
