use std::path::Path;
use std::time::Instant;

use fbp_models::{AdamW, AdamWParams, Network, NetworkSpec, checkpoint};

use super::choice::Judged;
use super::epochs::{Course, CrossEntropy};
use super::pace::Pace;
use super::record::{PretrainRecord, PretrainSettings};
use super::source::Source;
use crate::TrainError;
use crate::data::{Augmentation, DataBundle, SPLIT_SEED, Split};
use crate::evaluate::EvalSet;
use crate::hash::bytes_sha256;
use crate::identity::DataIdentity;
use crate::outputs::write_run;
use crate::progress::Progress;
use crate::settings::{Schedule, check};

/// How to pretrain.
///
/// | field           | default  | range    |
/// |-----------------|----------|----------|
/// | `epochs`        | 5        | 1 or more |
/// | `batch`         | 256      | 1 or more |
/// | `learning_rate` | 1e-3     | `(0, 1]` |
/// | `schedule`      | constant |          |
/// | `weight_decay`  | 1e-2     | `[0, 10]` |
/// | `validation`    | 0.1      | `[0, 1)` |
/// | `augment`       | none     |          |
/// | `seed`          | 0        |          |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PretrainOptions {
    /// Passes over the training data.
    pub epochs: usize,
    /// Samples per step.
    pub batch: usize,
    /// Learning rate of AdamW, at the start if it has a schedule.
    pub learning_rate: f64,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// Weight decay of AdamW.
    pub weight_decay: f64,
    /// Share of the training data held back for validation.
    pub validation: f64,
    /// How training images are changed at random.
    pub augment: Augmentation,
    /// Seed of the starting weights and the order of the samples.
    pub seed: u64,
}

impl Default for PretrainOptions {
    fn default() -> Self {
        Self {
            epochs: 5,
            batch: 256,
            learning_rate: 1e-3,
            schedule: Schedule::Constant,
            weight_decay: 1e-2,
            validation: 0.1,
            augment: Augmentation::default(),
            seed: 0,
        }
    }
}

impl PretrainOptions {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] with the first field that is outside.
    pub fn check(&self) -> Result<(), TrainError> {
        check("epochs", self.epochs, 1..=1_000_000, "1 to 1000000")?;
        check("batch", self.batch, 1..=1_000_000, "1 to 1000000")?;
        check("learning_rate", self.learning_rate, f64::MIN_POSITIVE..=1.0, "(0, 1]")?;
        check("weight_decay", self.weight_decay, 0.0..=10.0, "[0, 10]")?;
        check("validation", self.validation, 0.0..1.0, "[0, 1)")
    }
}

impl PretrainOptions {
    /// The settings of a run with these options.
    pub fn settings(&self, network: NetworkSpec, data: DataIdentity) -> PretrainSettings {
        PretrainSettings {
            model: network.name.clone(),
            network,
            data,
            epochs: self.epochs,
            batch: self.batch,
            learning_rate: self.learning_rate,
            schedule: self.schedule,
            weight_decay: self.weight_decay,
            validation: self.validation,
            augment: self.augment,
            seed: self.seed,
        }
    }

    fn of(settings: &PretrainSettings) -> Self {
        Self {
            epochs: settings.epochs,
            batch: settings.batch,
            learning_rate: settings.learning_rate,
            schedule: settings.schedule,
            weight_decay: settings.weight_decay,
            validation: settings.validation,
            augment: settings.augment,
            seed: settings.seed,
        }
    }
}

/// A trained network and how it got there.
#[derive(Debug)]
pub struct Pretrained {
    /// The network.
    pub network: Network,
    /// Mean loss of each epoch.
    pub train_loss: Vec<f64>,
    /// Accuracy on the validation part after each epoch; empty without one.
    pub validation_accuracy: Vec<f64>,
    /// Accuracy on the test set after the last epoch.
    pub test_accuracy: f64,
    /// Mean time of one epoch of training, without the evaluations.
    pub seconds_per_epoch: f64,
}

/// Trains a network from scratch with cross-entropy and AdamW.
///
/// # Errors
/// [`TrainError::Parameter`], [`TrainError::Model`] if network and data do not fit, [`TrainError::Diverged`].
pub fn pretrain(
    spec: &NetworkSpec,
    data: &DataBundle,
    options: &PretrainOptions,
    progress: &dyn Progress,
) -> Result<Pretrained, TrainError> {
    pretrain_watched(spec, data, options, progress, &mut |_, _| Ok(()))
}

