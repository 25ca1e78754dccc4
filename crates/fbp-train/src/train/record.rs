use fbp_models::NetworkSpec;
use serde::{Deserialize, Serialize};

use super::choice::Chosen;
use super::curves::{PostTrainCurves, SegmentRecord};
use crate::data::{Augmentation, Normalization};
use crate::evaluate::ErrorMeasures;
use crate::identity::DataIdentity;
use crate::outputs::RunRecord;
use crate::scores::{PostTrainScores, PretrainScores};
use crate::settings::{Embedding, Keep, LossKind, Measure, Metric, Objective, Schedule, TargetMode, TargetPolicy};

/// Settings of a pretraining run: two runs with the same settings give the same network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainSettings {
    /// Name of the network.
    pub model: String,
    /// The network itself: a name alone does not tell what a file describes.
    pub network: NetworkSpec,
    /// The training data.
    pub data: DataIdentity,
    /// Passes over the training data.
    pub epochs: usize,
    /// Samples per step.
    pub batch: usize,
    /// Learning rate, at the start if it has a schedule.
    pub learning_rate: f64,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// Weight decay of AdamW.
    pub weight_decay: f64,
    /// Share of the training data held back for validation.
    pub validation: f64,
    /// How training images were changed at random; left out if they were not.
    #[serde(default, skip_serializing_if = "Augmentation::is_none")]
    pub augment: Augmentation,
    /// Which state became the result; left out for the last one.
    #[serde(default = "last", skip_serializing_if = "is_last")]
    pub keep: Keep,
    /// What was made small; left out for the default of the data, cross-entropy for labels and mse for outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<LossKind>,
    /// Whether layers could run as one operation; left out if so.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub fused: bool,
    /// Seed of weights and order.
    pub seed: u64,
}

/// Record of a pretraining run, kept beside its checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainRecord {
    /// What was asked for.
    pub settings: PretrainSettings,
    /// Number of worker threads; another number may give other last bits.
    pub threads: usize,
    /// Number of ranks that trained it together, if there were several; another number gives other last bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<usize>,
    /// SHA-256 of the checkpoint.
    pub checkpoint_sha256: String,
    /// What the images were normalised by; it is in the checkpoint too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalization: Option<Normalization>,
    /// Names of the classes, in the order of the labels; empty if they are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
    /// Number of trained numbers.
    pub parameters: usize,
    /// Mean training loss of each epoch.
    pub train_loss: Vec<f64>,
    /// Accuracies, 0 to 1, or RMSE for data with outputs.
    #[serde(flatten)]
    pub scores: PretrainScores,
    /// Errors of the outputs on the test set; for data with outputs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_errors: Option<ErrorMeasures>,
    /// Epoch after which the result was taken, where the best one was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<usize>,
    /// Mean time of one epoch of training, without the evaluations.
    pub seconds_per_epoch: f64,
    /// Time of everything.
    pub seconds: f64,
    /// Time of the processor of the run that ended it, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor_seconds: Option<f64>,
}

impl RunRecord for PretrainRecord {
    type Settings = PretrainSettings;
    const COMMAND: &'static str = "pretrain";
    const WHAT: &'static str = "pretraining record";

    fn settings(&self) -> &PretrainSettings {
        &self.settings
    }

    fn checkpoint_sha256(&self) -> &str {
        &self.checkpoint_sha256
    }
}

