//! `min ½ λᵀKλ - rᵀλ` subject to `λ >= 0`: the dual of the margin-constrained change.

use faer::Mat;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;

use super::deadline::Deadline;
use crate::TrainError;
use crate::evaluate::pool_par;

/// Exchanges of whole blocks that may fail to help before the guess is handed to the descent.
const BLOCK_CHANCES: usize = 5;
/// Most exchanges.
const EXCHANGES: usize = 30;
/// Most sweeps of the descent.
const SWEEPS: usize = 400;
/// Share of the largest number involved that counts as zero.
const TOLERANCE: f64 = 1e-9;

/// Solves the problem for a positive definite `k`: exactly if the pivoting ends, which it does unless conditions nearly
/// contradict each other, else by descent up to a small violation.
///
/// Block principal pivoting: a guess which multipliers are positive, a linear solve, and an exchange of all that have
/// the wrong sign. If that goes round in circles or takes too long, the last guess is the start of a coordinate descent, every sweep of
/// which lowers the objective.
///
/// # Errors
/// [`TrainError::Singular`] if `k` is not positive definite.
///
/// # Source
/// Portugal, Júdice & Vicente, "A comparison of block pivoting and interior-point algorithms for linear least squares
/// problems with nonnegative variables", Math. Comp. 63 (1994). Descent: Hildreth, "A quadratic programming procedure",
/// Naval Res. Logist. Quart. 4 (1957).
pub(super) fn nonnegative(k: &Mat<f64>, r: &[f64], deadline: Deadline) -> Result<Vec<f64>, TrainError> {
    let n = r.len();
    let largest = r.iter().fold(0.0_f64, |largest, r| largest.max(r.abs()));
    let mut positive: Vec<bool> = r.iter().map(|&r| r > 0.0).collect();
    let (mut fewest, mut chances) = (n + 1, BLOCK_CHANCES);
    let mut lambda = vec![0.0; n];
    for _ in 0..EXCHANGES {
        let active: Vec<usize> = (0..n).filter(|&i| positive[i]).collect();
        lambda = solve_on(k, r, &active)?;
        let scale = lambda.iter().fold(0.0_f64, |largest, l| largest.max(l.abs()));
        let wrong: Vec<usize> = (0..n)
            .filter(|&i| match positive[i] {
                true => lambda[i] < -TOLERANCE * scale,
                false => slack(k, r, &lambda, &active, i) < -TOLERANCE * largest,
            })
            .collect();
        if wrong.is_empty() {
            lambda.iter_mut().for_each(|l| *l = l.max(0.0));
            return Ok(lambda);
        }
        if wrong.len() < fewest {
            (fewest, chances) = (wrong.len(), BLOCK_CHANCES);
        } else {
            chances -= 1;
        }
        if chances == 0 || deadline.is_over() {
            break;
        }
        wrong.iter().for_each(|&i| positive[i] = !positive[i]);
    }
    lambda.iter_mut().for_each(|l| *l = l.max(0.0));
    descend(k, r, &mut lambda, 1e-6 * largest);
    Ok(lambda)
}

/// Minimises over one multiplier after the other until no condition is missed by more than `tolerance`.
fn descend(k: &Mat<f64>, r: &[f64], lambda: &mut [f64], tolerance: f64) {
    let n = r.len();
    let active: Vec<usize> = (0..n).filter(|&i| lambda[i] > 0.0).collect();
    let mut y: Vec<f64> = (0..n).map(|i| slack(k, r, lambda, &active, i)).collect();
    for _ in 0..SWEEPS {
        let mut worst = 0.0_f64;
        for i in 0..n {
            let change = (-y[i] / k[(i, i)]).max(-lambda[i]);
            if change == 0.0 {
                continue;
            }
            worst = worst.max((change * k[(i, i)]).abs());
            lambda[i] += change;
            for (y, k) in y.iter_mut().zip(k.col(i).iter()) {
                *y += change * k;
            }
        }
        if worst <= tolerance {
            break;
        }
    }
}

