//! Small convolutional classifiers: stages `conv1`, `conv2`, .. of convolution, activation and pooling, then linear ones.

use crate::NetworkSpec;
use crate::spec::{LayerSpec, StageSpec, WeightInit};

/// Two 5×5 convolutions with pooling, then linear layers of the given widths, for 1×28×28 images.
pub(super) fn mnist(name: &str, channels: [usize; 2], hidden: &[usize], activation: LayerSpec) -> NetworkSpec {
    let mut stages: Vec<StageSpec> = (1..).zip(channels).map(|(i, c)| conv_stage(i, c, 5, true, &activation)).collect();
    stages.extend(linear_stages(hidden, &activation));
    NetworkSpec { name: name.to_owned(), input: [1, 28, 28], classes: 10, init: WeightInit::Default, stages }
}

/// Convolutions 5×5, 3×3 and 3×3, the first two with pooling, then one hidden linear layer, for 3×32×32 images.
pub(super) fn cifar(name: &str, channels: [usize; 3], hidden: usize, activation: LayerSpec) -> NetworkSpec {
    let geometry = [(5, true), (3, true), (3, false)];
    let convolutions = (1..).zip(channels).zip(geometry);
    let mut stages: Vec<StageSpec> =
        convolutions.map(|((i, c), (kernel, pool))| conv_stage(i, c, kernel, pool, &activation)).collect();
    stages.extend(linear_stages(&[hidden], &activation));
    NetworkSpec { name: name.to_owned(), input: [3, 32, 32], classes: 10, init: WeightInit::Default, stages }
}

fn conv_stage(index: usize, channels: usize, kernel: usize, pool: bool, activation: &LayerSpec) -> StageSpec {
    let mut layers = vec![LayerSpec::conv2d(channels, kernel, 0), activation.clone()];
    if pool {
        layers.push(LayerSpec::max_pool2d(2));
    }
    StageSpec::new(format!("conv{index}"), layers)
}

/// Stages `fc1`, `fc2`, .. and `out`; the first one flattens.
pub(super) fn linear_stages(hidden: &[usize], activation: &LayerSpec) -> Vec<StageSpec> {
    let mut stages: Vec<StageSpec> = (1..)
        .zip(hidden)
        .map(|(i, &width)| StageSpec::new(format!("fc{i}"), [LayerSpec::linear(width), activation.clone()]))
        .collect();
    stages.push(StageSpec::new("out", [LayerSpec::linear(10)]));
    stages[0].layers.insert(0, LayerSpec::Flatten {}.into());
    stages
}
