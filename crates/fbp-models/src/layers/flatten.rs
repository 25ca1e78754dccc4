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

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        let len: usize = x.dims().iter().skip(1).product();
        pass.reshape(&pass.contiguous(x)?, (x.dim(0)?, len))
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(FlattenReverse::new(name, in_shape)))
    }
}
