//! Slow, exact answers for small box-constrained nearest-point problems, to judge the solvers of this crate with.
//!
//! Everything here is plain `f64` loops over vectors and shares no code with the solvers. The method is the dual
//! active-set method for a strictly convex quadratic programme, specialised to the identity as Hessian; a second
//! routine judges any point by its Karush-Kuhn-Tucker conditions alone, whatever method it came from. Meant for up
//! to about 100 unknowns and rows: every step refactors the active set.
//!
//! # Source
//! Goldfarb & Idnani, *A numerically stable dual method for solving strictly convex quadratic programs*, Math.
//! Programming 27 (1983); Lawson & Hanson, *Solving Least Squares Problems*, ch. 23 (non-negative least squares);
//! Rockafellar, *Monotone operators and the proximal point algorithm*, SIAM J. Control Optim. 14 (1976).

mod factor;
mod kkt;
#[cfg(test)]
mod tests;

use faer::Mat;

use factor::Factor;
pub use kkt::{KktResiduals, qp_distance_stationarity, qp_kkt_residual, qp_kkt_residual_with};

/// Violation of a constraint (as a distance in the space of `v`, relative to the scale of the data) that counts as 0.
const FEASIBLE: f64 = 1e-12;
/// The same for the second stage of [`qp_closest`], whose box carries the rounding errors of the first.
const FEASIBLE_SECOND: f64 = 1e-9;
/// A unit normal this close to the span of the active ones counts as a combination of them.
const DEPENDENT: f64 = 1e-10;

/// The problem `min ½|v - v0|²` subject to `lower_out <= Av + b <= upper_out`, `lower_in <= v <= upper_in`.
///
/// # Shapes
/// `a`: `m × n`; `b`, `lower_out`, `upper_out`: `m`; `v0`, `lower_in`, `upper_in`: `n`. Bounds may be infinite.
#[derive(Clone, Debug)]
pub struct BoxQp {
    /// Matrix `A` of the outputs.
    pub a: Mat<f64>,
    /// Bias `b` of the outputs.
    pub b: Vec<f64>,
    /// The point to stay near.
    pub v0: Vec<f64>,
    /// Lower ends of the output box.
    pub lower_out: Vec<f64>,
    /// Upper ends of the output box.
    pub upper_out: Vec<f64>,
    /// Lower ends of the range of `v`.
    pub lower_in: Vec<f64>,
    /// Upper ends of the range of `v`.
    pub upper_in: Vec<f64>,
}

/// Why there is no nearest point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QpFailure {
    /// No point meets all constraints.
    #[error("the constraints contradict each other")]
    Infeasible,
    /// The active set still changed at the iteration cap (a degenerate problem).
    #[error("the active set did not settle")]
    Stalled,
}

/// Answer of [`qp_closest`].
#[derive(Clone, Debug)]
pub struct QpClosest {
    /// The point nearest to `v0` among those with the smallest distance of `Av + b` to its box.
    pub v: Vec<f64>,
    /// `Av + b` minus the nearest point of the box, one entry per row; all zero for a feasible problem. Unique.
    pub excess: Vec<f64>,
    /// Whether the problem was feasible as it stood.
    pub feasible: bool,
}

/// One constraint `normal · v >= offset` with a unit normal.
#[derive(Clone, Debug)]
struct HalfSpace {
    normal: Vec<f64>,
    offset: f64,
}

impl BoxQp {
    /// Number of rows `m` of the matrix.
    pub fn rows(&self) -> usize {
        self.a.nrows()
    }

    /// Number of unknowns `n`.
    pub fn cols(&self) -> usize {
        self.a.ncols()
    }

    /// `Av + b`.
    pub fn output(&self, v: &[f64]) -> Vec<f64> {
        (0..self.rows()).map(|i| self.b[i] + (0..self.cols()).map(|j| self.a[(i, j)] * v[j]).sum::<f64>()).collect()
    }

    /// `Av + b` minus the nearest point of its box.
    pub fn excess(&self, v: &[f64]) -> Vec<f64> {
        let clipped = |(i, y): (usize, f64)| y - y.max(self.lower_out[i]).min(self.upper_out[i]);
        self.output(v).into_iter().enumerate().map(clipped).collect()
    }

    /// Largest distance of an entry of `Av + b` or of `v` to its interval.
    pub fn violation(&self, v: &[f64]) -> f64 {
        let out = self.excess(v).into_iter().map(f64::abs).fold(0.0, largest);
        let inside = |j: usize| (v[j] - v[j].max(self.lower_in[j]).min(self.upper_in[j])).abs();
        (0..self.cols()).map(inside).fold(out, largest)
    }

    /// The problem with its output box moved by `excess`, which makes an infeasible problem just feasible.
    #[must_use]
    pub fn shifted(&self, excess: &[f64]) -> Self {
        let moved = |ends: &[f64]| ends.iter().zip(excess).map(|(e, p)| e + p).collect();
        Self { lower_out: moved(&self.lower_out), upper_out: moved(&self.upper_out), ..self.clone() }
    }

