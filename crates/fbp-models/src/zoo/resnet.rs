//! Residual networks (He et al., arXiv:1512.03385), with the parameters' names of torchvision.

use crate::NetworkSpec;
use crate::spec::sugar::{batch_norm, conv};
use crate::spec::{Branch, LayerSpec, NamedLayer, StageSpec, WeightInit};

/// ResNet-18 and -34 for 224×224 images and 1,000 classes: so many blocks in each of four stages.
pub(super) fn imagenet(name: &str, blocks: [usize; 4]) -> NetworkSpec {
    let mut stem = stem(64, 7, 2);
    stem.push(LayerSpec::MaxPool2d { kernel: 3.into(), stride: Some(2.into()), padding: 1.into(), ceil: false }.into());
    NetworkSpec {
        name: name.to_owned(),
        input: [3, 224, 224],
        classes: 1000,
        init: WeightInit::Default,
        stages: stages(stem, 64, &blocks, 1000),
    }
}

/// The same for 32×32 images: a 3×3 stem without stride and pooling.
pub(super) fn cifar_stem(name: &str, blocks: [usize; 4]) -> NetworkSpec {
    NetworkSpec {
        name: name.to_owned(),
        input: [3, 32, 32],
        classes: 10,
        init: WeightInit::Default,
        stages: stages(stem(64, 3, 1), 64, &blocks, 10),
    }
}

/// The networks of the CIFAR section, three stages of 16, 32 and 64 channels, with 1×1 convolutions where the shape changes.
pub(super) fn cifar(name: &str, blocks: usize) -> NetworkSpec {
    NetworkSpec {
        name: name.to_owned(),
        input: [3, 32, 32],
        classes: 10,
        init: WeightInit::Default,
        stages: stages(stem(16, 3, 1), 16, &[blocks; 3], 10),
    }
}

fn stem(channels: usize, kernel: usize, stride: usize) -> Vec<NamedLayer> {
    vec![conv(channels, kernel, stride, 1).named("conv1"), batch_norm().named("bn1"), LayerSpec::Relu {}.into()]
}

fn stages(stem: Vec<NamedLayer>, width: usize, blocks: &[usize], classes: usize) -> Vec<StageSpec> {
    let mut stages = vec![StageSpec::new("conv1", stem).key("")];
    for (index, &count) in blocks.iter().enumerate() {
        let channels = width << index;
        let block = |k: usize| {
            let stride = if index > 0 && k == 0 { 2 } else { 1 };
            LayerSpec::BasicBlock { channels, stride }
        };
        stages.push(StageSpec::new(format!("layer{}", index + 1), (0..count).map(block)));
    }
    let head =
        [LayerSpec::GlobalAvgPool2d {}.into(), LayerSpec::Flatten {}.into(), LayerSpec::linear(classes).named("fc")];
    stages.push(StageSpec::new("fc", head).key(""));
    stages
}

/// As [`cifar`], with the channels of every block scaled before the sum (Hu et al., arXiv:1709.01507).
pub(super) fn squeeze_excite(name: &str, blocks: usize) -> NetworkSpec {
    let mut spec = cifar(name, blocks);
    for stage in &mut spec.stages {
        for own in &mut stage.layers {
            if let LayerSpec::BasicBlock { channels, stride } = own.layer {
                own.layer = scaled_block(channels, stride);
            }
        }
    }
    spec
}

/// A basic block with squeeze-excite behind its last normalisation.
fn scaled_block(channels: usize, stride: usize) -> LayerSpec {
    let skip = (stride != 1).then(|| Branch {
        name: Some("downsample".into()),
        layers: vec![conv(channels, 1, stride, 1).into(), batch_norm().into()],
    });
    let layers = vec![
        conv(channels, 3, stride, 1).named("conv1"),
        batch_norm().named("bn1"),
        LayerSpec::Relu {}.into(),
        conv(channels, 3, 1, 1).named("conv2"),
        batch_norm().named("bn2"),
        LayerSpec::SqueezeExcite { channels: channels / 16, hard: false }.named("se"),
    ];
    LayerSpec::Block { layers: vec![LayerSpec::Residual { layers, skip }.named(""), LayerSpec::Relu {}.into()] }
}
