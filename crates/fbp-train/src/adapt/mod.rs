//! Adaptation: a pretrained network and few labelled samples of changed data, with everything chosen from these labels themselves.
//!
//! Candidates from "leave it as it is" to fine-tuning of all weights, each with a small grid of its own, are compared by stratified
//! cross-validation among the labels; the chosen one is fitted again on all of them.

mod candidate;
mod closed;
mod course;
mod crew;
mod fit;
mod folds;
mod judge;
mod layer_wise;
mod options;
mod prepared;
mod record;
mod run;
mod statistics;
mod steps;

pub use candidate::Candidate;
pub use folds::{balanced_labels, default_folds, stratified_folds};
pub use options::{AdaptOptions, Method};
pub use record::{AdaptRecord, AdaptSettings, TriedRecord};
pub use run::{Adaptation, adapt};

#[cfg(test)]
mod tests;
