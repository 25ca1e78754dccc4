//! What every plan promises whatever it solves.

use super::*;
use crate::testkit::{Tol, rng, uniform_mat};
use crate::{SolveConfig, SolveParams, SolveSide, StopReason, assert_close};

/// One plan of each recipe and shape, well conditioned.
fn plans<T: Real>() -> Vec<AffinePlan<T>> {
    let mut rng = rng(21);
    let plain = SolveConfig::default();
    let ridge = SolveParams::new().lambda(0.03).check().unwrap();
    let mut found = Vec::new();
    for (rows, cols) in [(1, 1), (6, 17), (17, 6), (9, 9), (40, 50)] {
        let weight = with_condition(rows, cols, 10.0, &mut rng);
        let bias = uniform_mat::<f64>(rows, 1, -1.0, 1.0, &mut rng);
        for config in [&plain, &ridge] {
            let bias = Some(bias.col_as_slice(0));
            found.push(AffinePlan::new(weight.as_ref(), bias, config, Par::Seq).unwrap());
        }
    }
    for (rows, cols) in [(8, 12), (12, 8)] {
        let weight = with_condition(rows, 3, 4.0, &mut rng) * with_condition(3, cols, 4.0, &mut rng);
        found.push(AffinePlan::new(weight.as_ref(), None, &plain, Par::Seq).unwrap());
        assert_eq!(found[found.len() - 1].facts().rank, 3);
    }
    found
}

fn random_batch<T: Real>(plan: &AffinePlan<T>, batch: usize, rng: &mut ChaCha8Rng) -> Batch<T> {
    let observed_in = normal_mat::<T>(plan.cols(), batch, rng);
    let observed_out = plan.weight() * &observed_in;
    let observed_out = Mat::from_fn(plan.rows(), batch, |i, j| observed_out[(i, j)] + plan.bias()[i]);
    Batch { observed_in, observed_out: Some(observed_out), target: normal_mat::<T>(plan.rows(), batch, rng) }
}

fn tol<T: Real>(plan: &AffinePlan<T>) -> Tol {
    Tol::eps::<T>().times(8 * plan.rows().max(plan.cols())).by(plan.facts().condition.powi(2))
}

#[test]
fn plans_are_shared_between_threads() {
    fn assert_send_sync<S: Send + Sync + 'static>() {}
    assert_send_sync::<AffinePlan<f32>>();
    assert_send_sync::<AffinePlan<f64>>();
    assert_send_sync::<crate::dense::NearestPlan<f32>>();
    assert_send_sync::<crate::dense::LeastSquaresPlan<f32>>();
    assert_send_sync::<crate::dense::RidgePlan<f32>>();
    assert_send_sync::<crate::dense::TruncatedPlan<f32>>();
}

fn a_met_target_gives_the_observed_input_back<T: Real>() {
    let mut rng = rng(22);
    for plan in plans::<T>() {
        for par in [Par::Seq, Par::rayon(2)] {
            let mut batch = random_batch(&plan, 70, &mut rng);
            for i in 0..plan.cols() {
                batch.observed_in[(i, 3)] = T::from_f64(-0.0);
                batch.observed_in[(i, 64)] = T::from_f64(1e-40);
            }
            let observed_out = batch.observed_out.clone().unwrap();
            let met = [0, 3, 5, 64, 69];
            for j in met {
                batch.target.col_mut(j).copy_from(observed_out.col(j));
            }
            let (solution, _) = batch.solve(&plan, par).unwrap();
            for (i, j) in (0..plan.cols()).flat_map(|i| met.map(|j| (i, j))) {
                let (v, v0) = (solution[(i, j)].to_f64(), batch.observed_in[(i, j)].to_f64());
                assert_eq!(v.to_bits(), v0.to_bits(), "{:?}, row {i}, column {j}", plan.recipe());
            }
            assert!(solution != batch.observed_in, "the other samples move");

            let target = observed_out.clone();
            let (solution, report) = Batch { target, ..batch }.solve(&plan, par).unwrap();
            assert!(solution.as_ref().col_iter().all(|col| col.iter().all(|x| x.is_finite())));
            assert_eq!((report.violation_max, report.residual_relative, report.unattained), (0.0, 0.0, 0));
        }
    }
}

#[test]
fn a_met_target_gives_the_observed_input_back_bit_for_bit() {
    a_met_target_gives_the_observed_input_back::<f32>();
    a_met_target_gives_the_observed_input_back::<f64>();
}

