//! Proximal method of multipliers: the outer iteration.
//!
//! Rows and bounds get multipliers `λ` and `μ` and weights `1/ε` and `1/δ`. One step minimises the smooth, strongly convex
//!
//! ```text
//! ½|v - v0|² + dist²(w(v) - ελ, [lo, hi])/2ε + dist²(v - δμ, [l, u])/2δ
//! ```
//!
//! by a semismooth Newton method ([`newton`](super::newton)) and takes `μ` from its gradient, and `λ` as soon as the bounds
//! are kept well enough. On feasible problems the steps converge to the nearest point; on infeasible ones the distance to
//! the box becomes as small as the range allows and `v` the nearest point there. `ε` and `δ` fall where progress is slow: a small one needs few steps, but long
//! conjugate gradients.
//!
//! # Source
//! Rockafellar, *Augmented Lagrangians and applications of the proximal point algorithm in convex programming*, Math.
//! Oper. Res. 1 (1976); the infeasible case: Chiche & Gilbert, J. Convex Analysis 23 (2016). Stopping rules and weights:
//! own choice.

use crate::LinalgError;
use crate::Real as _;
use faer::dyn_stack::MemStack;

use super::map::{LinearMap, MapScale};

/// First and smallest `ε`, as shares of the mean squared row norm.
const ROW_WEIGHT: (f64, f64) = (1e-2, 1e-6);
/// Smallest `δ` over `ε`, both relative to the Hessian of their terms. It starts at 1: at 1e-4 every Newton step ends at
/// the next bound, and a layer from 8 to 4 channels, 5 × 5, on 32 × 32 takes 15 times as many products.
const LEAST_BOUNDS: f64 = 1e-6;
/// Factor of `ε` after a step that brought the rows closer by less than this factor.
const FASTER: f64 = 0.1;
/// Steps of the method of multipliers.
const OUTER_STEPS: usize = 200;
/// Operations that one sample may take, and the fewest and most pairs of products that this may come to.
const OPERATIONS: f64 = 1e11;
const PAIRS: (f64, f64) = (500.0, 20_000.0);
/// Share of the distance to the box by which a projected gradient step may still change the point, for a target that
/// cannot be reached.
const SETTLED: f64 = 1e-9;

/// Rounding of the multipliers that a violation may be put down to, in tolerances.
const MOST_ROUNDING: f64 = 7.0;
/// Distance to the box that may be rounding, in units of that of the image.
const NOT_ROUNDING: f64 = 1e3;

/// One sample, widened.
pub(super) struct Problem<'a> {
    /// The point to stay near.
    pub(super) start: &'a [f64],
    /// Its image with the bias.
    pub(super) image: &'a [f64],
    pub(super) lower: &'a [f64],
    pub(super) upper: &'a [f64],
    pub(super) bounds: (f64, f64),
    /// Distance of a row to its interval that counts as zero at the start.
    pub(super) tolerance: f64,
    /// Rounding unit of the data.
    pub(super) precision: f64,
}

/// How a solve ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Solved {
    /// Products with `A` and `Aᵀ`, in pairs.
    pub(super) products: usize,
    pub(super) converged: bool,
    /// What is left of the optimality conditions, relative to the largest entry of the inputs (and of the
    /// outputs, over the norm of a row): the larger of
    /// `|v - clip(v0 + Aᵀλ)|` and what the rows with a multiplier lack to their ends; of a target out of reach the change
    /// by a projected gradient step instead of the latter.
    pub(super) residual: f64,
}

/// How the weights fall.
struct Pace {
    /// `ε` as a share of the mean squared row norm, and `δ` as a share of that.
    rows: f64,
    bounds: f64,
    /// Distance of the rows from their ends, and of the point from its bounds, after the last step.
    before: [f64; 2],
    /// How far beyond its bounds the point may be for the rows to go on, as a share of its size.
    beyond: f64,
}

impl Pace {
    fn after_bounds(&mut self, beyond: f64) {
        if beyond > FASTER * self.before[1] && self.bounds > LEAST_BOUNDS {
            self.bounds *= FASTER;
        }
        self.before[1] = beyond;
    }

    fn after_rows(&mut self, rows: f64, keep: bool) {
        if rows > FASTER * self.before[0] && self.rows > ROW_WEIGHT.1 && !keep {
            self.rows *= FASTER;
        }
        self.before = [rows, f64::INFINITY];
        self.beyond *= FASTER;
    }
}

