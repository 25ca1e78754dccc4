use serde::{Deserialize, Serialize};

use super::{Activation, Pair};

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
        /// Zero rows and columns added on every side; 0 by default.
        #[serde(default, skip_serializing_if = "is_zero")]
        padding: Pair,
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
    /// `y = Wx + b` on a flat feature.
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
        /// How many of the last dimensions are normalised together; all of them by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<usize>,
    },
    /// As `layer_norm`, by the root of the mean square instead, without a shift.
    RmsNorm {
        /// Added to the mean square; 1e-5 by default.
        #[serde(default = "default_eps")]
        eps: f64,
        /// How many of the last dimensions are normalised together; all of them by default.
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
    /// `[C, H, W]` to a flat feature of length `C·H·W`, in that order.
    Flatten {},
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
