//! Evaluation in shards: sums over some samples, which are added in the order of the shards.

use std::path::Path;

use fbp_models::Network;
use serde::{Deserialize, Serialize};

use super::errors::ErrorTally;
use super::measures::Tally;
use super::{ErrorMeasures, EvalRecord, EvalSet, Measures};
use crate::TrainError;
use crate::data::Normalization;
use crate::scores::EvalScores;
use crate::settings::Measure;
use crate::share::ShardFolder;

/// What files of evaluated shards are called.
const WHAT: &str = "eval";
/// Result of an evaluation in shards, in their folder.
pub const EVAL_FILE: &str = "eval.json";

/// Sums over some samples, from which the measures of any number of them follow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvalSums {
    classes: Option<Tally>,
    outputs: Option<ErrorTally>,
}

/// What an evaluation in shards is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalSettings {
    /// Name of the network.
    pub model: String,
    /// Name of the data.
    pub data: String,
    /// SHA-256 of the data.
    pub data_sha256: String,
    /// File name of the checkpoint.
    pub checkpoint: String,
    /// SHA-256 of the checkpoint.
    pub checkpoint_sha256: String,
    /// Seed of the noise.
    pub seed: u64,
    /// Standard deviation of the noise on the pixels of the test images.
    pub noise: f64,
    /// Number of guesses that count.
    pub top_k: usize,
    /// Names of the classes, in the order of the labels.
    pub class_names: Vec<String>,
    /// What the images are normalised by.
    pub normalization: Normalization,
}

/// Sums over the samples of one shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvalShard {
    /// Of the training data.
    pub train: EvalSums,
    /// Of the test set.
    pub test: EvalSums,
}

impl EvalSums {
    /// Sums over all samples of a set, with `k` guesses.
    ///
    /// # Errors
    /// As [`EvalSet::measure`].
    pub fn new(set: &EvalSet, network: &Network, k: usize) -> Result<Self, TrainError> {
        match set.error_tally(network)? {
            Some(outputs) => Ok(Self { classes: None, outputs: Some(outputs) }),
            None => Ok(Self { classes: Some(set.tally(network, k)?), outputs: None }),
        }
    }

    /// Adds sums of the same kind; whether they are.
    fn merge(&mut self, other: &Self) -> bool {
        match (&mut self.classes, &other.classes, &mut self.outputs, &other.outputs) {
            (Some(own), Some(other), None, None) if own.fits(other) => own.merge(other),
            (None, None, Some(own), Some(other)) if own.fits(other) => own.merge(other),
            _ => return false,
        }
        true
    }

    /// Measures of classes, or errors of outputs.
    pub fn measures(self) -> (Option<Measures>, Option<ErrorMeasures>) {
        (self.classes.map(Tally::measures), self.outputs.map(ErrorTally::measures))
    }
}

/// Where the shards of an evaluation are.
pub fn eval_shards(folder: &Path) -> ShardFolder<'_> {
    ShardFolder { folder, what: WHAT }
}

/// Puts the shards of an evaluation together, in their order.
///
/// # Errors
/// As [`ShardFolder::all`].
pub fn merge_eval(folder: &Path) -> Result<EvalRecord, TrainError> {
    let (settings, shards) = eval_shards(folder).all::<EvalSettings, EvalShard>()?;
    let mut shards = shards.into_iter();
    let wrong = |reason: &str| TrainError::Shards { folder: folder.to_owned(), reason: reason.into() };
    let Some(EvalShard { mut train, mut test }) = shards.next() else { return Err(wrong("there are none")) };
    for shard in shards {
        if !(train.merge(&shard.train) && test.merge(&shard.test)) {
            return Err(wrong("they hold sums of different kinds: remove them and evaluate again"));
        }
    }
    Ok(record(settings, train, test))
}

fn record(settings: EvalSettings, train: EvalSums, test: EvalSums) -> EvalRecord {
    let ((train, train_errors), (test, test_errors)) = (train.measures(), test.measures());
    let score = |classes: &Option<Measures>, errors: &Option<ErrorMeasures>| {
        let accuracy = classes.as_ref().map(|classes| classes.accuracy);
        accuracy.or(errors.map(|errors| errors.rmse)).unwrap_or_default()
    };
    let measure = if train_errors.is_some() { Measure::Rmse } else { Measure::Accuracy };
    EvalRecord {
        model: settings.model,
        data: settings.data,
        checkpoint: settings.checkpoint,
        checkpoint_sha256: settings.checkpoint_sha256,
        seed: settings.seed,
        noise: settings.noise,
        scores: EvalScores { measure, train: score(&train, &train_errors), test: score(&test, &test_errors) },
        train,
        test,
        train_errors,
        test_errors,
        class_names: settings.class_names,
        normalization: Some(settings.normalization),
        frozen_rest: Vec::new(),
    }
}
