use serde::{Deserialize, Serialize};

use super::tree::layers;
use super::{Activation, Branch, Merge, NamedLayer, Padding, Pair};

/// Description of one layer. In TOML and JSON the key `type` says which one, in the spelling of [`kind`](Self::kind).
///
/// Activations are `{ type = "relu" }`, `{ type = "leaky_relu", slope = 0.1 }` and so on, see [`Activation`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum LayerSpec {
    /// Two-dimensional cross-correlation with zero padding, `[C, H, W]` to `[out_channels, H', W']`.
    Conv2d {
        /// Number of output channels.
        out_channels: usize,
        /// Size of the kernel.
        kernel: Pair,
        /// Distance between two windows; 1 by default.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        stride: Pair,
        /// Zero rows and columns added around the image; none by default.
        #[serde(default, skip_serializing_if = "Padding::is_none")]
        padding: Padding,
        /// Distance between two taps of the kernel; 1 by default.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        dilation: Pair,
        /// Number of independent groups of channels; 1 by default.
        #[serde(default = "one_group", skip_serializing_if = "is_one_group")]
        groups: usize,
        /// Whether a bias is added; true by default.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        bias: bool,
    },
    /// The transpose of a convolution, `[C, H, W]` to `[out_channels, H', W']`, about `stride` times as large; weights
    /// `[C, out_channels / groups, kh, kw]`.
    ConvTranspose2d {
        /// Number of output channels.
        out_channels: usize,
        /// Size of the kernel.
        kernel: Pair,
        /// Distance between two windows; 1 by default.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        stride: Pair,
        /// Rows and columns cut off on every side of the output; 0 by default.
        #[serde(default, skip_serializing_if = "is_zero")]
        padding: Pair,
        /// Rows and columns added on the far side of the output, fewer than the stride; 0 by default.
        #[serde(default, skip_serializing_if = "is_zero")]
        output_padding: Pair,
        /// Distance between two taps of the kernel; 1 by default.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        dilation: Pair,
        /// Number of independent groups of channels; 1 by default.
        #[serde(default = "one_group", skip_serializing_if = "is_one_group")]
        groups: usize,
        /// Whether a bias is added; true by default.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        bias: bool,
    },
    /// Convolution of lines, `[C, 1, W]` to `[out_channels, 1, W']`; weights `[out_channels, C / groups, k]`.
    Conv1d {
        /// Number of output channels.
        out_channels: usize,
        /// Size of the kernel.
        kernel: usize,
        /// Distance between two windows; 1 by default.
        #[serde(default = "one_group", skip_serializing_if = "is_one_group")]
        stride: usize,
        /// Zeros added at both ends; 0 by default.
        #[serde(default, skip_serializing_if = "is_none")]
        padding: usize,
        /// Distance between two taps of the kernel; 1 by default.
        #[serde(default = "one_group", skip_serializing_if = "is_one_group")]
        dilation: usize,
        /// Number of independent groups of channels; 1 by default.
        #[serde(default = "one_group", skip_serializing_if = "is_one_group")]
        groups: usize,
        /// Whether a bias is added; true by default.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        bias: bool,
    },
    /// The transpose of a convolution of lines; weights `[C, out_channels / groups, k]`.
    ConvTranspose1d {
        /// Number of output channels.
        out_channels: usize,
        /// Size of the kernel.
        kernel: usize,
        /// Distance between two windows; 1 by default.
        #[serde(default = "one_group", skip_serializing_if = "is_one_group")]
        stride: usize,
        /// Entries cut off both ends of the output; 0 by default.
        #[serde(default, skip_serializing_if = "is_none")]
        padding: usize,
        /// Entries added on the far side of the output, fewer than the stride; 0 by default.
        #[serde(default, skip_serializing_if = "is_none")]
        output_padding: usize,
        /// Distance between two taps of the kernel; 1 by default.
        #[serde(default = "one_group", skip_serializing_if = "is_one_group")]
        dilation: usize,
        /// Number of independent groups of channels; 1 by default.
        #[serde(default = "one_group", skip_serializing_if = "is_one_group")]
        groups: usize,
        /// Whether a bias is added; true by default.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        bias: bool,
    },
    /// `y = Wx + b` on a flat feature, or on every token.
    Linear {
        /// Length of the output.
        out_features: usize,
        /// Whether a bias is added; true by default.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        bias: bool,
    },
    /// [`Activation::Relu`]
    Relu {},
    /// [`Activation::Relu6`]
    Relu6 {},
    /// [`Activation::LeakyRelu`]
    LeakyRelu {
        /// Slope of the negative side; 0.01 by default.
        #[serde(default = "default_slope")]
        slope: f64,
    },
    /// [`Activation::HardTanh`]
    HardTanh {
        /// Lower end; -1 by default.
        #[serde(default = "minus_one")]
        min: f64,
        /// Upper end; 1 by default.
        #[serde(default = "plus_one")]
        max: f64,
    },
    /// [`Activation::Tanh`]
    Tanh {},
    /// [`Activation::Sigmoid`]
    Sigmoid {},
    /// [`Activation::HardSigmoid`]
    HardSigmoid {},
    /// [`Activation::Elu`]
    Elu {
        /// Scale of the negative side; 1 by default.
        #[serde(default = "plus_one")]
        alpha: f64,
    },
    /// [`Activation::Softplus`]
    Softplus {},
    /// [`Activation::Gelu`]
    Gelu {},
    /// [`Activation::GeluTanh`]
    GeluTanh {},
    /// [`Activation::Silu`]
    Silu {},
    /// [`Activation::HardSwish`]
    HardSwish {},
    /// [`Activation::Mish`]
    Mish {},
    /// `y = exp(x) / Σ exp(x)` over a flat feature.
    Softmax {},
    /// Largest value of every window; padding counts as -∞.
    MaxPool2d {
        /// Size of the window.
        kernel: Pair,
        /// Distance between two windows; the size of the window by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Pair>,
        /// Rows and columns added on every side; 0 by default.
        #[serde(default, skip_serializing_if = "is_zero")]
        padding: Pair,
        /// Whether windows may reach over the far edge, so that their number is rounded up; false by default.
        #[serde(default, skip_serializing_if = "is_no")]
        ceil: bool,
    },
    /// Mean of every window; padding counts as zeros, unless told otherwise.
    AvgPool2d {
        /// Size of the window.
        kernel: Pair,
        /// Distance between two windows; the size of the window by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Pair>,
        /// Zero rows and columns added on every side; 0 by default.
        #[serde(default, skip_serializing_if = "is_zero")]
        padding: Pair,
        /// Whether windows may reach over the far edge, so that their number is rounded up; false by default.
        #[serde(default, skip_serializing_if = "is_no")]
        ceil: bool,
        /// Whether the sum is divided by the number of sites with the padding, else by that without; true by default.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        count_include_pad: bool,
        /// What the sum is divided by instead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        divisor: Option<f64>,
    },
    /// Means of windows that cover the plane evenly, `[C, H, W]` to `[C, size]`.
    AdaptiveAvgPool2d {
        /// Number of windows.
        size: Pair,
    },
    /// Mean of every channel, `[C, H, W]` to `[C, 1, 1]`.
    GlobalAvgPool2d {},
    /// Normalisation per channel with the batch's statistics in training and running ones in evaluation.
    BatchNorm {
        /// Added to the variance; 1e-5 by default.
        #[serde(default = "default_eps")]
        eps: f64,
    },
    /// Every sample by its own mean and deviation, with a scale and a shift for every entry.
    LayerNorm {
        /// Added to the variance; 1e-5 by default.
        #[serde(default = "default_eps")]
        eps: f64,
        /// How many of the last dimensions are normalised together; by default all of them, of tokens the last one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<usize>,
    },
    /// As `layer_norm`, by the root of the mean square instead, without a shift.
    RmsNorm {
        /// Added to the mean square; 1e-5 by default.
        #[serde(default = "default_eps")]
        eps: f64,
        /// How many of the last dimensions are normalised together; by default all of them, of tokens the last one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<usize>,
    },
    /// Groups of channels of every sample by their own mean and deviation, with a scale and a shift per channel.
    GroupNorm {
        /// Number of groups, a divisor of the number of channels.
        groups: usize,
        /// Added to the variance; 1e-5 by default.
        #[serde(default = "default_eps")]
        eps: f64,
    },
    /// As `group_norm`, with every channel a group of its own.
    InstanceNorm {
        /// Added to the variance; 1e-5 by default.
        #[serde(default = "default_eps")]
        eps: f64,
    },
    /// `[C, H, W]` or `[T, D]` to a flat feature, in that order.
    Flatten {},
    /// Zero rows and columns around an image.
    ZeroPad2d {
        /// How many.
        padding: Padding,
    },
    /// Layers under one name.
    Block {
        /// The layers, input side first.
        #[serde(deserialize_with = "layers")]
        layers: Vec<NamedLayer>,
    },
    /// The sum of some layers and of a shortcut past them.
    Residual {
        /// The layers, input side first.
        #[serde(deserialize_with = "layers")]
        layers: Vec<NamedLayer>,
        /// The shortcut; the input itself if there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        skip: Option<Branch>,
    },
    /// Branches with one input.
    Parallel {
        /// The branches.
        branches: Vec<Branch>,
        /// How their outputs become one.
        merge: Merge,
    },
    /// Image `[C, H, W]` to tokens `[H·W, C]`, row after row.
    Tokens {},
    /// A learned token before all others, `[T, D]` to `[T + 1, D]`. The path of the layer is that of its one parameter, `[1, 1, D]`.
    ClassToken {},
    /// A learned vector added to every token. The path of the layer is that of its one parameter, `[1, T, D]`.
    PositionEmbedding {},
    /// One of the tokens, `[T, D]` to `[D]`.
    SelectToken {
        /// Which one; the first by default.
        #[serde(default, skip_serializing_if = "is_none")]
        index: usize,
    },
    /// The mean of the tokens, `[T, D]` to `[D]`.
    MeanTokens {
        /// The first token that counts: 1 leaves out a class token; 0 by default.
        #[serde(default, skip_serializing_if = "is_none")]
        first: usize,
    },
    /// Multi-head self-attention on tokens `[T, D]`: queries, keys and values from one linear layer `qkv`, then `softmax(q kᵀ / √d) v`
    /// for every head of width `d`, then the linear layer `proj`.
    Attention {
        /// Number of heads, a divisor of `D`.
        heads: usize,
        /// Whether queries, keys and values have a bias; true by default.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        qkv_bias: bool,
        /// Whether the linear layer after the heads has a bias; true by default.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        bias: bool,
    },
    /// In training every entry is zero with probability `p`, the others grow by `1 / (1 - p)`; else nothing happens.
    Dropout {
        /// The probability.
        p: f64,
    },
    /// In training whole samples are zero with probability `p`, the others grow by `1 / (1 - p)`; for the end of residual branches.
    DropPath {
        /// The probability.
        p: f64,
    },
    /// Two 3×3 convolutions beside a shortcut, each with batch normalisation (He et al., arXiv:1512.03385); names as in torchvision.
    BasicBlock {
        /// Output channels. If they or the size change, the shortcut is a 1×1 convolution with normalisation, `downsample`.
        channels: usize,
        /// Stride of the first convolution; 1 by default.
        #[serde(default = "one_group", skip_serializing_if = "is_one_group")]
        stride: usize,
    },
    /// 1×1, 3×3 and 1×1 convolutions beside a shortcut (ResNet-50); names as in torchvision.
    Bottleneck {
        /// Channels of the 3×3 convolution, a quarter of the output channels.
        channels: usize,
        /// Stride of the 3×3 convolution; 1 by default.
        #[serde(default = "one_group", skip_serializing_if = "is_one_group")]
        stride: usize,
    },
    /// Expansion, depthwise convolution and projection, beside a shortcut where the shape stays (Sandler et al., arXiv:1801.04381);
    /// names as in torchvision.
    InvertedResidual {
        /// Output channels.
        channels: usize,
        /// Stride of the depthwise convolution; 1 by default.
        #[serde(default = "one_group", skip_serializing_if = "is_one_group")]
        stride: usize,
        /// Factor of the expansion; 1 leaves it out.
        expand: usize,
    },
    /// A 1×1 convolution, then 1×1 and 3×3 convolutions side by side (Iandola et al., arXiv:1602.07360); names as in torchvision.
    Fire {
        /// Channels of the first convolution.
        squeeze: usize,
        /// Channels of each of the others.
        expand: usize,
    },
    /// Channels scaled by what two linear layers make of their means (Hu et al., arXiv:1709.01507): names `fc1` and `fc2`, ReLU and
    /// sigmoid.
    SqueezeExcite {
        /// Channels between the two.
        channels: usize,
        /// Whether the last function is the hard sigmoid, as in MobileNetV3; false by default.
        #[serde(default, skip_serializing_if = "is_no")]
        hard: bool,
    },
    /// Attention and a perceptron, each behind a layer normalisation and beside a shortcut (Dosovitskiy et al.,
    /// arXiv:2010.11929); names as in timm.
    TransformerBlock {
        /// Number of heads.
        heads: usize,
        /// Width of the perceptron.
        mlp: usize,
        /// Whether queries, keys and values have a bias; true by default.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        qkv_bias: bool,
        /// Whether the layer normalisations are there; true by default.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        norm: bool,
        /// Added to the variances; 1e-6 by default.
        #[serde(default = "vit_eps")]
        eps: f64,
    },
}

