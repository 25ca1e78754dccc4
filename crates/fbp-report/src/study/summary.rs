use fbp_train::evaluate::ErrorMeasures;
use fbp_train::repair::{RepairErrors, RepairRecord};
use fbp_train::scores::{TestCurve, TestScore};
use fbp_train::settings::{Objective, TargetMode};
use serde::{Deserialize, Serialize};

use super::{Runs, Study};

/// Contents of `summary.json`: the figures of the first start, and of all others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the data.
    pub data: String,
    /// Name of the network.
    pub model: String,
    /// The pretraining, if its record is known.
    pub pretrain: Option<PretrainSummary>,
    /// The targets, if any run used them.
    pub targets: Option<TargetsSummary>,
    /// Every post-training run.
    pub post_train: Vec<PostTrainSummary>,
    /// The other starts; left out if there is one alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_starts: Vec<Summary>,
    /// The repairs; left out if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<RepairSummary>,
}

/// One repair in short; the fields are those of [`RepairRecord`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepairSummary {
    /// Name of the data.
    pub data: String,
    /// Name of the network.
    pub model: String,
    /// Name of the layer that changed.
    pub layer: String,
    /// Number of samples to repair.
    pub samples: usize,
    /// Share of the samples that are right after the repair.
    pub efficacy: f64,
    /// Share of the wrong test samples of the same kind that became right.
    pub generalisation: f64,
    /// Loss of accuracy on the test set, 0 to 1.
    pub drawdown_test: f64,
    /// Errors of the outputs before and after; for data with outputs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<RepairErrors>,
    /// Length of the change relative to the weights of the layer.
    pub change_relative: f64,
    /// Time of the repair.
    pub seconds: f64,
}

impl RepairSummary {
    fn of(record: &RepairRecord) -> Self {
        Self {
            data: record.settings.data.name.clone(),
            model: record.settings.model.clone(),
            layer: record.layer.layer.clone(),
            samples: record.samples.len(),
            efficacy: record.efficacy,
            generalisation: record.generalisation,
            drawdown_test: record.drawdown_test,
            errors: record.errors,
            change_relative: record.layer.change_relative,
            seconds: record.repair_seconds,
        }
    }
}

/// The pretraining in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainSummary {
    /// Accuracy on the test set, 0 to 1, or RMSE for data with outputs.
    #[serde(flatten)]
    pub score: TestScore,
    /// Errors of the outputs on the test set; for data with outputs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_errors: Option<ErrorMeasures>,
    /// Mean time of one epoch.
    pub seconds_per_epoch: f64,
}

/// The targets in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetsSummary {
    /// Which preimages were looked for.
    pub mode: TargetMode,
    /// Margin of the embedding.
    pub margin: f64,
    /// How far an output may be from the wanted one; for data with outputs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Number of samples.
    pub samples: usize,
    /// Time of the reconstruction.
    pub seconds: f64,
    /// Each transitional stage.
    pub stages: Vec<StageSummary>,
}

/// Targets of one stage in short; the fields are those of [`StageReport`](crate::targets::StageReport).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageSummary {
    /// Name of the stage.
    pub name: String,
    /// Share of the samples for which the frozen rest gives the label on the target.
    pub frozen_rest_accuracy: f64,
    /// Largest distance of an entry of the reached output to its target interval.
    pub violation_max: f64,
    /// `|target - observed| / |observed|` over all samples.
    pub distance_relative: f64,
    /// Samples whose observed feature was its own target.
    pub satisfied_before: usize,
}

/// One post-training run in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PostTrainSummary {
    /// The transitional stage.
    pub stage: String,
    /// Weight of the distance to the targets; none if nothing else was minimised.
    pub alpha: Option<f64>,
    /// Seed.
    pub seed: u64,
    /// What was minimised; left out for the joint objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Objective>,
    /// Accuracy on the test set after each epoch, 0 to 1, or RMSE for data with outputs.
    #[serde(flatten)]
    pub scores: TestCurve,
    /// Time of the run.
    pub seconds: f64,
}

impl Summary {
    /// Summary of all records.
    pub fn of(study: &Study) -> Self {
        let mut starts = study.starts.iter().map(Self::of_start);
        let first = starts.next().unwrap_or_else(|| Self::of_start(&Runs::default()));
        Self {
            further_starts: starts.collect(),
            repairs: study.repairs.iter().map(RepairSummary::of).collect(),
            ..first
        }
    }

    fn of_start(runs: &Runs) -> Self {
        let (model, data) = runs.subject();
        Self {
            data: data.to_owned(),
            model: model.to_owned(),
            pretrain: runs.pretrain.as_ref().map(|record| PretrainSummary {
                score: TestScore { measure: record.scores.measure, test: record.scores.test },
                test_errors: record.test_errors,
                seconds_per_epoch: record.seconds_per_epoch,
            }),
            targets: runs.targets.as_ref().map(|targets| TargetsSummary {
                mode: targets.mode,
                margin: targets.margin,
                tolerance: targets.tolerance,
                samples: targets.samples,
                seconds: targets.seconds,
                stages: targets
                    .stages
                    .iter()
                    .map(|stage| StageSummary {
                        name: stage.name.clone(),
                        frozen_rest_accuracy: stage.frozen_rest_accuracy,
                        violation_max: stage.violation_max,
                        distance_relative: stage.distance_relative,
                        satisfied_before: stage.satisfied_before,
                    })
                    .collect(),
            }),
            post_train: runs
                .post_train
                .iter()
                .map(|run| PostTrainSummary {
                    stage: run.settings.stage.clone(),
                    alpha: run.settings.alpha,
                    seed: run.settings.seed,
                    mode: (run.settings.mode != Objective::Joint).then_some(run.settings.mode),
                    scores: TestCurve { measure: run.measure(), test: run.scores.test.clone() },
                    seconds: run.seconds,
                })
                .collect(),
            further_starts: Vec::new(),
            repairs: Vec::new(),
        }
    }
}
