use std::ops::Range;
use std::time::Instant;

use candle_core::{Device, Tensor};
use fbp_models::ops::cross_entropy;
use fbp_models::{AdamW, AdamWParams, Network};

use super::choice::{Choice, Judged};
use super::curves::PostTrainCurves;
use super::goal::{BatchGoal, Goal};
use super::options::PostTrainOptions;
use super::session::{Session, add_time};
use crate::TrainError;
use crate::data::{Batch, Batcher};
use crate::evaluate::pool_par;
use crate::objective::{DistanceWeight, mean_squared_distance};
use crate::settings::{Objective, Schedule, TargetPolicy};

/// Trains the stages up to `stage` in place; the stages above are frozen.
///
/// # Errors
/// As [`post_train`](super::post_train).
pub(super) fn run(
    network: &mut Network,
    stage: &str,
    goal: Option<Goal<'_>>,
    session: Session<'_>,
) -> Result<PostTrainCurves, TrainError> {
    let (data, options) = (session.data, session.options);
    let stage = network.stage_index(stage)?;
    let targets = BatchGoal::new(network, stage, data, goal, options)?;
    let (validation, test) = (session.validation()?, session.test()?);
    let validate = |network: &Network| (!validation.is_empty()).then(|| validation.accuracy(network)).transpose();
    let mut batcher = Batcher::new(&data.train, session.split.train.clone(), &data.normalization, options.batch)?;
    network.freeze(stage + 1..network.stages().len())?;
    network.set_batch_statistics(true);
    let mut trainer = Trainer {
        optimiser: AdamW::new(network.vars_of(0..stage + 1)?, adamw(options))?,
        trained: 0..stage + 1,
        targets,
        weight: DistanceWeight::new(options.alpha),
        objective: options.objective,
    };
    let refreshes = options.policy == TargetPolicy::Refresh && options.uses_targets();
    let mut curves = PostTrainCurves { test_accuracy_before: test.accuracy(network)?, ..PostTrainCurves::default() };
    let mut choice = Choice::new(options.keep, network, validate(network)?)?;
    let judged = Judged::new(network, options.ema)?;
    let mut pace = Pace::new(options, batcher.batches());
    session.progress.begin("post-training", options.epochs * batcher.samples(), "images");
    for epoch in 1..=options.epochs {
        let begun = Instant::now();
        if let (Some(goal), true) = (goal, refreshes && epoch > 1) {
            // The memory of the old ones first.
            trainer.targets = None;
            trainer.targets = BatchGoal::refreshed(network, stage, data, goal, &session.split.train)?;
        }
        batcher.shuffle(options.seed, epoch as u64);
        let mut means = Means::default();
        while let Some(batch) = batcher.next_batch(pool_par()) {
            trainer.optimiser.set_learning_rate(pace.next())?;
            means.add(&trainer.step(network, batch)?, batch.len());
            judged.step()?;
            session.progress.advance(batch.len());
        }
        add_time(&mut curves, begun);
        if !means.finite() {
            return Err(TrainError::Diverged { epoch });
        }
        means.store(&mut curves);
        let state = judged.network(network);
        curves.test_accuracy.push(test.accuracy(state)?);
        let accuracy = validate(state)?;
        curves.validation_accuracy.extend(accuracy);
        choice.offer(epoch, state, accuracy)?;
    }
    session.progress.end();
    judged.take(network);
    let chosen = choice.restore(network);
    network.set_batch_statistics(false);
    network.freeze(0..0)?;
    session.conclude(&mut curves, network, chosen)?;
    Ok(curves)
}

/// Settings of the optimiser.
pub(super) fn adamw(options: &PostTrainOptions) -> AdamWParams {
    AdamWParams { learning_rate: options.learning_rate, weight_decay: options.weight_decay, ..AdamWParams::default() }
}

/// The learning rate, step by step.
pub(super) struct Pace {
    rate: f64,
    schedule: Schedule,
    step: usize,
    steps: usize,
}

impl Pace {
    pub(super) fn new(options: &PostTrainOptions, batches: usize) -> Self {
        Self { rate: options.learning_rate, schedule: options.schedule, step: 0, steps: options.epochs * batches }
    }

    /// The rate of the next step.
    pub(super) fn next(&mut self) -> f64 {
        let rate = self.rate * self.schedule.factor(self.step, self.steps);
        self.step += 1;
        rate
    }
}

struct Trainer<'a> {
    optimiser: AdamW,
    trained: Range<usize>,
    targets: Option<BatchGoal<'a>>,
    weight: DistanceWeight,
    objective: Objective,
}

/// Losses of one batch; those that were not evaluated are left out.
#[derive(Debug, Default)]
pub(super) struct Losses {
    pub(super) cross_entropy: Option<f64>,
    pub(super) distance: Option<f64>,
    pub(super) weight: Option<f64>,
}

impl Trainer<'_> {
    fn step(&mut self, network: &Network, batch: Batch<'_>) -> Result<Losses, TrainError> {
        let pixels = batch.images.len() / batch.len();
        let images = Tensor::from_slice(batch.images, (batch.len(), pixels), &Device::Cpu)?;
        let feature = network.forward_stages(self.trained.clone(), &images)?;
        let distance = match &self.targets {
            Some(targets) => Some(mean_squared_distance(&feature, targets.of_batch(&feature, batch)?)?),
            None => None,
        };
        let entropy = match self.objective {
            Objective::Joint => Some(cross_entropy(&network.forward_from(self.trained.end, &feature)?, batch.labels)?),
            _ => None,
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

/// Means over the samples of an epoch.
#[derive(Debug, Default)]
pub(super) struct Means {
    samples: f64,
    sums: [Option<f64>; 3],
}

impl Means {
    pub(super) fn add(&mut self, losses: &Losses, samples: usize) {
        let samples = samples as f64;
        self.samples += samples;
        for (sum, value) in self.sums.iter_mut().zip([losses.cross_entropy, losses.distance, losses.weight]) {
            if let Some(value) = value {
                *sum = Some(sum.unwrap_or(0.0) + value * samples);
            }
        }
    }

    pub(super) fn finite(&self) -> bool {
        self.sums.iter().flatten().all(|sum| sum.is_finite())
    }

    pub(super) fn store(&self, curves: &mut PostTrainCurves) {
        let lists = [&mut curves.cross_entropy, &mut curves.target_distance, &mut curves.weight];
        for (list, sum) in lists.into_iter().zip(self.sums) {
            list.extend(sum.map(|sum| sum / self.samples));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_weigh_batches_by_their_samples_and_leave_out_what_was_not_evaluated() {
        let mut means = Means::default();
        means.add(&Losses { cross_entropy: Some(1.0), ..Losses::default() }, 3);
        means.add(&Losses { cross_entropy: Some(5.0), ..Losses::default() }, 1);
        let mut curves = PostTrainCurves::default();
        means.store(&mut curves);
        assert_eq!((curves.cross_entropy, curves.target_distance), (vec![2.0], vec![]));
        means.add(&Losses { distance: Some(f64::NAN), ..Losses::default() }, 1);
        assert!(!means.finite());
    }
}
