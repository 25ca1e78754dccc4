use candle_core::Tensor;
use fbp_inverse::{Padding, ReverseOperator, ZeroPad2d};
use fbp_linalg::FeatureShape;

use crate::{Layer, LayerPass, ModelError};

/// Zero rows and columns around an image.
#[derive(Debug)]
pub(crate) struct ZeroPad2dLayer {
    padding: Padding,
}

impl ZeroPad2dLayer {
    pub(super) fn new(padding: Padding) -> Self {
        Self { padding }
    }
}

impl Layer for ZeroPad2dLayer {
    fn kind(&self) -> &'static str {
        "zero_pad2d"
    }

    fn forward(&self, x: &Tensor, _: LayerPass<'_>) -> Result<Tensor, ModelError> {
        let Padding { top, bottom, left, right } = self.padding;
        Ok(x.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?.contiguous()?)
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(ZeroPad2d::new(name, in_shape, self.padding)))
    }
}
