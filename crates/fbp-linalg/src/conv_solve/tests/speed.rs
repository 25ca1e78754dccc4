//! Rough times on the shapes of the literature; run by hand.

use std::time::Instant;

use super::*;
use crate::conv_solve::{ConvMode, ConvSolveParams};
use crate::testkit::rng;

/// Kernel `U diag(logspace(0, -log10 κ)) Vᵀ`.
pub(super) fn kernel(co: usize, cols: usize, condition: f64, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let rank = co.min(cols);
    let u = normal_mat::<f64>(co, rank, rng).qr().compute_thin_Q();
    let v = normal_mat::<f64>(cols, rank, rng).qr().compute_thin_Q();
    let sigma = |k: usize| condition.powf(-(k as f64) / (rank.max(2) - 1) as f64);
    let w = Mat::from_fn(co, rank, |i, k| u[(i, k)] * sigma(k)) * v.transpose();
    (0..co * cols).map(|at| w[(at / cols, at % cols)]).collect()
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let only: Option<usize> = std::env::var("CO").ok().and_then(|co| co.parse().ok());
    for (co, condition) in [(4, 1.0), (8, 1.0), (16, 1.0), (4, 1e3), (8, 1e3), (16, 1e3)] {
        if only.is_some_and(|only| only != co) {
            continue;
        }
        for padding in [0, 1, 2] {
            let mut rng = rng(3);
            let params = Conv2dParams::new(FeatureShape::image(8, 64, 64), co, [5, 5]).padding([padding, padding]);
            let mut case = Case::new(params, false, &mut rng);
            case.weight = kernel(co, 200, condition, &mut rng);
            case.bias.fill(0.0);
            let naive = NaiveConv2d::new(case.geometry);
            let v0 = normal_mat::<f64>(case.geometry.in_len(), 2, &mut rng);
            let flat: Vec<f64> = (0..2).flat_map(|j| v0.col_as_slice(j).to_vec()).collect();
            let image = naive.forward(&flat, &case.weight, None);
            let rows = case.geometry.out_len();
            let noise = crate::testkit::uniform_mat::<f64>(rows, 2, 0.0, 1.0, &mut rng);
            let out = Mat::from_fn(rows, 2, |i, j| image[j * rows + i]);
            let batch = Batch::<f32> { observed_in: narrow(&v0), observed_out: None, target: narrow(&(&out + &noise)) };
            for (name, mode) in [("exact", ConvMode::Exact), ("bounded", ConvMode::Bounded(3.2))] {
                for recipe in [ConvRecipe::Boundary, ConvRecipe::Periodic] {
                    if name == "bounded" && recipe == ConvRecipe::Boundary
                        || (condition > 1.0 && co == 16 && name == "exact")
                    {
                        continue;
                    }
                    if only.is_some_and(|co| co > 4) && recipe == ConvRecipe::Periodic && name == "exact" {
                        continue;
                    }
                    let config = ConvSolveParams::new().mode(mode).max_iters(300).check().unwrap();
                    let start = Instant::now();
                    let plan =
                        ConvSolvePlan::<f32>::with_recipe(&case.system(), &config, recipe, Par::rayon(2)).unwrap();
                    let setup = start.elapsed().as_secs_f64();
                    let mut memory = MemBuffer::new(plan.solve_scratch(2, Par::rayon(2)));
                    let mut solution = Mat::<f32>::zeros(plan.cols(), 2);
                    let mut best = f64::INFINITY;
                    let mut last = None;
                    for _ in 0..3 {
                        let start = Instant::now();
                        let pass = AffineSolve {
                            observed_in: batch.observed_in.as_ref(),
                            observed_out: None,
                            target: batch.target.as_ref(),
                            solution: solution.as_mut(),
                        };
                        last = Some(plan.solve(pass, Par::rayon(2), MemStack::new(&mut memory)).unwrap());
                        best = best.min(start.elapsed().as_secs_f64());
                    }
                    let report = last.unwrap();
                    let moved = (widen(&solution) - &v0).norm_l2() / v0.norm_l2();
                    eprintln!(
                        "8->{co} p{padding} cond {condition:e} {name} {:?} nb {}: set-up {setup:.2} s, warm {:.1} ms, \
                         iters {} residual {:.2e} distance {moved:.4} λ {:.1e} {:?} {:?} shift {:.0e}",
                        plan.recipe(),
                        plan.facts().boundary,
                        best * 1e3,
                        report.iters,
                        report.residual_relative,
                        report.lambda,
                        report.side,
                        report.stop,
                        plan.shift(),
                    );
                }
            }
        }
    }
}