/// The iteration with its vectors.
pub(super) struct Solver<'a> {
    pub(super) map: &'a dyn LinearMap,
    pub(super) scale: MapScale,
    /// `ε` and `δ`.
    pub(super) row_weight: f64,
    pub(super) bound_weight: f64,
    /// Products so far, and how many there may be.
    pub(super) products: usize,
    pub(super) budget: usize,
    pub(super) cols: Cols,
    pub(super) rows: Rows,
}

/// Vectors as long as the input.
pub(super) struct Cols {
    pub(super) point: Vec<f64>,
    /// Multipliers `μ` of the bounds, with the sign of what pushes the point inside.
    pub(super) multipliers: Vec<f64>,
    pub(super) gradient: Vec<f64>,
    pub(super) step: Vec<f64>,
    pub(super) residual: Vec<f64>,
    pub(super) direction: Vec<f64>,
    pub(super) product: Vec<f64>,
    /// Whether a bound takes part.
    pub(super) bound: Vec<bool>,
}

/// Vectors as long as the output.
pub(super) struct Rows {
    pub(super) image: Vec<f64>,
    /// Multipliers `λ`.
    pub(super) multipliers: Vec<f64>,
    /// `-λ` as the gradient has it.
    pub(super) pull: Vec<f64>,
    pub(super) step: Vec<f64>,
    pub(super) product: Vec<f64>,
    /// Whether the row takes part.
    pub(super) active: Vec<bool>,
}

impl<'a> Solver<'a> {
    pub(super) fn new(map: &'a dyn LinearMap, scale: MapScale) -> Self {
        let (m, n) = map.shape();
        let (row, col) = (|| vec![0.0; m], || vec![0.0; n]);
        Self {
            map,
            scale,
            row_weight: 0.0,
            bound_weight: 0.0,
            products: 0,
            budget: (OPERATIONS / map.flops().max(1.0)).clamp(PAIRS.0, PAIRS.1) as usize,
            cols: Cols {
                point: col(),
                multipliers: col(),
                gradient: col(),
                step: col(),
                residual: col(),
                direction: col(),
                product: col(),
                bound: vec![false; n],
            },
            rows: Rows {
                image: row(),
                multipliers: row(),
                pull: row(),
                step: row(),
                product: row(),
                active: vec![false; m],
            },
        }
    }

    /// The point found last.
    pub(super) fn solution(&self) -> &[f64] {
        &self.cols.point
    }

    /// Solves one sample.
    pub(super) fn solve(&mut self, problem: &Problem<'_>, stack: &mut MemStack) -> Result<Solved, LinalgError> {
        let (low, high) = problem.bounds;
        self.products = 0;
        self.rows.multipliers.fill(0.0);
        self.cols.multipliers.fill(0.0);
        for (v, start) in self.cols.point.iter_mut().zip(problem.start) {
            *v = start.clip(low, high);
        }
        let mut pace = Pace { rows: ROW_WEIGHT.0, bounds: 1.0, before: [f64::INFINITY; 2], beyond: 1.0 };
        self.update_image(problem, stack)?;
        let mut exactly = false;
        let mut solved = Solved { products: 0, converged: false, residual: f64::INFINITY };
        for outer in 0..OUTER_STEPS {
            self.row_weight = pace.rows * self.scale.mean_square;
            self.bound_weight = pace.rows * pace.bounds;
            let loose = (!exactly).then(|| 0.1_f64.powi(outer as i32 + 1));
            let at_minimum = self.minimise(problem, loose, stack)?;
            self.take_bound_multipliers(problem);
            let (beyond, allowed) = (self.beyond_bounds(problem), self.allowed_beyond(problem));
            let limit = if exactly { allowed } else { allowed.max(pace.beyond * self.size()) };
            if self.products >= self.budget {
                break;
            }
            if beyond > limit {
                pace.after_bounds(beyond);
                continue;
            }
            self.take_row_multipliers();
            let rows = self.row_residual(problem);
            let reached = rows <= self.tolerance(problem) && beyond <= allowed;
            let settled = at_minimum && !reached && self.is_settled(problem, stack)?;
            if at_minimum && (reached || settled && exactly) {
                solved.converged = true;
                break;
            }
            pace.after_rows(rows, exactly);
            exactly |= settled;
        }
        for v in &mut self.cols.point {
            *v = v.clip(low, high);
        }
        solved.residual = self.optimality(problem, stack)?;
        solved.products = self.products;
        Ok(solved)
    }

