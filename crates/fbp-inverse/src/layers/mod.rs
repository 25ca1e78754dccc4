//! One reverse operator per layer.

mod activation;
mod affine;
mod batch_norm;
mod boxes;
mod columns;
mod composite;
mod conv;
mod embedding;
mod flatten;
mod kernel;
mod linear;
mod norm;
mod parts;
mod pool;
mod shift;
mod softmax;
mod solved;
mod taped;
mod tokens;

pub use activation::{Activation, ActivationReverse};
pub use batch_norm::{BatchNormReverse, BatchNormStatistics};
pub use composite::{Block, Merge, Parallel, Residual};
pub use conv::{Conv1dParams, Conv2dReverse, ConvTranspose2dParams};
pub use embedding::{EmbeddingPass, EmbeddingReport, OutputEmbedding};
pub use flatten::FlattenReverse;
pub use linear::LinearReverse;
pub use norm::{NormParameters, NormReverse};
pub use pool::{AverageAxes, AverageAxis, AvgDivisor, AvgPoolReverse, MaxPoolReverse, PoolWindow};
pub use softmax::SoftmaxReverse;
pub use tokens::{
    Attention, ClassToken, ImageToTokens, MeanTokens, Padding, PerToken, PositionEmbedding, SelectToken, ZeroPad2d,
};
