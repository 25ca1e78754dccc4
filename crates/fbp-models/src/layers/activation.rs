use candle_core::Tensor;
use fbp_inverse::{ActivationReverse, ReverseOperator};
use fbp_linalg::FeatureShape;

use crate::ops::Clip;
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

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        pass.run(ops::activation_call(&pass.contiguous(x)?, self.function)?)
    }

    fn clip(&self) -> Option<Clip> {
        let (lower, upper) = match self.function {
            Activation::Relu => (0.0, f64::INFINITY),
            Activation::Relu6 => (0.0, 6.0),
            Activation::HardTanh { min, max } => (min, max),
            _ => return None,
        };
        Some(Clip { lower: lower as f32, upper: upper as f32 })
    }

    fn is_nondecreasing_elementwise(&self) -> bool {
        self.function.is_nondecreasing()
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(ActivationReverse::new(name, self.function, in_shape)?))
    }
}
