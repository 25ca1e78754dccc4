use std::ops::Range;

use candle_core::{Device, Tensor};
use fbp_models::ops::cross_entropy;
use fbp_models::{AdamW, AdamWParams, Network};

use crate::TrainError;
use crate::data::{Batch, Batcher, DataBundle, Split};
use crate::evaluate::{EvalSet, pool_par};
use crate::objective::{DistanceWeight, mean_squared_distance};
use crate::pretrain::SPLIT_SEED;
use crate::progress::Progress;
use crate::settings::{Objective, check};
use crate::store::StageTargets;

/// How to post-train.
///
/// | field           | default | range     |
/// |-----------------|---------|-----------|
/// | `objective`     | joint   |           |
/// | `alpha`         | 0.3     | `[0, ∞)`, finite; joint objective only, 0 is plain fine-tuning |
/// | `epochs`        | 10      | 1 or more |
/// | `batch`         | 256     | 1 or more |
/// | `learning_rate` | 5e-5    | `(0, 1]`  |
/// | `weight_decay`  | 5e-2    | `[0, 10]` |
/// | `validation`    | 0.1     | `[0, 1)`  |
/// | `seed`          | 0       |           |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PostTrainOptions {
    /// What is minimised.
    pub objective: Objective,
    /// Weight of the distance to the targets beside the cross-entropy.
    pub alpha: f64,
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
    /// Seed of the order of the samples.
    pub seed: u64,
}

impl Default for PostTrainOptions {
    fn default() -> Self {
        Self {
            objective: Objective::Joint,
            alpha: 0.3,
            epochs: 10,
            batch: 256,
            learning_rate: 5e-5,
            weight_decay: 5e-2,
            validation: 0.1,
            seed: 0,
        }
    }
}

impl PostTrainOptions {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] with the first field that is outside.
    pub fn check(&self) -> Result<(), TrainError> {
        check("--alpha", self.alpha, 0.0..f64::INFINITY, "[0, ∞), where 0 is plain fine-tuning")?;
        check("--epochs", self.epochs, 1..=1_000_000, "1 to 1000000")?;
        check("--batch", self.batch, 1..=1_000_000, "1 to 1000000")?;
        check("--learning-rate", self.learning_rate, f64::MIN_POSITIVE..=1.0, "(0, 1]")?;
        check("--weight-decay", self.weight_decay, 0.0..=10.0, "[0, 10]")?;
        check("--validation", self.validation, 0.0..1.0, "[0, 1)")
    }

    /// Whether the distance to targets is part of what is minimised.
    pub fn uses_targets(&self) -> bool {
        self.objective == Objective::Local || self.alpha > 0.0
    }
}

/// Means of one epoch, or accuracies after each; a list is empty if its quantity was not evaluated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PostTrainCurves {
    /// Accuracy on the test set before the first step.
    pub test_accuracy_before: f64,
    /// Accuracy on the test set after each epoch.
    pub test_accuracy: Vec<f64>,
    /// Accuracy on the validation part after each epoch.
    pub validation_accuracy: Vec<f64>,
    /// Mean cross-entropy of each epoch.
    pub cross_entropy: Vec<f64>,
    /// Mean squared distance to the targets of each epoch.
    pub target_distance: Vec<f64>,
    /// Mean weight of the distance in each epoch.
    pub weight: Vec<f64>,
}

/// The stages that have features below the output, which can have targets.
pub fn transitional_stages(network: &Network) -> Vec<String> {
    let stages = network.stages();
    stages[..stages.len().saturating_sub(1)].iter().map(|stage| stage.name().to_owned()).collect()
}

/// Index of a transitional stage.
///
/// # Errors
/// [`TrainError::UnknownStage`] with the list of transitional stages.
pub fn transitional_stage(network: &Network, name: &str) -> Result<usize, TrainError> {
    let known = transitional_stages(network);
    let unknown = || TrainError::UnknownStage { stage: name.to_owned(), known: known.join(", ") };
    known.iter().position(|stage| stage == name).ok_or_else(unknown)
}

/// Trains the stages up to `stage` in place; the stages above are frozen.
///
/// Joint: `CE(z_L, y) + w · MSE(z_r, ẑ_r)` with the weight of the published recipe; α = 0 leaves the second term out.
/// Local: `MSE(z_r, ẑ_r)` alone, and the stages above are not evaluated. `targets` may be left out if
/// [`uses_targets`](PostTrainOptions::uses_targets) is false; its samples are those of `data.train`.
///
/// # Errors
/// [`TrainError::UnknownStage`], [`TrainError::Parameter`], [`TrainError::Mismatch`] if the targets do not fit the data
/// or the stage, [`TrainError::Diverged`].
///
/// # Source
/// arXiv:2506.07188 (post-training).
pub fn post_train(
    network: &mut Network,
    stage: &str,
    data: &DataBundle,
    targets: Option<StageTargets<'_>>,
    options: &PostTrainOptions,
    progress: &dyn Progress,
) -> Result<PostTrainCurves, TrainError> {
    options.check()?;
    let stage = transitional_stage(network, stage)?;
    let targets = check_targets(network, stage, data, targets, options)?;
    let split = Split::stratified(&data.train, options.validation, SPLIT_SEED)?;
    let validation = EvalSet::new(&data.train, &data.normalization, Some(&split.validation))?;
    let test = EvalSet::new(&data.test, &data.normalization, None)?;
    let mut batcher = Batcher::new(&data.train, split.train, &data.normalization, options.batch)?;
    let params = AdamWParams {
        learning_rate: options.learning_rate,
        weight_decay: options.weight_decay,
        ..AdamWParams::default()
    };
    network.freeze(stage + 1..network.stages().len())?;
    network.set_batch_statistics(true);
    let mut trainer = Trainer {
        optimiser: AdamW::new(network.vars_of(0..stage + 1)?, params)?,
        trained: 0..stage + 1,
        targets,
        weight: DistanceWeight::new(options.alpha),
        objective: options.objective,
    };
    let mut curves = PostTrainCurves { test_accuracy_before: test.accuracy(network)?, ..PostTrainCurves::default() };
    progress.begin("post-training", options.epochs * batcher.samples(), "images");
    for epoch in 1..=options.epochs {
        batcher.shuffle(options.seed, epoch as u64);
        let mut means = Means::default();
        while let Some(batch) = batcher.next_batch(pool_par()) {
            means.add(&trainer.step(network, batch)?, batch.len());
            progress.advance(batch.len());
        }
        if !means.finite() {
            return Err(TrainError::Diverged { epoch });
        }
        means.store(&mut curves);
        curves.test_accuracy.push(test.accuracy(network)?);
        if !validation.is_empty() {
            curves.validation_accuracy.push(validation.accuracy(network)?);
        }
    }
    progress.end();
    network.set_batch_statistics(false);
    network.freeze(0..0)?;
    Ok(curves)
}

