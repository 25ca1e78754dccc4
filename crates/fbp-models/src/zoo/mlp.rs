//! Multi-layer perceptrons: 784-128-64-10, and the ego-status planner 8-512-512-512-16.
//!
//! # Source
//! The planner: Li et al., "Is ego status all you need for open-loop end-to-end autonomous driving?", CVPR 2024 (Ego-MLP), in the
//! sizes of arXiv:2506.07188.

use super::small_cnn::linear_stages;
use crate::NetworkSpec;
use crate::spec::{LayerSpec, StageSpec, WeightInit};

pub(super) fn spec(name: &str, activation: LayerSpec) -> NetworkSpec {
    let stages = linear_stages(&[128, 64], &activation);
    NetworkSpec { name: name.to_owned(), input: [1, 28, 28], classes: 10, init: WeightInit::Default, stages }
}

/// State of a vehicle and a command to the poses of a path.
pub(super) fn planner(name: &str) -> NetworkSpec {
    let mut stages = linear_stages(&[512, 512, 512], &LayerSpec::Relu {});
    stages.pop();
    stages.push(StageSpec::new("out", [LayerSpec::linear(16)]));
    NetworkSpec { name: name.to_owned(), input: [8, 1, 1], classes: 16, init: WeightInit::Default, stages }
}
