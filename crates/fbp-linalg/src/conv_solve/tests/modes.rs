use super::*;
use crate::conv_solve::{ConvMode, ConvSolveParams};
use crate::testkit::for_seeds;
use crate::{SolveSide, StopReason};

/// Shapes with fewer, as many and more equations than unknowns.
fn cases(rng: &mut ChaCha8Rng) -> Vec<Case> {
    let image = FeatureShape::image;
    let shapes = [
        Conv2dParams::new(image(4, 7, 6), 2, [3, 3]),
        Conv2dParams::new(image(4, 6, 7), 2, [3, 2]).padding([1, 1]).stride([2, 1]),
        Conv2dParams::new(image(3, 6, 6), 3, [3, 3]).padding([1, 1]),
        Conv2dParams::new(image(2, 6, 5), 5, [3, 3]).padding([1, 1]),
    ];
    shapes.into_iter().map(|params| Case::new(params, false, rng)).collect()
}

fn config(mode: ConvMode) -> ConvSolveConfig {
    ConvSolveParams::new().mode(mode).max_iters(20_000).check().unwrap()
}

/// The ridge solution whose `length` equals `wanted`, by bisection on the logarithm of the shift.
fn ridge(oracle: &Oracle, r: &Mat<f64>, length: impl Fn(&Mat<f64>) -> f64, wanted: f64, rises: bool) -> Mat<f64> {
    let at = |log: f64| oracle.apply(r, |s| s / (s * s + log.exp()));
    let (mut low, mut high) = (-60.0, 30.0);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if (length(&at(middle)) > wanted) == rises { high = middle } else { low = middle }
    }
    at(0.5 * (low + high))
}

#[test]
fn the_smallest_residual_within_a_bound() {
    for_seeds(6, |rng| {
        for case in cases(rng) {
            let a = case.dense();
            let oracle = Oracle::new(&a);
            for recipe in [ConvRecipe::Boundary, ConvRecipe::Periodic, ConvRecipe::Plain, ConvRecipe::Dense] {
                for rho in [0.05, 0.3, 1.0] {
                    let plan = case.plan::<f64>(&config(ConvMode::Bounded(rho)), recipe);
                    let batch = Batch::<f64>::random(&case, &a, 1, rng);
                    let (solution, report) = batch.solve(&plan, Par::Seq).unwrap();
                    let (r, d) = batch.corrections(&case, &a, &solution);
                    let bound = rho * batch.observed_in.norm_l2();
                    let nearest = oracle.nearest(&r);
                    let text = format!("{recipe:?}, ρ = {rho}, {report:?}");
                    assert!(d.norm_l2() <= bound * (1.0 + 1e-9), "{text}: {} beyond {bound}", d.norm_l2());
                    assert_ne!(report.stop, StopReason::MaxIterations, "{text}");
                    if nearest.norm_l2() <= bound {
                        assert_eq!((report.lambda, report.side == SolveSide::Regularised), (0.0, false), "{text}");
                        continue;
                    }
                    let best = ridge(&oracle, &r, |d| d.norm_l2(), bound, false);
                    let (found, least) = ((&a * &d - &r).norm_l2(), (&a * &best - &r).norm_l2());
                    assert!(found <= least * (1.0 + 1e-3), "{text}: residual {found}, optimum {least}");
                    assert!(report.side == SolveSide::Regularised && report.lambda > 0.0, "{text}");
                }
            }
        }
    });
}

#[test]
fn the_nearest_point_within_a_tolerance() {
    for_seeds(6, |rng| {
        for case in cases(rng) {
            let a = case.dense();
            let oracle = Oracle::new(&a);
            for recipe in [ConvRecipe::Periodic, ConvRecipe::Dense] {
                for delta in [1e-3, 0.02, 0.3, 0.9] {
                    let plan = case.plan::<f64>(&config(ConvMode::Tolerance(delta)), recipe);
                    let batch = Batch::<f64>::random(&case, &a, 1, rng);
                    let (solution, report) = batch.solve(&plan, Par::Seq).unwrap();
                    let (r, d) = batch.corrections(&case, &a, &solution);
                    let wanted = delta * batch.target.norm_l2();
                    let misfit = |d: &Mat<f64>| (&a * d - &r).norm_l2();
                    let nearest = oracle.nearest(&r);
                    let text = format!("{recipe:?}, δ = {delta}, {report:?}");
                    if misfit(&nearest) > 0.999 * wanted {
                        assert!(misfit(&d) <= misfit(&nearest) * (1.0 + 1e-6), "{text}");
                        continue;
                    }
                    assert!(misfit(&d) <= wanted * (1.0 + 1e-6), "{text}: {} above {wanted}", misfit(&d));
                    if oracle.condition() > 1e3 && recipe != ConvRecipe::Dense {
                        // A search below the smallest rung may end; then the exact solution is returned.
                        continue;
                    }
                    let best = ridge(&oracle, &r, misfit, wanted, true);
                    assert!(
                        d.norm_l2() <= best.norm_l2() * (1.0 + 5e-3) + 1e-9,
                        "{text}: {} > {}",
                        d.norm_l2(),
                        best.norm_l2()
                    );
                }
            }
        }
    });
}

#[test]
fn auto_is_exact_where_that_stays_near_and_bounded_elsewhere() {
    for_seeds(4, |rng| {
        let case = &cases(rng)[0];
        let a = case.dense();
        let mut batch = Batch::<f64>::attainable(case, &a, 2, rng);
        let far = config(ConvMode::Auto(1e6));
        let (_, report) = batch.solve(&case.plan(&far, ConvRecipe::Periodic), Par::Seq).unwrap();
        assert_eq!((report.side, report.unattained), (SolveSide::Nearest, 0));
        let near = config(ConvMode::Auto(1e-3));
        let (_, report) = batch.solve(&case.plan(&near, ConvRecipe::Periodic), Par::Seq).unwrap();
        assert_eq!((report.side, report.unattained), (SolveSide::Regularised, 2));
        // Without a scale to measure by, the exact solution is wanted.
        batch.observed_in.fill(0.0);
        batch.observed_out = None;
        let (_, report) = batch.solve(&case.plan(&near, ConvRecipe::Periodic), Par::Seq).unwrap();
        assert_eq!((report.side, report.unattained), (SolveSide::Nearest, 0));
    });
}

#[test]
fn a_target_of_zero_is_met_exactly_within_any_tolerance() {
    let mut rng = crate::testkit::rng(5);
    for case in cases(&mut rng) {
        let a = case.dense();
        let oracle = Oracle::new(&a);
        for recipe in [ConvRecipe::Boundary, ConvRecipe::Periodic, ConvRecipe::Plain, ConvRecipe::Dense] {
            let plan = case.plan::<f64>(&config(ConvMode::Tolerance(0.1)), recipe);
            let mut batch = Batch::<f64>::random(&case, &a, 2, &mut rng);
            batch.target.col_mut(1).fill(0.0);
            let (solution, report) = batch.solve(&plan, Par::Seq).unwrap();
            let (r, d) = batch.corrections(&case, &a, &solution);
            let missed = |d: &Mat<f64>| (&a * d - &r).col(1).norm_l2();
            let (found, least) = (missed(&d), missed(&oracle.nearest(&r)));
            // The solver ends at 1e-14 and an excess of ten times that, in the norm of the operator.
            let slack = 1e-13 * oracle.condition() * r.norm_l2();
            assert!(found <= least + slack, "{recipe:?}: {found}, least {least}, {report:?}");
        }
    }
}
