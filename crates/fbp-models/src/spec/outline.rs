//! Sizes of one layer: what comes out, and which tensors it has.

use fbp_inverse::{Conv1dParams, ConvTranspose2dParams, PoolWindow};
use fbp_linalg::conv2d::{Conv2dGeometry, Conv2dParams};
use fbp_linalg::{FeatureShape, LinalgError};

use super::plan::MAX_LEN;
use super::{FeatureDims, FeatureKind, LayerSpec, Merge, Padding, Pair, ParamInit, ParamPlan};
use crate::ops::Window;

impl LayerSpec {
    /// Checks the layer against its input, and against what its branches give.
    pub(super) fn outline(
        &self,
        input: FeatureDims,
        branches: &[FeatureDims],
    ) -> Result<(FeatureDims, Vec<ParamPlan>), String> {
        let channels = input.shape.channels;
        match self {
            Self::Block { layers } if layers.is_empty() => Err("it has no layers".into()),
            Self::Block { .. } => Ok((branches[0], Vec::new())),
            Self::Residual { .. } => Ok((merged(Merge::Sum, branches)?, Vec::new())),
            Self::Parallel { merge, .. } => Ok((merged(*merge, branches)?, Vec::new())),
            Self::Tokens {}
            | Self::ClassToken {}
            | Self::PositionEmbedding {}
            | Self::SelectToken { .. }
            | Self::MeanTokens { .. }
            | Self::Attention { .. } => self.outline_tokens(input),
            &(Self::Dropout { p } | Self::DropPath { p }) => {
                let is_share = (0.0..1.0).contains(&p);
                if is_share { Ok((input, Vec::new())) } else { Err(format!("p = {p} is not a probability below 1")) }
            }
            &Self::ZeroPad2d { padding } => Ok((padded(input, padding)?, Vec::new())),
            &(Self::Conv2d { bias, .. }
            | Self::ConvTranspose2d { bias, .. }
            | Self::Conv1d { bias, .. }
            | Self::ConvTranspose1d { bias, .. }) => self.plan_conv(input, bias),
            &Self::Linear { out_features, bias } => outline_linear(input, out_features, bias),
            Self::MaxPool2d { .. } | Self::AvgPool2d { .. } => Ok((self.pooled(input)?, Vec::new())),
            &Self::AdaptiveAvgPool2d { size } => {
                image(input)?;
                positive("size", size.h.min(size.w))?;
                within("output", &[channels, size.h, size.w])?;
                Ok((FeatureDims::image(channels, size.h, size.w), Vec::new()))
            }
            Self::GlobalAvgPool2d {} => {
                image(input)?;
                Ok((FeatureDims::image(channels, 1, 1), Vec::new()))
            }
            &Self::BatchNorm { eps } => Ok((input, batch_norm(input, eps)?)),
            Self::Flatten {} => Ok((FeatureDims::flat(input.len()), Vec::new())),
            Self::Softmax {} if !input.is_flat() => {
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

    /// What a pooling with windows gives.
    fn pooled(&self, input: FeatureDims) -> Result<FeatureDims, String> {
        let &(Self::MaxPool2d { kernel, stride, padding, ceil }
        | Self::AvgPool2d { kernel, stride, padding, ceil, .. }) = self
        else {
            return Err(format!("{} has no windows", self.kind()));
        };
        image(input)?;
        if let Self::AvgPool2d { divisor: Some(divisor), .. } = self
            && !(divisor.is_finite() && *divisor != 0.0)
        {
            return Err(format!("divisor {divisor} is 0 or not finite"));
        }
        let stride = stride.unwrap_or(kernel);
        if padding.h >= kernel.h || padding.w >= kernel.w {
            return Err(format!("padding {padding} must be smaller than the window, {kernel}"));
        }
        let out = windows(input, Window { kernel, stride, padding, ceil })?;
        Ok(FeatureDims::image(input.shape.channels, out.h, out.w))
    }

    /// Checked geometry of a convolution, or of the one that the layer transposes, and whether it does so.
    pub(crate) fn conv_geometry(&self, input: FeatureShape) -> Result<(Conv2dGeometry, bool), LinalgError> {
        match *self {
            Self::Conv2d { out_channels, kernel, stride, padding, dilation, groups, .. } => {
                let params = Conv2dParams::new(input, out_channels, kernel.dims()).stride(stride.dims());
                // Sides that differ are padded by a layer of their own.
                let padding = match padding {
                    Padding::Sides { top, left, .. } => [top, left],
                    Padding::Same => [0, 0],
                };
                let params = params.padding(padding).dilation(dilation.dims()).groups(groups);
                Ok((params.check()?, false))
            }
            Self::ConvTranspose2d {
                out_channels, kernel, stride, padding, output_padding, dilation, groups, ..
            } => {
                let params = ConvTranspose2dParams::new(input, out_channels, kernel.dims()).stride(stride.dims());
                let params = params.padding(padding.dims()).output_padding(output_padding.dims());
                Ok((params.dilation(dilation.dims()).groups(groups).check()?, true))
            }
            Self::Conv1d { out_channels, kernel, stride, padding, dilation, groups, .. } => {
                let line = Conv1dParams::new(input.channels, input.width, out_channels, kernel);
                Ok((Conv1dParams { stride, padding, dilation, groups, ..line }.check()?, false))
            }
            Self::ConvTranspose1d {
                out_channels, kernel, stride, padding, output_padding, dilation, groups, ..
            } => {
                let line = Conv1dParams::new(input.channels, input.width, out_channels, kernel);
                let line = Conv1dParams { stride, padding, output_padding, dilation, groups, ..line };
                Ok((line.check_transposed()?, true))
            }
            _ => Err(LinalgError::Geometry { what: self.kind(), reason: "it is no convolution".into() }),
        }
    }

    /// Layers of tokens.
    fn outline_tokens(&self, input: FeatureDims) -> Result<(FeatureDims, Vec<ParamPlan>), String> {
        let FeatureShape { channels, height, width } = input.shape;
        if let Self::Tokens {} = self {
            image(input)?;
            return Ok((FeatureDims::tokens(height * width, channels), Vec::new()));
        }
        if !input.is_tokens() {
            return Err(format!("takes tokens [T, D], but gets {input}; put a tokens layer before it"));
        }
        let normal = |dims| ParamPlan { name: "", dims, init: ParamInit::Normal { std: 0.02 }, trainable: true };
        let (tokens, width) = (channels, width);
        match *self {
            Self::ClassToken {} => {
                within("output", &[tokens + 1, width])?;
                Ok((FeatureDims::tokens(tokens + 1, width), vec![normal(vec![1, 1, width])]))
            }
            Self::PositionEmbedding {} => Ok((input, vec![normal(vec![1, tokens, width])])),
            Self::SelectToken { index } | Self::MeanTokens { first: index } if index >= tokens => {
                Err(format!("there is no token {index} among {tokens}"))
            }
            Self::Attention { heads, qkv_bias, bias } => {
                if heads == 0 || !width.is_multiple_of(heads) {
                    return Err(format!("heads = {heads} does not divide the width of the tokens, {width}"));
                }
                within("qkv", &[tokens, 3, width])?;
                within("scores", &[heads, tokens, tokens])?;
                within("qkv.weight", &[3, width, width])?;
                let tensor =
                    |name, dims| ParamPlan { name, dims, init: ParamInit::Uniform { fan_in: width }, trainable: true };
                let mut params = vec![tensor("qkv.weight", vec![3 * width, width])];
                params.extend(qkv_bias.then(|| tensor("qkv.bias", vec![3 * width])));
                params.push(tensor("proj.weight", vec![width, width]));
                params.extend(bias.then(|| tensor("proj.bias", vec![width])));
                Ok((input, params))
            }
            _ => Ok((FeatureDims::flat(width), Vec::new())),
        }
    }

    fn plan_conv(&self, input: FeatureDims, bias: bool) -> Result<(FeatureDims, Vec<ParamPlan>), String> {
        image(input)?;
        let is_line = matches!(self, Self::Conv1d { .. } | Self::ConvTranspose1d { .. });
        if is_line && input.shape.height != 1 {
            return Err(format!("takes a line [C, 1, W], but gets {input}"));
        }
        let (geometry, transposed) = self.conv_geometry(input.shape).map_err(|e| e.to_string())?;
        let out = if transposed { geometry.in_shape() } else { geometry.out_shape() };
        within("output", &[out.channels, out.height, out.width])?;
        let mut dims = geometry.weight_shape().to_vec();
        // As PyTorch counts it, also for a transposed layer, whose outputs really have other inputs.
        let fan_in = within("weight", &dims)? / dims[0];
        if is_line {
            dims.remove(2);
        }
        Ok((FeatureDims::image(out.channels, out.height, out.width), weight_and_bias(dims, out.channels, fan_in, bias)))
    }
}

/// A linear layer on a flat feature or on every token.
fn outline_linear(
    input: FeatureDims,
    out_features: usize,
    bias: bool,
) -> Result<(FeatureDims, Vec<ParamPlan>), String> {
    let fan_in = match input.kind {
        FeatureKind::Flat => input.len(),
        FeatureKind::Tokens => input.shape.width,
        FeatureKind::Image => {
            return Err(format!(
                "takes a flat feature or tokens, but gets {input}; put a flatten or a tokens layer before it"
            ));
        }
    };
    positive("out_features", out_features)?;
    within("weight", &[out_features, fan_in])?;
    let output = match input.kind {
        FeatureKind::Tokens => FeatureDims::tokens(input.shape.channels, out_features),
        _ => FeatureDims::flat(out_features),
    };
    within("output", &[output.len()])?;
    Ok((output, weight_and_bias(vec![out_features, fan_in], out_features, fan_in, bias)))
}

/// The tensors of a batch normalisation.
fn batch_norm(input: FeatureDims, eps: f64) -> Result<Vec<ParamPlan>, String> {
    if input.is_tokens() {
        return Err(format!("takes an image or a flat feature, but gets the tokens {input}"));
    }
    if !(eps.is_finite() && eps > 0.0) {
        return Err(format!("eps {eps} is not a positive number"));
    }
    let tensor = |name, value, trainable| ParamPlan {
        name,
        dims: vec![input.shape.channels],
        init: ParamInit::Constant(value),
        trainable,
    };
    Ok(vec![
        tensor("weight", 1.0, true),
        tensor("bias", 0.0, true),
        tensor("running_mean", 0.0, false),
        tensor("running_var", 1.0, false),
    ])
}

/// An image with rows and columns around it.
fn padded(input: FeatureDims, padding: Padding) -> Result<FeatureDims, String> {
    image(input)?;
    let Padding::Sides { top, bottom, left, right } = padding else {
        return Err("\"same\" depends on a window; give sizes".into());
    };
    let FeatureShape { channels, height, width } = input.shape;
    let side = |len: usize, near: usize, far: usize| len.saturating_add(near).saturating_add(far);
    let (height, width) = (side(height, top, bottom), side(width, left, right));
    within("output", &[channels, height, width])?;
    Ok(FeatureDims::image(channels, height, width))
}

fn weight_and_bias(dims: Vec<usize>, out: usize, fan_in: usize, bias: bool) -> Vec<ParamPlan> {
    let tensor = |name, dims| ParamPlan { name, dims, init: ParamInit::Uniform { fan_in }, trainable: true };
    let mut params = vec![tensor("weight", dims)];
    if bias {
        params.push(tensor("bias", vec![out]));
    }
    params
}

/// What branches give together.
fn merged(merge: Merge, outputs: &[FeatureDims]) -> Result<FeatureDims, String> {
    let Some(&first) = outputs.first() else { return Err("it has no branches".into()) };
    let differ = |other: FeatureDims| Err(format!("its branches give {first} and {other}, which have no {merge}"));
    let same_plane = |a: FeatureShape, b: FeatureShape| (a.height, a.width) == (b.height, b.width);
    match merge {
        Merge::Sum => outputs.iter().find(|&&other| other != first).map_or(Ok(first), |&other| differ(other)),
        Merge::Concat => {
            let fits = |other: &FeatureDims| {
                other.kind == first.kind && !other.is_tokens() && same_plane(other.shape, first.shape)
            };
            if let Some(&other) = outputs.iter().find(|other| !fits(other)) {
                return differ(other);
            }
            let channels = outputs.iter().map(|output| output.shape.channels).sum();
            within("output", &[channels, first.shape.height, first.shape.width])?;
            let shape = FeatureShape { channels, ..first.shape };
            Ok(FeatureDims { shape, kind: first.kind })
        }
        Merge::Product => {
            let whole = *outputs.iter().max_by_key(|output| output.len()).unwrap_or(&first);
            let factor = FeatureDims::image(whole.shape.channels, 1, 1);
            let fits = |other: &FeatureDims| *other == whole || (whole.is_image() && *other == factor);
            outputs.iter().find(|other| !fits(other)).map_or(Ok(whole), |&other| {
                Err(format!("its branches give {whole} and {other}, which have no product"))
            })
        }
    }
}

fn image(input: FeatureDims) -> Result<(), String> {
    match input.kind {
        FeatureKind::Image => Ok(()),
        FeatureKind::Flat => Err(format!("takes an image [C, H, W], but gets the flat feature {input}")),
        FeatureKind::Tokens => Err(format!("takes an image [C, H, W], but gets the tokens {input}")),
    }
}

fn positive(name: &str, value: usize) -> Result<(), String> {
    if value == 0 { Err(format!("{name} must be at least 1")) } else { Ok(()) }
}

/// Number of values of a tensor, if it is not absurdly large.
fn within(what: &str, dims: &[usize]) -> Result<usize, String> {
    let len = dims.iter().try_fold(1_usize, |len, &dim| len.checked_mul(dim));
    len.filter(|&len| len <= MAX_LEN).ok_or_else(|| format!("{what} of shape {dims:?} is too large"))
}

/// Number of windows per axis.
fn windows(input: FeatureDims, window: Window) -> Result<Pair, String> {
    positive("stride", window.stride.h.min(window.stride.w))?;
    let shape = input.shape;
    match PoolWindow::from(window).counts([shape.height, shape.width]) {
        Some([h, w]) => within("output", &[shape.channels, h, w]).map(|_| Pair { h, w }),
        None => Err(format!("a window of {} does not fit into {input} with padding {}", window.kernel, window.padding)),
    }
}
