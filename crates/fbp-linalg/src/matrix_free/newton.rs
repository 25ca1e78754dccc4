//! The inner iteration: semismooth Newton steps by conjugate gradients, with an exact line search that costs no product.

use crate::{LinalgError, Real};
use faer::dyn_stack::MemStack;

use super::solver::{Problem, Solver};

/// Newton steps per minimum; a piecewise quadratic function needs a few more than it crosses pieces.
const STEPS: usize = 60;
/// Steps in a row that fail to halve the gradient on one piece, after which it is rounding.
const STALLED: usize = 2;
/// Relative residual of the conjugate gradients while the active rows and bounds still change.
const LOOSE: f64 = 0.03;
/// The gradient of a minimum may be as large as this share of the distance to the box, over the norm of the map.
const INEXACT: f64 = 0.03;
/// Slope that may be left by the line search, as a share of that at its start.
const FLAT: f64 = 0.1;
/// Halvings of the line search.
const HALVINGS: usize = 60;

impl Solver<'_> {
    /// Minimises the penalised distance for the present multipliers, to the accuracy that the outer step is worth (at most
    /// `loose` of the first gradient, or to rounding); tells whether that was reached.
    pub(super) fn minimise(
        &mut self,
        problem: &Problem<'_>,
        loose: Option<f64>,
        stack: &mut MemStack,
    ) -> Result<bool, LinalgError> {
        let mut first = 0.0;
        let (mut least, mut stalled) = (f64::INFINITY, 0);
        for step in 0..STEPS {
            let changed = self.update_gradient(problem, stack)?;
            let size = self.gradient_size();
            first = if step == 0 { size } else { first };
            let rounding = f64::EPSILON * super::solver::norm(&self.cols.point)
                + 0.25 * self.scale.norm() * self.image_rounding() / self.row_weight;
            let needed = 0.1 * problem.tolerance / self.scale.norm();
            let wanted =
                loose.map_or(0.0, |loose| (INEXACT * self.distance(problem) / self.scale.norm()).min(first * loose));
            let wanted = wanted.max(needed).max(rounding);
            // The gradient may grow from piece to piece; on one piece only rounding stops it from falling.
            stalled = if !changed && size > 0.5 * least { stalled + 1 } else { 0 };
            least = size;
            if size <= wanted || stalled >= STALLED {
                return Ok(true);
            }
            if self.products >= self.budget {
                return Ok(false);
            }
            let accuracy = if changed || step == 0 { LOOSE } else { (0.3 * wanted / size).clamp(1e-12, LOOSE) };
            self.newton_direction(accuracy, stack)?;
            self.products += 1;
            self.map.apply(&self.cols.step, &mut self.rows.step, stack)?;
            let Some(length) = self.line_search(problem) else { return Ok(true) };
            for (v, d) in self.cols.point.iter_mut().zip(&self.cols.step) {
                *v += length * d;
            }
            self.update_image(problem, stack)?;
        }
        self.update_gradient(problem, stack)?;
        Ok(false)
    }

    /// Writes the gradient and which rows and bounds take part; tells whether these changed.
    fn update_gradient(&mut self, problem: &Problem<'_>, stack: &mut MemStack) -> Result<bool, LinalgError> {
        let mut changed = false;
        let ends = problem.lower.iter().zip(problem.upper);
        let rows = &mut self.rows;
        let parts = rows.pull.iter_mut().zip(rows.active.iter_mut()).zip(rows.image.iter().zip(&rows.multipliers));
        for (((pull, active), (w, lambda)), (low, high)) in parts.zip(ends) {
            let shifted = w - self.row_weight * lambda;
            let beyond = shifted - shifted.clip(*low, *high);
            *pull = beyond / self.row_weight;
            let takes_part = beyond != 0.0 || low == high;
            changed |= takes_part != *active;
            *active = takes_part;
        }
        self.products += 1;
        self.map.adjoint(&rows.pull, &mut self.cols.gradient, stack)?;
        let (low, high) = problem.bounds;
        let cols = &mut self.cols;
        let parts = cols.gradient.iter_mut().zip(cols.bound.iter_mut()).zip(cols.point.iter().zip(&cols.multipliers));
        for (((g, bound), (v, mu)), start) in parts.zip(problem.start) {
            let shifted = v - self.bound_weight * mu;
            let beyond = shifted - shifted.clip(low, high);
            *g += v - start + beyond / self.bound_weight;
            changed |= (beyond != 0.0) != *bound;
            *bound = beyond != 0.0;
        }
        Ok(changed)
    }

    /// Solves `(I + AᵀPA/ε + Q/δ) step = -gradient` by conjugate gradients, preconditioned by the diagonal.
    fn newton_direction(&mut self, accuracy: f64, stack: &mut MemStack) -> Result<(), LinalgError> {
        let share = self.rows.active.iter().filter(|active| **active).count() as f64 / self.rows.active.len() as f64;
        let plain = 1.0 + share * self.scale.column_square / self.row_weight;
        let (free, held) = (1.0 / plain, 1.0 / (plain + 1.0 / self.bound_weight));
        let cols = &mut self.cols;
        let weight = |bound: bool| if bound { held } else { free };
        cols.step.fill(0.0);
        let mut energy = 0.0;
        for ((res, p), (g, bound)) in
            cols.residual.iter_mut().zip(cols.direction.iter_mut()).zip(cols.gradient.iter().zip(&cols.bound))
        {
            *res = -g;
            *p = *res * weight(*bound);
            energy += *res * *p;
        }
        let goal = accuracy * accuracy * energy;
        let cap = self.budget.saturating_sub(self.products).min(10 * cols.step.len() + 10);
        for _ in 0..cap {
            if energy <= goal {
                break;
            }
            self.products += 1;
            let rows = &mut self.rows;
            self.map.apply(&cols.direction, &mut rows.product, stack)?;
            for (y, active) in rows.product.iter_mut().zip(&rows.active) {
                *y = if *active { *y / self.row_weight } else { 0.0 };
            }
            self.map.adjoint(&rows.product, &mut cols.product, stack)?;
            for (hp, (p, bound)) in cols.product.iter_mut().zip(cols.direction.iter().zip(&cols.bound)) {
                *hp += if *bound { p + p / self.bound_weight } else { *p };
            }
            let curvature = Self::inner(&cols.direction, &cols.product);
            let length = energy / curvature;
            if !(curvature > 0.0 && length.is_finite()) {
                break;
            }
            let mut next = 0.0;
            let parts = cols.step.iter_mut().zip(cols.residual.iter_mut());
            let vectors = cols.direction.iter().zip(&cols.product).zip(&cols.bound);
            for ((step, res), ((p, hp), bound)) in parts.zip(vectors) {
                *step += length * p;
                *res -= length * hp;
                next += *res * *res * weight(*bound);
            }
            let ratio = next / energy;
            for (p, (res, bound)) in cols.direction.iter_mut().zip(cols.residual.iter().zip(&cols.bound)) {
                *p = *res * weight(*bound) + ratio * *p;
            }
            energy = next;
        }
        Ok(())
    }

    /// Length of the step at which its slope nearly vanishes; `None` if it does not go down, or only by rounding.
    ///
    /// The slope grows along the step, so that a root is bracketed and then found by false position.
    fn line_search(&self, problem: &Problem<'_>) -> Option<f64> {
        let start = self.slope(problem, 0.0);
        if start >= 0.0 || !start.is_finite() {
            return None;
        }
        let mut end = self.slope(problem, 1.0);
        if end.abs() <= FLAT * start.abs() {
            return Some(1.0);
        }
        // The slope grows at least as that of the distance from the start; beyond this length it is rounding.
        let farthest = 2.0 - start / Self::inner(&self.cols.step, &self.cols.step);
        let (mut low, mut low_slope, mut high) = (0.0, start, 1.0);
        while end < 0.0 {
            (low, low_slope, high) = (high, end, 2.0 * high);
            end = self.slope(problem, high);
            if high > farthest {
                return None;
            }
        }
        let mut high_slope = end;
        let mut last = 0;
        for _ in 0..HALVINGS {
            let middle = low - low_slope * (high - low) / (high_slope - low_slope);
            let middle = if low < middle && middle < high { middle } else { 0.5 * (low + high) };
            let slope = self.slope(problem, middle);
            if slope.abs() <= FLAT * start.abs() {
                return Some(middle);
            }
            if slope < 0.0 {
                (low, low_slope) = (middle, slope);
                high_slope *= if last == -1 { 0.5 } else { 1.0 };
                last = -1;
            } else {
                (high, high_slope) = (middle, slope);
                low_slope *= if last == 1 { 0.5 } else { 1.0 };
                last = 1;
            }
        }
        (low > 0.0).then_some(low)
    }
}
