use serde::{Deserialize, Serialize};

use super::candidate::Candidate;
use super::options::Method;
use crate::identity::DataIdentity;
use crate::outputs::RunRecord;

/// What an adaptation was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdaptSettings {
    /// SHA-256 of the checkpoint to adapt.
    pub checkpoint_sha256: String,
    /// Name of the network.
    pub model: String,
    /// The data that the labels are drawn from.
    pub data: DataIdentity,
    /// Number of labels.
    pub labels: usize,
    /// Which candidates there are.
    pub method: Method,
    /// Number of folds.
    pub folds: usize,
    /// Seed of the draw, the folds and the order of the samples.
    pub seed: u64,
    /// Number of test images that judge; all of them if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_size: Option<usize>,
    /// Whether every candidate is judged on the test part.
    pub judge_all: bool,
}

/// A candidate and what cross-validation said of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TriedRecord {
    /// The candidate.
    #[serde(flatten)]
    pub candidate: Candidate,
    /// Accuracy on labels that it was not fitted to, 0 to 1.
    pub accuracy: f64,
    /// Standard error of that accuracy.
    pub error: f64,
    /// Accuracy less that of the network as it is, label by label.
    pub gain: f64,
    /// Standard error of the gain.
    pub gain_error: f64,
    /// Cross-entropy on labels that it was not fitted to; none if that is no number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Whether it failed in a fold: a training that diverged, for example.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// Accuracy on the test part after a fit on all labels, where that was asked for; it is not chosen by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<f64>,
    /// Which labels it got right, 1 or 0 each in their order in the data; with the test part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<String>,
    /// Time of its fits and their judgement, each on one thread and several of them at a time, in seconds.
    pub seconds: f64,
    /// The same as time of the processor, if the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor_seconds: Option<f64>,
}

/// Record of an adaptation, kept beside its checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdaptRecord {
    /// What was asked for.
    pub settings: AdaptSettings,
    /// Number of worker threads; another number may give the adapted network other last bits, and changes nothing of the choice.
    pub threads: usize,
    /// Number of labels of every class.
    pub class_counts: Vec<usize>,
    /// What the candidates that need labels begin with, found without labels.
    pub start: Candidate,
    /// All candidates, in the order in which they were tried.
    pub tried: Vec<TriedRecord>,
    /// The chosen one.
    pub chosen: Candidate,
    /// Accuracy on the test part before, 0 to 1.
    pub test_before: f64,
    /// The same after.
    pub test_after: f64,
    /// Time of all fits, without reading data and the test part.
    pub adapt_seconds: f64,
    /// The same as time of the processor on all threads, if the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapt_processor_seconds: Option<f64>,
    /// File name of the adapted checkpoint.
    pub checkpoint: String,
    /// SHA-256 of the adapted checkpoint.
    pub checkpoint_sha256_after: String,
    /// Time of everything.
    pub seconds: f64,
}

impl RunRecord for AdaptRecord {
    type Settings = AdaptSettings;
    const COMMAND: &'static str = "adapt";
    const WHAT: &'static str = "adaptation record";

    fn settings(&self) -> &AdaptSettings {
        &self.settings
    }

    fn checkpoint_sha256(&self) -> &str {
        &self.checkpoint_sha256_after
    }
}
