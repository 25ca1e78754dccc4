use std::path::Path;
use std::sync::Arc;

use fbp_models::{AdamW, AdamWParams, Network, NetworkSpec, checkpoint};

use super::choice::{Choice, Judged};
use super::curves::PostTrainCurves;
use super::epochs::{Course, Log, Supervised};
use super::host::Host;
use super::pace::Pace;
use super::record::{PretrainRecord, PretrainSettings};
use super::slices::Slices;
use super::source::Source;
use super::state::{SaveEvery, StateFiles};
use crate::TrainError;
use crate::collective::{Alone, Collective};
use crate::data::{Augmentation, DataBundle, SPLIT_SEED, Split};
use crate::evaluate::{ErrorMeasures, EvalSet};
use crate::hash::bytes_sha256;
use crate::identity::DataIdentity;
use crate::outputs::write_run;
use crate::processor::Stopwatch;
use crate::progress::Progress;
use crate::scores::PretrainScores;
use crate::settings::{Keep, LossKind, Measure, Schedule, check};

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
/// | `keep`          | last     | best needs a validation part |
/// | `loss`          | that of the data | cross-entropy for labels, mse and smooth-l1 for outputs |
/// | `fused`         | true     |          |
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
    /// Which state becomes the result: the last one, or the best one on the validation part.
    pub keep: Keep,
    /// What is made small; that of the data by default, cross-entropy for labels and mse for outputs.
    pub loss: Option<LossKind>,
    /// Whether layers may run as one operation, see [`Network::set_fused`]: without it the same training, but for rounding, takes
    /// longer.
    pub fused: bool,
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
            keep: Keep::Last,
            loss: None,
            fused: true,
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
        match self.keep {
            Keep::Last => check("validation", self.validation, 0.0..1.0, "[0, 1)"),
            Keep::Best => {
                check("validation", self.validation, f64::MIN_POSITIVE..1.0, "(0, 1), as the best state is kept")
            }
        }
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
            keep: self.keep,
            loss: self.loss,
            fused: self.fused,
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
            keep: settings.keep,
            loss: settings.loss,
            fused: settings.fused,
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
    /// Accuracies, or RMSE for data with outputs.
    pub scores: PretrainScores,
    /// Errors of the outputs on the test set; for data with outputs only.
    pub test_errors: Option<ErrorMeasures>,
    /// Epoch after which the network was taken, counted from 1.
    pub epoch: usize,
    /// Mean time of one epoch of training, without the evaluations.
    pub seconds_per_epoch: f64,
}

/// Trains a network from scratch with AdamW, on labels or on outputs.
///
/// # Errors
/// [`TrainError::Parameter`], [`TrainError::Setting`] for a loss that is not for such data, [`TrainError::Model`] if network
/// and data do not fit, [`TrainError::Diverged`].
pub fn pretrain(
    spec: &NetworkSpec,
    data: &DataBundle,
    options: &PretrainOptions,
    progress: &dyn Progress,
) -> Result<Pretrained, TrainError> {
    pretrain_kept((spec, options), data, &Host::default(), progress, &mut |_, _| Ok(()))
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
    pretrain_kept((spec, options), data, &Host::default(), progress, watch)
}

