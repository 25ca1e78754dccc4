//! Reverse operators: from a box of wanted outputs of a layer to the nearest attainable input.
//!
//! Every layer implements [`ReverseOperator`] on plain [`faer`] views, one column per sample, in `f32` and `f64`.

mod chain;
mod error;
mod layers;
mod operator;
mod range;
mod report;
mod target;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use chain::{
    BoundaryReport, ChainGoal, ChainReport, ChainStage, ChainWorkspace, FeatureMetric, Margins, ReverseChain,
    TargetMode,
};
pub use error::InverseError;
pub use layers::{
    Activation, ActivationReverse, AverageAxes, AverageAxis, AvgDivisor, AvgPoolReverse, BatchNormReverse,
    BatchNormStatistics, Conv1dParams, Conv2dReverse, ConvTranspose2dParams, EmbeddingPass, EmbeddingReport,
    FlattenReverse, LinearReverse, MaxPoolReverse, NormParameters, NormReverse, OutputEmbedding, PoolWindow,
    SoftmaxReverse,
};
pub use operator::{DifferentiableOperator, JvpPass, ReverseOperator, ReversePass, VjpPass, expect_batch};
pub use range::Range;
pub use report::ReverseReport;
pub use target::{TargetBox, TargetBoxMut};
