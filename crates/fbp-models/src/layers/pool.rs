use candle_core::Tensor;
use fbp_inverse::{AvgDivisor, AvgPoolReverse, MaxPoolReverse, ReverseOperator};
use fbp_linalg::FeatureShape;

use crate::ops::{self, Window};
use crate::spec::Pair;
use crate::{Layer, LayerPass, ModelError};

/// Largest value of every window.
#[derive(Debug)]
pub(crate) struct MaxPool2dLayer {
    window: Window,
}

impl MaxPool2dLayer {
    pub(super) fn new(window: Window) -> Self {
        Self { window }
    }
}

impl Layer for MaxPool2dLayer {
    fn kind(&self) -> &'static str {
        "max_pool2d"
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        pass.run(ops::max_pool2d_call(&pass.contiguous(x)?, self.window))
    }

    fn max_pool_window(&self) -> Option<Window> {
        Some(self.window)
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(MaxPoolReverse::new(name, in_shape, self.window.into())?))
    }
}

/// Mean of every window.
#[derive(Debug)]
pub(crate) struct AvgPool2dLayer {
    window: Window,
    divisor: AvgDivisor,
}

impl AvgPool2dLayer {
    pub(super) fn new(window: Window, divisor: AvgDivisor) -> Self {
        Self { window, divisor }
    }
}

impl Layer for AvgPool2dLayer {
    fn kind(&self) -> &'static str {
        "avg_pool2d"
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        pass.run(ops::avg_pool2d_call(&pass.contiguous(x)?, self.window, self.divisor)?)
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(AvgPoolReverse::with_divisor(name, in_shape, self.window.into(), self.divisor)?))
    }
}

/// Mean of every channel.
#[derive(Debug)]
pub(crate) struct GlobalAvgPool2dLayer;

impl Layer for GlobalAvgPool2dLayer {
    fn kind(&self) -> &'static str {
        "global_avg_pool2d"
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        pass.run(ops::adaptive_avg_pool2d_call(&pass.contiguous(x)?, Pair::both(1))?)
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(AvgPoolReverse::global(name, in_shape)?))
    }
}

/// Means of windows that cover the plane evenly.
#[derive(Debug)]
pub(crate) struct AdaptiveAvgPool2dLayer {
    size: Pair,
}

impl AdaptiveAvgPool2dLayer {
    pub(super) fn new(size: Pair) -> Self {
        Self { size }
    }
}

impl Layer for AdaptiveAvgPool2dLayer {
    fn kind(&self) -> &'static str {
        "adaptive_avg_pool2d"
    }

    fn keeps_tape(&self, _: LayerPass<'_>) -> bool {
        true
    }

    fn forward(&self, x: &Tensor, pass: LayerPass<'_>) -> Result<Tensor, ModelError> {
        pass.run(ops::adaptive_avg_pool2d_call(&pass.contiguous(x)?, self.size)?)
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(AvgPoolReverse::adaptive(name, in_shape, self.size.dims())?))
    }
}