    /// `w <- w0 + A(v - v0)`.
    pub(super) fn update_image(&mut self, problem: &Problem<'_>, stack: &mut MemStack) -> Result<(), LinalgError> {
        let Cols { point, product, .. } = &mut self.cols;
        for (moved, (v, start)) in product.iter_mut().zip(point.iter().zip(problem.start)) {
            *moved = v - start;
        }
        self.products += 1;
        self.map.apply(product, &mut self.rows.image, stack)?;
        self.rows.image.iter_mut().zip(problem.image).for_each(|(image, start)| *image += start);
        Ok(())
    }

    /// The multipliers of the rows that make the gradient of the last minimum vanish.
    fn take_row_multipliers(&mut self) {
        self.rows.multipliers.iter_mut().zip(&self.rows.pull).for_each(|(to, pull)| *to = -pull);
    }

    /// Those of the bounds.
    fn take_bound_multipliers(&mut self, problem: &Problem<'_>) {
        let (low, high) = problem.bounds;
        for (mu, v) in self.cols.multipliers.iter_mut().zip(&self.cols.point) {
            let shifted = v - self.bound_weight * *mu;
            *mu = (shifted.clip(low, high) - shifted) / self.bound_weight;
        }
    }

    /// Largest entry of the point.
    fn size(&self) -> f64 {
        self.cols.point.iter().fold(0.0, |size, v| size.max(v.abs()))
    }

    /// Rounding of the image, as a vector.
    pub(super) fn image_rounding(&self) -> f64 {
        f64::EPSILON * (norm(&self.rows.image) + self.scale.norm() * norm(&self.cols.point))
    }

    /// How far beyond its bounds the point may be for that to be rounding.
    fn allowed_beyond(&self, problem: &Problem<'_>) -> f64 {
        let row = if self.scale.largest_row > 0.0 { self.scale.largest_row } else { 1.0 };
        4.0 * problem.precision * self.size() + 0.0625 * problem.tolerance / row
    }

    fn beyond_bounds(&self, problem: &Problem<'_>) -> f64 {
        let (low, high) = problem.bounds;
        self.cols.point.iter().fold(0.0, |worst, v| worst.max((v - v.clip(low, high)).abs()))
    }

    /// Largest distance of a row to its interval, or to the end that its multiplier pushes it to.
    fn row_residual(&self, problem: &Problem<'_>) -> f64 {
        let ends = problem.lower.iter().zip(problem.upper);
        let rows = self.rows.image.iter().zip(&self.rows.multipliers).zip(ends);
        rows.fold(0.0, |worst, ((w, lambda), (low, high))| {
            let goal = if *lambda > 0.0 {
                *low
            } else if *lambda < 0.0 {
                *high
            } else {
                w.clip(*low, *high)
            };
            worst.max((w - goal).abs())
        })
    }

    /// Distance of the image to its box.
    pub(super) fn distance(&self, problem: &Problem<'_>) -> f64 {
        let ends = problem.lower.iter().zip(problem.upper);
        let gaps = self.rows.image.iter().zip(ends).map(|(w, (low, high))| w - w.clip(*low, *high));
        gaps.map(|gap| gap * gap).sum::<f64>().sqrt()
    }

    /// By how much a projected gradient step towards the box would move the point.
    fn projected_gradient(&mut self, problem: &Problem<'_>, stack: &mut MemStack) -> Result<f64, LinalgError> {
        let ends = problem.lower.iter().zip(problem.upper);
        for (gap, (w, (low, high))) in self.rows.product.iter_mut().zip(self.rows.image.iter().zip(ends)) {
            *gap = w - w.clip(*low, *high);
        }
        self.products += 1;
        self.map.adjoint(&self.rows.product, &mut self.cols.product, stack)?;
        let (low, high) = problem.bounds;
        let moves = self.cols.point.iter().zip(&self.cols.product).map(|(v, slope)| {
            let inside = v.clip(low, high);
            inside - (inside - slope / self.scale.mean_square).clip(low, high)
        });
        Ok(moves.map(|step| step * step).sum::<f64>().sqrt())
    }

