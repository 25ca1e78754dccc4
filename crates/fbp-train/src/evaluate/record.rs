use serde::{Deserialize, Serialize};

use super::{ErrorMeasures, Measures};
use crate::data::Normalization;
use crate::scores::EvalScores;

/// Result of `fbp eval`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Name of the network.
    pub model: String,
    /// Name of the data.
    pub data: String,
    /// File name of the checkpoint.
    pub checkpoint: String,
    /// SHA-256 of the checkpoint.
    pub checkpoint_sha256: String,
    /// Seed of the noise.
    pub seed: u64,
    /// Standard deviation of the noise on the pixels of the test images; 1 is the difference of black and white.
    pub noise: f64,
    /// Accuracies, 0 to 1, or RMSE for data with outputs.
    #[serde(flatten)]
    pub scores: EvalScores,
    /// More about the training data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<Measures>,
    /// More about the test set, with noise if there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Measures>,
    /// Errors of the outputs on the training data; for data with outputs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_errors: Option<ErrorMeasures>,
    /// Errors of the outputs on the test set; for data with outputs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_errors: Option<ErrorMeasures>,
    /// Names of the classes, in the order of the labels; empty if they are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
    /// What the images were normalised by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalization: Option<Normalization>,
    /// The frozen rest on target features.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frozen_rest: Vec<FrozenRest>,
}

/// Accuracy of the stages above one that is fed with its targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrozenRest {
    /// The stage with targets.
    pub stage: String,
    /// Share of right samples, or of those within the tolerance of the targets, 0 to 1.
    pub accuracy: f64,
}
