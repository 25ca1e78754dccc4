use candle_core::Tensor;
use fbp_inverse::{AvgPoolReverse, MaxPoolReverse, PoolWindow, Range, ReverseOperator};
use fbp_linalg::FeatureShape;

use crate::ops::{self, Window};
use crate::spec::Pair;
use crate::{Layer, LayerPass, ModelError};

fn window(kernel: Pair, stride: Option<Pair>, padding: Pair) -> Window {
    Window { kernel, stride: stride.unwrap_or(kernel), padding }
}

fn reverse_window(window: Window) -> PoolWindow {
    PoolWindow {
        kernel: window.kernel.dims(),
        stride: window.stride.dims(),
        padding: window.padding.dims(),
        ceil_mode: false,
    }
}

/// Largest value of every window.
#[derive(Debug)]
pub(crate) struct MaxPool2dLayer {
    window: Window,
}

impl MaxPool2dLayer {
    pub(super) fn new(kernel: Pair, stride: Option<Pair>, padding: Pair) -> Self {
        Self { window: window(kernel, stride, padding) }
    }
}

impl Layer for MaxPool2dLayer {
    fn kind(&self) -> &'static str {
        "max_pool2d"
    }

    fn forward(&self, x: &Tensor, _: LayerPass) -> Result<Tensor, ModelError> {
        Ok(ops::max_pool2d(&x.contiguous()?, self.window)?)
    }

    fn max_pool_window(&self) -> Option<Window> {
        Some(self.window)
    }

    fn out_range(&self, in_range: Range<f32>) -> Range<f32> {
        in_range
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(MaxPoolReverse::new(name, in_shape, reverse_window(self.window))?))
    }
}

/// Mean of every window.
#[derive(Debug)]
pub(crate) struct AvgPool2dLayer {
    window: Window,
}

impl AvgPool2dLayer {
    pub(super) fn new(kernel: Pair, stride: Option<Pair>, padding: Pair) -> Self {
        Self { window: window(kernel, stride, padding) }
    }
}

impl Layer for AvgPool2dLayer {
    fn kind(&self) -> &'static str {
        "avg_pool2d"
    }

    fn forward(&self, x: &Tensor, _: LayerPass) -> Result<Tensor, ModelError> {
        Ok(ops::avg_pool2d(&x.contiguous()?, self.window)?)
    }

    fn out_range(&self, in_range: Range<f32>) -> Range<f32> {
        averaged(in_range, self.window.padding != Pair::default())
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(AvgPoolReverse::new(name, in_shape, reverse_window(self.window))?))
    }
}

/// Mean of every channel.
#[derive(Debug)]
pub(crate) struct GlobalAvgPool2dLayer;

impl Layer for GlobalAvgPool2dLayer {
    fn kind(&self) -> &'static str {
        "global_avg_pool2d"
    }

    fn forward(&self, x: &Tensor, _: LayerPass) -> Result<Tensor, ModelError> {
        Ok(ops::global_avg_pool2d(&x.contiguous()?)?)
    }

    fn out_range(&self, in_range: Range<f32>) -> Range<f32> {
        in_range
    }

    fn reverse_operator(
        &self,
        name: &str,
        in_shape: FeatureShape,
    ) -> Result<Box<dyn ReverseOperator<f32>>, ModelError> {
        Ok(Box::new(AvgPoolReverse::global(name, in_shape)?))
    }
}

/// Range of means of values in `range`; the padding adds zeros.
fn averaged(range: Range<f32>, padded: bool) -> Range<f32> {
    if padded { Range::new(range.lower.min(0.0), range.upper.max(0.0)) } else { range }
}
