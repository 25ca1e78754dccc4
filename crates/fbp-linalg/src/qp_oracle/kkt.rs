use super::factor::Factor;
use super::{BoxQp, HalfSpace, dot, largest, norm};

/// How far a point is from meeting the optimality conditions of a [`BoxQp`]; all zero only at the solution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KktResiduals {
    /// Largest distance of an entry of `v` or `Av + b` to its interval.
    pub feasibility: f64,
    /// `|v - v0 - Σ λ_k c_k|` with the best weights `λ >= 0` of the inward unit normals `c_k` of active constraints.
    pub stationarity: f64,
    /// Largest `λ_k` times the distance of `v` to the boundary of constraint `k`.
    pub complementarity: f64,
}

impl KktResiduals {
    /// The largest of the three.
    pub fn max(&self) -> f64 {
        largest(self.feasibility, largest(self.stationarity, self.complementarity))
    }
}

/// Judges `v` as the solution of the problem, without knowing how it was found.
///
/// A constraint counts as active within 1e-7 of its boundary, times the scale of the data.
///
/// ```
/// use faer::mat;
/// use fbp_linalg::qp_oracle::{BoxQp, qp_kkt_residual};
///
/// let problem = BoxQp {
///     a: mat![[1.0, 1.0]],
///     b: vec![0.0],
///     v0: vec![0.0, 0.0],
///     lower_out: vec![2.0],
///     upper_out: vec![f64::INFINITY],
///     lower_in: vec![f64::NEG_INFINITY; 2],
///     upper_in: vec![f64::INFINITY; 2],
/// };
/// assert!(qp_kkt_residual(&problem, &[1.0, 1.0]).max() < 1e-14);
/// assert!(qp_kkt_residual(&problem, &[1.5, 0.5]).stationarity > 0.5); // feasible, but not the nearest
/// assert!(qp_kkt_residual(&problem, &[0.0, 0.0]).feasibility > 1.9);
/// ```
pub fn qp_kkt_residual(problem: &BoxQp, v: &[f64]) -> KktResiduals {
    qp_kkt_residual_with(problem, v, 1e-7 * problem.scale())
}

/// [`qp_kkt_residual`] with the distance to its boundary up to which a constraint counts as active.
///
/// A larger distance explains away more of the stationarity, but what it explains shows in the complementarity.
pub fn qp_kkt_residual_with(problem: &BoxQp, v: &[f64], active_tol: f64) -> KktResiduals {
    let feasibility = problem.violation(v);
    let spaces = problem.half_spaces(f64::INFINITY).unwrap_or_default();
    let distance = |space: &HalfSpace| (dot(&space.normal, v) - space.offset).abs();
    let active: Vec<&HalfSpace> = spaces.iter().filter(|space| distance(space) <= active_tol).collect();
    let normals: Vec<&[f64]> = active.iter().map(|space| space.normal.as_slice()).collect();
    let moved: Vec<f64> = v.iter().zip(&problem.v0).map(|(v, v0)| v - v0).collect();
    let (weights, stationarity) = non_negative_least_squares(&normals, &moved);
    let complementarity = active.iter().zip(&weights).map(|(space, w)| w * distance(space)).fold(0.0, largest);
    KktResiduals { feasibility, stationarity, complementarity }
}

/// How far `v` is from minimising the distance of `Av + b` to its box over the range of `v`.
///
/// The length of a projected gradient step, `|v - clip(v - Aᵀp, l, u)|` with `p` the excess of `Av + b`; it is zero
/// exactly at the minimisers, of which [`qp_kkt_residual`] of [`BoxQp::shifted`] then singles out the nearest.
pub fn qp_distance_stationarity(problem: &BoxQp, v: &[f64]) -> f64 {
    let excess = problem.excess(v);
    let step = |j: usize| {
        let slope: f64 = (0..problem.rows()).map(|i| problem.a[(i, j)] * excess[i]).sum();
        v[j] - (v[j] - slope).max(problem.lower_in[j]).min(problem.upper_in[j])
    };
    norm(&(0..problem.cols()).map(step).collect::<Vec<_>>())
}

/// Weights `λ >= 0` that minimise `|Σ λ_k c_k - target|`, and that minimum.
fn non_negative_least_squares(columns: &[&[f64]], target: &[f64]) -> (Vec<f64>, f64) {
    let mut weights = vec![0.0; columns.len()];
    let mut passive: Vec<usize> = Vec::new();
    let mut rest = target.to_vec();
    let tol = 1e-14 * norm(target).max(f64::MIN_POSITIVE);
    for _ in 0..10 * (columns.len() + 1) {
        let pull = |k: usize| dot(columns[k], &rest);
        let best = (0..columns.len())
            .filter(|k| !passive.contains(k))
            .map(|k| (pull(k), k))
            .max_by(|x, y| x.0.total_cmp(&y.0));
        let Some((_, entering)) = best.filter(|&(pull, _)| pull > tol) else { break };
        passive.push(entering);
        restore_signs(columns, target, &mut passive, &mut weights);
        rest = target.to_vec();
        for &k in &passive {
            rest.iter_mut().zip(columns[k]).for_each(|(r, c)| *r -= weights[k] * c);
        }
    }
    let residual = norm(&rest);
    (weights, residual)
}

/// Least squares over the passive columns; those whose weight would turn negative leave on the way.
fn restore_signs(columns: &[&[f64]], target: &[f64], passive: &mut Vec<usize>, weights: &mut [f64]) {
    while !passive.is_empty() {
        let factor = Factor::of(passive.iter().map(|&k| columns[k]));
        let wanted = factor.solve_upper(factor.split(target).0);
        let stop = |(&k, &w): (&usize, &f64)| if w > 0.0 { 1.0 } else { weights[k] / (weights[k] - w) };
        let share =
            passive.iter().zip(&wanted).map(stop).fold(1.0, |x: f64, y| if y.is_nan() { 0.0 } else { x.min(y) });
        for (&k, &w) in passive.iter().zip(&wanted) {
            weights[k] += share * (w - weights[k]);
        }
        if share >= 1.0 {
            return;
        }
        let before = passive.len();
        passive.retain(|&k| weights[k] > 1e-15);
        if passive.len() == before {
            passive.pop();
        }
        (0..columns.len()).filter(|k| !passive.contains(k)).for_each(|k| weights[k] = 0.0);
    }
}
