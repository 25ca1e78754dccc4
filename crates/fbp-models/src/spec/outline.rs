//! Sizes of one layer: what comes out, and which tensors it has.

use fbp_linalg::conv2d::{Conv2dGeometry, Conv2dParams};
use fbp_linalg::{FeatureShape, LinalgError};

use super::plan::MAX_LEN;
use super::{FeatureDims, LayerPlan, LayerSpec, Pair, ParamInit, ParamPlan};

impl LayerSpec {
    /// Checks the layer against its input.
    pub(super) fn plan(&self, input: FeatureDims) -> Result<LayerPlan, String> {
        let (output, params) = self.outline(input)?;
        Ok(LayerPlan { spec: self.clone(), input, output, params })
    }

    fn outline(&self, input: FeatureDims) -> Result<(FeatureDims, Vec<ParamPlan>), String> {
        let FeatureShape { channels, height, width } = input.shape;
        match self {
            &Self::Conv2d { bias, .. } => self.plan_conv2d(input, bias),
            &Self::Linear { out_features, bias } => {
                if !input.flat {
                    return Err(format!("takes a flat feature, but gets {input}; put a flatten layer before it"));
                }
                positive("out_features", out_features)?;
                let len = within("weight", &[out_features, input.len()])?;
                let fan_in = len / out_features;
                Ok((FeatureDims::flat(out_features), weight_and_bias(vec![out_features, fan_in], fan_in, bias)))
            }
            Self::MaxPool2d { kernel, stride, padding } | Self::AvgPool2d { kernel, stride, padding } => {
                image(input)?;
                let stride = stride.unwrap_or(*kernel);
                if padding.h >= kernel.h || padding.w >= kernel.w {
                    return Err(format!("padding {padding} must be smaller than the window, {kernel}"));
                }
                let out = windows(input, *kernel, stride, *padding)?;
                Ok((FeatureDims::image(channels, out.h, out.w), Vec::new()))
            }
            Self::GlobalAvgPool2d {} => {
                image(input)?;
                Ok((FeatureDims::image(channels, 1, 1), Vec::new()))
            }
            &Self::BatchNorm { eps } => {
                if !(eps.is_finite() && eps > 0.0) {
                    return Err(format!("eps {eps} is not a positive number"));
                }
                let tensor = |name, value, trainable| ParamPlan {
                    name,
                    dims: vec![channels],
                    init: ParamInit::Constant(value),
                    trainable,
                };
                let params = vec![
                    tensor("weight", 1.0, true),
                    tensor("bias", 0.0, true),
                    tensor("running_mean", 0.0, false),
                    tensor("running_var", 1.0, false),
                ];
                Ok((input, params))
            }
            Self::Flatten {} => Ok((FeatureDims::flat(channels * height * width), Vec::new())),
            Self::Softmax {} if !input.flat => {
                Err(format!("takes a flat feature, but gets {input}; put a flatten layer before it"))
            }
            Self::LayerNorm { .. } | Self::RmsNorm { .. } | Self::GroupNorm { .. } | Self::InstanceNorm { .. } => {
                let sizes = self.norm_sizes(input)?;
                Ok((input, sizes.map(|sizes| sizes.params()).unwrap_or_default()))
            }
            other => match other.activation().map(|function| function.check()) {
                Some(Err(fault)) => Err(fault.to_string()),
                _ => Ok((input, Vec::new())),
            },
        }
    }

    /// Checked geometry of a convolution.
    pub(crate) fn conv2d_geometry(&self, input: FeatureShape) -> Result<Conv2dGeometry, LinalgError> {
        let &Self::Conv2d { out_channels, kernel, stride, padding, dilation, groups, .. } = self else {
            return Err(LinalgError::Geometry { what: self.kind(), reason: "it is no convolution".into() });
        };
        let params = Conv2dParams::new(input, out_channels, kernel.dims()).stride(stride.dims());
        params.padding(padding.dims()).dilation(dilation.dims()).groups(groups).check()
    }

    fn plan_conv2d(&self, input: FeatureDims, bias: bool) -> Result<(FeatureDims, Vec<ParamPlan>), String> {
        image(input)?;
        let geometry = self.conv2d_geometry(input.shape).map_err(|e| e.to_string())?;
        let FeatureShape { channels, height, width } = geometry.out_shape();
        within("output", &[channels, height, width])?;
        let dims = geometry.weight_shape().to_vec();
        let fan_in = within("weight", &dims)? / channels;
        Ok((FeatureDims::image(channels, height, width), weight_and_bias(dims, fan_in, bias)))
    }
}

fn weight_and_bias(dims: Vec<usize>, fan_in: usize, bias: bool) -> Vec<ParamPlan> {
    let out = dims[0];
    let tensor = |name, dims| ParamPlan { name, dims, init: ParamInit::Uniform { fan_in }, trainable: true };
    let mut params = vec![tensor("weight", dims)];
    if bias {
        params.push(tensor("bias", vec![out]));
    }
    params
}

fn image(input: FeatureDims) -> Result<(), String> {
    if input.flat { Err(format!("takes an image [C, H, W], but gets the flat feature {input}")) } else { Ok(()) }
}

fn positive(name: &str, value: usize) -> Result<(), String> {
    if value == 0 { Err(format!("{name} must be at least 1")) } else { Ok(()) }
}

/// Number of values of a tensor, if it is not absurdly large.
fn within(what: &str, dims: &[usize]) -> Result<usize, String> {
    let len = dims.iter().try_fold(1_usize, |len, &dim| len.checked_mul(dim));
    len.filter(|&len| len <= MAX_LEN).ok_or_else(|| format!("{what} of shape {dims:?} is too large"))
}

/// Number of windows per axis, `⌊(in + 2·padding - kernel) / stride⌋ + 1`.
fn windows(input: FeatureDims, kernel: Pair, stride: Pair, padding: Pair) -> Result<Pair, String> {
    positive("stride", stride.h.min(stride.w))?;
    let axis = |size: usize, kernel: usize, stride: usize, padding: usize| {
        let padded = padding.checked_mul(2)?.checked_add(size)?;
        Some(padded.checked_sub(kernel)? / stride + 1)
    };
    let h = axis(input.shape.height, kernel.h, stride.h, padding.h);
    let w = axis(input.shape.width, kernel.w, stride.w, padding.w);
    match (h, w) {
        (Some(h), Some(w)) => within("output", &[input.shape.channels, h, w]).map(|_| Pair { h, w }),
        _ => Err(format!("a window of {kernel} does not fit into {input} with padding {padding}")),
    }
}