/// As [`pretrain_watched`], and keeps the state of the training in files, from which it goes on if they are there. Of several
/// ranks each has its slice of every batch, and all have the result.
pub(super) fn pretrain_kept(
    (spec, options): (&NetworkSpec, &PretrainOptions),
    data: &DataBundle,
    host: &Host<'_>,
    progress: &dyn Progress,
    watch: &mut dyn FnMut(usize, &Network) -> Result<(), TrainError>,
) -> Result<Pretrained, TrainError> {
    options.check()?;
    let (loss, measure) = (LossKind::of(options.loss, &data.train)?, Measure::of(&data.train));
    let split = Split::stratified(&data.train, options.validation, SPLIT_SEED)?;
    let validation = EvalSet::new(&data.train, &data.normalization, Some(&split.validation))?;
    let source = Source::images(data, split.train, options.batch, options.augment)?;
    let mut network = Network::new(spec, options.seed)?;
    let PretrainOptions { learning_rate, weight_decay, schedule, epochs, seed, .. } = *options;
    let params = AdamWParams { learning_rate, weight_decay, ..AdamWParams::default() };
    let stages = 0..network.stages().len();
    network.set_training(true);
    network.set_fused(options.fused);
    progress.begin("pretraining", epochs * source.samples(), "images");
    let mut course = Course {
        optimiser: AdamW::new(network.vars_of(stages.clone())?, params)?,
        judged: Judged::new(&network, None)?,
        pace: Pace::new(learning_rate, schedule, epochs * source.batches()),
        source,
        epochs,
        seed,
        progress,
        state: host.state.filter(|_| host.is_first()).map(|files| files.part("")),
        slices: Slices::join(&mut network, &host.team)?,
    };
    let mut scores = PretrainScores { measure, ..PretrainScores::default() };
    // The random start is no candidate.
    let worst = (!validation.is_empty()).then_some(measure.worst());
    let choice = Choice::new((options.keep, measure), &network, worst)?;
    let mut log = Log { choice, curves: PostTrainCurves::default() };
    let done =
        course.run(&network, &mut Supervised { stages, loss }, &mut log, &mut |epoch, Log { choice, curves }| {
            curves.training_seconds += epoch.seconds;
            epoch.means.store(curves);
            let [mean, ..] = epoch.means.all();
            let score = || validation.score_of_team(epoch.state, &*host.team);
            let score = (!validation.is_empty()).then(score).transpose()?;
            curves.scores.validation.extend(score);
            choice.offer(epoch.number, epoch.state, score)?;
            progress.note(&epoch_line(epoch.number, epochs, mean, score.map(|score| (measure, score))));
            watch(epoch.number, epoch.state)
        });
    progress.end();
    done?;
    let Log { choice, curves } = log;
    scores.validation = curves.scores.validation;
    let (epoch, _) = choice.restore(&mut network);
    network.set_group(None);
    network.set_training(false);
    let test = EvalSet::new(&data.test, &data.normalization, None)?;
    let test_errors = test.errors(&network)?;
    scores.test = test_errors.map_or_else(|| test.score_of_team(&network, &*host.team), |errors| Ok(errors.rmse))?;
    let (train_loss, seconds_per_epoch) = (curves.scores.loss, curves.training_seconds / options.epochs as f64);
    Ok(Pretrained { network, train_loss, scores, test_errors, epoch, seconds_per_epoch })
}

/// Pretrains a network; writes its checkpoint, and its record beside it.
///
/// The state of the training is kept beside the checkpoint until that stands; a run that finds one goes on from it. One of
/// other settings is replaced with `force` only.
///
/// # Errors
/// As [`pretrain`], [`TrainError::OtherSettings`] for the state of another training, [`TrainError::Stopped`] if `progress` says
/// so, and [`TrainError::Write`].
pub fn pretrain_to_file(
    settings: PretrainSettings,
    data: &DataBundle,
    places: (&Path, &Path),
    keeping: (SaveEvery, bool),
    progress: &dyn Progress,
) -> Result<PretrainRecord, TrainError> {
    let alone: Arc<dyn Collective> = Arc::new(Alone);
    pretrain_by_team(settings, data, places, keeping, &alone, progress)
}

/// As [`pretrain_to_file`], by all ranks of a team: each has its slice of every batch, and the first one reads and writes the
/// files.
///
/// # Errors
/// As [`pretrain_to_file`], and [`TrainError::Collective`].
pub fn pretrain_by_team(
    settings: PretrainSettings,
    data: &DataBundle,
    (checkpoint_file, record_file): (&Path, &Path),
    (every, force): (SaveEvery, bool),
    team: &Arc<dyn Collective>,
    progress: &dyn Progress,
) -> Result<PretrainRecord, TrainError> {
    let watch = Stopwatch::start();
    let state = StateFiles::new(checkpoint_file, &settings, every)?.of_ranks(team.size());
    let host = Host { team: team.clone(), ..Host::alone(&state) };
    if host.is_first() {
        state.check(force)?;
    }
    team.check_alike(state.settings())?;
    let options = PretrainOptions::of(&settings);
    let result = pretrain_kept((&settings.network, &options), data, &host, progress, &mut |_, _| Ok(()));
    let result = result.map_err(|error| if host.is_first() { state.drop_after(error) } else { error })?;
    let bytes = checkpoint::to_bytes(&result.network, &data.preprocessing()?.to_metadata()?)?;
    let record = PretrainRecord {
        settings,
        threads: rayon::current_num_threads(),
        ranks: (team.size() > 1).then_some(team.size()),
        checkpoint_sha256: bytes_sha256(&bytes),
        normalization: Some(data.normalization.clone()),
        class_names: data.class_names.clone(),
        parameters: result.network.parameter_count(),
        train_loss: result.train_loss,
        scores: result.scores,
        test_errors: result.test_errors,
        epoch: (options.keep == Keep::Best).then_some(result.epoch),
        seconds_per_epoch: result.seconds_per_epoch,
        seconds: state.seconds(),
        processor_seconds: watch.processor_seconds(),
    };
    if host.is_first() {
        write_run(&record, (record_file, checkpoint_file), &bytes)?;
        state.remove()?;
    }
    Ok(record)
}

