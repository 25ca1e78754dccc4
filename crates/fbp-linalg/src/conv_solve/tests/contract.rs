use super::*;
use crate::assert_close;
use crate::conv_solve::{ConvMode, ConvSolveParams};
use crate::testkit::{Tol, rng};

const ALL: [ConvRecipe; 4] = [ConvRecipe::Boundary, ConvRecipe::Periodic, ConvRecipe::Plain, ConvRecipe::Dense];

fn case(rng: &mut ChaCha8Rng) -> Case {
    let params = Conv2dParams::new(FeatureShape::image(6, 9, 8), 4, [3, 3]).padding([1, 0]).stride([1, 2]).groups(2);
    Case::new(params, false, rng)
}

fn modes() -> [ConvSolveConfig; 3] {
    [ConvMode::Exact, ConvMode::Auto(0.5), ConvMode::Tolerance(0.1)]
        .map(|mode| ConvSolveParams::new().mode(mode).check().unwrap())
}

#[test]
fn plans_are_shared_between_threads() {
    fn assert_send_sync<S: Send + Sync + 'static>() {}
    assert_send_sync::<ConvSolvePlan<f32>>();
    assert_send_sync::<ConvSolvePlan<f64>>();
}

#[test]
fn threads_and_batch_size_do_not_matter() {
    let mut rng = rng(1);
    let case = case(&mut rng);
    let a = case.dense();
    for (recipe, config) in ALL.into_iter().flat_map(|recipe| modes().map(|config| (recipe, config))) {
        let plan = case.plan::<f64>(&config, recipe);
        let batch = Batch::<f64>::random(&case, &a, 7, &mut rng);
        let (sequential, report) = batch.solve(&plan, Par::Seq).unwrap();
        let (parallel, other) = batch.solve(&plan, Par::rayon(2)).unwrap();
        let tol = Tol::eps::<f64>().by(1e7);
        assert_close!(parallel, sequential, tol, "{recipe:?}");
        assert_eq!((report.unattained, report.side), (other.unattained, other.side));
        for j in [0, 6] {
            let one = |a: &Mat<f64>| a.get(.., j..j + 1).to_owned();
            let alone = Batch {
                observed_in: one(&batch.observed_in),
                observed_out: batch.observed_out.as_ref().map(one),
                target: one(&batch.target),
            };
            let (alone, _) = alone.solve(&plan, Par::Seq).unwrap();
            assert_close!(alone, one(&sequential), tol, "{recipe:?}");
        }
        let computed = Batch { observed_out: None, ..batch };
        assert_close!(computed.solve(&plan, Par::Seq).unwrap().0, sequential, tol, "{recipe:?}");
    }
}

#[test]
fn a_met_target_gives_the_observed_input_back_bit_for_bit() {
    let mut rng = rng(2);
    let case = case(&mut rng);
    let a = case.dense();
    for (recipe, config) in ALL.into_iter().flat_map(|recipe| modes().map(|config| (recipe, config))) {
        let plan = case.plan::<f32>(&config, recipe);
        let mut batch = Batch::<f32>::random(&case, &a, 3, &mut rng);
        let met = batch.observed_out.clone().unwrap();
        batch.target.col_mut(1).copy_from(met.col(1));
        let (solution, report) = batch.solve(&plan, Par::Seq).unwrap();
        assert_eq!(report.satisfied, 1);
        for i in 0..plan.cols() {
            assert_eq!(solution[(i, 1)].to_bits(), batch.observed_in[(i, 1)].to_bits());
        }
    }
}

#[test]
fn faulty_data_are_refused() {
    let mut rng = rng(3);
    let case = case(&mut rng);
    let a = case.dense();
    for recipe in ALL {
        let plan = case.plan::<f32>(&modes()[1], recipe);
        let good = Batch::<f32>::random(&case, &a, 3, &mut rng);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut batch = good.clone();
            batch.target[(3, 2)] = bad;
            let expected = LinalgError::NonFinite { what: "affine: target", row: 3, column: 2 };
            assert_eq!(batch.solve(&plan, Par::Seq).unwrap_err(), expected);
            let mut batch = good.clone();
            batch.observed_in[(1, 0)] = bad;
            assert!(matches!(batch.solve(&plan, Par::Seq), Err(LinalgError::NonFinite { row: 1, column: 0, .. })));
        }
        let batch = Batch { target: Mat::zeros(plan.rows() + 1, 3), ..good };
        assert!(matches!(batch.solve(&plan, Par::Seq), Err(LinalgError::Shape { .. })));
    }
    let mut system = case.system();
    system.weight = &case.weight[1..];
    let config = ConvSolveConfig::default();
    let error = ConvSolvePlan::<f32>::new(&system, &config, Par::Seq).unwrap_err();
    assert!(matches!(error, LinalgError::Length { .. }), "{error}");
}