    /// Finite constraints as half-spaces with unit normals; `None` if a row of zeros rules every point out.
    fn half_spaces(&self, tol: f64) -> Option<Vec<HalfSpace>> {
        let mut found = Vec::new();
        for i in 0..self.rows() {
            let row: Vec<f64> = (0..self.cols()).map(|j| self.a[(i, j)]).collect();
            for (end, sign) in [(self.lower_out[i], 1.0), (self.upper_out[i], -1.0)] {
                if !end.is_finite() {
                    continue;
                }
                let (length, offset) = (norm(&row), sign * (end - self.b[i]));
                if length > 0.0 {
                    let normal = row.iter().map(|x| sign * x / length).collect();
                    found.push(HalfSpace { normal, offset: offset / length });
                } else if offset > tol {
                    return None;
                }
            }
        }
        for j in 0..self.cols() {
            for (end, sign) in [(self.lower_in[j], 1.0), (self.upper_in[j], -1.0)] {
                if end.is_finite() {
                    let mut normal = vec![0.0; self.cols()];
                    normal[j] = sign;
                    found.push(HalfSpace { normal, offset: sign * end });
                }
            }
        }
        Some(found)
    }

    /// Largest finite number among the data that distances are compared with, at least 1.
    fn scale(&self) -> f64 {
        let ends = [&self.v0, &self.b, &self.lower_out, &self.upper_out, &self.lower_in, &self.upper_in];
        ends.into_iter().flatten().map(|x| x.abs()).filter(|x| x.is_finite()).fold(1.0, largest)
    }
}

/// The nearest point of a feasible problem, to about 1e-12 times the condition number of its active constraints.
///
/// # Errors
/// [`QpFailure::Infeasible`] if no point meets all constraints; [`QpFailure::Stalled`] at the iteration cap.
///
/// ```
/// use faer::mat;
/// use fbp_linalg::qp_oracle::{BoxQp, qp_nearest};
///
/// // The point of the line v_0 + v_1 = 2 nearest to the origin, but with v_0 <= 0.5.
/// let problem = BoxQp {
///     a: mat![[1.0, 1.0]],
///     b: vec![0.0],
///     v0: vec![0.0, 0.0],
///     lower_out: vec![2.0],
///     upper_out: vec![2.0],
///     lower_in: vec![f64::NEG_INFINITY; 2],
///     upper_in: vec![0.5, f64::INFINITY],
/// };
/// let v = qp_nearest(&problem)?;
/// assert!((v[0] - 0.5).abs() < 1e-14 && (v[1] - 1.5).abs() < 1e-14);
/// # Ok::<(), fbp_linalg::qp_oracle::QpFailure>(())
/// ```
pub fn qp_nearest(problem: &BoxQp) -> Result<Vec<f64>, QpFailure> {
    nearest(problem, FEASIBLE * problem.scale())
}

/// The nearest point to `v0` among those that bring `Av + b` as close to its box as the range of `v` allows.
///
/// A feasible problem is answered as by [`qp_nearest`]. Otherwise the smallest distance `½|p|²`, `p = Av + b - s`,
/// `s` in the box, is found by the proximal point method, whose every step
/// `min ½|v - v_k|² + |p|²/2μ` is a feasible nearest-point problem in `(v, p/√μ)`. The minimising `p` is unique, so
/// the answer is the nearest point to `v0` of the box moved by `p`. Accurate to about 1e-9.
///
/// # Errors
/// [`QpFailure::Infeasible`] if the range of `v` is empty; [`QpFailure::Stalled`] at an iteration cap.
pub fn qp_closest(problem: &BoxQp) -> Result<QpClosest, QpFailure> {
    match qp_nearest(problem) {
        Ok(v) => return Ok(QpClosest { v, excess: vec![0.0; problem.rows()], feasible: true }),
        Err(QpFailure::Infeasible) => {}
        Err(stalled) => return Err(stalled),
    }
    let excess = smallest_excess(problem)?;
    let v = nearest(&problem.shifted(&excess), FEASIBLE_SECOND * problem.scale())?;
    Ok(QpClosest { v, excess, feasible: false })
}

