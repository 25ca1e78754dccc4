use candle_core::{Tensor, Var};
use fbp_inverse::{BatchNormReverse, ReverseOperator};
use fbp_linalg::FeatureShape;

use super::LayerVars;
use crate::ops::{self, BatchStatistics, Clip};
use crate::{Layer, LayerPass, ModelError};

/// Weight of a new batch in the running statistics, PyTorch's default.
const MOMENTUM: f64 = 0.1;

/// Normalisation per channel.
///
/// In passes with batch statistics the running ones become `0.9 · running + 0.1 · batch`, the variance of the batch
/// with `m - 1` in the denominator, as in PyTorch; these passes must not run at the same time on several threads.
#[derive(Debug)]
pub(crate) struct BatchNormLayer {
    eps: f64,
    weight: Var,
    bias: Var,
    mean: Var,
    variance: Var,
}

impl BatchNormLayer {
    pub(super) fn new(eps: f64, vars: &mut LayerVars) -> Result<Self, ModelError> {
        Ok(Self {
            eps,
            weight: vars.take("weight")?,
            bias: vars.take("bias")?,
            mean: vars.take("running_mean")?,
            variance: vars.take("running_var")?,
        })
    }

    /// `scale` and `shift` of the evaluation-mode map `y = scale · x + shift`.
    fn affine(&self, pass: LayerPass<'_>) -> Result<(Tensor, Tensor), ModelError> {
        let std = (self.variance.as_detached_tensor() + self.eps)?.sqrt()?;
        let scale = (pass.tensor(&self.weight) / std)?;
        let shift = (pass.tensor(&self.bias) - (self.mean.as_detached_tensor() * &scale)?)?;
        Ok((scale, shift))
    }

    fn run(&self, x: &Tensor, clip: Clip, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        let x = pass.contiguous(x)?;
        if pass.training {
            let (weight, bias) = (pass.tensor(&self.weight), pass.tensor(&self.bias));
            let (call, statistics) = ops::batch_norm_training_call(&x, [&weight, &bias], self.eps, clip, pass.group)?;
            let y = pass.run(call)?;
            self.update(&statistics)?;
            return Ok(y);
        }
        let (scale, shift) = self.affine(pass)?;
        pass.run(ops::batch_norm_evaluation_call(&x, &scale, &shift, clip))
    }

    fn update(&self, batch: &BatchStatistics) -> Result<(), ModelError> {
        let unbiased = batch.count as f64 / (batch.count - 1).max(1) as f64;
        for (running, batch, factor) in [(&self.mean, &batch.mean, 1.0), (&self.variance, &batch.variance, unbiased)] {
            let blend = |(old, new): (f32, &f32)| {
                ((1.0 - MOMENTUM) * f64::from(old) + MOMENTUM * factor * f64::from(*new)) as f32
            };
            let next: Vec<f32> = running.to_vec1::<f32>()?.into_iter().zip(batch).map(blend).collect();
            running.set(&Tensor::from_vec(next, running.shape(), running.device())?)?;
        }
        Ok(())
    }
}

impl Layer for BatchNormLayer {
    fn kind(&self) -> &'static str {
        "batch_norm"
    }

    /// Scale and shift of trained parameters under running statistics are candle's work.
    fn keeps_tape(&self, pass: LayerPass<'_>) -> bool {
        pass.training || !pass.trainable
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        self.run(x, Clip::NONE, pass)
    }

    fn channel_affine(&self) -> Result<Option<[Tensor; 2]>, ModelError> {
        self.affine(LayerPass::FIXED).map(|(scale, shift)| Some([scale, shift]))
    }

    fn forward_clipped(&self, x: &Tensor, clip: Clip, pass: LayerPass<'_>) -> Result<Option<Tensor>, ModelError> {
        self.run(x, clip, pass).map(Some)
    }

    fn parameters(&self) -> Vec<(&'static str, &Var)> {
        vec![("weight", &self.weight), ("bias", &self.bias)]
    }

    fn buffers(&self) -> Vec<(&'static str, &Var)> {
        vec![("running_mean", &self.mean), ("running_var", &self.variance)]
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        let (scale, shift) = self.affine(LayerPass::FIXED)?;
        let (scale, shift) = (scale.to_vec1::<f32>()?, shift.to_vec1::<f32>()?);
        Ok(Box::new(BatchNormReverse::from_affine(name, in_shape, scale, shift)?))
    }
}
