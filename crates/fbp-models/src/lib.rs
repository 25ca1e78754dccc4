#![doc = include_str!("../README.md")]

mod average;
pub mod bridge;
pub mod catalogue;
pub mod checkpoint;
mod error;
mod layer;
mod layers;
mod memory;
mod network;
pub mod ops;
mod optim;
mod pair;
mod reverse;
pub mod spec;
pub mod zoo;

#[cfg(test)]
mod tests;

pub use average::WeightAverage;
pub use checkpoint::Checkpoint;
pub use error::{CheckpointFault, ModelError};
pub use layer::{Layer, LayerPass};
pub use network::{ForwardTrace, Network, Stage};
pub use optim::{AdamW, AdamWParams};
pub use spec::{LayerSpec, NetworkSpec, StageSpec};
