//! One reverse operator per layer.

mod activation;
mod affine;
mod columns;
mod conv2d;
mod embedding;
mod flatten;
mod linear;
mod pool;

pub use activation::{Activation, ActivationReverse};
pub use conv2d::Conv2dReverse;
pub use embedding::{EmbeddingPass, EmbeddingReport, OutputEmbedding};
pub use flatten::FlattenReverse;
pub use linear::LinearReverse;
pub use pool::{MaxPoolReverse, PoolWindow};
