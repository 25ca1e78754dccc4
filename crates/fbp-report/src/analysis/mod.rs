//! Does the distance of a stage's features to their targets predict the loss?

mod checkpoint;
mod plot;
mod write;

pub use checkpoint::{CheckpointMeasures, StageMeasures};
pub use write::{ANALYSIS_FILE, check_folder, with_interval, write_analysis};

use fbp_train::identity::DataIdentity;
use fbp_train::settings::TargetMode;
use serde::{Deserialize, Serialize};

use crate::statistics::{BOOTSTRAP_SEED, Correlation};

/// What was analysed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnalysisSettings {
    /// Name of the network.
    pub model: String,
    /// The training data.
    pub data: DataIdentity,
    /// SHA-256 of each checkpoint; empty if the network was trained for the analysis.
    pub checkpoints: Vec<String>,
    /// How it was trained; none for given checkpoints.
    pub training: Option<TrainingSettings>,
    /// Share of the training data that is held back and measured on.
    pub validation: f64,
    /// Most samples that are measured on.
    pub limit: usize,
    /// Seed of the choice among them.
    pub seed: u64,
    /// Which preimages were looked for.
    pub mode: TargetMode,
    /// Lead that the label should have.
    pub margin: f64,
}

/// How the network of an analysis was trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingSettings {
    /// Passes over the training data.
    pub epochs: usize,
    /// Samples per step.
    pub batch: usize,
    /// Learning rate at the start.
    pub learning_rate: f64,
    /// How it changes.
    pub schedule: fbp_train::Schedule,
    /// Seed of weights and order.
    pub seed: u64,
}

/// Whether the distance to the targets predicts the loss: contents of `stages.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageAnalysis {
    /// What was analysed.
    pub settings: AnalysisSettings,
    /// Number of samples that were measured on.
    pub samples: usize,
    /// The measures of each checkpoint, and the correlations over its samples.
    pub checkpoints: Vec<CheckpointMeasures>,
    /// For each stage the correlations over the checkpoints.
    pub over_checkpoints: Vec<StageCorrelations>,
}

/// How the mean distance of one stage goes together with the mean loss, over checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageCorrelations {
    /// Name of the stage; the last one is the output of the network.
    pub stage: String,
    /// The distance itself.
    pub distance: Correlation,
    /// The distance relative to the length of the feature.
    pub distance_relative: Correlation,
    /// Changes of distance and loss from one checkpoint to the next: what is left beyond a common trend.
    pub steps: Correlation,
}

impl StageAnalysis {
    /// Correlates what was measured.
    pub fn new(settings: AnalysisSettings, samples: usize, checkpoints: Vec<CheckpointMeasures>) -> Self {
        let stages = checkpoints.first().map_or(0, |first| first.stages.len());
        let over_checkpoints = (0..stages).map(|stage| StageCorrelations::of(&checkpoints, stage)).collect();
        Self { settings, samples, checkpoints, over_checkpoints }
    }
}

impl StageCorrelations {
    fn of(checkpoints: &[CheckpointMeasures], stage: usize) -> Self {
        let loss: Vec<f64> = checkpoints.iter().map(|point| point.loss).collect();
        let of = |value: &dyn Fn(&StageMeasures) -> f64| -> Vec<f64> {
            checkpoints.iter().map(|point| value(&point.stages[stage])).collect()
        };
        let (distance, relative) = (of(&|s| s.distance), of(&|s| s.distance_relative));
        let steps = |values: &[f64]| values.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
        Self {
            stage: checkpoints[0].stages[stage].stage.clone(),
            distance: Correlation::of(&distance, &loss, BOOTSTRAP_SEED),
            distance_relative: Correlation::of(&relative, &loss, BOOTSTRAP_SEED),
            steps: Correlation::of(&steps(&distance), &steps(&loss), BOOTSTRAP_SEED),
        }
    }
}
