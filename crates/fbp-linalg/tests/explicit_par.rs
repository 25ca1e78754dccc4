//! Parallelism is an argument everywhere: nothing falls back on faer's global setting.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_linalg::SolveParams;
use fbp_linalg::dense::{AffinePlan, AffineSolve};
use fbp_linalg::testkit::{for_seeds, normal_mat};

#[test]
fn dense_plans_are_built_and_applied_without_the_global_setting() {
    // From here on, faer panics where it would read the setting.
    faer::disable_global_parallelism();
    for_seeds(1, |rng| {
        for (rows, cols, lambda) in [(10, 20, 0.0), (20, 10, 0.0), (10, 20, 0.1), (20, 10, 0.1)] {
            for zero_row in [false, true] {
                let mut weight = normal_mat::<f32>(rows, cols, rng);
                if zero_row {
                    weight.row_mut(0).fill(0.0);
                }
                let config = SolveParams::new().lambda(lambda).check().unwrap();
                for par in [Par::Seq, Par::rayon(2)] {
                    let plan = AffinePlan::<f32>::new(weight.as_ref(), None, &config, par).unwrap();
                    let mut memory = MemBuffer::new(plan.solve_scratch(100, par));
                    let (observed_in, target) = (normal_mat(cols, 100, rng), normal_mat(rows, 100, rng));
                    let mut solution = Mat::zeros(cols, 100);
                    let pass = AffineSolve {
                        observed_in: observed_in.as_ref(),
                        observed_out: None,
                        target: target.as_ref(),
                        solution: solution.as_mut(),
                    };
                    let report = plan.solve(pass, par, MemStack::new(&mut memory)).unwrap();
                    assert!(report.residual_relative.is_finite());
                }
            }
        }
    });
}
