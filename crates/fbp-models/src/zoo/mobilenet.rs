//! MobileNetV2 (Sandler et al., arXiv:1801.04381), with the parameters' names of torchvision.

use crate::NetworkSpec;
use crate::spec::sugar::conv_relu6;
use crate::spec::{LayerSpec, NamedLayer, StageSpec, WeightInit};

/// Expansion, channels, blocks and stride of each group of blocks: Table 2 of the paper.
const GROUPS: [[usize; 4]; 7] =
    [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]];

/// The network with its channels multiplied by `width / 100`.
pub(super) fn v2(name: &str, width: usize) -> NetworkSpec {
    let scaled = |channels: usize| divisible_by_8(channels * width, 100);
    let mut position = 0;
    let mut next = |layer: LayerSpec| {
        position += 1;
        layer.named((position - 1).to_string())
    };
    let stage = |name: &str, layers: Vec<NamedLayer>| StageSpec::new(name, layers).key("features");
    let mut stages = vec![stage("stem", vec![next(conv_relu6(scaled(32), 3, 2, 1).layer)])];
    for (index, [expand, channels, blocks, stride]) in GROUPS.into_iter().enumerate() {
        let block = |k: usize| {
            let stride = if k == 0 { stride } else { 1 };
            next(LayerSpec::InvertedResidual { channels: scaled(channels), stride, expand })
        };
        stages.push(stage(&format!("blocks{}", index + 1), (0..blocks).map(block).collect()));
    }
    let last = divisible_by_8(1280 * width.max(100), 100);
    stages.push(stage("last", vec![next(conv_relu6(last, 1, 1, 1).layer)]));
    let head = [
        LayerSpec::GlobalAvgPool2d {}.into(),
        LayerSpec::Flatten {}.into(),
        LayerSpec::Dropout { p: 0.2 }.into(),
        LayerSpec::linear(1000).named("1"),
    ];
    stages.push(StageSpec::new("classifier", head));
    NetworkSpec { name: name.to_owned(), input: [3, 224, 224], classes: 1000, init: WeightInit::Default, stages }
}

/// `value / unit` rounded to a multiple of 8, at least 8, and never down by more than a tenth.
fn divisible_by_8(value: usize, unit: usize) -> usize {
    let rounded = ((value + 4 * unit) / (8 * unit) * 8).max(8);
    if rounded * unit * 10 < value * 9 { rounded + 8 } else { rounded }
}
