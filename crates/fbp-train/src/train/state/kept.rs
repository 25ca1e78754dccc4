//! What a state holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Tensors by name, without their shapes.
pub(in super::super) type Numbers = BTreeMap<String, Vec<f32>>;

/// All of a state but its tensors. Numbers are kept as their bits, so that they come back as they were.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) struct Kept {
    pub(super) epoch: usize,
    pub(super) batches: usize,
    pub(super) samples: u64,
    pub(super) sums: [Option<u64>; 3],
    pub(super) seconds: u64,
    pub(in super::super) steps: usize,
    pub(super) optimiser_steps: u32,
    pub(super) draws: Vec<u64>,
    pub(super) aim: Option<[u64; 2]>,
    pub(super) chosen_epoch: usize,
    pub(super) chosen_score: Option<u64>,
    pub(super) curves: [Vec<u64>; 5],
    pub(super) training_seconds: u64,
}
