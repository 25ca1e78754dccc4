#![doc = include_str!("../README.md")]

mod average;
pub mod bridge;
mod build;
pub mod catalogue;
pub mod checkpoint;
mod error;
mod group;
mod layer;
mod layers;
mod memory;
mod network;
pub mod ops;
mod optim;
mod pair;
pub mod picture;
mod preprocessing;
mod reverse;
pub mod spec;
mod tape;
pub mod weights;
pub mod zoo;

#[cfg(test)]
mod tests;

pub use average::WeightAverage;
pub use checkpoint::Checkpoint;
pub use error::{CheckpointFault, Mismatch, ModelError, WeightsFault};
pub use group::{BatchGroup, BatchSlice};
pub use layer::{Layer, LayerPass, Sequence};
pub use network::{ForwardTrace, LayerInput, LayerPlace, Network, Stage};
pub use optim::{AdamW, AdamWParams, Moments};
pub use preprocessing::{Interpolation, PREPROCESSING_KEY, Preprocessing, Resizing};
pub use spec::{LayerSpec, NamedLayer, NetworkSpec, StageSpec};
pub use tape::backward;
