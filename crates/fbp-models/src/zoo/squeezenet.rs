//! SqueezeNet 1.1 (Iandola et al., arXiv:1602.07360), with the parameters' names of torchvision.

use crate::NetworkSpec;
use crate::spec::{LayerSpec, NamedLayer, Padding, StageSpec, WeightInit};

/// For 224×224 images and 1,000 classes.
pub(super) fn v1_1(name: &str) -> NetworkSpec {
    let stem = LayerSpec::Conv2d {
        out_channels: 64,
        kernel: 3.into(),
        stride: 2.into(),
        padding: Padding::NONE,
        dilation: 1.into(),
        groups: 1,
        bias: true,
    };
    let pool = || LayerSpec::MaxPool2d { kernel: 3.into(), stride: Some(2.into()), padding: 0.into(), ceil: true };
    let fire = |position: usize, squeeze, expand| LayerSpec::Fire { squeeze, expand }.named(position.to_string());
    let stage = |name: &str, layers: Vec<NamedLayer>| StageSpec::new(name, layers).key("features");
    let stages = vec![
        stage("stem", vec![stem.named("0"), LayerSpec::Relu {}.into(), pool().into()]),
        stage("fire1", vec![fire(3, 16, 64), fire(4, 16, 64), pool().into()]),
        stage("fire2", vec![fire(6, 32, 128), fire(7, 32, 128), pool().into()]),
        stage("fire3", vec![fire(9, 48, 192), fire(10, 48, 192)]),
        stage("fire4", vec![fire(11, 64, 256), fire(12, 64, 256)]),
        StageSpec::new(
            "classifier",
            [
                LayerSpec::Dropout { p: 0.5 },
                LayerSpec::conv2d(1000, 1, 0),
                LayerSpec::Relu {},
                LayerSpec::GlobalAvgPool2d {},
                LayerSpec::Flatten {},
            ],
        ),
    ];
    NetworkSpec { name: name.to_owned(), input: [3, 224, 224], classes: 1000, init: WeightInit::He, stages }
}
