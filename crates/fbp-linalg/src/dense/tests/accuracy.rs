//! Tables of errors with room for a factor of three at most, and dense oracles for every recipe.

use super::*;
use crate::dense::{AffineRecipe, GramSide, LeastSquaresPlan, NearestPlan, RidgePlan, SystemFacts, TruncatedPlan};
use crate::testkit::{Tol, for_seeds, rng};
use crate::{SolveConfig, SolveParams, SolveSide, assert_close};

const BATCH: usize = 16;

/// A tolerance that never truncates the table's matrices, whatever the precision of their weights.
fn keep_all() -> SolveConfig {
    SolveParams::new().rank_tol(1e-13).check().unwrap()
}

/// Feasibility, stationarity and distance to the oracle for a wide matrix and consistent targets.
fn nearest_errors<T: Real>(condition: f64) -> (f64, f64, f64) {
    let mut rng = rng(condition as u64);
    let weight = narrow::<T>(&with_condition(128, 256, condition, &mut rng));
    let exact = widen(weight.as_ref());
    let plan = AffinePlan::<T>::new(weight.as_ref(), None, &keep_all(), Par::Seq).unwrap();
    assert_eq!(plan.recipe(), AffineRecipe::Nearest);
    let target = narrow::<T>(&(&exact * normal_mat::<f64>(256, BATCH, &mut rng)));
    let wanted = widen(target.as_ref());
    let (solution, report) = Batch::from_origin(256, target).solve(&plan, Par::Seq).unwrap();
    let d = widen(solution.as_ref());
    let misses = &exact * &d - &wanted;
    let (feasibility, worst) = (ratio(&misses, &wanted), worst_ratio(&misses, &wanted));
    assert!((report.residual_relative - worst).abs() <= worst + 4.0 * T::EPSILON.to_f64());
    assert_eq!((report.side, report.rank, report.unattained), (SolveSide::Nearest, 128, 0));
    let svd = exact.thin_svd().unwrap();
    let inside = svd.V() * (svd.V().transpose() * &d);
    let stationarity = ratio(&(&d - inside), &d);
    let oracle = spectral_inverse(&exact, |s| 1.0 / s) * &wanted;
    (feasibility, stationarity, ratio(&(&d - &oracle), &oracle))
}

#[test]
fn nearest_solutions_keep_the_table() {
    for condition in [1e2, 1e4, 1e6] {
        let (feasibility, stationarity, distance) = nearest_errors::<f32>(condition);
        println!("f32 nearest, condition {condition:e}: {feasibility:.1e} {stationarity:.1e} {distance:.1e}");
        // Measured 2.6e-7 with one step: the rounding of the residual itself, whatever the condition.
        assert!(feasibility <= 5e-7, "f32, condition {condition:e}: feasibility {feasibility:e}");
        assert!(stationarity <= 3.0 * 2e-7, "f32, condition {condition:e}: stationarity {stationarity:e}");
        assert!(distance <= 3.0 * 1e-8 * condition, "f32, condition {condition:e}: distance {distance:e}");
        let (feasibility, stationarity, distance) = nearest_errors::<f64>(condition);
        println!("f64 nearest, condition {condition:e}: {feasibility:.1e} {stationarity:.1e} {distance:.1e}");
        assert!(feasibility <= 1e-14 && stationarity <= 1e-14, "{feasibility:e} {stationarity:e}");
        assert!(distance <= 4.0 * f64::EPSILON * condition, "f64, condition {condition:e}: distance {distance:e}");
    }
}

/// Excess residual over the oracle, relative to the target, and distance to the oracle; inconsistent targets.
fn least_squares_errors<T: Real>(condition: f64) -> (f64, f64) {
    let mut rng = rng(condition as u64 + 1);
    let weight = narrow::<T>(&with_condition(256, 128, condition, &mut rng));
    let exact = widen(weight.as_ref());
    let plan = AffinePlan::<T>::new(weight.as_ref(), None, &keep_all(), Par::Seq).unwrap();
    assert_eq!(plan.recipe(), AffineRecipe::LeastSquares);
    let target = normal_mat::<T>(256, BATCH, &mut rng);
    let wanted = widen(target.as_ref());
    let (solution, report) = Batch::from_origin(128, target).solve(&plan, Par::Seq).unwrap();
    assert_eq!((report.side, report.rank), (SolveSide::LeastSquares, 128));
    // Far away, where the rounding of a row's terms exceeds its target, every target counts as attained.
    if condition * T::EPSILON.to_f64() < 0.05 {
        assert_eq!(report.unattained, BATCH, "{}, condition {condition:e}", T::NAME);
    }
    let d = widen(solution.as_ref());
    let oracle = spectral_inverse(&exact, |s| 1.0 / s) * &wanted;
    (ratio(&(&exact * (&d - &oracle)), &wanted), ratio(&(&d - &oracle), &oracle))
}

