//! One factorisation, many samples, no allocation per batch.
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_linalg::dense::{AffinePlan, AffineSolve};
use fbp_linalg::{LinalgError, SolveConfig};

fn main() -> Result<(), LinalgError> {
    let (rows, cols, batch) = (20, 50, 256);
    let weight = Mat::<f32>::from_fn(rows, cols, |i, j| ((3 * i + 7 * j) % 11) as f32 - 5.0);
    let plan = AffinePlan::<f32>::new(weight.as_ref(), None, &SolveConfig::default(), Par::Seq)?;
    let observed = Mat::<f32>::from_fn(cols, batch, |i, j| ((i + j) % 5) as f32);
    let target = Mat::<f32>::from_fn(rows, batch, |i, j| ((i * j) % 3) as f32);

    let mut solution = Mat::zeros(cols, batch);
    let mut memory = MemBuffer::new(plan.solve_scratch(batch, Par::rayon(0)));
    let pass = AffineSolve {
        observed_in: observed.as_ref(),
        observed_out: None,
        target: target.as_ref(),
        solution: solution.as_mut(),
    };
    let report = plan.solve(pass, Par::rayon(0), MemStack::new(&mut memory))?;
    // Every equation of every sample holds, or the report counts the sample.
    let largest = |m: &Mat<f32>| m.col_iter().flat_map(|c| c.iter().copied()).fold(0.0_f32, |a, b| a.max(b.abs()));
    let residual = &weight * &solution - &target;
    assert!(report.unattained > 0 || largest(&residual) < 1e-3, "{report:?}");
    Ok(())
}
