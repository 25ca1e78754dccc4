use candle_core::Tensor;
use fbp_inverse::{FlattenReverse, ReverseOperator};
use fbp_linalg::FeatureShape;

use crate::{Layer, LayerPass, ModelError};

/// `[N, C, H, W]` to `[N, C·H·W]`, without moving anything.
#[derive(Debug)]
pub(crate) struct FlattenLayer;

impl Layer for FlattenLayer {
    fn kind(&self) -> &'static str {
        "flatten"
    }

    fn forward(&self, x: &Tensor, _: LayerPass) -> Result<Tensor, ModelError> {
        Ok(x.flatten_from(1)?)
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(FlattenReverse::new(name, in_shape)))
    }
}
