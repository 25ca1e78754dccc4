use super::*;
use crate::conv_solve::{ConvMode, ConvSolveParams};
use crate::testkit::for_seeds;
use crate::{SolveSide, StopReason};

fn exact() -> ConvSolveConfig {
    ConvSolveParams::new().mode(ConvMode::Exact).max_iters(20_000).check().unwrap()
}

const ITERATIVE: [ConvRecipe; 3] = [ConvRecipe::Boundary, ConvRecipe::Periodic, ConvRecipe::Plain];

/// Compares with the oracle: feasibility or excess, and the distance.
fn judge<T: Real>(case: &Case, recipe: ConvRecipe, rng: &mut ChaCha8Rng) -> Result<(), String> {
    let a = case.dense();
    let oracle = Oracle::new(&a);
    if oracle.condition() > 1e5 {
        return Ok(());
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
        // The errors of the targets in `T` are amplified by the condition number, too.
        let ls = if oracle.rank() < a.nrows() { condition } else { 1.0 };
        if !(distance <= 1000.0 * eps * condition * ls && excess <= 100.0 * eps * condition) {
            return Err(text());
        }
        if report.stop == StopReason::MaxIterations || report.lambda != 0.0 || report.side == SolveSide::Regularised {
            return Err(text());
        }
    }
    Ok(())
}

#[test]
fn random_geometries_match_the_oracle() {
    for_seeds(120, |rng| {
        let params = random_params(rng);
        for transposed in [false, true] {
            let case = Case::new(params, transposed, rng);
            for recipe in ITERATIVE.into_iter().chain([ConvRecipe::Dense]) {
                if let Err(text) = judge::<f64>(&case, recipe, rng) {
                    panic!("{text}");
                }
            }
        }
    });
}
