//! `min ½ λᵀKλ - rᵀλ` subject to `λ >= 0`: the dual of the margin-constrained change.

use faer::prelude::{Reborrow, ReborrowMut};
use faer::{Accum, Mat, MatMut};
use fbp_linalg::{cholesky_in_place, matmul_lower, solve_cholesky_in_place, solve_lower_in_place};

use super::deadline::Deadline;
use crate::TrainError;
use crate::evaluate::pool_par;

/// Exchanges of whole blocks that may fail to help before the guess is handed to the descent.
const BLOCK_CHANCES: usize = 5;
/// Most exchanges.
const EXCHANGES: usize = 30;
/// Most sweeps of the descent.
const SWEEPS: usize = 400;
/// Columns of a factor between two looks at the clock.
const BLOCK: usize = 256;
/// Share of the largest number involved that counts as zero.
const TOLERANCE: f64 = 1e-9;

/// Solves the problem for a positive definite `k`: exactly if the pivoting ends, which it does unless conditions nearly
/// contradict each other, else by descent up to a small violation.
///
/// Block principal pivoting: a guess which multipliers are positive, a linear solve, and an exchange of all that have
/// the wrong sign. If that goes round in circles or takes too long, the last guess is the start of a coordinate descent, every sweep of
/// which lowers the objective.
///
/// When the deadline comes, the last guess is the answer: conditions may be missed then.
///
/// # Errors
/// [`TrainError::Singular`] if `k` is not positive definite, [`TrainError::TimeOver`] if there is no guess yet.
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
    for exchange in 0..EXCHANGES {
        let active: Vec<usize> = (0..n).filter(|&i| positive[i]).collect();
        lambda = match solve_on(k, r, &active, deadline) {
            Err(TrainError::TimeOver) if exchange > 0 => break,
            solved => solved?,
        };
        tracing::debug!(exchange, active = active.len(), of = n, "exchange");
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
        if chances == 0 {
            break;
        }
        wrong.iter().for_each(|&i| positive[i] = !positive[i]);
    }
    lambda.iter_mut().for_each(|l| *l = l.max(0.0));
    descend(k, r, &mut lambda, 1e-6 * largest, deadline);
    Ok(lambda)
}

/// Minimises over one multiplier after the other until no condition is missed by more than `tolerance`, or the time is over.
fn descend(k: &Mat<f64>, r: &[f64], lambda: &mut [f64], tolerance: f64, deadline: Deadline) {
    if deadline.is_over() {
        return;
    }
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
        if worst <= tolerance || deadline.is_over() {
            break;
        }
    }
}

/// `(Kλ - r)_i`.
fn slack(k: &Mat<f64>, r: &[f64], lambda: &[f64], active: &[usize], i: usize) -> f64 {
    active.iter().map(|&j| k[(j, i)] * lambda[j]).sum::<f64>() - r[i]
}

/// `K_AA λ_A = r_A`, zero elsewhere.
fn solve_on(k: &Mat<f64>, r: &[f64], active: &[usize], deadline: Deadline) -> Result<Vec<f64>, TrainError> {
    let mut lambda = vec![0.0; r.len()];
    if active.is_empty() {
        return Ok(lambda);
    }
    let n = active.len();
    let mut part = Mat::from_fn(n, n, |i, j| k[(active[i], active[j])]);
    let mut solution = Mat::from_fn(n, 1, |i, _| r[active[i]]);
    // In place: with many conditions this matrix and the whole one are most of the memory.
    factorise(part.as_mut(), deadline)?;
    solve_cholesky_in_place(part.as_ref(), solution.as_mut(), pool_par());
    for (place, &i) in active.iter().enumerate() {
        lambda[i] = solution[(place, 0)];
    }
    Ok(lambda)
}

/// Replaces the lower triangle of a positive definite matrix by its Cholesky factor, a block of columns at a time, so that
/// the deadline is not missed by the time of a whole factorisation.
///
/// # Errors
/// [`TrainError::Singular`], [`TrainError::TimeOver`].
///
/// # Source
/// Golub & Van Loan, *Matrix Computations*, 4th ed., §4.2.6 (block outer product form).
pub(super) fn factorise(mut a: MatMut<'_, f64>, deadline: Deadline) -> Result<(), TrainError> {
    let (n, par) = (a.nrows(), pool_par());
    for start in (0..n).step_by(BLOCK) {
        deadline.check()?;
        let size = BLOCK.min(n - start);
        let rest = a.rb_mut().submatrix_mut(start, start, n - start, n - start);
        let (mut head, _, mut below, tail) = rest.split_at_mut(size, size);
        if !cholesky_in_place(head.rb_mut(), par) {
            return Err(TrainError::Singular { what: "the conditions of the repair" });
        }
        // L₂₁ = A₂₁ L₁₁⁻ᵀ, then A₂₂ - L₂₁ L₂₁ᵀ.
        solve_lower_in_place(head.rb(), below.rb_mut().transpose_mut(), par);
        matmul_lower(tail, Accum::Add, below.rb(), below.rb().transpose(), -1.0, par);
    }
    Ok(())
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
        descend(&k, &r, &mut lambda, 1e-10, Deadline::default());
        assert!(exact.iter().zip(&lambda).all(|(a, b)| (a - b).abs() < 1e-6), "{exact:?} {lambda:?}");
    }

    #[test]
    fn blocks_of_a_factor_are_those_of_the_whole() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for n in [1, BLOCK - 1, BLOCK, 2 * BLOCK + 37] {
            let a = Mat::from_fn(n, n, |_, _| 2.0 * rng.random::<f64>() - 1.0);
            let k = &a * a.transpose() + Mat::<f64>::identity(n, n) * faer::Scale(n as f64);
            let whole = k.llt(faer::Side::Lower).unwrap();
            let mut own = k.clone();
            factorise(own.as_mut(), Deadline::default()).unwrap();
            let scale = k.norm_max().sqrt() * n as f64 * f64::EPSILON;
            for j in 0..n {
                for i in j..n {
                    assert!((own[(i, j)] - whole.L()[(i, j)]).abs() <= scale, "{n}: {i} {j}");
                }
            }
        }
        let over = Deadline::after(Some(0.0));
        assert!(matches!(factorise(Mat::identity(3, 3).as_mut(), over), Err(TrainError::TimeOver)));
        assert!(matches!(factorise(Mat::zeros(3, 3).as_mut(), Deadline::default()), Err(TrainError::Singular { .. })));
    }

    #[test]
    fn a_deadline_ends_a_solve_with_what_there_is() {
        let k = Mat::from_fn(2, 2, |i, j| if i == j { 1.0 } else { 0.5 });
        let over = Deadline::after(Some(0.0));
        assert!(matches!(nonnegative(&k, &[1.0, 0.2], over), Err(TrainError::TimeOver)));
        let mut lambda = [0.25, 0.0];
        descend(&k, &[1.0, 0.2], &mut lambda, 1e-9, over);
        assert_eq!(lambda, [0.25, 0.0]);
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