#[test]
fn threads_and_batch_size_do_not_matter() {
    let mut rng = rng(23);
    for plan in plans::<f32>() {
        for size in [1, 2, 31, 64, 65, 129, 300] {
            let batch = random_batch(&plan, size, &mut rng);
            let (sequential, report) = batch.solve(&plan, Par::Seq).unwrap();
            for threads in [2, 3] {
                let (parallel, other) = batch.solve(&plan, Par::rayon(threads)).unwrap();
                assert_close!(parallel, sequential, tol(&plan), "{:?}, {threads} threads", plan.recipe());
                assert_eq!((other.unattained, other.stop), (report.unattained, StopReason::Direct));
            }
            for j in [0, size / 2, size - 1] {
                let one = |a: &Mat<f32>| a.get(.., j..j + 1).to_owned();
                let alone = Batch {
                    observed_in: one(&batch.observed_in),
                    observed_out: batch.observed_out.as_ref().map(one),
                    target: one(&batch.target),
                };
                let (alone, _) = alone.solve(&plan, Par::Seq).unwrap();
                assert_close!(alone, one(&sequential), tol(&plan), "{:?}, sample {j} of {size}", plan.recipe());
            }
        }
    }
}

#[test]
fn observed_outputs_are_computed_where_they_are_not_given() {
    let mut rng = rng(24);
    for plan in plans::<f64>() {
        let batch = random_batch(&plan, 10, &mut rng);
        let (given, _) = batch.solve(&plan, Par::Seq).unwrap();
        let (computed, _) = Batch { observed_out: None, ..batch }.solve(&plan, Par::Seq).unwrap();
        assert_close!(computed, given, tol(&plan));
    }
}

#[test]
fn reports_are_what_the_data_say() {
    let mut rng = rng(25);
    for plan in plans::<f64>() {
        let batch = random_batch(&plan, 7, &mut rng);
        let (solution, report) = batch.solve(&plan, Par::Seq).unwrap();
        let offset = Mat::from_fn(plan.rows(), 7, |i, _| plan.bias()[i]);
        let rest = plan.weight() * &solution + offset - &batch.target;
        let violation = rest.norm_max();
        let relative = worst_ratio(&rest, &batch.target);
        let rounding = Tol::eps::<f64>().times(40 * plan.cols()).scale(10.0);
        assert_close!([report.violation_max, report.residual_relative], [violation, relative], rounding);
        let missed = |j: usize| rest.col(j).norm_max() > 1e-4 * batch.target.col(j).norm_max();
        let count = (0..7).filter(|&j| missed(j)).count();
        if report.side == SolveSide::Nearest {
            assert_eq!((report.unattained, count), (0, 0));
        } else {
            // The yardstick also knows the distance to the observed output, so it can only be more lenient.
            assert!(report.unattained <= count, "{} above {count}", report.unattained);
        }
        assert_eq!((report.iters, report.rank), (0, plan.facts().rank));
        assert_eq!(report.lambda, plan.lambda());
    }
}

#[test]
fn every_value_that_is_not_finite_is_found() {
    let mut rng = rng(26);
    for plan in plans::<f32>() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (row, column) in [(0, 0), (plan.rows().min(plan.cols()) - 1, 99)] {
                let spoil = |what: &str| {
                    let mut batch = random_batch(&plan, 100, &mut rng.clone());
                    match what {
                        "affine: target" => batch.target[(row, column)] = bad,
                        "affine: observed_in" => batch.observed_in[(row, column)] = bad,
                        _ => batch.observed_out.as_mut().unwrap()[(row, column)] = bad,
                    }
                    batch
                };
                for what in ["affine: target", "affine: observed_in", "affine: observed_out"] {
                    for par in [Par::Seq, Par::rayon(2)] {
                        let error = spoil(what).solve(&plan, par).unwrap_err();
                        assert_eq!(error, LinalgError::NonFinite { what, row, column }, "{:?}", plan.recipe());
                    }
                }
            }
        }
        random_batch(&plan, 1, &mut rng);
    }
}

#[test]
fn an_overflow_is_an_error() {
    let weight = faer::mat![[1e-30_f32]];
    let plan = AffinePlan::<f32>::new(weight.as_ref(), None, &SolveConfig::default(), Par::Seq).unwrap();
    let batch = Batch::from_origin(1, faer::mat![[1e20_f32]]);
    let error = batch.solve(&plan, Par::Seq).unwrap_err();
    assert_eq!(error, LinalgError::NonFinite { what: "affine: solution", row: 0, column: 0 });
}

