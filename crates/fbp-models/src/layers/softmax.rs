use candle_core::Tensor;
use fbp_inverse::{ReverseOperator, SoftmaxReverse};
use fbp_linalg::FeatureShape;

use crate::{Layer, LayerPass, ModelError, ops};

/// `y = exp(x) / Σ exp(x)` over a flat feature.
#[derive(Debug)]
pub(crate) struct SoftmaxLayer;

impl Layer for SoftmaxLayer {
    fn kind(&self) -> &'static str {
        "softmax"
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        pass.run(ops::softmax_call(&pass.contiguous(x)?))
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(SoftmaxReverse::new(name, in_shape)))
    }
}
