//! Rows and columns of very different size, dependent rows, and what is honest to say of them.

use rand::RngExt;

use super::*;
use crate::attained::attained_slack;
use crate::dense::AffineRecipe;
use crate::testkit::{Tol, for_seeds, uniform_vec};
use crate::{SolveConfig, SolveSide, assert_close};

/// Decades on either side of 1 that rows are scaled over.
const DECADES: f64 = 6.0;

fn scaled_rows<T: Real>(weight: &Mat<f64>, rng: &mut ChaCha8Rng) -> Mat<T> {
    let scales = uniform_vec::<f64>(weight.nrows(), -DECADES, DECADES, rng);
    Mat::from_fn(weight.nrows(), weight.ncols(), |i, j| T::from_f64(10.0_f64.powf(scales[i]) * weight[(i, j)]))
}

/// Largest distance to the target over the slack of its row, in `f64`.
fn worst_miss<T: Real>(weight: &Mat<T>, solution: &Mat<T>, target: &Mat<T>) -> f64 {
    let terms = weight.ncols() + 1;
    let mut worst = 0.0_f64;
    for (i, j) in (0..weight.nrows()).flat_map(|i| (0..target.ncols()).map(move |j| (i, j))) {
        let term = |k: usize| weight[(i, k)].to_f64() * solution[(k, j)].to_f64();
        let image: f64 = (0..weight.ncols()).map(term).sum();
        let scale: f64 = (0..weight.ncols()).map(|k| term(k).abs()).sum();
        let miss = (image - target[(i, j)].to_f64()).abs();
        worst = worst.max(if miss == 0.0 { 0.0 } else { miss / attained_slack::<T>(terms, scale) });
    }
    worst
}

fn rows_of_any_size_are_all_met<T: Real>() {
    for_seeds(12, |rng| {
        for (rows, cols) in [(1, 1), (4, 9), (12, 12), (10, 30), (9, 4)] {
            let mut weight = scaled_rows::<T>(&normal_mat::<f64>(rows, cols, rng), rng);
            // Dependent rows, one of them a copy.
            if rows > 3 && rng.random::<bool>() {
                for j in 0..cols {
                    weight[(1, j)] = weight[(0, j)];
                    weight[(3, j)] = weight[(2, j)] * T::from_f64(4.0);
                }
            }
            let plan = AffinePlan::<T>::new(weight.as_ref(), None, &SolveConfig::default(), Par::Seq).unwrap();
            let observed_in = normal_mat::<T>(cols, BATCH, rng);
            let goal = widen(weight.as_ref()) * widen(normal_mat::<T>(cols, BATCH, rng).as_ref());
            let batch = Batch { observed_in, observed_out: None, target: narrow::<T>(&goal) };
            let (solution, report) = batch.solve(&plan, Par::Seq).unwrap();
            assert_eq!(report.unattained, 0, "{} × {}, {:?}", rows, cols, plan.recipe());
            let worst = worst_miss(&weight, &solution, &batch.target);
            assert!(worst <= 1.0, "{rows} × {cols}: a row misses by {worst} of its slack");
        }
    });
}

const BATCH: usize = 5;

#[test]
fn rows_of_any_size_are_all_met_in_f32() {
    rows_of_any_size_are_all_met::<f32>();
}

#[test]
fn rows_of_any_size_are_all_met_in_f64() {
    rows_of_any_size_are_all_met::<f64>();
}

/// Powers of two change no rounding, so neither the solution nor the rank may depend on them.
fn scales_of_rows_change_nothing<T: Real>() {
    for_seeds(8, |rng| {
        let weight = normal_mat::<T>(6, 14, rng);
        let powers: Vec<T> = (0..6).map(|_| T::from_f64(2.0_f64.powi(rng.random_range(-20..20)))).collect();
        let scaled = Mat::from_fn(6, 14, |i, j| powers[i] * weight[(i, j)]);
        let target = normal_mat::<T>(6, BATCH, rng);
        let scaled_target = Mat::from_fn(6, BATCH, |i, j| powers[i] * target[(i, j)]);
        let solve = |weight: &Mat<T>, target: Mat<T>| {
            let plan = AffinePlan::<T>::new(weight.as_ref(), None, &SolveConfig::default(), Par::Seq).unwrap();
            assert_eq!(plan.recipe(), AffineRecipe::Nearest);
            (Batch::from_origin(14, target).solve(&plan, Par::Seq).unwrap().0, plan.facts())
        };
        let (plain, facts) = solve(&weight, target);
        let (found, scaled_facts) = solve(&scaled, scaled_target);
        assert_close!(found, plain, Tol::eps::<T>().times(64).by(facts.condition));
        assert_eq!(facts.rank, scaled_facts.rank);
        assert!((scaled_facts.condition / facts.condition - 1.0).abs() < 0.01, "{facts:?} {scaled_facts:?}");
    });
}

#[test]
fn scales_of_rows_change_nothing_in_f32() {
    scales_of_rows_change_nothing::<f32>();
}

#[test]
fn scales_of_rows_change_nothing_in_f64() {
    scales_of_rows_change_nothing::<f64>();
}

/// Contradictions are weighed by the rows as they stand, however different their size.
#[test]
fn contradictions_are_weighed_as_the_rows_stand() {
    for_seeds(8, |rng| {
        // Large enough a difference to be balanced, and small enough for the oracle's singular values.
        let scales = [1.0, 1e3, 1e-2, 1.0, 30.0, 1e-3];
        let random = normal_mat::<f64>(6, 3, rng);
        let weight = Mat::from_fn(6, 3, |i, j| scales[i] * random[(i, j)]);
        let plan = AffinePlan::<f64>::new(weight.as_ref(), None, &SolveConfig::default(), Par::Seq).unwrap();
        let target = Mat::from_fn(6, 1, |i, _| scales[i] * rng.random_range(1.0..2.0));
        let oracle = spectral_inverse(&weight, |s| 1.0 / s) * &target;
        let (solution, report) = Batch::from_origin(3, target).solve(&plan, Par::Seq).unwrap();
        assert_eq!((report.side, report.unattained), (SolveSide::LeastSquares, 1));
        let sigma = weight.singular_values().unwrap();
        let condition = sigma[0] / sigma[2];
        assert_close!(solution, oracle, Tol::eps::<f64>().times(64).by(condition * condition));
    });
}

/// What rounding of the weights cannot vouch for is dropped, and taken back where the target needs it.
#[test]
fn a_dropped_direction_is_taken_back_where_it_attains_the_target() {
    let weight = faer::mat![[1.0_f32, 1e-7], [1.0, -1e-7]];
    let plan = AffinePlan::<f32>::new(weight.as_ref(), None, &SolveConfig::default(), Par::Seq).unwrap();
    assert_eq!((plan.recipe(), plan.facts().rank), (AffineRecipe::Truncated, 1));
    // The outputs of (1e-3, 1e3).
    let target = faer::mat![[1e-3_f32 + 1e-4], [1e-3 - 1e-4]];
    let (solution, report) = Batch::from_origin(2, target.clone()).solve(&plan, Par::Seq).unwrap();
    assert_eq!(report.unattained, 0);
    assert!(worst_miss(&weight, &solution, &target) <= 1.0);
    // A contradiction would need entries so large that their rounding exceeds the target: it stays one.
    let target = faer::mat![[1.0_f32], [-1.0]];
    let (solution, report) = Batch::from_origin(2, target).solve(&plan, Par::Seq).unwrap();
    assert_eq!(report.unattained, 1);
    assert!(solution[(1, 0)].abs() < 1.0, "{solution:?}");
}