/// The targets that the objective needs, or none.
fn check_targets<'a>(
    network: &Network,
    stage: usize,
    data: &DataBundle,
    targets: Option<StageTargets<'a>>,
    options: &PostTrainOptions,
) -> Result<Option<StageTargets<'a>>, TrainError> {
    if !options.uses_targets() {
        return Ok(None);
    }
    let name = network.stages()[stage].name();
    let mismatch = |reason: String| TrainError::Mismatch {
        left: "the targets".into(),
        right: format!("stage {name} and the training data"),
        reason,
    };
    let targets = targets.ok_or_else(|| mismatch("there are none; name them with --targets".into()))?;
    let len = network.stages()[stage].output().len();
    if targets.feature_len() != len || targets.entry().name != name {
        let found = (&targets.entry().name, targets.feature_len());
        return Err(mismatch(format!("they are for stage {} of {} entries, not {len}", found.0, found.1)));
    }
    if targets.samples() != data.train.len() {
        return Err(mismatch(format!("{} targets for {} samples", targets.samples(), data.train.len())));
    }
    Ok(Some(targets))
}

struct Trainer<'a> {
    optimiser: AdamW,
    trained: Range<usize>,
    targets: Option<StageTargets<'a>>,
    weight: DistanceWeight,
    objective: Objective,
}

/// Losses of one batch; those that were not evaluated are left out.
#[derive(Debug, Default)]
struct Losses {
    cross_entropy: Option<f64>,
    distance: Option<f64>,
    weight: Option<f64>,
}

impl Trainer<'_> {
    fn step(&mut self, network: &Network, batch: Batch<'_>) -> Result<Losses, TrainError> {
        let pixels = batch.images.len() / batch.len();
        let images = Tensor::from_slice(batch.images, (batch.len(), pixels), &Device::Cpu)?;
        let feature = network.forward_stages(self.trained.clone(), &images)?;
        let distance = match self.targets {
            Some(targets) => Some(mean_squared_distance(&feature, gather(targets, batch.indices))?),
            None => None,
        };
        let entropy = match self.objective {
            Objective::Joint => Some(cross_entropy(&network.forward_from(self.trained.end, &feature)?, batch.labels)?),
            Objective::Local => None,
        };
        let value = |loss: &Option<Tensor>| -> Result<Option<f64>, TrainError> {
            Ok(loss.as_ref().map(Tensor::to_scalar::<f32>).transpose()?.map(f64::from))
        };
        let mut losses = Losses { cross_entropy: value(&entropy)?, distance: value(&distance)?, weight: None };
        match (entropy, distance) {
            (Some(entropy), Some(distance)) => {
                let values = (losses.cross_entropy.unwrap_or_default(), losses.distance.unwrap_or_default());
                let weight = self.weight.update(values.0, values.1);
                losses.weight = Some(weight);
                self.optimiser.backward_step(&(entropy + (distance * weight)?)?)?;
            }
            (Some(loss), None) | (None, Some(loss)) => self.optimiser.backward_step(&loss)?,
            (None, None) => {}
        }
        Ok(losses)
    }
}

/// The targets of some samples, one after the other.
fn gather(targets: StageTargets<'_>, samples: &[usize]) -> Vec<f32> {
    let mut values = Vec::with_capacity(samples.len() * targets.feature_len());
    for &sample in samples {
        values.extend_from_slice(targets.row(sample));
    }
    values
}

/// Means over the samples of an epoch.
#[derive(Debug, Default)]
struct Means {
    samples: f64,
    sums: [Option<f64>; 3],
}

impl Means {
    fn add(&mut self, losses: &Losses, samples: usize) {
        let samples = samples as f64;
        self.samples += samples;
        for (sum, value) in self.sums.iter_mut().zip([losses.cross_entropy, losses.distance, losses.weight]) {
            if let Some(value) = value {
                *sum = Some(sum.unwrap_or(0.0) + value * samples);
            }
        }
    }

    fn finite(&self) -> bool {
        self.sums.iter().flatten().all(|sum| sum.is_finite())
    }

    fn store(&self, curves: &mut PostTrainCurves) {
        let lists = [&mut curves.cross_entropy, &mut curves.target_distance, &mut curves.weight];
        for (list, sum) in lists.into_iter().zip(self.sums) {
            list.extend(sum.map(|sum| sum / self.samples));
        }
    }
}