/// As [`pretrain`], and shows the network to `watch` after each epoch, counted from 1.
///
/// # Errors
/// Those of [`pretrain`] and of `watch`.
pub fn pretrain_watched(
    spec: &NetworkSpec,
    data: &DataBundle,
    options: &PretrainOptions,
    progress: &dyn Progress,
    watch: &mut dyn FnMut(usize, &Network) -> Result<(), TrainError>,
) -> Result<Pretrained, TrainError> {
    options.check()?;
    let split = Split::stratified(&data.train, options.validation, SPLIT_SEED)?;
    let validation = EvalSet::new(&data.train, &data.normalization, Some(&split.validation))?;
    let source = Source::images(data, split.train, options.batch, options.augment)?;
    let mut network = Network::new(spec, options.seed)?;
    let PretrainOptions { learning_rate, weight_decay, schedule, epochs, seed, .. } = *options;
    let params = AdamWParams { learning_rate, weight_decay, ..AdamWParams::default() };
    let stages = 0..network.stages().len();
    network.set_training(true);
    progress.begin("pretraining", epochs * source.samples(), "images");
    let mut course = Course {
        optimiser: AdamW::new(network.vars_of(stages.clone())?, params)?,
        judged: Judged::new(&network, None)?,
        pace: Pace::new(learning_rate, schedule, epochs * source.batches()),
        source,
        epochs,
        seed,
        progress,
    };
    let (mut train_loss, mut validation_accuracy) = (Vec::new(), Vec::new());
    let mut seconds = 0.0;
    course.run(&network, &mut CrossEntropy { stages }, &mut |epoch| {
        seconds += epoch.seconds;
        let [loss, ..] = epoch.means.all();
        train_loss.extend(loss);
        if !validation.is_empty() {
            validation_accuracy.push(validation.accuracy(epoch.state)?);
        }
        progress.note(&epoch_line(epoch.number, epochs, loss, validation_accuracy.last()));
        watch(epoch.number, epoch.state)
    })?;
    progress.end();
    network.set_training(false);
    let test_accuracy = EvalSet::new(&data.test, &data.normalization, None)?.accuracy(&network)?;
    let seconds_per_epoch = seconds / options.epochs as f64;
    Ok(Pretrained { network, train_loss, validation_accuracy, test_accuracy, seconds_per_epoch })
}

/// Pretrains a network; writes its checkpoint, and its record beside it.
///
/// # Errors
/// As [`pretrain`], and [`TrainError::Write`].
pub fn pretrain_to_file(
    settings: PretrainSettings,
    data: &DataBundle,
    checkpoint_file: &Path,
    record_file: &Path,
    progress: &dyn Progress,
) -> Result<PretrainRecord, TrainError> {
    let begun = Instant::now();
    let result = pretrain(&settings.network, data, &PretrainOptions::of(&settings), progress)?;
    let bytes = checkpoint::to_bytes(&result.network, &data.preprocessing()?.to_metadata()?)?;
    let record = PretrainRecord {
        settings,
        threads: rayon::current_num_threads(),
        checkpoint_sha256: bytes_sha256(&bytes),
        normalization: Some(data.normalization.clone()),
        class_names: data.class_names.clone(),
        parameters: result.network.parameter_count(),
        train_loss: result.train_loss,
        validation_accuracy: result.validation_accuracy,
        test_accuracy: result.test_accuracy,
        seconds_per_epoch: result.seconds_per_epoch,
        seconds: begun.elapsed().as_secs_f64(),
    };
    write_run(&record, (record_file, checkpoint_file), &bytes)?;
    Ok(record)
}

fn epoch_line(epoch: usize, epochs: usize, loss: Option<f64>, validation: Option<&f64>) -> String {
    let accuracy = validation.map(|accuracy| format!(", validation accuracy {:.2} %", 100.0 * accuracy));
    let loss = loss.map(|loss| format!(": loss {loss:.4}"));
    format!("epoch {epoch} of {epochs}{}{}", loss.unwrap_or_default(), accuracy.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_of_the_options_holds() {
        let ok = PretrainOptions::default();
        assert!(ok.check().is_ok());
        let faulty = [
            PretrainOptions { epochs: 0, ..ok },
            PretrainOptions { batch: 0, ..ok },
            PretrainOptions { learning_rate: 0.0, ..ok },
            PretrainOptions { learning_rate: 1.01, ..ok },
            PretrainOptions { learning_rate: f64::NAN, ..ok },
            PretrainOptions { weight_decay: -1e-9, ..ok },
            PretrainOptions { weight_decay: 10.1, ..ok },
            PretrainOptions { validation: -0.1, ..ok },
            PretrainOptions { validation: 1.0, ..ok },
        ];
        for options in faulty {
            assert!(matches!(options.check(), Err(TrainError::Parameter { .. })), "{options:?}");
        }
    }
}
