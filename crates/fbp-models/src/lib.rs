//! Networks as data on candle, with a reverse operator for every layer.
//!
//! A [`NetworkSpec`] describes a chain of stages in TOML, JSON or Rust; the [`zoo`] has some by name. A [`Network`] is
//! its weights: it runs batches with gradients, records every transitional feature, and hands out the
//! [reverse operators](Network::operators) of its stages. Checkpoints are safetensors files that carry the description.
//!
//! Convolution, pooling, activations and the loss run on this project's own kernels ([`ops`]), because candle's are
//! many times slower on the CPU. Tensors and matrix views meet only in [`bridge`].

mod average;
pub mod bridge;
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
