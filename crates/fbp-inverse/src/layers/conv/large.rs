//! Convolutions whose matrix would be too large.

use std::sync::OnceLock;

use faer::Par;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use fbp_linalg::conv_solve::{ConvMode, ConvSolveParams, ConvSolvePlan};
use fbp_linalg::dense::AffineSolve;
use fbp_linalg::{LinalgError, Real, get_or_make};

use super::map::ConvMap;
use crate::layers::affine::is_point;
use crate::layers::boxes::reverse_in_boxes;
use crate::layers::solved::{distance, solved_report};
use crate::{ReversePass, ReverseReport};
use fbp_linalg::matrix_free::{MapScale, boxes_scratch};

/// Solvers of one convolution that never form its matrix, each built when it is first needed.
#[derive(Clone, Debug)]
pub(super) struct LargeReverse<T: Real> {
    points: OnceLock<Result<ConvSolvePlan<T>, LinalgError>>,
    boxes: OnceLock<Result<(ConvMap<f64>, MapScale), LinalgError>>,
}

impl<T: Real> LargeReverse<T> {
    pub(super) fn new() -> Self {
        Self { points: OnceLock::new(), boxes: OnceLock::new() }
    }

    /// Workspace on the stack. What the solvers need beside it they allocate per call, because it is known only once
    /// they are built.
    pub(super) fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        boxes_scratch(batch, par)
    }

    /// The reverse pass, whose views have been checked.
    pub(super) fn reverse(
        &self,
        map: &ConvMap<T>,
        bias: &[T],
        pass: ReversePass<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<ReverseReport, LinalgError> {
        if pass.in_range.is_everything() && is_point(&pass.target_out) {
            return self.reverse_points(map, bias, pass, par);
        }
        let build = || {
            let wide = map.wide()?;
            let scale = MapScale::of(&wide)?;
            Ok((wide, scale))
        };
        let (wide, scale) = get_or_make(&self.boxes, build).as_ref().map_err(Clone::clone)?;
        reverse_in_boxes(wide, *scale, pass, par, stack)
    }

    fn reverse_points(
        &self,
        map: &ConvMap<T>,
        bias: &[T],
        mut pass: ReversePass<'_, T>,
        par: Par,
    ) -> Result<ReverseReport, LinalgError> {
        let build = || {
            let config = ConvSolveParams::new().mode(ConvMode::Exact).check()?;
            ConvSolvePlan::new(&map.system(bias), &config, par)
        };
        let plan = get_or_make(&self.points, build).as_ref().map_err(Clone::clone)?;
        let mut memory = MemBuffer::new(plan.solve_scratch(pass.batch(), par));
        let problem = AffineSolve {
            observed_in: pass.observed_in,
            observed_out: Some(pass.observed_out),
            target: pass.target_out.point,
            solution: pass.target_in.point.as_mut(),
        };
        let solved = plan.solve(problem, par, MemStack::new(&mut memory))?;
        let moved = distance(&pass)?;
        pass.target_in.collapse_to_point();
        Ok(solved_report(&pass, &solved, moved))
    }
}