/// `Av + b` minus its box, at the smallest distance that the range of `v` allows.
fn smallest_excess(problem: &BoxQp) -> Result<Vec<f64>, QpFailure> {
    let (m, n) = (problem.rows(), problem.cols());
    let squares: f64 = (0..m).map(|i| (0..n).map(|j| problem.a[(i, j)].powi(2)).sum::<f64>()).sum();
    // A weak pull towards the last iterate: few steps, and active sets that are still well conditioned.
    let root_mu = if squares > 0.0 { 1e-3 * (squares / m.min(n) as f64).sqrt() } else { 1.0 };
    let mut inner = BoxQp {
        a: Mat::from_fn(m, n + m, |i, j| match j.checked_sub(n) {
            None => problem.a[(i, j)],
            Some(k) if k == i => -root_mu,
            Some(_) => 0.0,
        }),
        v0: [problem.v0.clone(), vec![0.0; m]].concat(),
        lower_in: [problem.lower_in.clone(), vec![f64::NEG_INFINITY; m]].concat(),
        upper_in: [problem.upper_in.clone(), vec![f64::INFINITY; m]].concat(),
        ..problem.clone()
    };
    let mut excess = vec![f64::INFINITY; m];
    for _ in 0..200 {
        let next = nearest(&inner, FEASIBLE * inner.scale())?;
        let found: Vec<f64> = next[n..].iter().map(|e| root_mu * e).collect();
        let change = found.iter().zip(&excess).map(|(x, y)| (x - y).abs()).fold(0.0, largest);
        excess = found;
        if change <= 1e-13 * problem.scale() {
            return Ok(excess);
        }
        inner.v0[..n].copy_from_slice(&next[..n]);
    }
    Err(QpFailure::Stalled)
}

/// Dual active-set method: start at `v0`, add the most violated constraint until none is left.
fn nearest(problem: &BoxQp, tol: f64) -> Result<Vec<f64>, QpFailure> {
    let spaces = problem.half_spaces(tol).ok_or(QpFailure::Infeasible)?;
    let mut active: Vec<usize> = Vec::new();
    let mut weights: Vec<f64> = Vec::new();
    let mut v = problem.v0.clone();
    for _ in 0..50 * (spaces.len() + 10) {
        let slack = |k: usize| dot(&spaces[k].normal, &v) - spaces[k].offset;
        let worst =
            (0..spaces.len()).filter(|k| !active.contains(k)).map(|k| (slack(k), k)).min_by(|x, y| x.0.total_cmp(&y.0));
        let Some((_, entering)) = worst.filter(|&(s, _)| s < -tol) else { return Ok(v) };
        add_constraint(&spaces, entering, &mut active, &mut weights, &mut v)?;
        (v, weights) = solve_active(&problem.v0, &spaces, &active);
    }
    Err(QpFailure::Stalled)
}

/// Moves along the dual until constraint `entering` holds with equality, dropping those that lose their weight.
fn add_constraint(
    spaces: &[HalfSpace],
    entering: usize,
    active: &mut Vec<usize>,
    weights: &mut Vec<f64>,
    v: &mut [f64],
) -> Result<(), QpFailure> {
    let space = &spaces[entering];
    let mut entering_weight = 0.0;
    // Every pass but the last drops one active constraint.
    loop {
        let factor = Factor::of(active.iter().map(|&k| spaces[k].normal.as_slice()));
        let (along, across) = factor.split(&space.normal);
        let trade = factor.solve_upper(along);
        let blocking = (0..active.len())
            .filter(|&k| trade[k] > 1e-14)
            .map(|k| (weights[k].max(0.0) / trade[k], k))
            .min_by(|x, y| x.0.total_cmp(&y.0));
        let independent = norm(&across) > DEPENDENT;
        let missing = space.offset - dot(&space.normal, v);
        let full = if independent { missing / dot(&across, &space.normal) } else { f64::INFINITY };
        let partial = blocking.map_or(f64::INFINITY, |(t, _)| t);
        let step = full.min(partial);
        if step.is_infinite() {
            return Err(QpFailure::Infeasible);
        }
        if independent {
            v.iter_mut().zip(&across).for_each(|(x, z)| *x += step * z);
        }
        weights.iter_mut().zip(&trade).for_each(|(w, r)| *w -= step * r);
        entering_weight += step;
        match blocking {
            Some((t, k)) if t < full => {
                active.remove(k);
                weights.remove(k);
            }
            _ => {
                active.push(entering);
                weights.push(entering_weight);
                return Ok(());
            }
        }
    }
}

/// The nearest point with all active constraints at equality, and their weights, computed afresh.
fn solve_active(v0: &[f64], spaces: &[HalfSpace], active: &[usize]) -> (Vec<f64>, Vec<f64>) {
    let factor = Factor::of(active.iter().map(|&k| spaces[k].normal.as_slice()));
    let missing = active.iter().map(|&k| spaces[k].offset - dot(&spaces[k].normal, v0)).collect();
    let along = factor.solve_upper_transposed(missing);
    let mut v = v0.to_vec();
    for (q, c) in factor.basis().iter().zip(&along) {
        v.iter_mut().zip(q).for_each(|(x, q)| *x += c * q);
    }
    (v, factor.solve_upper(along))
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

/// Larger of the two, and NaN if either is.
fn largest(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() { f64::NAN } else { x.max(y) }
}