fn epoch_line(epoch: usize, epochs: usize, loss: Option<f64>, validation: Option<(Measure, f64)>) -> String {
    let score = validation.map(|(measure, score)| format!(", validation {} {}", measure.word(), measure.text(score)));
    let loss = loss.map(|loss| format!(": loss {loss:.4}"));
    format!("epoch {epoch} of {epochs}{}{}", loss.unwrap_or_default(), score.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use fbp_linalg::FeatureShape;

    use super::*;
    use crate::data::{Dataset, Normalization};
    use crate::progress::Silent;

    const SPEC: &str = r#"
        name = "toy"
        input = [1, 6, 6]
        classes = 2
        [[stages]]
        name = "conv"
        layers = [{ type = "conv2d", out_channels = 4, kernel = 3 }, { type = "batch_norm" }, { type = "relu" }]
        [[stages]]
        name = "out"
        layers = [{ type = "flatten" }, { type = "linear", out_features = 2 }]
    "#;

    /// Images that are bright above or below.
    fn patterns() -> Dataset {
        let value = |k: usize| {
            let (sample, y) = (k / 36, k % 36 / 6);
            let bright = if (y < 3) == (sample % 2 == 0) { 120 } else { 0 };
            bright + ((k * 7919) % 101) as u8
        };
        let labels = (0..40).map(|k| k % 2).collect();
        Dataset::new("patterns", FeatureShape::image(1, 6, 6), 2, (0..40 * 36).map(value).collect(), labels).unwrap()
    }

    #[test]
    fn training_without_fusion_is_the_same_but_for_rounding() {
        let spec = NetworkSpec::from_toml(SPEC).unwrap();
        let data = DataBundle::new(patterns(), patterns(), Normalization::new(vec![0.4], vec![0.2]).unwrap(), "");
        let run = |fused: bool| {
            let options = PretrainOptions { epochs: 2, batch: 8, fused, ..PretrainOptions::default() };
            pretrain(&spec, &data, &options, &Silent).unwrap()
        };
        let (fused, separate) = (run(true), run(false));
        assert!(fused.network.is_fused() && !separate.network.is_fused());
        for (a, b) in fused.train_loss.iter().zip(&separate.train_loss) {
            // Ten steps of some units in the last place.
            assert!((a - b).abs() <= 1e-4 * b, "{a} {b}");
        }
    }

    #[test]
    fn a_record_tells_of_fusion_where_there_is_none() {
        let identity = DataIdentity { name: "patterns".into(), sha256: String::new(), samples: 40 };
        let settings = |fused: bool| {
            let spec = NetworkSpec::from_toml(SPEC).unwrap();
            PretrainOptions { fused, ..PretrainOptions::default() }.settings(spec, identity.clone())
        };
        let text = |fused: bool| serde_json::to_string(&settings(fused)).unwrap();
        assert!(!text(true).contains("fused") && text(false).contains(r#""fused":false"#));
        for fused in [true, false] {
            assert_eq!(serde_json::from_str::<PretrainSettings>(&text(fused)).unwrap(), settings(fused));
        }
    }

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
            PretrainOptions { validation: 0.0, keep: Keep::Best, ..ok },
        ];
        for options in faulty {
            assert!(matches!(options.check(), Err(TrainError::Parameter { .. })), "{options:?}");
        }
    }
}
