//! Singular value decomposition by one-sided rotations: the oracle of linear systems.

use super::affine::Affine;
use super::exact::{Exact, dot, norm};

/// Sweeps over all pairs of columns; far more than convergence takes.
const SWEEPS: usize = 60;

/// `B = U Σ Wᵀ` for the columns of `B`.
///
/// # Source
/// Golub & Van Loan, *Matrix Computations*, 4th ed., §8.6.3; relative accuracy for badly scaled columns: Demmel and
/// Veselić, SIAM J. Matrix Anal. Appl. 13 (1992).
pub(crate) struct Svd {
    pub(crate) sigma: Vec<f64>,
    /// Columns of `W`.
    pub(crate) right: Vec<Vec<f64>>,
}

impl Svd {
    pub(crate) fn of(columns: &[Vec<f64>]) -> Self {
        let m = columns.len();
        let mut scaled = columns.to_vec();
        let mut right: Vec<Vec<f64>> = (0..m).map(|k| (0..m).map(|i| f64::from(i == k)).collect()).collect();
        for _ in 0..SWEEPS {
            let mut turned = false;
            for p in 0..m {
                for q in p + 1..m {
                    turned |= rotate(&mut scaled, &mut right, p, q);
                }
            }
            if !turned {
                break;
            }
        }
        let sigma = scaled.iter().map(|column| norm(column)).collect();
        Self { sigma, right }
    }
}

/// Makes columns `p` and `q` orthogonal; tells whether they were not.
fn rotate(scaled: &mut [Vec<f64>], right: &mut [Vec<f64>], p: usize, q: usize) -> bool {
    let inner = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let [alpha, beta, gamma] = [(p, p), (q, q), (p, q)].map(|(i, j)| inner(&scaled[i], &scaled[j]));
    if gamma.abs() <= 4.0 * f64::EPSILON * (alpha * beta).sqrt() {
        return false;
    }
    let zeta = (beta - alpha) / (2.0 * gamma);
    let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
    let t = if zeta == 0.0 { 1.0 } else { t };
    let c = 1.0 / t.hypot(1.0);
    let s = c * t;
    for set in [scaled, right] {
        let (head, tail) = set.split_at_mut(q);
        for (x, y) in head[p].iter_mut().zip(&mut tail[0]) {
            (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
        }
    }
    true
}

/// Multipliers of a nearest solution, and how far it moves with its targets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof {
    pub(crate) multipliers: Vec<f64>,
    /// Per singular value the weights of the rows' targets in the coordinate of the solution along its vector.
    pub(crate) sensitivity: Vec<Vec<f64>>,
}

/// Multipliers `(A Aᵀ)⁺ r` of the nearest solution, one set for every number of singular values that is kept.
///
/// Rows are scaled by powers of two first, which changes no solution.
pub(crate) fn proofs(problem: &Affine) -> Vec<Proof> {
    let scales: Vec<f64> = problem.rows.iter().map(|row| power_of_two(norm(row))).collect();
    let columns: Vec<Vec<f64>> =
        problem.rows.iter().zip(&scales).map(|(row, s)| row.iter().map(|a| a * s).collect()).collect();
    let svd = Svd::of(&columns);
    let m = problem.rows.len();
    let mut wanted = vec![Exact::default(); m];
    for (i, wanted) in wanted.iter_mut().enumerate() {
        let image = problem.image(i, &problem.start);
        wanted.add(problem.lower[i] * scales[i]);
        wanted.add(-image.value() * scales[i]);
    }
    let wanted: Vec<f64> = wanted.into_iter().map(Exact::value).collect();
    let mut order: Vec<usize> = (0..m).filter(|&k| svd.sigma[k] > 0.0).collect();
    order.sort_by(|&a, &b| svd.sigma[b].total_cmp(&svd.sigma[a]));
    let mut proof = Proof { multipliers: vec![0.0; m], sensitivity: Vec::new() };
    let mut found = vec![proof.clone()];
    for k in order {
        let share = dot(&svd.right[k], &wanted) / (svd.sigma[k] * svd.sigma[k]);
        let weights: Vec<f64> = svd.right[k].iter().zip(&scales).map(|(w, scale)| w * scale).collect();
        proof.multipliers.iter_mut().zip(&weights).for_each(|(l, w)| *l += share * w);
        proof.sensitivity.push(weights.iter().map(|w| w / svd.sigma[k]).collect());
        if proof.multipliers.iter().all(|l| l.is_finite()) {
            found.push(proof.clone());
        }
    }
    found
}

/// `2^k` with `x 2^k` in `[1, 2)`; 1 for 0.
pub(crate) fn power_of_two(x: f64) -> f64 {
    if x > 0.0 { (-x.log2().floor()).exp2() } else { 1.0 }
}
