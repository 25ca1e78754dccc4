//! Post-training against reconstructed feature targets: data, targets, objectives, records, reports.
//!
#![doc = include_str!("../../../README.md")]

mod affine;
pub mod analysis;
mod atomic;
mod cache;
pub mod cli;
pub mod data;
mod error;
mod evaluate;
pub mod explain;
mod identity;
mod images;
mod input;
mod json;
mod metrics;
mod objective;
mod page;
mod post_train;
mod pretrain;
pub mod progress;
pub mod record;
pub mod repair;
pub mod report;
mod settings;
pub mod statistics;
pub mod store;
pub mod sweep;
pub mod targets;
mod tasks;

pub use error::TrainError;
pub use evaluate::{EvalSet, frozen_rest_accuracy};
pub use identity::{DataIdentity, file_sha256};
pub use post_train::{
    Chosen, Goal, Keep, OutputGoal, PostTrainCurves, PostTrainOptions, SegmentRecord, post_train, stage_of_mode,
    transitional_stage, transitional_stages,
};
pub use pretrain::{PretrainOptions, Pretrained, pretrain};
pub use settings::{Embedding, Metric, Objective, Schedule, TargetMode, TargetPolicy};
