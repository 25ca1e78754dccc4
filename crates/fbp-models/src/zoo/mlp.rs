//! Multi-layer perceptron 784-128-64-10.

use super::small_cnn::linear_stages;
use crate::NetworkSpec;
use crate::spec::{LayerSpec, WeightInit};

pub(super) fn spec(name: &str, activation: LayerSpec) -> NetworkSpec {
    let stages = linear_stages(&[128, 64], &activation);
    NetworkSpec { name: name.to_owned(), input: [1, 28, 28], classes: 10, init: WeightInit::Default, stages }
}
