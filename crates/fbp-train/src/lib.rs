#![doc = include_str!("../README.md")]

pub mod adapt;
mod affine;
pub mod analysis;
pub mod atomic;
mod cache;
pub mod collective;
pub mod compress;
pub mod data;
pub mod duration;
mod error;
pub mod evaluate;
pub mod explain;
pub mod hash;
pub mod identity;
pub mod image_files;
mod images;
pub mod input;
pub mod json;
pub mod metrics;
mod objective;
pub mod outputs;
mod patches;
pub mod predict;
pub mod processor;
pub mod progress;
pub mod repair;
pub mod scores;
pub mod settings;
pub mod share;
pub mod store;
pub mod sweep;
pub mod targets;
mod tasks;
pub mod train;

pub use error::{TrainError, one_line, text};
pub use evaluate::{EvalSet, frozen_rest_accuracy};
pub use identity::{DataIdentity, file_sha256};
pub use settings::{Choice, Embedding, Keep, Metric, Objective, Schedule, TargetMode, TargetPolicy};
pub use train::{
    Chosen, Goal, PostTrainCurves, PostTrainOptions, PretrainOptions, Pretrained, SegmentRecord, post_train, pretrain,
    stage_of_mode,
};
