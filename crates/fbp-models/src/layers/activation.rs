use candle_core::Tensor;
use fbp_inverse::{ActivationReverse, Range, ReverseOperator};
use fbp_linalg::FeatureShape;

use crate::spec::Activation;
use crate::{Layer, LayerPass, ModelError, ops};

/// One function for every entry.
#[derive(Debug)]
pub(crate) struct ActivationLayer {
    kind: &'static str,
    function: Activation,
}

impl ActivationLayer {
    pub(super) fn new(kind: &'static str, function: Activation) -> Self {
        Self { kind, function }
    }
}

impl Layer for ActivationLayer {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn forward(&self, x: &Tensor, _: LayerPass) -> Result<Tensor, ModelError> {
        Ok(ops::activate(&x.contiguous()?, self.function)?)
    }

    fn is_nondecreasing_elementwise(&self) -> bool {
        self.function.is_nondecreasing()
    }

    fn out_range(&self, in_range: Range<f32>) -> Range<f32> {
        inverse(self.function).map_or(in_range, |f| f.image(in_range))
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(ActivationReverse::new(name, inverse(self.function)?, in_shape)?))
    }
}

fn inverse(f: Activation) -> Result<fbp_inverse::Activation, fbp_inverse::InverseError> {
    use fbp_inverse::Activation as A;
    Ok(match f {
        Activation::Relu => A::Relu,
        Activation::Relu6 => A::Relu6,
        _ => return Err(fbp_inverse::InverseError::Layer { layer: "x".into(), reason: "TEMPORARY".into() }),
    })
}
