//! Every kind of layer with its keys, their defaults and an example: what people look up when they describe a network.
//!
//! A new kind needs an entry here; a test compares the entries with what descriptions accept.

use crate::{ModelError, NetworkSpec};

/// A kind of layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerEntry {
    /// Value of the key `type`.
    pub kind: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Its other keys.
    pub keys: &'static [LayerKey],
    /// Shape `[C, H, W]` of the input of the example.
    pub input: [usize; 3],
    /// The layers of the example, in TOML; the last one is of this kind.
    pub layers: &'static str,
}

/// A key of a layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerKey {
    /// Its name.
    pub name: &'static str,
    /// Its value in TOML if it is left out; none if it must be given, and `""` for one that has no such value.
    pub default: Option<&'static str>,
    /// What it means.
    pub about: &'static str,
}

/// A key that must be given.
const fn must(name: &'static str, about: &'static str) -> LayerKey {
    LayerKey { name, default: None, about }
}

/// A key that may be left out.
const fn may(name: &'static str, default: &'static str, about: &'static str) -> LayerKey {
    LayerKey { name, default: Some(default), about }
}

const OUT_CHANNELS: LayerKey = must("out_channels", "number of output channels");
const KERNEL: LayerKey = must("kernel", "size of the kernel: 3, or [3, 2] for height and width");
const LINE_KERNEL: LayerKey = must("kernel", "size of the kernel");
const STRIDE: LayerKey = may("stride", "1", "distance between two windows");
const PADDING: LayerKey = may("padding", "0", "zeros added on every side");
const AROUND: &str = "zeros around: 1, [1, 0] for height and width, [top, bottom, left, right], or \"same\"";
const IMAGE_PADDING: LayerKey = may("padding", "0", AROUND);
const CUT: LayerKey = may("padding", "0", "what is cut off on every side of the output");
const OUTPUT_PADDING: LayerKey = may("output_padding", "0", "what is added on the far side, less than the stride");
const DILATION: LayerKey = may("dilation", "1", "distance between two taps of the kernel");
const GROUPS: LayerKey = may("groups", "1", "independent groups of channels");
const BIAS: LayerKey = may("bias", "true", "whether a bias is added");
const WINDOW: LayerKey = must("kernel", "size of the window: 2, or [2, 1] for height and width");
const WINDOW_STRIDE: LayerKey = may("stride", "", "distance between two windows; the size of the window if left out");
const WINDOW_PADDING: LayerKey = may("padding", "0", "rows and columns added on every side");
const INNER: LayerKey = must("layers", "the layers, a list like that of a stage");
const CHANNELS: LayerKey = must("channels", "output channels");
const BLOCK_STRIDE: LayerKey = may("stride", "1", "stride of the 3×3 convolution that has one");
const QKV_BIAS: LayerKey = may("qkv_bias", "true", "whether queries, keys and values have a bias");
const P: LayerKey = must("p", "the probability");
const CEIL: LayerKey = may("ceil", "false", "whether windows may reach over the far edge");
const EPS: LayerKey = may("eps", "1e-5", "added to the variance");
const LAST: LayerKey = may("last", "", "how many of the last dimensions are taken together; all if left out");

/// A layer without keys that takes any feature.
const fn plain(kind: &'static str, about: &'static str, layers: &'static str) -> LayerEntry {
    LayerEntry { kind, about, keys: &[], input: [2, 6, 6], layers }
}

/// Every kind, in the order in which they are shown.
pub fn layers() -> &'static [LayerEntry] {
    LAYERS
}

/// The entry of a kind.
pub fn layer(kind: &str) -> Option<&'static LayerEntry> {
    LAYERS.iter().find(|entry| entry.kind == kind)
}

