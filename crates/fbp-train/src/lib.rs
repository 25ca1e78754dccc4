//! Training against reconstructed feature targets: data, targets, ways to train, repair, explanations, sweeps, and the
//! records of all that. Nothing here reads a command line or draws: see `fbp-cli` and `fbp-report`.
//!
//! ```no_run
//! use fbp_train::data::{LoadOptions, load};
//! use fbp_train::progress::Silent;
//! use fbp_train::{PostTrainOptions, PretrainOptions, post_train, pretrain};
//!
//! let data = load("fashion-mnist-mini", &LoadOptions::default())?;
//! let spec = fbp_models::zoo::spec("simple-cnn-mnist-v2")?;
//! let mut network = pretrain(&spec, &data, &PretrainOptions::default(), &Silent)?.network;
//! // Without a distance to targets this is plain fine-tuning of the stages up to conv1.
//! let options = PostTrainOptions { alpha: 0.0, ..PostTrainOptions::default() };
//! let curves = post_train(&mut network, "conv1", &data, None, &options, &Silent)?;
//! assert_eq!(curves.test_accuracy.len(), options.epochs);
//! # Ok::<(), fbp_train::TrainError>(())
//! ```

mod affine;
pub mod analysis;
pub mod atomic;
mod cache;
pub mod data;
mod error;
pub mod evaluate;
pub mod explain;
pub mod hash;
pub mod identity;
mod images;
pub mod input;
pub mod json;
pub mod metrics;
mod objective;
pub mod progress;
pub mod repair;
pub mod settings;
pub mod store;
pub mod sweep;
pub mod targets;
mod tasks;
pub mod train;

pub use error::{TrainError, one_line};
pub use evaluate::{EvalSet, frozen_rest_accuracy};
pub use identity::{DataIdentity, file_sha256};
pub use settings::{Choice, Embedding, Keep, Metric, Objective, Schedule, TargetMode, TargetPolicy};
pub use train::{
    Chosen, Goal, PostTrainCurves, PostTrainOptions, PretrainOptions, Pretrained, SegmentRecord, post_train, pretrain,
    stage_of_mode,
};