/// Settings of a post-training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PostTrainSettings {
    /// SHA-256 of the checkpoint that it starts from.
    pub checkpoint_sha256: String,
    /// Name of the network.
    pub model: String,
    /// The training data.
    pub data: DataIdentity,
    /// Fingerprint of the targets; none for plain fine-tuning without targets.
    pub targets: Option<String>,
    /// What is minimised.
    pub mode: Objective,
    /// The transitional stage; stages above it are frozen.
    pub stage: String,
    /// Weight of the distance to the targets; none if nothing else is minimised.
    pub alpha: Option<f64>,
    /// Seed of the order of the samples.
    pub seed: u64,
    /// Passes over the training data.
    pub epochs: usize,
    /// Samples per step.
    pub batch: usize,
    /// Learning rate of AdamW.
    pub learning_rate: f64,
    /// Weight decay of AdamW.
    pub weight_decay: f64,
    /// Share of the training data held back for validation.
    pub validation: f64,
    /// How the learning rate changes.
    #[serde(default = "constant")]
    pub schedule: Schedule,
    /// Which state became the result.
    #[serde(default = "last")]
    pub keep: Keep,
    /// When targets were computed; left out for static ones.
    #[serde(default, skip_serializing_if = "is_static")]
    pub policy: TargetPolicy,
    /// Decay of the average of the weights that was kept in their place, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// How training images were changed at random; left out if they were not.
    #[serde(default, skip_serializing_if = "Augmentation::is_none")]
    pub augment: Augmentation,
    /// What was made small beside distances; left out for the default of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<LossKind>,
    /// Metric of the targets, which `targets` tells too; left out for the Euclidean one.
    #[serde(default, skip_serializing_if = "Metric::is_euclidean")]
    pub metric: Metric,
    /// Name of the start; in sweeps only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Margin of the targets, which `targets` tells too; in sweeps only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Tolerance of the targets, which `targets` tells too; in sweeps only, for data with outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Embedding of the label, which `targets` tells too; in sweeps only, left out for a margin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Embedding>,
    /// Kind of the targets, which `targets` tells too; in sweeps only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_mode: Option<TargetMode>,
}

fn is_last(keep: &Keep) -> bool {
    *keep == Keep::Last
}

fn is_static(policy: &TargetPolicy) -> bool {
    *policy == TargetPolicy::Static
}

/// What records had before they said so.
fn constant() -> Schedule {
    Schedule::Constant
}

/// What records had before they said so.
fn last() -> Keep {
    Keep::Last
}

fn is_yes(value: &bool) -> bool {
    *value
}

fn yes() -> bool {
    true
}

/// Record of a post-training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PostTrainRecord {
    /// What was asked for.
    pub settings: PostTrainSettings,
    /// Number of worker threads; another number may give other last bits.
    pub threads: usize,
    /// Number of ranks that trained it together, if there were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<usize>,
    /// Accuracies, 0 to 1, or RMSE for data with outputs.
    #[serde(flatten)]
    pub scores: PostTrainScores,
    /// Mean squared distance to the targets of each epoch; empty without targets.
    pub target_distance: Vec<f64>,
    /// Mean weight of the distance in each epoch; empty without targets.
    pub weight: Vec<f64>,
    /// File name of the resulting checkpoint in the same folder; empty if it was not kept.
    pub checkpoint: String,
    /// SHA-256 of the resulting checkpoint.
    pub checkpoint_sha256_after: String,
    /// The state that was kept.
    #[serde(default)]
    pub chosen: Option<Chosen>,
    /// Damping of each candidate; for the modes head and closed-form only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damping: Vec<f64>,
    /// Share of the step of each candidate; for the mode closed-form only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub step: Vec<f64>,
    /// The segments from the input to the output; for the mode hierarchical only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<SegmentRecord>,
    /// Time of caching and training alone.
    #[serde(default)]
    pub training_seconds: f64,
    /// Time of training and evaluation.
    pub seconds: f64,
}

impl RunRecord for PostTrainRecord {
    type Settings = PostTrainSettings;
    const COMMAND: &'static str = "post-train";
    const WHAT: &'static str = "post-training record";

    fn settings(&self) -> &PostTrainSettings {
        &self.settings
    }

    fn checkpoint_sha256(&self) -> &str {
        &self.checkpoint_sha256_after
    }
}

impl PostTrainRecord {
    /// Record of a run in the current pool of threads, without its checkpoint and time.
    pub fn new(settings: PostTrainSettings, curves: PostTrainCurves) -> Self {
        Self {
            settings,
            threads: rayon::current_num_threads(),
            ranks: None,
            scores: curves.scores,
            target_distance: curves.target_distance,
            weight: curves.weight,
            checkpoint: String::new(),
            checkpoint_sha256_after: String::new(),
            chosen: curves.chosen,
            damping: curves.damping,
            step: curves.step,
            segments: curves.segments,
            training_seconds: curves.training_seconds,
            seconds: 0.0,
        }
    }

    /// Score of the result on the test set.
    pub fn result(&self) -> f64 {
        let last = self.scores.test.last().copied().unwrap_or(self.scores.before);
        self.chosen.as_ref().map_or(last, |chosen| chosen.scores.test)
    }

    /// What was measured.
    pub fn measure(&self) -> Measure {
        self.scores.measure
    }
}
