//! Reports of layers from those of the solvers.

use fbp_linalg::{LinalgError, Real, SolveReport, StopReason, column};

use crate::{ReversePass, ReverseReport};

/// The report of a pass that was solved by one call.
pub(super) fn solved_report<T: Real>(
    pass: &ReversePass<'_, T>,
    solved: &SolveReport,
    moved: ReverseReport,
) -> ReverseReport {
    ReverseReport {
        samples: pass.batch(),
        satisfied_before: solved.satisfied,
        unattained: solved.unattained,
        violation_max: solved.violation_max,
        violation_sum: solved.violation_sum,
        iters: solved.iters,
        lambda: solved.lambda,
        rank: solved.rank,
        stopped_early: solved.stop == StopReason::MaxIterations,
        ..moved
    }
}

/// Distance moved by a pass, and the norm it is relative to.
pub(super) fn distance<T: Real>(pass: &ReversePass<'_, T>) -> Result<ReverseReport, LinalgError> {
    let mut report = ReverseReport::default();
    for index in 0..pass.batch() {
        let observed = column("observed_in", pass.observed_in, index)?;
        let target = column("target_in.point", pass.target_in.point.as_ref(), index)?;
        let (mut moved_sq, mut observed_sq) = (0.0, 0.0);
        for (&x, &v) in observed.iter().zip(target) {
            let step = (v - x).to_f64();
            moved_sq += step * step;
            observed_sq += x.to_f64() * x.to_f64();
        }
        report.distance_sq += moved_sq;
        report.observed_sq += observed_sq;
    }
    Ok(report)
}