/// `(Kλ - r)_i`.
fn slack(k: &Mat<f64>, r: &[f64], lambda: &[f64], active: &[usize], i: usize) -> f64 {
    active.iter().map(|&j| k[(j, i)] * lambda[j]).sum::<f64>() - r[i]
}

/// `K_AA λ_A = r_A`, zero elsewhere.
fn solve_on(k: &Mat<f64>, r: &[f64], active: &[usize]) -> Result<Vec<f64>, TrainError> {
    let mut lambda = vec![0.0; r.len()];
    if active.is_empty() {
        return Ok(lambda);
    }
    let n = active.len();
    let mut part = Mat::from_fn(n, n, |i, j| k[(active[i], active[j])]);
    let mut solution = Mat::from_fn(n, 1, |i, _| r[active[i]]);
    let par = pool_par();
    let scratch = llt::factor::cholesky_in_place_scratch::<f64>(n, par, Default::default());
    let scratch = scratch.or(llt::solve::solve_in_place_scratch::<f64>(n, 1, par));
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    // In place: with many conditions this matrix and the whole one are most of the memory.
    llt::factor::cholesky_in_place(part.as_mut(), Default::default(), par, stack, Default::default())
        .map_err(|_| TrainError::Singular { what: "the conditions of the repair" })?;
    llt::solve::solve_in_place(part.as_ref(), solution.as_mut(), par, stack);
    for (place, &i) in active.iter().enumerate() {
        lambda[i] = solution[(place, 0)];
    }
    Ok(lambda)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn optimality_conditions_hold() {
        for seed in 0..30 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (n, rank) = (rng.random_range(1..40), rng.random_range(1..40));
            let mut draw = || 2.0 * rng.random::<f64>() - 1.0;
            let a = Mat::from_fn(n, rank, |_, _| draw());
            let r: Vec<f64> = (0..n).map(|_| draw()).collect();
            let k = Mat::from_fn(n, n, |i, j| {
                let product: f64 = (0..rank).map(|l| a[(i, l)] * a[(j, l)]).sum();
                product + if i == j { 1e-3 } else { 0.0 }
            });
            let lambda = nonnegative(&k, &r, Deadline::default()).unwrap();
            for i in 0..n {
                let y: f64 = (0..n).map(|j| k[(i, j)] * lambda[j]).sum::<f64>() - r[i];
                assert!(lambda[i] >= 0.0 && y > -1e-7, "seed {seed}: {i} {} {y}", lambda[i]);
                assert!((lambda[i] * y).abs() < 1e-5, "seed {seed}: {i} {} {y}", lambda[i]);
            }
        }
    }

    #[test]
    fn descent_ends_at_the_same_multipliers() {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let a = Mat::from_fn(20, 8, |_, _| 2.0 * rng.random::<f64>() - 1.0);
        let k = &a * a.transpose() + Mat::<f64>::identity(20, 20) * faer::Scale(0.1);
        let r: Vec<f64> = (0..20).map(|i| f64::from(i % 5) - 1.5).collect();
        let exact = nonnegative(&k, &r, Deadline::default()).unwrap();
        let mut lambda = vec![0.0; 20];
        descend(&k, &r, &mut lambda, 1e-10);
        assert!(exact.iter().zip(&lambda).all(|(a, b)| (a - b).abs() < 1e-6), "{exact:?} {lambda:?}");
    }

    #[test]
    fn demands_that_are_met_need_nothing() {
        let never = Deadline::default();
        let k = Mat::from_fn(2, 2, |i, j| if i == j { 1.0 } else { 0.5 });
        assert_eq!(nonnegative(&k, &[-1.0, 0.0], never).unwrap(), [0.0, 0.0]);
        // By hand: only the first is active.
        assert_eq!(nonnegative(&k, &[1.0, 0.2], never).unwrap(), [1.0, 0.0]);
        assert!(nonnegative(&Mat::zeros(1, 1), &[1.0], never).is_err());
        assert_eq!(nonnegative(&Mat::zeros(0, 0), &[], never).unwrap(), [0.0; 0]);
    }
}
