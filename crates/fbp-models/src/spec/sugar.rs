//! Layers that are short for others.

use super::{Branch, FeatureDims, LayerSpec, Merge, NamedLayer, Padding, Pair};

/// Convolutions of a fixed kind, as their networks write them: no bias, and batch normalisation behind.
pub(crate) fn conv(out_channels: usize, kernel: usize, stride: usize, groups: usize) -> LayerSpec {
    LayerSpec::Conv2d {
        out_channels,
        kernel: kernel.into(),
        stride: stride.into(),
        padding: (kernel / 2).into(),
        dilation: 1.into(),
        groups,
        bias: false,
    }
}

/// Batch normalisation as PyTorch has it by default.
pub(crate) fn batch_norm() -> LayerSpec {
    LayerSpec::BatchNorm { eps: 1e-5 }
}

/// `conv1`, `bn1` and an activation, `conv2`, `bn2`, .. : the layers of a ResNet's block, without the last activation.
fn conv_norm_chain(convolutions: &[LayerSpec]) -> Vec<NamedLayer> {
    let mut layers = Vec::new();
    for (number, conv) in (1..).zip(convolutions) {
        if number > 1 {
            layers.push(LayerSpec::Relu {}.into());
        }
        layers.push(conv.clone().named(format!("conv{number}")));
        layers.push(batch_norm().named(format!("bn{number}")));
    }
    layers
}

/// A ResNet's block: layers beside a shortcut that is a 1×1 convolution where the shape changes, then ReLU.
fn residual_block(convolutions: &[LayerSpec], channels: usize, stride: usize, input: FeatureDims) -> Vec<NamedLayer> {
    let projected = stride != 1 || input.shape.channels != channels;
    let skip = projected.then(|| Branch {
        name: Some("downsample".into()),
        layers: vec![conv(channels, 1, stride, 1).into(), batch_norm().into()],
    });
    let residual = LayerSpec::Residual { layers: conv_norm_chain(convolutions), skip };
    vec![residual.named(""), LayerSpec::Relu {}.into()]
}

/// Convolution, normalisation and ReLU6 under one name.
pub(crate) fn conv_relu6(out_channels: usize, kernel: usize, stride: usize, groups: usize) -> NamedLayer {
    let conv = conv(out_channels, kernel, stride, groups);
    LayerSpec::Block { layers: vec![conv.into(), batch_norm().into(), LayerSpec::Relu6 {}.into()] }.into()
}

fn inverted_residual(channels: usize, stride: usize, expand: usize, input: FeatureDims) -> Vec<NamedLayer> {
    let given = input.shape.channels;
    let hidden = given.saturating_mul(expand);
    let mut layers = Vec::new();
    if expand != 1 {
        layers.push(conv_relu6(hidden, 1, 1, 1));
    }
    layers.extend([conv_relu6(hidden, 3, stride, hidden), conv(channels, 1, 1, 1).into(), batch_norm().into()]);
    let layers = vec![LayerSpec::Block { layers }.named("conv")];
    if stride == 1 && channels == given { vec![LayerSpec::Residual { layers, skip: None }.named("")] } else { layers }
}

fn fire(squeeze: usize, expand: usize) -> Vec<NamedLayer> {
    let conv = |name: &str, channels, kernel| LayerSpec::conv2d(channels, kernel, kernel / 2).named(name);
    let branch = |name: &str, kernel| Branch {
        name: Some(String::new()),
        layers: vec![conv(name, expand, kernel), LayerSpec::Relu {}.into()],
    };
    let expanded =
        LayerSpec::Parallel { branches: vec![branch("expand1x1", 1), branch("expand3x3", 3)], merge: Merge::Concat };
    vec![conv("squeeze", squeeze, 1), LayerSpec::Relu {}.into(), expanded.named("")]
}