#[test]
fn least_squares_solutions_keep_the_table() {
    // Measured 4.5e-6, 3.3e-5, 3.0e-4 and 2.7e-3.
    for (condition, allowed) in [(1e3, 2e-6), (1e4, 2e-5), (1e5, 2e-4), (1e6, 2e-3)] {
        let (excess, distance) = least_squares_errors::<f32>(condition);
        println!("f32 least squares, condition {condition:e}: {excess:.1e} {distance:.1e}");
        assert!(excess <= 3.0 * allowed, "f32, condition {condition:e}: excess {excess:e}");
        assert!(distance <= 3.0 * 1e-8 * condition, "f32, condition {condition:e}: distance {distance:e}");
        let (excess, distance) = least_squares_errors::<f64>(condition);
        println!("f64 least squares, condition {condition:e}: {excess:.1e} {distance:.1e}");
        assert!(excess <= 1e-9 && distance <= 1e-9, "f64, condition {condition:e}: {excess:e} {distance:e}");
    }
}

/// Distance of a plan's solution to `v0 + inverse (y - b - A v0)` from a random observed point.
fn distance_to<T: Real>(
    plan: &AffinePlan<T>,
    bias: &[T],
    inverse: &Mat<f64>,
    rng: &mut ChaCha8Rng,
) -> (Mat<f64>, Mat<f64>, SolveReport) {
    let observed_in = normal_mat::<T>(plan.cols(), BATCH, rng);
    let target = normal_mat::<T>(plan.rows(), BATCH, rng);
    let (v0, y) = (widen(observed_in.as_ref()), widen(target.as_ref()));
    let offset = Mat::from_fn(plan.rows(), BATCH, |i, _| bias[i].to_f64());
    let oracle = &v0 + inverse * (y - offset - widen(plan.weight()) * &v0);
    let (solution, report) = Batch { observed_in, observed_out: None, target }.solve(plan, Par::Seq).unwrap();
    (widen(solution.as_ref()), oracle, report)
}

fn every_recipe_meets_its_oracle<T: Real>() {
    for_seeds(8, |rng| {
        for (rows, cols) in [(1, 1), (5, 9), (9, 5), (12, 12), (10, 64), (64, 10)] {
            let weight = narrow::<T>(&with_condition(rows, cols, 20.0, rng));
            let bias = normal_mat::<T>(rows, 1, rng);
            let bias = bias.col_as_slice(0);
            let exact = widen(weight.as_ref());
            let tol = Tol::eps::<T>().times(8 * rows.max(cols)).by(20.0);
            let plan = AffinePlan::<T>::new(weight.as_ref(), Some(bias), &SolveConfig::default(), Par::Seq).unwrap();
            let (found, oracle, _) = distance_to(&plan, bias, &spectral_inverse(&exact, |s| 1.0 / s), rng);
            assert_close!(found, oracle, tol, "{rows} × {cols}, {:?}", plan.recipe());
            for lambda in [1e-4, 0.1, 30.0] {
                let config = SolveParams::new().lambda(lambda).check().unwrap();
                let plan = AffinePlan::<T>::new(weight.as_ref(), Some(bias), &config, Par::Seq).unwrap();
                assert_eq!(plan.recipe(), AffineRecipe::Ridge(GramSide::smaller(rows, cols)));
                let inverse = spectral_inverse(&exact, |s| s / (s * s + lambda));
                let (found, oracle, report) = distance_to(&plan, bias, &inverse, rng);
                assert_close!(found, oracle, tol, "{rows} × {cols}, λ = {lambda}");
                assert_eq!((report.side, report.lambda), (SolveSide::Regularised, lambda));
            }
        }
    });
}

#[test]
fn every_recipe_meets_its_oracle_in_f32() {
    every_recipe_meets_its_oracle::<f32>();
}

#[test]
fn every_recipe_meets_its_oracle_in_f64() {
    every_recipe_meets_its_oracle::<f64>();
}

