use candle_core::Tensor;
use fbp_inverse::{InverseError, Range, ReverseOperator};
use fbp_linalg::FeatureShape;

use crate::{Layer, LayerPass, ModelError, ops};

/// `y = exp(x) / Σ exp(x)` over a flat feature.
#[derive(Debug)]
pub(crate) struct SoftmaxLayer;

impl Layer for SoftmaxLayer {
    fn kind(&self) -> &'static str {
        "softmax"
    }

    fn forward(&self, x: &Tensor, _: LayerPass) -> Result<Tensor, ModelError> {
        Ok(ops::softmax(&x.contiguous()?)?)
    }

    fn out_range(&self, _: Range<f32>) -> Range<f32> {
        Range::new(0.0, 1.0)
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        let _ = in_shape;
        Err(InverseError::Layer { layer: name.to_owned(), reason: "TEMPORARY".into() }.into())
    }
}
