//! Reversal of a layer as a whole: exactly where it is affine, by Newton steps otherwise.

use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use fbp_linalg::Real;

use super::affine::AffineWhole;
use crate::layers::kernel::LayerKernel;
use crate::layers::newton::{Judge, Newton, NewtonParams, Whole, judge_scratch, newton_scratch};
use crate::sequence::OperatorList;
use crate::{InverseError, ReversePass, ReverseReport};

/// How a layer is reversed as a whole.
pub(in crate::layers) struct WholeReverse<T: Real> {
    pub(in crate::layers) params: NewtonParams,
    affine: AffineWhole<T>,
    /// No operators: nothing follows the layer.
    nothing: OperatorList<T>,
}

impl<T: Real> WholeReverse<T> {
    pub(in crate::layers) fn new(outputs: usize) -> Self {
        Self { params: NewtonParams::new(), affine: AffineWhole::new(), nothing: OperatorList::new(outputs) }
    }

    /// Whether the layer is written down as a matrix.
    fn is_written_down(layer: &dyn LayerKernel<T>) -> bool {
        layer.structure().affine && AffineWhole::<T>::is_small(shape(layer))
    }

    /// Workspace of [`reverse`](Self::reverse).
    pub(in crate::layers) fn scratch(&self, layer: &dyn LayerKernel<T>, batch: usize, par: Par) -> StackReq {
        let judge = judge_scratch(layer, batch, par);
        if Self::is_written_down(layer) {
            return AffineWhole::<T>::scratch(shape(layer), batch, par).or(judge);
        }
        newton_scratch(&Whole(layer), self.nothing.all(), batch, par).or(judge)
    }

    /// The reverse pass, which has been checked.
    pub(in crate::layers) fn reverse(
        &self,
        layer: &dyn LayerKernel<T>,
        mut pass: ReversePass<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        let function = Whole(layer);
        let judge = Judge { layer, tolerance: self.params.tolerance, terms: layer.in_shape().len() };
        if Self::is_written_down(layer) {
            let plans = self.affine.plans(layer.name(), &function)?;
            let solved = plans.reverse_checked(layer.name(), reborrow(&mut pass), par, stack)?;
            return Ok(join(judge.report(pass, par, stack)?, solved));
        }
        let above = self.nothing.all();
        let newton = Newton { name: layer.name(), function: &function, above, params: self.params, par };
        let inner = pass.target_out;
        copy_observed(&mut pass);
        let effort = newton.solve(&mut pass, inner, stack)?;
        pass.target_in.collapse_to_point();
        let report = judge.report(pass, par, stack)?;
        Ok(ReverseReport { iters: effort.steps, stopped_early: effort.stopped_early, ..report })
    }
}

fn shape<T: Real>(layer: &dyn LayerKernel<T>) -> (usize, usize) {
    (layer.out_shape().len(), layer.in_shape().len())
}

/// Starts with the observed inputs as the answer.
pub(super) fn copy_observed<T: Real>(pass: &mut ReversePass<'_, T>) {
    pass.target_in.point.copy_from(pass.observed_in);
}

/// The same pass for a shorter time.
pub(super) fn reborrow<'a, T: Real>(pass: &'a mut ReversePass<'_, T>) -> ReversePass<'a, T> {
    ReversePass {
        observed_in: pass.observed_in,
        observed_out: pass.observed_out,
        target_out: pass.target_out,
        in_range: pass.in_range,
        target_in: pass.target_in.rb_mut(),
    }
}

/// What a layer found out, with how a solver found the points.
pub(super) fn join(judged: ReverseReport, solved: ReverseReport) -> ReverseReport {
    let ReverseReport { iters, lambda, rank, stopped_early, kkt_max, .. } = solved;
    ReverseReport { iters, lambda, rank, stopped_early, kkt_max, ..judged }
}