/// Matrices whose rank is lower than their shape, as networks have them.
fn deficient<T: Real>(rows: usize, cols: usize, rng: &mut ChaCha8Rng) -> Vec<(&'static str, Mat<T>, usize)> {
    let full = rows.min(cols);
    let random = normal_mat::<T>(rows, cols, rng);
    let with = |edit: &dyn Fn(usize, usize) -> T| Mat::from_fn(rows, cols, edit);
    let scaled_row = with(&|i, j| if i == 1 { random[(0, j)] * T::from_f64(3.0) } else { random[(i, j)] });
    let same_row = with(&|i, j| random[(if i == 1 { 0 } else { i }, j)]);
    let same_column = with(&|i, j| random[(i, if j == 1 { 0 } else { j })]);
    let zero_row = with(&|i, j| if i == 2 { T::ZERO } else { random[(i, j)] });
    let zero_column = with(&|i, j| if j == 2 { T::ZERO } else { random[(i, j)] });
    let rank_two = narrow(&(normal_mat::<f64>(rows, 2, rng) * normal_mat::<f64>(2, cols, rng)));
    let lost = |side: usize| if side == full { full - 1 } else { full };
    let (rows_left, cols_left) = (lost(rows).min(rows - 1).min(cols), lost(cols).min(cols - 1).min(rows));
    vec![
        ("scaled row", scaled_row, rows_left),
        ("duplicate row", same_row, rows_left),
        ("duplicate column", same_column, cols_left),
        ("zero row", zero_row, rows_left),
        ("zero column", zero_column, cols_left),
        ("rank two", rank_two, 2.min(full)),
        ("zeros", Mat::zeros(rows, cols), 0),
    ]
}

fn low_rank_is_found_and_solved<T: Real>() {
    for_seeds(6, |rng| {
        for (rows, cols) in [(4, 9), (9, 4), (7, 7), (20, 33)] {
            for (name, weight, rank) in deficient::<T>(rows, cols, rng) {
                let config = SolveConfig::default();
                let plan = AffinePlan::<T>::new(weight.as_ref(), None, &config, Par::Seq).unwrap();
                assert_eq!(plan.facts().rank, rank, "{name}, {rows} × {cols}");
                let cutoff = rows.max(cols) as f64 * T::EPSILON.to_f64();
                let exact = widen(weight.as_ref());
                let largest = exact.singular_values().unwrap()[0];
                let pseudo = spectral_inverse(&exact, |s| if s > cutoff * largest { 1.0 / s } else { 0.0 });
                let (found, oracle, report) = distance_to(&plan, &vec![T::ZERO; rows], &pseudo, rng);
                // The condition enters twice: the targets are inconsistent.
                let condition = plan.facts().condition;
                let tol = Tol::eps::<T>().times(8 * rows.max(cols)).by(condition * condition);
                assert_close!(found, oracle, tol, "{name}, {rows} × {cols}, condition {condition}");
                assert_eq!(report.rank, rank);
            }
        }
    });
}

#[test]
fn low_rank_is_found_and_solved_in_f32() {
    low_rank_is_found_and_solved::<f32>();
}

#[test]
fn low_rank_is_found_and_solved_in_f64() {
    low_rank_is_found_and_solved::<f64>();
}

#[test]
fn rank_follows_the_precision_of_the_weights_not_of_the_features() {
    let mut rng = rng(11);
    let random = normal_mat::<f32>(6, 12, &mut rng);
    // Equal up to one rounding in single precision.
    let nearly = Mat::from_fn(6, 12, |i, j| if i == 1 { random[(0, j)] / 3.0 * 3.0 } else { random[(i, j)] });
    let plan = AffinePlan::<f64>::new(nearly.as_ref(), None, &SolveConfig::default(), Par::Seq).unwrap();
    assert_eq!((plan.facts().rank, plan.recipe()), (5, AffineRecipe::Truncated));
    let spread = Mat::from_fn(6, 12, |i, j| if i == 1 { random[(0, j)] + 1e-3 * j as f32 } else { random[(i, j)] });
    let plan = AffinePlan::<f32>::new(spread.as_ref(), None, &SolveConfig::default(), Par::Seq).unwrap();
    assert_eq!((plan.facts().rank, plan.recipe()), (6, AffineRecipe::Nearest));
}