#[test]
fn wrong_views_are_refused() {
    let mut rng = rng(27);
    let plan = &plans::<f64>()[2];
    let good = || random_batch(plan, 5, &mut rng.clone());
    let wrong = |batch: Batch<f64>| match batch.solve(plan, Par::Seq) {
        Err(LinalgError::Shape { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let zeros = Mat::<f64>::zeros;
    assert_eq!(wrong(Batch { observed_in: zeros(plan.cols() + 1, 5), ..good() }), "affine: observed_in");
    assert_eq!(wrong(Batch { observed_in: zeros(plan.cols(), 4), ..good() }), "affine: observed_in");
    assert_eq!(wrong(Batch { observed_out: Some(zeros(plan.rows(), 6)), ..good() }), "affine: observed_out");
    assert_eq!(wrong(Batch { target: zeros(plan.rows() - 1, 5), ..good() }), "affine: target");
    let batch = good();
    let mut memory = MemBuffer::new(plan.solve_scratch(5, Par::Seq));
    let mut row_major = zeros(5, plan.cols());
    let pass = AffineSolve {
        observed_in: batch.observed_in.as_ref(),
        observed_out: None,
        target: batch.target.as_ref(),
        solution: row_major.transpose_mut(),
    };
    let error = plan.solve(pass, Par::Seq, MemStack::new(&mut memory)).unwrap_err();
    assert!(matches!(error, LinalgError::Strided { what: "affine: solution", .. }), "{error}");
    random_batch(plan, 1, &mut rng);
}

#[test]
fn padded_columns_are_fine() {
    let mut rng = rng(28);
    for plan in plans::<f32>() {
        let (rows, cols) = (plan.rows(), plan.cols());
        let dense = random_batch(&plan, 40, &mut rng);
        let (expected, _) = dense.solve(&plan, Par::Seq).unwrap();
        let pad =
            |a: &Mat<f32>| Mat::from_fn(a.nrows() + 3, 40, |i, j| if i < a.nrows() { a[(i, j)] } else { f32::NAN });
        let (observed_in, target) = (pad(&dense.observed_in), pad(&dense.target));
        let observed_out = pad(dense.observed_out.as_ref().unwrap());
        let mut solution = Mat::from_fn(cols + 3, 40, |_, _| 7.0);
        let mut memory = MemBuffer::new(plan.solve_scratch(40, Par::Seq));
        let pass = AffineSolve {
            observed_in: observed_in.get(..cols, ..),
            observed_out: Some(observed_out.get(..rows, ..)),
            target: target.get(..rows, ..),
            solution: solution.get_mut(..cols, ..),
        };
        plan.solve(pass, Par::Seq, MemStack::new(&mut memory)).unwrap();
        assert_close!(solution.get(..cols, ..), expected, tol(&plan));
        assert!((cols..cols + 3).all(|i| (0..40).all(|j| solution[(i, j)] == 7.0)), "wrote outside its view");
    }
}

#[test]
fn nothing_to_solve_is_no_error() {
    for plan in plans::<f64>() {
        let batch = Batch::from_origin(plan.cols(), Mat::zeros(plan.rows(), 0));
        let (_, report) = batch.solve(&plan, Par::rayon(2)).unwrap();
        assert_eq!((report.unattained, report.rank, report.violation_max), (0, plan.facts().rank, 0.0));
        assert_eq!(report.lambda, plan.lambda());
    }
    for (rows, cols) in [(0, 3), (3, 0), (0, 0)] {
        let weight = Mat::<f64>::zeros(rows, cols);
        for lambda in [0.0, 0.5] {
            let config = SolveParams::new().lambda(lambda).check().unwrap();
            let plan = AffinePlan::<f64>::new(weight.as_ref(), None, &config, Par::Seq).unwrap();
            let observed_in = Mat::from_fn(cols, 2, |i, j| (i + j) as f64);
            let target = Mat::from_fn(rows, 2, |_, _| 1.0);
            let batch = Batch { observed_in: observed_in.clone(), observed_out: None, target };
            let (solution, report) = batch.solve(&plan, Par::Seq).unwrap();
            assert_eq!(solution, observed_in);
            assert_eq!(report.unattained, if rows == 0 { 0 } else { 2 });
        }
    }
}

#[test]
fn refinement_pays_and_is_counted() {
    let mut rng = rng(29);
    let weight = with_condition(60, 90, 1e5, &mut rng);
    let target = narrow::<f32>(&(&weight * normal_mat::<f64>(90, 8, &mut rng)));
    let batch = Batch::from_origin(90, target);
    let residual = |steps| {
        let config = SolveParams::new().refine_steps(steps).rank_tol(1e-13).check().unwrap();
        let plan = AffinePlan::<f32>::new(weight.as_ref(), None, &config, Par::Seq).unwrap();
        batch.solve(&plan, Par::Seq).unwrap().1.residual_relative
    };
    let (none, one) = (residual(0), residual(1));
    assert!(one <= 5e-7 && none > 1.5 * one, "without {none:e}, with one step {one:e}");
}