const LAYERS: &[LayerEntry] = &[
    LayerEntry {
        kind: "conv2d",
        about: "convolution of images, [C, H, W] to [out_channels, H', W']",
        keys: &[OUT_CHANNELS, KERNEL, STRIDE, IMAGE_PADDING, DILATION, GROUPS, BIAS],
        input: [2, 6, 6],
        layers: r#"{ type = "conv2d", out_channels = 4, kernel = 3, padding = 1 }"#,
    },
    LayerEntry {
        kind: "conv_transpose2d",
        about: "transpose of a convolution of images, about stride times as large",
        keys: &[OUT_CHANNELS, KERNEL, STRIDE, CUT, OUTPUT_PADDING, DILATION, GROUPS, BIAS],
        input: [2, 6, 6],
        layers: r#"{ type = "conv_transpose2d", out_channels = 4, kernel = 2, stride = 2 }"#,
    },
    LayerEntry {
        kind: "conv1d",
        about: "convolution of lines, [C, 1, W] to [out_channels, 1, W']",
        keys: &[OUT_CHANNELS, LINE_KERNEL, STRIDE, PADDING, DILATION, GROUPS, BIAS],
        input: [2, 1, 16],
        layers: r#"{ type = "conv1d", out_channels = 4, kernel = 3 }"#,
    },
    LayerEntry {
        kind: "conv_transpose1d",
        about: "transpose of a convolution of lines",
        keys: &[OUT_CHANNELS, LINE_KERNEL, STRIDE, CUT, OUTPUT_PADDING, DILATION, GROUPS, BIAS],
        input: [2, 1, 16],
        layers: r#"{ type = "conv_transpose1d", out_channels = 4, kernel = 2, stride = 2 }"#,
    },
    LayerEntry {
        kind: "linear",
        about: "y = Wx + b on a flat feature",
        keys: &[must("out_features", "length of the output"), BIAS],
        input: [2, 6, 6],
        layers: r#"{ type = "flatten" }, { type = "linear", out_features = 16 }"#,
    },
    plain("flatten", "[C, H, W] to a flat feature of length C·H·W", r#"{ type = "flatten" }"#),
    plain("relu", "max(x, 0)", r#"{ type = "relu" }"#),
    plain("relu6", "x cut to 0 .. 6", r#"{ type = "relu6" }"#),
    LayerEntry {
        kind: "leaky_relu",
        about: "x, and slope · x where x is negative",
        keys: &[may("slope", "0.01", "slope of the negative side")],
        input: [2, 6, 6],
        layers: r#"{ type = "leaky_relu", slope = 0.1 }"#,
    },
    LayerEntry {
        kind: "hard_tanh",
        about: "x cut to min .. max",
        keys: &[may("min", "-1.0", "lower end"), may("max", "1.0", "upper end")],
        input: [2, 6, 6],
        layers: r#"{ type = "hard_tanh" }"#,
    },
    plain("tanh", "tanh(x)", r#"{ type = "tanh" }"#),
    plain("sigmoid", "1 / (1 + exp(-x))", r#"{ type = "sigmoid" }"#),
    plain("hard_sigmoid", "x / 6 + 1/2, cut to 0 .. 1", r#"{ type = "hard_sigmoid" }"#),
    LayerEntry {
        kind: "elu",
        about: "x, and alpha · (exp(x) - 1) where x is negative",
        keys: &[may("alpha", "1.0", "scale of the negative side")],
        input: [2, 6, 6],
        layers: r#"{ type = "elu" }"#,
    },
    plain("softplus", "ln(1 + exp(x))", r#"{ type = "softplus" }"#),
    plain("gelu", "x · Φ(x), Φ of the normal distribution", r#"{ type = "gelu" }"#),
    plain("gelu_tanh", "gelu as it is often approximated, with tanh", r#"{ type = "gelu_tanh" }"#),
    plain("silu", "x · sigmoid(x)", r#"{ type = "silu" }"#),
    plain("hard_swish", "x · hard_sigmoid(x)", r#"{ type = "hard_swish" }"#),
    plain("mish", "x · tanh(softplus(x))", r#"{ type = "mish" }"#),
    plain("softmax", "exp(x) / Σ exp(x) over a flat feature", r#"{ type = "flatten" }, { type = "softmax" }"#),
    LayerEntry {
        kind: "max_pool2d",
        about: "largest value of every window",
        keys: &[WINDOW, WINDOW_STRIDE, WINDOW_PADDING, CEIL],
        input: [2, 6, 6],
        layers: r#"{ type = "max_pool2d", kernel = 2 }"#,
    },
    LayerEntry {
        kind: "avg_pool2d",
        about: "mean of every window",
        keys: &[
            WINDOW,
            WINDOW_STRIDE,
            WINDOW_PADDING,
            CEIL,
            may("count_include_pad", "true", "whether padding counts in the mean"),
            may("divisor", "", "what the sum is divided by instead"),
        ],
        input: [2, 6, 6],
        layers: r#"{ type = "avg_pool2d", kernel = 2 }"#,
    },
    LayerEntry {
        kind: "adaptive_avg_pool2d",
        about: "means of size windows that cover the plane evenly",
        keys: &[must("size", "number of windows: 2, or [2, 1] for height and width")],
        input: [2, 6, 6],
        layers: r#"{ type = "adaptive_avg_pool2d", size = 2 }"#,
    },
    plain("global_avg_pool2d", "mean of every channel, [C, H, W] to [C, 1, 1]", r#"{ type = "global_avg_pool2d" }"#),
    LayerEntry {
        kind: "batch_norm",
        about: "normalisation per channel, by the batch in training and by running statistics afterwards",
        keys: &[EPS],
        input: [2, 6, 6],
        layers: r#"{ type = "batch_norm" }"#,
    },
    LayerEntry {
        kind: "layer_norm",
        about: "every sample by its own mean and deviation, a scale and a shift for every entry",
        keys: &[EPS, LAST],
        input: [2, 6, 6],
        layers: r#"{ type = "layer_norm" }"#,
    },
    LayerEntry {
        kind: "rms_norm",
        about: "as layer_norm, by the root of the mean square, without a shift",
        keys: &[EPS, LAST],
        input: [2, 6, 6],
        layers: r#"{ type = "rms_norm" }"#,
    },
    LayerEntry {
        kind: "group_norm",
        about: "groups of channels by their own mean and deviation",
        keys: &[must("groups", "number of groups, a divisor of the number of channels"), EPS],
        input: [2, 6, 6],
        layers: r#"{ type = "group_norm", groups = 2 }"#,
    },
    LayerEntry {
        kind: "instance_norm",
        about: "as group_norm, every channel a group of its own",
        keys: &[EPS],
        input: [2, 6, 6],
        layers: r#"{ type = "instance_norm" }"#,
    },
    LayerEntry {
        kind: "zero_pad2d",
        about: "zero rows and columns around an image",
        keys: &[must("padding", AROUND)],
        input: [2, 6, 6],
        layers: r#"{ type = "zero_pad2d", padding = [0, 1, 0, 1] }"#,
    },
    LayerEntry {
        kind: "dropout",
        about: "in training every entry is zero with some probability",
        keys: &[P],
        input: [2, 6, 6],
        layers: r#"{ type = "dropout", p = 0.1 }"#,
    },
    LayerEntry {
        kind: "drop_path",
        about: "in training whole samples are zero with some probability",
        keys: &[P],
        input: [2, 6, 6],
        layers: r#"{ type = "drop_path", p = 0.1 }"#,
    },
    LayerEntry {
        kind: "block",
        about: "layers under one name",
        keys: &[INNER],
        input: [2, 6, 6],
        layers: r#"{ type = "block", name = "body", layers = [{ type = "relu" }] }"#,
    },
    LayerEntry {
        kind: "residual",
        about: "the sum of some layers and of a shortcut past them",
        keys: &[INNER, may("skip", "", "the shortcut, { layers = [..] }; the input itself if left out")],
        input: [2, 6, 6],
        layers: r#"{ type = "residual", layers = [{ type = "conv2d", out_channels = 2, kernel = 3, padding = 1 }] }"#,
    },
    LayerEntry {
        kind: "parallel",
        about: "branches with one input",
        keys: &[
            must("branches", "a list of { layers = [..] }"),
            must("merge", "how their outputs become one: \"sum\", \"concat\" along the channels, or \"product\""),
        ],
        input: [2, 6, 6],
        layers: r#"{ type = "parallel", merge = "concat", branches = [{ layers = [{ type = "relu" }] }, {}] }"#,
    },
    plain("tokens", "image [C, H, W] to tokens [H·W, C], row after row", r#"{ type = "tokens" }"#),
    plain("class_token", "a learned token before all others", r#"{ type = "tokens" }, { type = "class_token" }"#),
    plain(
        "position_embedding",
        "a learned vector added to every token",
        r#"{ type = "tokens" }, { type = "position_embedding" }"#,
    ),
    LayerEntry {
        kind: "select_token",
        about: "one of the tokens, [T, D] to [D]",
        keys: &[may("index", "0", "which one")],
        input: [2, 6, 6],
        layers: r#"{ type = "tokens" }, { type = "select_token" }"#,
    },
    LayerEntry {
        kind: "mean_tokens",
        about: "mean of the tokens, [T, D] to [D]",
        keys: &[may("first", "0", "the first one that counts; 1 leaves out a class token")],
        input: [2, 6, 6],
        layers: r#"{ type = "tokens" }, { type = "mean_tokens" }"#,
    },
    LayerEntry {
        kind: "attention",
        about: "multi-head self-attention on tokens [T, D]",
        keys: &[
            must("heads", "number of heads, a divisor of D"),
            QKV_BIAS,
            may("bias", "true", "whether the linear layer after the heads has a bias"),
        ],
        input: [4, 4, 4],
        layers: r#"{ type = "tokens" }, { type = "attention", heads = 2 }"#,
    },
    LayerEntry {
        kind: "transformer_block",
        about: "attention and a perceptron, each normalised and beside a shortcut",
        keys: &[
            must("heads", "number of heads, a divisor of D"),
            must("mlp", "width of the perceptron"),
            QKV_BIAS,
            may("norm", "true", "whether the layer normalisations are there"),
            may("eps", "1e-6", "added to the variances"),
        ],
        input: [4, 4, 4],
        layers: r#"{ type = "tokens" }, { type = "transformer_block", heads = 2, mlp = 8 }"#,
    },
    LayerEntry {
        kind: "basic_block",
        about: "two 3×3 convolutions beside a shortcut, with batch normalisation (ResNet-18)",
        keys: &[CHANNELS, BLOCK_STRIDE],
        input: [2, 6, 6],
        layers: r#"{ type = "basic_block", channels = 4, stride = 2 }"#,
    },
    LayerEntry {
        kind: "bottleneck",
        about: "1×1, 3×3 and 1×1 convolutions beside a shortcut (ResNet-50)",
        keys: &[must("channels", "channels of the 3×3 convolution, a quarter of the output"), BLOCK_STRIDE],
        input: [2, 6, 6],
        layers: r#"{ type = "bottleneck", channels = 2 }"#,
    },
    LayerEntry {
        kind: "inverted_residual",
        about: "expansion, depthwise convolution and projection (MobileNetV2)",
        keys: &[CHANNELS, BLOCK_STRIDE, must("expand", "factor of the expansion; 1 leaves it out")],
        input: [2, 6, 6],
        layers: r#"{ type = "inverted_residual", channels = 2, expand = 2 }"#,
    },
    LayerEntry {
        kind: "fire",
        about: "a 1×1 convolution, then 1×1 and 3×3 ones side by side (SqueezeNet)",
        keys: &[must("squeeze", "channels of the first convolution"), must("expand", "channels of each of the others")],
        input: [2, 6, 6],
        layers: r#"{ type = "fire", squeeze = 2, expand = 4 }"#,
    },
    LayerEntry {
        kind: "squeeze_excite",
        about: "channels scaled by what two linear layers make of their means",
        keys: &[
            must("channels", "channels between the two"),
            may("hard", "false", "whether the last function is the hard sigmoid"),
        ],
        input: [2, 6, 6],
        layers: r#"{ type = "squeeze_excite", channels = 1 }"#,
    },
];

impl LayerEntry {
    /// A whole network around the layers of the example, in TOML.
    pub fn example(&self) -> String {
        let [channels, height, width] = self.input;
        format!(
            "name = \"example\"\ninput = [{channels}, {height}, {width}]\nclasses = 10\n\n\
             [[stages]]\nname = \"first\"\nlayers = [{}]\n\n\
             [[stages]]\nname = \"out\"\nlayers = [{{ type = \"flatten\" }}, {{ type = \"linear\", out_features = 10 }}]\n",
            self.layers
        )
    }

    /// The network of the example.
    ///
    /// # Errors
    /// Never, which a test makes sure of.
    pub fn network(&self) -> Result<NetworkSpec, ModelError> {
        NetworkSpec::from_toml(&self.example())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::Deserialize;

    use super::*;
    use crate::{LayerSpec, Network};

    /// The names between backticks behind "expected" in what serde says about an unknown one.
    fn expected(message: &str) -> BTreeSet<String> {
        let (_, list) = message.split_once("expected").unwrap_or_else(|| panic!("no list of names: {message}"));
        list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// A key that must be given, with some value.
    fn given_of(key: &LayerKey) -> String {
        let value = match key.name {
            "layers" => "[{ type = \"relu\" }]",
            "branches" => "[{}]",
            "merge" => "\"sum\"",
            _ => "2",
        };
        format!("{} = {value}\n", key.name)
    }

    fn layer_of(toml: &str) -> Result<LayerSpec, String> {
        let table: toml::Table = toml::from_str(toml).map_err(|error| error.to_string())?;
        LayerSpec::deserialize(table).map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_that_descriptions_accept_has_an_entry() {
        let kinds = expected(&layer_of("type = \"?\"").unwrap_err());
        let entries: BTreeSet<String> = layers().iter().map(|entry| entry.kind.to_owned()).collect();
        assert_eq!(entries, kinds);
        assert_eq!(layers().len(), kinds.len(), "an entry is there twice");
    }

    #[test]
    fn every_key_that_a_kind_accepts_is_listed() {
        for entry in layers() {
            let required = |key: &&LayerKey| key.default.is_none();
            let given: String = entry.keys.iter().filter(required).map(given_of).collect();
            let message = layer_of(&format!("type = \"{}\"\nno_such_key = 1\n{given}", entry.kind)).unwrap_err();
            let keys: BTreeSet<String> = entry.keys.iter().map(|key| key.name.to_owned()).collect();
            let known = match message.contains("there are no fields") {
                true => BTreeSet::new(),
                false => expected(&message),
            };
            assert_eq!(keys, known, "{}: {message}", entry.kind);
        }
    }

    #[test]
    fn defaults_are_what_is_meant_by_leaving_a_key_out() {
        for entry in layers() {
            let required = |key: &&LayerKey| key.default.is_none();
            let given: String = entry.keys.iter().filter(required).map(given_of).collect();
            let base = format!("type = \"{}\"\n{given}", entry.kind);
            let plain = layer_of(&base).unwrap_or_else(|error| panic!("{}: {error}", entry.kind));
            for key in entry.keys {
                if let Some(value) = key.default.filter(|value| !value.is_empty()) {
                    let told = layer_of(&format!("{base}{} = {value}\n", key.name));
                    assert_eq!(told.as_ref(), Ok(&plain), "{}, {}", entry.kind, key.name);
                } else if key.default.is_none() {
                    let without = base.replace(&given_of(key), "");
                    assert!(layer_of(&without).is_err(), "{}, {}", entry.kind, key.name);
                }
            }
        }
    }

    #[test]
    fn every_example_can_be_built() {
        for entry in layers() {
            let spec = entry.network().unwrap_or_else(|error| panic!("{}: {error}", entry.kind));
            let last = spec.stages[0].layers.last().map(|named| named.layer.kind());
            assert_eq!(last, Some(entry.kind));
            assert!(spec.plan().unwrap().parameter_count() > 0, "{}", entry.kind);
            Network::new(&spec, 0).unwrap_or_else(|error| panic!("{}: {error}", entry.kind));
        }
        assert!(layer("conv2d").is_some() && layer("nonsense").is_none());
    }
}