impl LayerSpec {
    /// Convolution with the given channels, kernel and padding, stride 1, with bias.
    pub fn conv2d(out_channels: usize, kernel: usize, padding: usize) -> Self {
        Self::Conv2d {
            out_channels,
            kernel: kernel.into(),
            stride: one(),
            padding: padding.into(),
            dilation: one(),
            groups: 1,
            bias: true,
        }
    }

    /// Linear layer with bias.
    pub fn linear(out_features: usize) -> Self {
        Self::Linear { out_features, bias: true }
    }

    /// Max-pooling of disjoint windows.
    pub fn max_pool2d(kernel: usize) -> Self {
        Self::MaxPool2d { kernel: kernel.into(), stride: None, padding: Pair::default(), ceil: false }
    }

    /// Name of the layer's kind, the value of the key `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Conv2d { .. } => "conv2d",
            Self::ConvTranspose2d { .. } => "conv_transpose2d",
            Self::Conv1d { .. } => "conv1d",
            Self::ConvTranspose1d { .. } => "conv_transpose1d",
            Self::Linear { .. } => "linear",
            Self::Relu {} => "relu",
            Self::Relu6 {} => "relu6",
            Self::LeakyRelu { .. } => "leaky_relu",
            Self::HardTanh { .. } => "hard_tanh",
            Self::Tanh {} => "tanh",
            Self::Sigmoid {} => "sigmoid",
            Self::HardSigmoid {} => "hard_sigmoid",
            Self::Elu { .. } => "elu",
            Self::Softplus {} => "softplus",
            Self::Gelu {} => "gelu",
            Self::GeluTanh {} => "gelu_tanh",
            Self::Silu {} => "silu",
            Self::HardSwish {} => "hard_swish",
            Self::Mish {} => "mish",
            Self::Softmax {} => "softmax",
            Self::MaxPool2d { .. } => "max_pool2d",
            Self::AvgPool2d { .. } => "avg_pool2d",
            Self::AdaptiveAvgPool2d { .. } => "adaptive_avg_pool2d",
            Self::GlobalAvgPool2d {} => "global_avg_pool2d",
            Self::BatchNorm { .. } => "batch_norm",
            Self::LayerNorm { .. } => "layer_norm",
            Self::RmsNorm { .. } => "rms_norm",
            Self::GroupNorm { .. } => "group_norm",
            Self::InstanceNorm { .. } => "instance_norm",
            Self::Flatten {} => "flatten",
            Self::ZeroPad2d { .. } => "zero_pad2d",
            Self::Block { .. } => "block",
            Self::Residual { .. } => "residual",
            Self::Parallel { .. } => "parallel",
            Self::Tokens {} => "tokens",
            Self::ClassToken {} => "class_token",
            Self::PositionEmbedding {} => "position_embedding",
            Self::SelectToken { .. } => "select_token",
            Self::MeanTokens { .. } => "mean_tokens",
            Self::Attention { .. } => "attention",
            Self::Dropout { .. } => "dropout",
            Self::DropPath { .. } => "drop_path",
            Self::BasicBlock { .. } => "basic_block",
            Self::Bottleneck { .. } => "bottleneck",
            Self::InvertedResidual { .. } => "inverted_residual",
            Self::Fire { .. } => "fire",
            Self::SqueezeExcite { .. } => "squeeze_excite",
            Self::TransformerBlock { .. } => "transformer_block",
        }
    }

    /// The elementwise function of an activation layer; `None` for every other layer (softmax included).
    pub fn activation(&self) -> Option<Activation> {
        Some(match *self {
            Self::Relu {} => Activation::Relu,
            Self::Relu6 {} => Activation::Relu6,
            Self::LeakyRelu { slope } => Activation::LeakyRelu { slope },
            Self::HardTanh { min, max } => Activation::HardTanh { min, max },
            Self::Tanh {} => Activation::Tanh,
            Self::Sigmoid {} => Activation::Sigmoid,
            Self::HardSigmoid {} => Activation::HardSigmoid,
            Self::Elu { alpha } => Activation::Elu { alpha },
            Self::Softplus {} => Activation::Softplus,
            Self::Gelu {} => Activation::Gelu,
            Self::GeluTanh {} => Activation::GeluTanh,
            Self::Silu {} => Activation::Silu,
            Self::HardSwish {} => Activation::HardSwish,
            Self::Mish {} => Activation::Mish,
            _ => return None,
        })
    }
}

fn one() -> Pair {
    Pair::both(1)
}
fn is_one(pair: &Pair) -> bool {
    *pair == one()
}
fn is_zero(pair: &Pair) -> bool {
    *pair == Pair::default()
}
fn one_group() -> usize {
    1
}
fn is_one_group(groups: &usize) -> bool {
    *groups == 1
}
fn is_none(size: &usize) -> bool {
    *size == 0
}
fn is_no(flag: &bool) -> bool {
    !*flag
}
fn yes() -> bool {
    true
}
fn is_yes(flag: &bool) -> bool {
    *flag
}
fn default_slope() -> f64 {
    0.01
}
fn minus_one() -> f64 {
    -1.0
}
fn plus_one() -> f64 {
    1.0
}
fn default_eps() -> f64 {
    1e-5
}
fn vit_eps() -> f64 {
    1e-6
}
