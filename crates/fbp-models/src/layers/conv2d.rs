use std::sync::OnceLock;

use candle_core::{Tensor, Var};
use fbp_inverse::{Conv2dReverse, ReverseOperator};
use fbp_linalg::{FeatureShape, get_or_make};

use super::{LayerVars, bias_values};
use crate::ops::{Conv2dKernel, FusedTail, Window, with_values};
use crate::spec::LayerPlan;
use crate::{Layer, LayerPass, ModelError};

/// Convolution or transposed convolution, in one or two dimensions.
#[derive(Debug)]
pub(crate) struct ConvLayer {
    kind: &'static str,
    kernel: Conv2dKernel,
    /// The same without the methods that take fewer products; made when it is first asked for.
    direct: OnceLock<Conv2dKernel>,
    weight: Var,
    bias: Option<Var>,
}

impl ConvLayer {
    pub(super) fn new(plan: &LayerPlan, vars: &mut LayerVars) -> Result<Self, ModelError> {
        let kind = plan.spec.kind();
        let (geometry, transposed) = plan.spec.conv_geometry(plan.input.shape).map_err(ModelError::in_kernel(kind))?;
        let kernel = if transposed { Conv2dKernel::transposed(geometry) } else { Conv2dKernel::new(geometry) };
        Ok(Self {
            kind,
            kernel,
            direct: OnceLock::new(),
            weight: vars.take("weight")?,
            bias: vars.take_optional("bias"),
        })
    }

    /// The weight as the kernel takes it, also that of a layer in one dimension.
    fn kernel_weight(&self, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        let weight = pass.tensor(&self.weight);
        let shape = self.kernel.geometry().weight_shape();
        if weight.rank() == shape.len() { Ok(weight) } else { pass.reshape(&weight, &shape) }
    }
}

impl Layer for ConvLayer {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        if pass.trainable {
            self.kernel.forget_parameters();
        }
        let bias = self.bias.as_ref().map(|bias| pass.tensor(bias));
        let kernel = match pass.fused {
            true => &self.kernel,
            false => get_or_make(&self.direct, || self.kernel.direct()),
        };
        pass.run(kernel.call(&pass.contiguous(x)?, &self.kernel_weight(pass)?, bias.as_ref()))
    }

    fn forward_pooled(&self, x: &Tensor, window: Window, pass: LayerPass<'_>) -> Result<Option<Tensor>, ModelError> {
        let bias = self.bias.as_ref().map(|bias| pass.tensor(bias));
        let (x, weight) = (pass.contiguous(x)?, self.kernel_weight(pass)?);
        self.kernel.pooled_call(&x, &weight, bias.as_ref(), window)?.map(|call| pass.run(call)).transpose()
    }

    fn takes_tail(&self) -> bool {
        !self.kernel.is_transposed()
    }

    fn forward_fused(&self, x: &Tensor, tail: &FusedTail<'_>) -> Result<Option<Tensor>, ModelError> {
        let bias = self.bias.as_ref().map(Var::as_detached_tensor);
        let (x, weight) = (x.contiguous()?, self.kernel_weight(LayerPass::FIXED)?);
        Ok(Some(self.kernel.apply_fused([&x, &weight], bias.as_ref(), tail)?))
    }

    fn parameters(&self) -> Vec<(&'static str, &Var)> {
        [("weight", &self.weight)].into_iter().chain(self.bias.iter().map(|bias| ("bias", bias))).collect()
    }

    fn reverse_operator(&self, name: &str, _: FeatureShape) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        let (geometry, transposed) = (*self.kernel.geometry(), self.kernel.is_transposed());
        let out = if transposed { geometry.in_shape() } else { geometry.out_shape() };
        let bias = bias_values(self.bias.as_ref(), out.channels)?;
        let operator = with_values(self.kind, &self.weight, |weight| {
            Ok(if transposed {
                Conv2dReverse::transposed(name, geometry, weight, &bias)
            } else {
                Conv2dReverse::new(name, geometry, weight, &bias)
            })
        })?;
        Ok(Box::new(operator?))
    }
}