#[test]
fn a_ridge_takes_over_above_its_condition_number() {
    let mut rng = rng(12);
    let weight = with_condition(20, 40, 1e5, &mut rng);
    let params = SolveParams::new().lambda(1e-6);
    let build = |limit| {
        let config = params.ridge_above(limit).check().unwrap();
        AffinePlan::<f32>::new(weight.as_ref(), None, &config, Par::Seq).unwrap()
    };
    assert_eq!((build(1e3).recipe(), build(1e3).lambda()), (AffineRecipe::Ridge(GramSide::Dual), 1e-6));
    assert_eq!((build(1e7).recipe(), build(1e7).lambda()), (AffineRecipe::Nearest, 0.0));
}

/// With a Gram matrix of condition 1e8, far beyond `f32`.
#[test]
fn an_ill_conditioned_ridge_is_solved_in_f32() {
    for (rows, cols) in [(64, 128), (128, 64)] {
        let mut rng = rng(13);
        let weight = narrow::<f32>(&with_condition(rows, cols, 1e6, &mut rng));
        let exact = widen(weight.as_ref());
        let lambda = 1e-8;
        let config = SolveParams::new().lambda(lambda).check().unwrap();
        let plan = AffinePlan::<f32>::new(weight.as_ref(), None, &config, Par::Seq).unwrap();
        let target = narrow::<f32>(&(&exact * normal_mat::<f64>(cols, BATCH, &mut rng)));
        let wanted = widen(target.as_ref());
        let (solution, _) = Batch::from_origin(cols, target).solve(&plan, Par::Seq).unwrap();
        let oracle = spectral_inverse(&exact, |s| s / (s * s + lambda)) * wanted;
        let distance = ratio(&(widen(solution.as_ref()) - &oracle), &oracle);
        println!("ridge {rows} × {cols}: distance {distance:.1e}");
        // The augmented matrix has condition 1e4.
        assert!(distance <= 4.0 * f64::from(f32::EPSILON) * 1e4, "{rows} × {cols}: distance {distance:e}");
    }
}

#[test]
fn named_plans_agree_with_the_choice_and_refuse_what_they_cannot_do() {
    let mut rng = rng(14);
    let config = SolveConfig::default();
    let wide = normal_mat::<f64>(5, 9, &mut rng);
    let tall = wide.transpose().to_owned();
    let ridge = SolveParams::new().lambda(0.5).check().unwrap();
    let facts = |rows, cols| SystemFacts { rows, cols, rank: 5, condition: 0.0 };
    let nearest = NearestPlan::<f64>::new(wide.as_ref(), None, &config, Par::Seq).unwrap();
    let truncated = TruncatedPlan::<f64>::new(wide.as_ref(), None, &config, Par::Seq).unwrap();
    let squares = LeastSquaresPlan::<f64>::new(tall.as_ref(), None, &config, Par::Seq).unwrap();
    let centred = RidgePlan::<f64>::new(tall.as_ref(), None, &ridge, Par::Seq).unwrap();
    assert_eq!(SystemFacts { condition: 0.0, ..nearest.facts() }, facts(5, 9));
    assert_eq!(SystemFacts { condition: 0.0, ..truncated.facts() }, facts(5, 9));
    assert_eq!(SystemFacts { condition: 0.0, ..squares.facts() }, facts(9, 5));
    assert_eq!((centred.gram_side(), centred.lambda()), (GramSide::Primal, 0.5));

    let zeros = Mat::<f64>::zeros(5, 9);
    let refused = |outcome: Option<LinalgError>| assert!(matches!(outcome, Some(LinalgError::Decomposition { .. })));
    refused(NearestPlan::<f64>::new(tall.as_ref(), None, &config, Par::Seq).err());
    refused(NearestPlan::<f64>::new(zeros.as_ref(), None, &config, Par::Seq).err());
    refused(LeastSquaresPlan::<f64>::new(wide.as_ref(), None, &config, Par::Seq).err());
    refused(LeastSquaresPlan::<f64>::new(zeros.transpose(), None, &config, Par::Seq).err());
    let tiny = SolveParams::new().lambda(1e-300).check().unwrap();
    let same = Mat::<f64>::from_fn(3, 9, |_, j| wide[(0, j)]);
    refused(RidgePlan::<f64>::new(same.as_ref(), None, &tiny, Par::Seq).err());
    let without = RidgePlan::<f64>::new(wide.as_ref(), None, &config, Par::Seq).err();
    assert!(matches!(without, Some(LinalgError::Parameter { name: "lambda", .. })));
}