fn squeeze_excite(channels: usize, gate: LayerSpec, input: FeatureDims) -> Vec<NamedLayer> {
    let factor = Branch {
        name: Some(String::new()),
        layers: vec![
            LayerSpec::GlobalAvgPool2d {}.into(),
            LayerSpec::conv2d(channels, 1, 0).named("fc1"),
            LayerSpec::Relu {}.into(),
            LayerSpec::conv2d(input.shape.channels, 1, 0).named("fc2"),
            gate.into(),
        ],
    };
    let branches = vec![Branch { name: Some(String::new()), layers: Vec::new() }, factor];
    vec![LayerSpec::Parallel { branches, merge: Merge::Product }.named("")]
}

impl LayerSpec {
    /// What the layer is short for, given its input; `None` if it stands for itself.
    ///
    /// The parameters keep their paths. A convolution whose sides differ in padding is a padding and a convolution without.
    pub(super) fn expansion(&self, input: FeatureDims) -> Result<Option<Vec<NamedLayer>>, String> {
        let image =
            || if input.is_image() { Ok(()) } else { Err(format!("takes an image [C, H, W], but gets {input}")) };
        Ok(Some(match *self {
            Self::BasicBlock { channels, stride } => {
                image()?;
                let convolutions = [conv(channels, 3, stride, 1), conv(channels, 3, 1, 1)];
                residual_block(&convolutions, channels, stride, input)
            }
            Self::Bottleneck { channels, stride } => {
                image()?;
                let wide = channels.saturating_mul(4);
                let convolutions = [conv(channels, 1, 1, 1), conv(channels, 3, stride, 1), conv(wide, 1, 1, 1)];
                residual_block(&convolutions, wide, stride, input)
            }
            Self::InvertedResidual { channels, stride, expand } => {
                image()?;
                inverted_residual(channels, stride, expand, input)
            }
            Self::Fire { squeeze, expand } => {
                image()?;
                fire(squeeze, expand)
            }
            Self::SqueezeExcite { channels, hard } => {
                image()?;
                let gate = if hard { Self::HardSigmoid {} } else { Self::Sigmoid {} };
                squeeze_excite(channels, gate, input)
            }
            Self::TransformerBlock { heads, mlp, qkv_bias, norm, eps } => {
                if !input.is_tokens() {
                    return Err(format!("takes tokens [T, D], but gets {input}; put a tokens layer before it"));
                }
                let normed = |number: usize, inner: Vec<NamedLayer>| {
                    let norm = norm.then(|| Self::LayerNorm { eps, last: None }.named(format!("norm{number}")));
                    Self::Residual { layers: norm.into_iter().chain(inner).collect(), skip: None }.named("")
                };
                let attention = Self::Attention { heads, qkv_bias, bias: true }.named("attn");
                let perceptron = vec![
                    Self::linear(mlp).named("mlp.fc1"),
                    Self::Gelu {}.into(),
                    Self::linear(input.shape.width).named("mlp.fc2"),
                ];
                vec![normed(1, vec![attention]), normed(2, perceptron)]
            }
            Self::Conv2d { out_channels, kernel, stride, padding, dilation, groups, bias } => {
                image()?;
                let shape = input.shape;
                let extent = |kernel: usize, dilation: usize| {
                    dilation.saturating_mul(kernel.saturating_sub(1)).saturating_add(1)
                };
                let extent = [extent(kernel.h, dilation.h), extent(kernel.w, dilation.w)];
                let [rows, columns] = padding.sizes([shape.height, shape.width], extent, stride.dims());
                let plain = |padding| Self::Conv2d { out_channels, kernel, stride, padding, dilation, groups, bias };
                if padding == Padding::Same && rows[0] == rows[1] && columns[0] == columns[1] {
                    vec![plain(Pair { h: rows[0], w: columns[0] }.into()).named("")]
                } else if rows[0] != rows[1] || columns[0] != columns[1] {
                    let [[top, bottom], [left, right]] = [rows, columns];
                    let pad = Self::ZeroPad2d { padding: Padding::Sides { top, bottom, left, right } };
                    vec![pad.named(""), plain(Padding::NONE).named("")]
                } else {
                    return Ok(None);
                }
            }
            _ => return Ok(None),
        }))
    }
}
