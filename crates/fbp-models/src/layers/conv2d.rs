use candle_core::{Tensor, Var};
use fbp_inverse::{Conv2dReverse, ReverseOperator};
use fbp_linalg::FeatureShape;

use super::{LayerVars, bias_values};
use crate::ops::{Conv2dKernel, Window, with_values};
use crate::spec::LayerPlan;
use crate::{Layer, LayerPass, ModelError};

/// Two-dimensional convolution.
#[derive(Debug)]
pub(crate) struct Conv2dLayer {
    kernel: Conv2dKernel,
    weight: Var,
    bias: Option<Var>,
}

impl Conv2dLayer {
    pub(super) fn new(plan: &LayerPlan, vars: &mut LayerVars) -> Result<Self, ModelError> {
        let geometry = plan.spec.conv2d_geometry(plan.input.shape).map_err(ModelError::in_kernel("conv2d"))?;
        Ok(Self { kernel: Conv2dKernel::new(geometry), weight: vars.take("weight")?, bias: vars.take_optional("bias") })
    }
}

impl Layer for Conv2dLayer {
    fn kind(&self) -> &'static str {
        "conv2d"
    }

    fn forward(&self, x: &Tensor, pass: LayerPass) -> Result<Tensor, ModelError> {
        let bias = self.bias.as_ref().map(|bias| pass.tensor(bias));
        Ok(self.kernel.apply(&x.contiguous()?, &pass.tensor(&self.weight), bias.as_ref())?)
    }

    fn forward_pooled(&self, x: &Tensor, window: Window, pass: LayerPass) -> Result<Option<Tensor>, ModelError> {
        let bias = self.bias.as_ref().map(|bias| pass.tensor(bias));
        Ok(self.kernel.apply_pooled(&x.contiguous()?, &pass.tensor(&self.weight), bias.as_ref(), window)?)
    }

    fn parameters(&self) -> Vec<(&'static str, &Var)> {
        [("weight", &self.weight)].into_iter().chain(self.bias.iter().map(|bias| ("bias", bias))).collect()
    }

    fn reverse_operator(&self, name: &str, _: FeatureShape) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        let geometry = *self.kernel.geometry();
        let bias = bias_values(self.bias.as_ref(), geometry.out_shape().channels)?;
        let operator =
            with_values("conv2d", &self.weight, |weight| Ok(Conv2dReverse::new(name, geometry, weight, &bias)))?;
        Ok(Box::new(operator?))
    }
}
