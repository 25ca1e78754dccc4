use fbp_models::Network;
use serde::{Deserialize, Serialize};

use super::change::WeightChange;
use super::demand::{Demand, MOST_SOLVES};
use super::examples::RepairedExample;
use super::origin::Given;
use crate::TrainError;
use crate::data::{Corruption, DataBundle, Dataset};
use crate::evaluate::{ErrorMeasures, EvalSet};
use crate::identity::DataIdentity;
use crate::outputs::RunRecord;
use crate::scores::RepairScores;
use crate::settings::{Part, Preference};

/// What a repair was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepairSettings {
    /// SHA-256 of the checkpoint to repair.
    pub checkpoint_sha256: String,
    /// Name of the network.
    pub model: String,
    /// The training data.
    pub data: DataIdentity,
    /// The choice of samples, as it was written.
    pub samples: String,
    /// The part of the data that it chooses from; left out for the training images.
    #[serde(default, skip_serializing_if = "Part::is_train")]
    pub part: Part,
    /// Images of one's own that it chooses from instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<DataIdentity>,
    /// What those images are corrupted with, while all others stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_corrupt: Option<Corruption>,
    /// Neighbours of each sample that are asked to come right too.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub neighbours: usize,
    /// What counts among states with enough samples right.
    #[serde(default, skip_serializing_if = "Preference::is_default")]
    pub prefer: Preference,
    /// The stage whose last linear or convolutional layer changes.
    pub stage: String,
    /// Largest loss of accuracy on the validation part, 0 to 1, or growth of the RMSE as a share of it.
    pub max_drawdown: f64,
    /// Share of repaired samples that is enough.
    pub efficacy: f64,
    /// Share of the training data held back for validation.
    pub validation: f64,
    /// Seed of the choice of samples.
    pub seed: u64,
    /// Whether the rival was run as well.
    pub rival: bool,
    /// Whether the rival that sees other training images too was run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rival_mixed: bool,
    /// Most samples that are repaired; all that the choice names if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Time after which the search ends, in seconds; left out for a whole search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<f64>,
    /// How far an output may be from the wanted one; for data with outputs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Measures of one state of a network on the way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateMeasures {
    /// Share of the samples to repair that are right.
    pub efficacy: f64,
    /// Loss of accuracy on the validation part, 0 to 1, or growth of the RMSE as a share of it; negative for a gain.
    pub drawdown_validation: f64,
    /// Share of the wrong validation samples of the same kind that are right; where states are chosen by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generalisation_validation: Option<f64>,
    /// RMSE of the samples to repair; for data with outputs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
}

/// What counts as no difference of two shares of samples.
const ROUNDING: f64 = 1e-9;

impl StateMeasures {
    /// Whether the loss on the validation part is allowed; one that is exactly as large is, however it is rounded.
    pub(super) fn loses_at_most(&self, most: f64) -> bool {
        self.drawdown_validation <= most + ROUNDING
    }

    /// Order of states: more repaired samples first, all that reach the share `enough` as equals, then more others of their kind
    /// where that was measured, then the smaller loss. Of outputs with fewer the smaller error of the samples to repair comes first,
    /// however many are within the tolerance.
    pub(super) fn rank(&self, enough: f64) -> (f64, f64, f64) {
        match self.error {
            Some(error) if self.efficacy < enough => (0.0, -error, -self.drawdown_validation),
            _ => {
                let others = self.generalisation_validation.unwrap_or(0.0);
                (self.efficacy.min(enough), others, -self.drawdown_validation)
            }
        }
    }
}

/// What a refit of the last layer was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refit {
    /// Weight of the missed margins of the samples against what the network says of others.
    pub weight: f64,
    /// Samples that it was asked for; those that cost the most are left out.
    pub asked: usize,
}

