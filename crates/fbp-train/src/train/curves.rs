use serde::{Deserialize, Serialize};

use super::choice::Chosen;
use crate::scores::{PostTrainScores, SegmentScores};

/// Means of one epoch, or accuracies after each; a list is empty if its quantity was not evaluated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PostTrainCurves {
    /// Accuracies, or RMSE for data with outputs.
    pub scores: PostTrainScores,
    /// Mean squared distance to the targets of each epoch.
    pub target_distance: Vec<f64>,
    /// Mean weight of the distance in each epoch.
    pub weight: Vec<f64>,
    /// The state that was kept.
    pub chosen: Option<Chosen>,
    /// Damping of each candidate; for the objectives head and closed-form only.
    pub damping: Vec<f64>,
    /// Share of the step of each candidate; for the objective closed-form only.
    pub step: Vec<f64>,
    /// The segments from the input to the output; for the objective hierarchical only.
    pub segments: Vec<SegmentRecord>,
    /// Time of caching and training, without the evaluations.
    pub training_seconds: f64,
}

/// How one segment was trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// Name of its last stage.
    pub last_stage: String,
    /// Mean loss of each epoch: the squared distance to the targets, or in the last segment the loss of the data.
    pub loss: Vec<f64>,
    /// Accuracies, 0 to 1, or RMSE for data with outputs.
    #[serde(flatten)]
    pub scores: SegmentScores,
    /// Epoch that was kept; 0 is the start.
    pub epoch: usize,
    /// Whether it is part of the result.
    pub accepted: bool,
    /// Time of caching and training.
    pub seconds: f64,
}
