#![doc = include_str!("../README.md")]

mod chain;
mod channel_ranges;
mod error;
mod interval;
pub mod joint;
mod layers;
mod one_call;
mod operator;
mod report;
mod sequence;
mod tape;
mod target;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use chain::{
    BoundaryReport, ChainGoal, ChainReport, ChainRest, ChainStage, ChainWorkspace, ReverseChain, TargetMode,
};
pub use channel_ranges::ChannelRanges;
pub use error::InverseError;
pub use interval::Interval;
pub use joint::{Effort, FeatureMetric, Margins};
pub use layers::{
    Activation, ActivationReverse, Attention, AverageAxes, AverageAxis, AvgDivisor, AvgPoolReverse, BatchNormReverse,
    BatchNormStatistics, Block, ClassToken, Conv1dParams, Conv2dReverse, ConvTranspose2dParams, EmbeddingPass,
    EmbeddingReport, FlattenReverse, ImageToTokens, LinearReverse, MaxPoolReverse, MeanTokens, Merge, NewtonParams,
    NormParameters, NormReverse, OutputEmbedding, Padding, Parallel, PerToken, PoolWindow, PositionEmbedding, Residual,
    SelectToken, SoftmaxReverse, ZeroPad2d,
};
pub use one_call::{ChainTargets, Reversed, forward_one, reverse_batch, reverse_one};
pub use operator::{DifferentiableOperator, JvpPass, ReverseOperator, ReversePass, Structure, VjpPass, expect_batch};
pub use report::ReverseReport;
pub use target::{TargetBox, TargetBoxMut};