/// One state that could have been chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// What was asked for.
    #[serde(flatten)]
    pub demand: Demand,
    /// Number of linearisations before it.
    pub round: usize,
    /// Share of the last step that was taken.
    pub step: f64,
    /// Samples to be left alone that were added as conditions, because an earlier round broke them.
    pub guards: usize,
    /// How it was found, if it is a refit of the last layer and no solution of linear conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refit: Option<Refit>,
    /// Whether it is a further step from a state that had at least half of the samples right.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub polish: bool,
    /// How good it is.
    #[serde(flatten)]
    pub measures: StateMeasures,
}

impl Candidate {
    /// Whether it is of a refit or a polish, which come beside the solves for the demands.
    fn is_beside(&self) -> bool {
        self.refit.is_some() || self.polish
    }
}

/// Fine-tuning on the same samples, with early stopping, or with other training images mixed in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RivalRecord {
    /// Learning rate of the run that was chosen.
    pub learning_rate: f64,
    /// Steps until it stopped.
    pub steps: usize,
    /// Other training images per sample in each of them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mixed: usize,
    /// How good it is.
    #[serde(flatten)]
    pub measures: StateMeasures,
    /// Share of the wrong test samples of the same kind that became right.
    pub generalisation: f64,
    /// Loss of accuracy on the test set, 0 to 1.
    pub drawdown_test: f64,
    /// Time of all learning rates.
    pub seconds: f64,
    /// The same as time of the processor on all threads, if the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor_seconds: Option<f64>,
    /// Every state that was judged: learning rate, steps, measures.
    pub curve: Vec<(f64, usize, StateMeasures)>,
}

/// Errors of outputs before and after a repair.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepairErrors {
    /// Of the samples to repair, before.
    pub cases_before: ErrorMeasures,
    /// After.
    pub cases_after: ErrorMeasures,
    /// Of all other samples of training and test, before.
    pub others_before: ErrorMeasures,
    /// After.
    pub others_after: ErrorMeasures,
}

impl RepairErrors {
    /// Those of two networks; none for data with labels.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the data do not fit the networks.
    pub fn of([before, after]: [&Network; 2], data: &DataBundle, given: Given<'_>) -> Result<Option<Self>, TrainError> {
        if data.train.outputs().is_none() {
            return Ok(None);
        }
        let but = |all: &Dataset, cases: &[usize]| {
            let others: Vec<usize> = (0..all.len()).filter(|sample| cases.binary_search(sample).is_err()).collect();
            EvalSet::new(all, &data.normalization, Some(&others))
        };
        let cases = EvalSet::new(given.origin.images(data), &data.normalization, Some(given.samples))?;
        let (train, test) = (but(&data.train, given.in_training())?, but(&data.test, given.in_test())?);
        let of = |network| {
            let (cases, train, test) = (cases.errors(network)?, train.errors(network)?, test.errors(network)?);
            Ok::<_, TrainError>(cases.zip(train.zip(test)).map(|(cases, (train, test))| (cases, train.merge(test))))
        };
        Ok(of(before)?.zip(of(after)?).map(|((cases_before, others_before), (cases_after, others_after))| Self {
            cases_before,
            cases_after,
            others_before,
            others_after,
        }))
    }
}

/// A layer that a repair changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepairedLayer {
    /// Its name.
    pub layer: String,
    /// Length of the change relative to its weights.
    pub change_relative: f64,
    /// The state that was chosen; none if no change was allowed.
    pub chosen: Option<Candidate>,
    /// Every state looked at.
    pub candidates: Vec<Candidate>,
    /// Solves of a search that tries everything, without refits and polish; left out in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_solves: Option<usize>,
    /// Which of its weights changed.
    #[serde(default)]
    pub weights: Option<WeightChange>,
}

