//! What linear layers and convolutions share: the reverse of `y = A x + b` within boxes and ranges.

use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatRef, Par};
use fbp_linalg::{BoxedPass, BoxedPlan, Real, column};

use crate::{InverseError, ReverseOperator, ReversePass, ReverseReport};

/// Factor-once plans for one affine map `y = A x + b`.
#[derive(Clone, Debug)]
pub(super) struct AffineReverse<T: Real> {
    boxed: BoxedPlan<T>,
}

impl<T: Real> AffineReverse<T> {
    /// Builds the plans of `a` (`out × in`) for the layer of this name.
    pub(super) fn new(layer: &str, a: MatRef<'_, f64>) -> Result<Self, InverseError> {
        Ok(Self { boxed: BoxedPlan::new(a).map_err(InverseError::in_layer(layer))? })
    }

    pub(super) fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.boxed.solve_scratch(batch, par)
    }

    /// The reverse pass of the layer that owns these plans.
    pub(super) fn reverse(
        &self,
        layer: &dyn ReverseOperator<T>,
        mut pass: ReversePass<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(layer)?;
        let problem = BoxedPass {
            observed_in: pass.observed_in,
            observed_out: pass.observed_out,
            lower: pass.target_out.lower,
            upper: pass.target_out.upper,
            bounds: (pass.in_range.lower, pass.in_range.upper),
            solution: pass.target_in.point.as_mut(),
        };
        let solved = self.boxed.solve(problem, par, stack).map_err(InverseError::in_layer(layer.name()))?;
        let moved = distance(&pass).map_err(InverseError::in_layer(layer.name()))?;
        pass.target_in.collapse_to_point();
        Ok(ReverseReport {
            samples: pass.batch(),
            satisfied_before: solved.satisfied,
            unattained: solved.unattained,
            violation_max: solved.violation_max,
            violation_sum: solved.violation_sum,
            iters: solved.iters,
            lambda: solved.lambda,
            rank: solved.rank,
            ..moved
        })
    }
}

/// Distance moved by a pass, and the norm it is relative to.
fn distance<T: Real>(pass: &ReversePass<'_, T>) -> Result<ReverseReport, fbp_linalg::LinalgError> {
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
