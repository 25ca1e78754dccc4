//! What linear layers and convolutions share: the reverse of `y = A x + b` within boxes and ranges.

use std::sync::OnceLock;

use faer::dyn_stack::{MemStack, StackReq};
use faer::{Mat, MatRef, Par};
use fbp_linalg::dense::{AffinePlan, AffineSolve};
use fbp_linalg::{BoxedPass, BoxedPlan, LinalgError, Real, SolveConfig, SolveReport, column};

use crate::{InverseError, ReverseOperator, ReversePass, ReverseReport, TargetBox};

/// Factor-once plans for one affine map `y = A x + b`.
///
/// Point targets without a range are a linear system and go to the factorised [`AffinePlan`]; everything else is a
/// box-constrained problem. The factors of the former are built when they are first needed.
#[derive(Clone, Debug)]
pub(super) struct AffineReverse<T: Real> {
    a: Mat<f64>,
    boxed: BoxedPlan<T>,
    points: OnceLock<Result<AffinePlan<T>, LinalgError>>,
}

impl<T: Real> AffineReverse<T> {
    /// Builds the plans of `a` (`out × in`) for the layer of this name.
    pub(super) fn new(layer: &str, a: MatRef<'_, f64>) -> Result<Self, InverseError> {
        let boxed = BoxedPlan::new(a).map_err(InverseError::in_layer(layer))?;
        Ok(Self { a: a.to_owned(), boxed, points: OnceLock::new() })
    }

    fn points(&self) -> Result<&AffinePlan<T>, LinalgError> {
        let build = || AffinePlan::new(self.a.as_ref(), None, &SolveConfig::default(), Par::Seq);
        self.points.get_or_init(build).as_ref().map_err(Clone::clone)
    }

    pub(super) fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        let points = AffinePlan::<T>::largest_scratch(self.a.shape(), batch, par);
        self.boxed.solve_scratch(batch, par).or(points)
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
        let solved = self.solve(&mut pass, par, stack).map_err(InverseError::in_layer(layer.name()))?;
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

impl<T: Real> AffineReverse<T> {
    fn solve(&self, pass: &mut ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<SolveReport, LinalgError> {
        if pass.in_range.is_everything() && is_point(&pass.target_out) {
            let problem = AffineSolve {
                observed_in: pass.observed_in,
                observed_out: Some(pass.observed_out),
                target: pass.target_out.point,
                solution: pass.target_in.point.as_mut(),
            };
            return self.points()?.solve(problem, par, stack);
        }
        let problem = BoxedPass {
            observed_in: pass.observed_in,
            observed_out: pass.observed_out,
            lower: pass.target_out.lower,
            upper: pass.target_out.upper,
            bounds: (pass.in_range.lower, pass.in_range.upper),
            solution: pass.target_in.point.as_mut(),
        };
        self.boxed.solve(problem, par, stack)
    }
}

/// Whether every interval of the box is a single number.
fn is_point<T: Real>(target: &TargetBox<'_, T>) -> bool {
    let equal = |a: MatRef<'_, T>, b: MatRef<'_, T>| a.as_ptr() == b.as_ptr() || a == b;
    equal(target.lower, target.upper) && equal(target.lower, target.point)
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