/// Record of a repair, kept beside its checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepairRecord {
    /// What was asked for.
    pub settings: RepairSettings,
    /// Number of worker threads; another number may give other last bits.
    pub threads: usize,
    /// Positions of the samples among the images that they were chosen from.
    pub samples: Vec<usize>,
    /// Share of the samples that are right after the repair.
    pub efficacy: f64,
    /// Share of the wrong test samples of the same kind that became right.
    pub generalisation: f64,
    /// Loss of accuracy on the validation part, 0 to 1.
    pub drawdown_validation: f64,
    /// Loss of accuracy on the test set, 0 to 1.
    pub drawdown_test: f64,
    /// Accuracies on the test set, or RMSE for data with outputs; without the samples, if they are test images, as all measures of
    /// the test set.
    #[serde(flatten)]
    pub scores: RepairScores,
    /// Errors of the outputs before and after; for data with outputs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<RepairErrors>,
    /// The layer that changed.
    #[serde(flatten)]
    pub layer: RepairedLayer,
    /// Layers that changed after it, because one did not suffice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<RepairedLayer>,
    /// The rival, if it was run.
    pub rival: Option<RivalRecord>,
    /// The rival with other training images mixed in, if it was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixed: Option<RivalRecord>,
    /// Whether the time was over before the search was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub time_over: bool,
    /// Time of the estimate, of caching, solving and choosing among states, without reading data, choosing samples, the test set and the
    /// rival.
    pub repair_seconds: f64,
    /// The same as time of the processor on all threads, if the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair_processor_seconds: Option<f64>,
    /// File name of the repaired checkpoint.
    pub checkpoint: String,
    /// SHA-256 of the repaired checkpoint.
    pub checkpoint_sha256_after: String,
    /// Lead of the label of every sample before and after, of whole passes through both networks; what the largest error leaves of
    /// the tolerance for data with outputs.
    #[serde(default)]
    pub leads: Vec<[f32; 2]>,
    /// A few of the samples with the output of the changed stage before and after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<RepairedExample>,
    /// Names of the classes, in the order of the labels; empty if they are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
    /// Time of everything.
    pub seconds: f64,
}

/// Why fewer samples are right than were wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shortfall {
    /// More could be had for a larger loss of accuracy: the cheapest state found with the most samples right.
    Bound(StateMeasures),
    /// The time was over before there was a state with more of them right.
    Time,
    /// No state that was looked at has more of them right.
    Unreached,
}

impl RepairRecord {
    /// Why the wanted share of the samples is not right, if it is not.
    pub fn shortfall(&self) -> Option<Shortfall> {
        if self.efficacy >= self.settings.efficacy {
            return None;
        }
        let order = |a: &StateMeasures, b: &StateMeasures| {
            a.efficacy.total_cmp(&b.efficacy).then(b.drawdown_validation.total_cmp(&a.drawdown_validation))
        };
        let most = self.candidates().map(|candidate| candidate.measures).max_by(order);
        match most {
            Some(most) if most.efficacy > self.efficacy => Some(Shortfall::Bound(most)),
            _ if self.time_over => Some(Shortfall::Time),
            _ => Some(Shortfall::Unreached),
        }
    }

    /// The layers that changed, in the order in which they were looked at.
    pub fn layers(&self) -> impl Iterator<Item = &RepairedLayer> {
        std::iter::once(&self.layer).chain(&self.further)
    }

    /// Every state looked at, of all layers.
    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.layers().flat_map(|layer| &layer.candidates)
    }

    /// Number of solves that were looked at, and of those in a search of these layers that tries everything.
    pub fn solves(&self) -> [usize; 2] {
        let is_whole = |candidate: &&Candidate| candidate.step == 1.0 && !candidate.is_beside();
        let most = self.layers().map(|layer| layer.most_solves.unwrap_or(MOST_SOLVES)).sum();
        [self.candidates().filter(is_whole).count(), most]
    }

    /// Number of refits and states of a polish that were looked at beside them.
    pub fn beside(&self) -> usize {
        self.candidates().filter(|candidate| candidate.is_beside()).count()
    }
}

impl RunRecord for RepairRecord {
    type Settings = RepairSettings;
    const COMMAND: &'static str = "repair";
    const WHAT: &'static str = "repair record";

    fn settings(&self) -> &RepairSettings {
        &self.settings
    }

    fn checkpoint_sha256(&self) -> &str {
        &self.checkpoint_sha256_after
    }
}