#[test]
fn single_precision_is_as_good_as_its_rounding() {
    let mut rng = rng(4);
    let case = case(&mut rng);
    let a = case.dense();
    for recipe in ALL {
        let plan = case.plan::<f32>(&modes()[0], recipe);
        let batch = Batch::<f32>::attainable(&case, &a, 4, &mut rng);
        let (solution, report) = batch.solve(&plan, Par::Seq).unwrap();
        let (r, d) = batch.corrections(&case, &a, &solution);
        assert!(report.residual_relative <= 1e-6, "{recipe:?}: {report:?}");
        let best = Oracle::new(&a).nearest(&r);
        assert!((&d - &best).norm_l2() <= 1e-5 * best.norm_l2(), "{recipe:?}");
        let rest = &a * &d - &r;
        let worst = (0..4).map(|j| rest.col(j).norm_l2() / widen(&batch.target).col(j).norm_l2()).fold(0.0, f64::max);
        assert_close!([report.residual_relative], [worst], Tol::eps::<f64>().by(1e6), "{recipe:?}");
    }
}

#[test]
fn whitening_removes_the_condition_of_the_kernel() {
    let mut rng = rng(5);
    let params = Conv2dParams::new(FeatureShape::image(4, 9, 9), 3, [3, 3]);
    let mut case = Case::new(params, false, &mut rng);
    case.weight = super::kernel(3, 36, 1e5, &mut rng);
    let a = case.dense();
    for recipe in [ConvRecipe::Boundary, ConvRecipe::Periodic, ConvRecipe::Plain] {
        let plan = case.plan::<f64>(&modes()[0], recipe);
        let batch = Batch::<f64>::attainable(&case, &a, 2, &mut rng);
        let (solution, report) = batch.solve(&plan, Par::Seq).unwrap();
        assert!(report.residual_relative <= 1e-9 && report.iters <= 100, "{recipe:?}: {report:?}");
        let (r, d) = batch.corrections(&case, &a, &solution);
        let best = Oracle::new(&a).nearest(&r);
        assert!((&d - &best).norm_l2() <= 1e-9 * best.norm_l2(), "{recipe:?}");
    }
}

#[test]
fn the_boundary_without_whole_rows_has_the_order_that_the_formula_gives() {
    let params = Conv2dParams::new(FeatureShape::image(8, 64, 64), 4, [5, 5]);
    let order = |padding: usize| {
        let geometry = params.padding([padding, padding]).check().unwrap();
        crate::conv_solve::operator::grid::Grid::new(&geometry).boundary()
    };
    assert_eq!([order(0), order(1), order(2)], [960, 1256, 1536]);
}

#[test]
fn one_by_one_kernels_are_linear_per_pixel() {
    let mut rng = rng(6);
    let params = Conv2dParams::new(FeatureShape::image(5, 4, 3), 3, [1, 1]);
    for transposed in [false, true] {
        let case = Case::new(params, transposed, &mut rng);
        let a = case.dense();
        let plan = ConvSolvePlan::<f64>::new(&case.system(), &modes()[0], Par::Seq).unwrap();
        assert_eq!(plan.recipe(), ConvRecipe::Pixelwise);
        let batch = Batch::<f64>::random(&case, &a, 3, &mut rng);
        let (solution, _) = batch.solve(&plan, Par::rayon(2)).unwrap();
        let (r, d) = batch.corrections(&case, &a, &solution);
        let oracle = Oracle::new(&a);
        assert_close!(d, oracle.nearest(&r), Tol::eps::<f64>().times(1000).by(oracle.condition().powi(2)));
    }
}
