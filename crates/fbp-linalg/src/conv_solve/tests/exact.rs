use super::*;
use crate::conv_solve::{ConvMode, ConvSolveParams};
use crate::testkit::for_seeds;
use crate::{SolveSide, StopReason};

fn exact() -> ConvSolveConfig {
    ConvSolveParams::new().mode(ConvMode::Exact).max_iters(20_000).check().unwrap()
}

const ITERATIVE: [ConvRecipe; 3] = [ConvRecipe::Boundary, ConvRecipe::Periodic, ConvRecipe::Plain];

/// Compares with the oracle: feasibility or excess, and the distance. Whether the oracle knows better than the solver: beyond
/// a condition number of 1e5 it does not.
fn judge<T: Real>(case: &Case, recipe: ConvRecipe, rng: &mut ChaCha8Rng) -> Result<bool, String> {
    let a = case.dense();
    let oracle = Oracle::new(&a);
    if oracle.condition() > 1e5 {
        return Ok(false);
    }
    let plan = case.plan::<T>(&exact(), recipe);
    for batch in [Batch::<T>::attainable(case, &a, 3, rng), Batch::random(case, &a, 3, rng)] {
        let (solution, report) = batch.solve(&plan, Par::Seq).unwrap();
        let (r, d) = batch.corrections(case, &a, &solution);
        let best = oracle.nearest(&r);
        let eps = T::EPSILON.to_f64();
        let scale = best.norm_l2() + widen(&batch.observed_in).norm_l2();
        let distance = (&d - &best).norm_l2() / scale;
        let excess = ((&a * &d - &r).norm_l2() - (&a * &best - &r).norm_l2()) / r.norm_l2().max(1e-300);
        let condition = oracle.condition();
        let text = || {
            format!(
                "{recipe:?} {case:?}\n rank {} of {:?}, condition {condition:.1e}: distance {distance:.1e}, \
                 excess {excess:.1e}, {report:?}, shift {:e}",
                oracle.rank(),
                a.shape(),
                plan.shift(),
            )
        };
        // Wedin's bound for least squares (Björck, theorem 1.4.6): what rounding moves grows with the square of the condition
        // number where a residual remains; ten roundings per product of a row or a column.
        let sums = 10.0 * (a.nrows() + a.ncols()) as f64 * eps;
        let remains = if oracle.rank() < a.nrows() { condition } else { 1.0 };
        if !(distance <= sums * condition * remains && excess <= sums * condition) {
            return Err(text());
        }
        if report.stop == StopReason::MaxIterations || report.lambda != 0.0 || report.side == SolveSide::Regularised {
            return Err(text());
        }
    }
    Ok(true)
}

#[test]
fn random_geometries_match_the_oracle() {
    let (mut drawn, mut compared) = (0, 0);
    for_seeds(120, |rng| {
        let params = random_params(rng);
        for transposed in [false, true] {
            let case = Case::new(params, transposed, rng);
            for recipe in ITERATIVE.into_iter().chain([ConvRecipe::Dense]) {
                drawn += 1;
                compared += usize::from(judge::<f64>(&case, recipe, rng).unwrap_or_else(|text| panic!("{text}")));
            }
        }
    });
    assert!(10 * compared >= 9 * drawn, "only {compared} of {drawn} were compared");
}

#[test]
fn periodic_inverses_serve_where_the_border_is_hard() {
    // Without padding, pixels at the border lie in few equations: periodic inverses alone need more than 1000 steps.
    let mut rng = crate::testkit::rng(1);
    let params = Conv2dParams::new(FeatureShape::image(8, 24, 24), 16, [5, 5]);
    let mut case = Case::new(params, false, &mut rng);
    case.weight = super::kernel(16, 200, 1.0, &mut rng);
    let config = ConvSolveParams::new().mode(ConvMode::Exact).samples_expected(100_000).check().unwrap();
    let plans = [ConvRecipe::Periodic, ConvRecipe::Boundary].map(|recipe| case.plan::<f64>(&config, recipe));
    let [observed_in, target] = [plans[0].cols(), plans[0].rows()].map(|len| normal_mat::<f64>(len, 2, &mut rng));
    let batch = Batch { observed_in, observed_out: None, target };
    let [(found, report), (expected, _)] = plans.each_ref().map(|plan| batch.solve(plan, Par::Seq).unwrap());
    assert_eq!((plans[0].recipe(), report.stop), (ConvRecipe::Periodic, StopReason::Converged), "{report:?}");
    assert!(report.iters <= 200, "{report:?}");
    // An iteration ends at an excess of ten tolerances, in the norm of the operator, whose smallest singular value is
    // above 1e-3 here.
    let away = (&found - &expected).norm_l2() / expected.norm_l2();
    assert!(away <= 2.0 * 10.0 * config.tolerance(f64::EPSILON) * 1e3, "{away:e}");
}

#[test]
fn how_long_calls_may_iterate_does_not_change_what_is_factored() {
    let mut rng = crate::testkit::rng(2);
    let case = Case::new(Conv2dParams::new(FeatureShape::image(4, 9, 9), 2, [3, 3]), false, &mut rng);
    let hasty = ConvSolveParams::new().mode(ConvMode::Exact).max_iters(1).check().unwrap();
    let plan = case.plan::<f64>(&hasty, ConvRecipe::Boundary);
    assert_eq!(plan.recipe(), ConvRecipe::Boundary);
    let patient = plan.with_config(&exact());
    let batch = Batch::<f64>::random(&case, &case.dense(), 1, &mut rng);
    assert_eq!(batch.solve(&patient, Par::Seq).unwrap().1.stop, StopReason::Converged);
}

#[test]
fn nearly_singular_square_layers_are_solved() {
    // Orthonormal kernels, whose matrix at some frequencies is nearly singular: `A Aᵀ` is singular to single precision.
    for seed in 0..3 {
        let mut rng = crate::testkit::rng(seed);
        let params = Conv2dParams::new(FeatureShape::image(8, 24, 24), 8, [5, 5]).padding([2, 2]);
        let mut case = Case::new(params, false, &mut rng);
        case.weight = super::kernel(8, 200, 1.0, &mut rng);
        let plan = case.plan::<f32>(&exact(), ConvRecipe::Boundary);
        let [observed_in, target] = [plan.cols(), plan.rows()].map(|len| normal_mat::<f32>(len, 2, &mut rng));
        let batch = Batch { observed_in, observed_out: None, target };
        let (solution, report) = batch.solve(&plan, Par::Seq).unwrap();
        assert_eq!((report.stop, report.side), (StopReason::Converged, SolveSide::Nearest), "seed {seed}: {report:?}");
        // Each of the 25 taps is a matrix of norm 1 at most, and all of them together of norm 5.
        let share = (0..2).map(|j| solution.col(j).norm_l2() / batch.target.col(j).norm_l2()).fold(0.0, f32::max);
        let rounding = f64::from(f32::EPSILON) * 5.0 * f64::from(share);
        assert!(report.residual_relative <= 10.0 * rounding, "seed {seed}: {rounding:.1e} against {report:?}");
    }
}
