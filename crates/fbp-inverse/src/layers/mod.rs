//! One reverse operator per layer.

mod activation;
mod affine;
mod batch_norm;
mod columns;
mod conv2d;
mod embedding;
mod flatten;
mod linear;
mod norm;
mod parts;
mod pool;
mod shift;
mod softmax;

pub use activation::{Activation, ActivationReverse};
pub use batch_norm::{BatchNormReverse, BatchNormStatistics};
pub use conv2d::Conv2dReverse;
pub use embedding::{EmbeddingPass, EmbeddingReport, OutputEmbedding};
pub use flatten::FlattenReverse;
pub use linear::LinearReverse;
pub use norm::{NormParameters, NormReverse};
pub use pool::{AvgDivisor, AvgPoolReverse, MaxPoolReverse, PoolWindow};
pub use softmax::SoftmaxReverse;
