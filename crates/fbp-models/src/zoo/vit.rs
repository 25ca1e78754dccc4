//! Vision transformers (Dosovitskiy et al., arXiv:2010.11929), with the parameters' names of timm.

use crate::NetworkSpec;
use crate::spec::{LayerSpec, NamedLayer, Padding, StageSpec, WeightInit};

/// Sizes of a vision transformer.
pub(super) struct Sizes {
    /// Height and width of an image.
    pub(super) image: usize,
    /// Height and width of a patch.
    pub(super) patch: usize,
    /// Width of a token.
    pub(super) width: usize,
    /// Number of blocks.
    pub(super) depth: usize,
    /// Number of heads.
    pub(super) heads: usize,
    /// Width of the perceptrons, in widths of a token.
    pub(super) mlp_ratio: usize,
    /// Whether blocks start with layer normalisations.
    pub(super) norm: bool,
    /// Number of classes.
    pub(super) classes: usize,
}

pub(super) fn spec(name: &str, sizes: &Sizes) -> NetworkSpec {
    let &Sizes { image, patch, width, depth, heads, mlp_ratio, norm, classes } = sizes;
    let patches = LayerSpec::Conv2d {
        out_channels: width,
        kernel: patch.into(),
        stride: patch.into(),
        padding: Padding::NONE,
        dilation: 1.into(),
        groups: 1,
        bias: true,
    };
    let embedding = [
        patches.named("patch_embed.proj"),
        LayerSpec::Tokens {}.into(),
        LayerSpec::ClassToken {}.named("cls_token"),
        LayerSpec::PositionEmbedding {}.named("pos_embed"),
    ];
    let mut stages = vec![StageSpec::new("embedding", embedding).key("")];
    let block = LayerSpec::TransformerBlock { heads, mlp: mlp_ratio * width, qkv_bias: true, norm, eps: 1e-6 };
    stages.extend(
        (0..depth).map(|k| StageSpec::new(format!("block{k}"), [block.clone().named("")]).key(format!("blocks.{k}"))),
    );
    let mut head: Vec<NamedLayer> = vec![LayerSpec::SelectToken { index: 0 }.into()];
    head.extend(norm.then(|| LayerSpec::LayerNorm { eps: 1e-6, last: None }.named("norm")));
    head.push(LayerSpec::linear(classes).named("head"));
    stages.push(StageSpec::new("head", head).key(""));
    NetworkSpec { name: name.to_owned(), input: [3, image, image], classes, init: WeightInit::Default, stages }
}
