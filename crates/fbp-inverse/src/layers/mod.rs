//! One reverse operator per layer.

mod columns;
mod embedding;
mod flatten;
mod pool;

mod activation;

pub use activation::{Activation, ActivationReverse};
pub use embedding::{EmbeddingPass, EmbeddingReport, OutputEmbedding};
pub use flatten::FlattenReverse;
pub use pool::{MaxPoolReverse, PoolWindow};
