//! Multipliers of box-constrained nearest points from Clarabel, an interior-point solver.

use clarabel::algebra::CscMatrix;
use clarabel::solver::{DefaultSettings, DefaultSolver, IPSolver, SupportedConeT};

use super::affine::Affine;
use super::exact::norm;
use super::svd::Proof;

/// What the oracle found.
pub(crate) struct Answer {
    pub(crate) point: Vec<f64>,
    /// Multipliers are positive where a row is held at its lower end.
    pub(crate) proof: Proof,
}

/// Point and multipliers of a problem; `None` if it could not be stated.
///
/// Unknowns are `d = (v - v0)/unit`; rows are scaled to unit length. Whether the multipliers are any good is judged by
/// the bound that they prove.
pub(crate) fn solve(problem: &Affine, unit: f64) -> Option<Answer> {
    let (m, n) = problem.shape();
    let unit = if unit > 0.0 { unit } else { 1.0 };
    let scales: Vec<f64> = problem.rows.iter().map(|row| 1.0 / norm(row).max(f64::MIN_POSITIVE)).collect();
    // Equalities first, then rows as `s a d <= s (hi - y0)/unit` and `-s a d <= -s (lo - y0)/unit`, then bounds.
    let mut lines: Vec<(f64, usize, f64)> = Vec::new();
    let zero_row = |i: usize| problem.rows[i].iter().all(|a| *a == 0.0);
    let rest = |i: usize, end: f64| {
        let mut rest = problem.image(i, &problem.start);
        rest.add(-end);
        -rest.value() * scales[i] / unit
    };
    for i in (0..m).filter(|&i| problem.lower[i] == problem.upper[i] && !zero_row(i)) {
        lines.push((1.0, i, rest(i, problem.lower[i])));
    }
    let equal = lines.len();
    for i in (0..m).filter(|&i| problem.lower[i] < problem.upper[i] && !zero_row(i)) {
        if problem.upper[i].is_finite() {
            lines.push((1.0, i, rest(i, problem.upper[i])));
        }
        if problem.lower[i].is_finite() {
            lines.push((-1.0, i, -rest(i, problem.lower[i])));
        }
    }
    let rows = lines.len();
    let (l, u) = problem.range;
    let mut bounds = Vec::new();
    for (j, &start) in problem.start.iter().enumerate() {
        if u.is_finite() {
            bounds.push((1.0, j, (u - start) / unit));
        }
        if l.is_finite() {
            bounds.push((-1.0, j, (start - l) / unit));
        }
    }
    let (mut starts, mut indices, mut values) = (vec![0], Vec::new(), Vec::new());
    for j in 0..n {
        for (at, &(sign, i, _)) in lines.iter().enumerate() {
            let a = sign * scales[i] * problem.rows[i][j];
            if a != 0.0 {
                indices.push(at);
                values.push(a);
            }
        }
        for (at, &(sign, column, _)) in bounds.iter().enumerate() {
            if column == j {
                indices.push(rows + at);
                values.push(sign);
            }
        }
        starts.push(indices.len());
    }
    let total = rows + bounds.len();
    if total == 0 {
        return Some(Answer {
            point: problem.start.clone(),
            proof: Proof { multipliers: vec![0.0; m], ..Proof::default() },
        });
    }
    let constraints = CscMatrix::new(total, n, starts, indices, values);
    let ends: Vec<f64> = lines.iter().chain(&bounds).map(|(_, _, end)| *end).collect();
    let cones = [SupportedConeT::ZeroConeT(equal), SupportedConeT::NonnegativeConeT(total - equal)];
    let settings = DefaultSettings {
        verbose: false,
        tol_gap_abs: 1e-11,
        tol_gap_rel: 1e-11,
        tol_feas: 1e-11,
        ..DefaultSettings::default()
    };
    let mut solver =
        DefaultSolver::new(&CscMatrix::identity(n), &vec![0.0; n], &constraints, &ends, &cones, settings).ok()?;
    solver.solve();
    let mut found = vec![0.0; m];
    for (&(sign, i, _), z) in lines.iter().zip(&solver.solution.z) {
        found[i] -= sign * z * scales[i] * unit;
    }
    let place = |(start, d): (&f64, &f64)| (start + unit * d).clamp(l, u);
    let point: Vec<f64> = problem.start.iter().zip(&solver.solution.x).map(place).collect();
    let finite = found.iter().chain(&point).all(|x| x.is_finite());
    finite.then_some(Answer { point, proof: Proof { multipliers: found, ..Proof::default() } })
}