    /// Whether the point is as close to the box as the range allows, and not just as rounding does.
    fn is_settled(&mut self, problem: &Problem<'_>, stack: &mut MemStack) -> Result<bool, LinalgError> {
        if self.distance(problem) <= NOT_ROUNDING * self.image_rounding() {
            return Ok(false);
        }
        let share = SETTLED.max(0.1 * problem.precision);
        let root = self.scale.mean_square.sqrt();
        let allowed = (share * self.distance(problem) + self.image_rounding()) / root;
        Ok(self.projected_gradient(problem, stack)? <= allowed)
    }

    /// See [`Solved::residual`].
    fn optimality(&mut self, problem: &Problem<'_>, stack: &mut MemStack) -> Result<f64, LinalgError> {
        let (low, high) = problem.bounds;
        self.update_image(problem, stack)?;
        let rows = self.row_residual(problem);
        let root = self.scale.mean_square.sqrt();
        let rows = if rows <= self.tolerance(problem) {
            rows / root
        } else {
            (rows / root).min(self.projected_gradient(problem, stack)?)
        };
        self.products += 1;
        self.map.adjoint(&self.rows.multipliers, &mut self.cols.product, stack)?;
        let entries = self.cols.point.iter().zip(problem.start).zip(&self.cols.product);
        let inputs =
            entries.fold(0.0_f64, |worst, ((v, start), push)| worst.max((v - (start + push).clip(low, high)).abs()));
        let inputs_size = problem.start.iter().fold(self.size(), |size, v| size.max(v.abs()));
        let inputs_size = inputs_size.max(self.distance(problem) / root);
        let size = self.rows.image.iter().fold(inputs_size, |size, w| size.max(w.abs() / root));
        Ok(rows.max(inputs) / if size > 0.0 { size } else { 1.0 })
    }

    /// Slope of the penalised distance along the step, at `point + length · step`.
    pub(super) fn slope(&self, problem: &Problem<'_>, length: f64) -> f64 {
        let Cols { point, multipliers, step, .. } = &self.cols;
        let (low, high) = problem.bounds;
        let mut inputs = 0.0;
        for (((v, d), mu), start) in point.iter().zip(step).zip(multipliers).zip(problem.start) {
            let at = v + length * d;
            let shifted = at - self.bound_weight * mu;
            inputs += d * (at - start + (shifted - shifted.clip(low, high)) / self.bound_weight);
        }
        let Rows { image, multipliers, step, .. } = &self.rows;
        let ends = problem.lower.iter().zip(problem.upper);
        let mut outputs = 0.0;
        for (((w, d), lambda), (low, high)) in image.iter().zip(step).zip(multipliers).zip(ends) {
            let shifted = w + length * d - self.row_weight * lambda;
            outputs += d * (shifted - shifted.clip(*low, *high));
        }
        inputs + outputs / self.row_weight
    }

    /// Length of the gradient, without what the weight of the bounds makes of the rounding of the point.
    pub(super) fn gradient_size(&self) -> f64 {
        let rounding = 8.0 * f64::EPSILON / self.bound_weight;
        let entries = self.cols.gradient.iter().zip(&self.cols.bound).zip(&self.cols.point);
        let sizes = entries.map(|((g, bound), v)| if *bound && g.abs() <= rounding * v.abs() { 0.0 } else { *g });
        sizes.map(|g| g * g).sum::<f64>().sqrt()
    }

    /// Distance of a row to its interval that counts as zero at the present point.
    fn tolerance(&self, problem: &Problem<'_>) -> f64 {
        let moved = self.cols.point.iter().zip(problem.start).map(|(v, start)| (v - start) * (v - start));
        let row = self.scale.largest_row;
        let tolerance = problem.tolerance + 16.0 * problem.precision * row * moved.sum::<f64>().sqrt();
        // Large multipliers of nearly dependent rows leave their rounding, but not that of a box out of reach.
        tolerance + (f64::EPSILON * row * row * norm(&self.rows.multipliers)).min(MOST_ROUNDING * tolerance)
    }

    /// `Σ a b` over the inputs, for the conjugate gradients.
    pub(super) fn inner(a: &[f64], b: &[f64]) -> f64 {
        dot(a, b)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    const WIDTH: usize = 8;
    let mut lanes = [0.0; WIDTH];
    let (a_body, a_rest) = a.as_chunks::<WIDTH>();
    let (b_body, b_rest) = b.as_chunks::<WIDTH>();
    for (a, b) in a_body.iter().zip(b_body) {
        for k in 0..WIDTH {
            lanes[k] += a[k] * b[k];
        }
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

pub(super) fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}
