use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, Par};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::{Real, zeroed_scratch};

use super::vectors::{distance, of};
use crate::layers::columns::{Outcome, account, distance_to, sample_of};
use crate::layers::kernel::LayerKernel;
use crate::sequence::ALIGN;
use crate::{InverseError, ReversePass, ReverseReport};

/// Judges what was found for a layer made of others.
///
/// A sample is attained if every output lies in its interval up to rounding (as [`fbp_linalg::attained`] has it, with the
/// largest output of the sample as the scale, because those of inner layers are not known), or if the distance of the output
/// to the box is at most the tolerance times that of the observed output.
pub(in crate::layers) struct Judge<'a, T> {
    pub(in crate::layers) layer: &'a dyn LayerKernel<T>,
    pub(in crate::layers) tolerance: f64,
    /// Terms that the evaluation of an output adds, at most.
    pub(in crate::layers) terms: usize,
}

/// Workspace of [`Judge::report`].
pub(in crate::layers) fn judge_scratch<T: Real>(layer: &dyn LayerKernel<T>, batch: usize, par: Par) -> StackReq {
    let output = StackReq::new_aligned::<T>(layer.out_shape().len() * batch, ALIGN);
    output.and(layer.forward_scratch(batch, par))
}

impl<T: Real> Judge<'_, T> {
    /// Runs the layer on the points of a pass and reports what they miss; samples that were met already get their observed
    /// input back.
    pub(in crate::layers) fn report(
        &self,
        mut pass: ReversePass<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        let (rows, batch) = (self.layer.out_shape().len(), pass.batch());
        let (output, stack) = zeroed_scratch(rows * batch, par, stack);
        let points = pass.target_in.point.as_ref();
        let out = MatMut::from_column_major_slice_mut(output, rows, batch);
        self.layer.forward(points, out, par, stack)?;
        let mut report = ReverseReport::of_samples(batch);
        for index in 0..batch {
            let output = of(output, rows, index);
            let (sample, mut target) = sample_of(&mut pass, index);
            let before = distance(sample.observed_out, sample.lower, sample.upper);
            let left = distance(output, sample.lower, sample.upper);
            let is_close = before.is_finite() && left <= self.tolerance * before;
            let largest = output.iter().fold(0.0_f64, |largest, y| largest.max(y.to_f64().abs()));
            let slack = attained_slack::<T>(self.terms, largest);
            let mut outcome = Outcome::MET;
            for ((&y, &lower), &upper) in output.iter().zip(sample.lower).zip(sample.upper) {
                outcome.note(distance_to(y, lower, upper), || slack);
            }
            outcome.missed &= !is_close;
            account(&mut report, &sample, &mut target, outcome);
        }
        Ok(report)
    }
}
