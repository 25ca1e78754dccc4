use candle_core::{Device, Tensor};
use fbp_models::{AdamW, AdamWParams, Network};

use super::constraint::{Constraints, Tensors, apply_all};
use super::layers::MatrixLayer;
use super::options::FineTuneOptions;
use super::record::TunedRecord;
use crate::TrainError;
use crate::data::{Batcher, DataBundle, shuffle_indices};
use crate::evaluate::{EvalSet, pool_par};
use crate::objective::supervised;
use crate::processor::Stopwatch;
use crate::settings::LossKind;

/// Every so many calibration images one is held back to choose the rate with.
const HELD: usize = 5;

/// What a fine-tuning is about.
pub(super) struct Subject<'a> {
    pub(super) start: &'a Network,
    pub(super) layers: &'a [MatrixLayer],
    pub(super) constraints: &'a Constraints,
    pub(super) data: &'a DataBundle,
    pub(super) samples: &'a [usize],
    pub(super) seed: u64,
    /// Whether the start is kept where no rate makes images held back better.
    pub(super) may_stay: bool,
}

impl Subject<'_> {
    /// Trains with every rate, each for the whole time, and keeps the best one, or the start.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the images do not fit the network, [`TrainError::Diverged`] if no rate gives a finite loss.
    pub(super) fn run(&self, options: &FineTuneOptions) -> Result<(Network, TunedRecord), TrainError> {
        let (mut train, mut held) = (self.samples.to_vec(), Vec::new());
        if options.learning_rates.len() > 1 {
            let is_held = |place: usize| place % HELD == HELD - 1;
            let of = |wanted: bool| {
                let own = self.samples.iter().enumerate().filter(|(place, _)| is_held(*place) == wanted);
                own.map(|(_, &sample)| sample).collect::<Vec<_>>()
            };
            (train, held) = (of(false), of(true));
        }
        let judge = EvalSet::new(&self.data.train, &self.data.normalization, Some(&held))?;
        // Larger is better, also of errors.
        let score = |network: &Network| match judge.is_empty() {
            true => Ok(0.0),
            false if judge.kind().is_accuracy() => judge.score(network),
            false => judge.score(network).map(|error| -error),
        };
        let (mut best, mut tried): (Option<(f64, Network, TunedRecord)>, _) = (None, Vec::new());
        let record = |learning_rate, steps| TunedRecord { learning_rate, steps, start: None, tried: Vec::new() };
        let start = if self.may_stay && !held.is_empty() { Some(score(self.start)?) } else { None };
        if let Some(score) = start {
            best = Some((score, self.start.duplicate()?, record(0.0, 0)));
        }
        for &learning_rate in &options.learning_rates {
            let Some((network, steps)) = self.train(&train, learning_rate, options)? else { continue };
            let score = score(&network)?;
            tried.push((learning_rate, score));
            if best.as_ref().is_none_or(|(found, ..)| score > *found) {
                best = Some((score, network, record(learning_rate, steps)));
            }
        }
        let (_, network, record) = best.ok_or(TrainError::Diverged { epoch: 1 })?;
        Ok((network, TunedRecord { start, tried, ..record }))
    }

    /// Masked AdamW with a cosine over the time. Rounded weights are those of latent ones, which the steps move
    /// (straight-through). None if the loss is no number any more.
    fn train(
        &self,
        samples: &[usize],
        learning_rate: f64,
        options: &FineTuneOptions,
    ) -> Result<Option<(Network, usize)>, TrainError> {
        let mut network = self.start.duplicate()?;
        network.set_training(true);
        let loss = LossKind::of(None, &self.data.train)?;
        let params = AdamWParams { learning_rate, weight_decay: 0.0, ..AdamWParams::default() };
        let mut optimiser = AdamW::new(network.vars_of(0..network.stages().len())?, params)?;
        let mut latent = Latent::of(&network, self.layers, self.constraints)?;
        let size = options.batch_size.min(samples.len());
        let mut batcher = Batcher::new(&self.data.train, samples.to_vec(), &self.data.normalization, size)?;
        let (begun, mut steps, mut epoch) = (Stopwatch::start(), 0, 0);
        loop {
            let mut order: Vec<usize> = samples.to_vec();
            shuffle_indices(&mut order, self.seed, epoch);
            batcher.shuffle(self.seed, epoch);
            epoch += 1;
            while let Some(batch) = batcher.next_batch(pool_par()) {
                let done = begun.seconds(options.clock) / options.seconds;
                if done >= 1.0 && steps > 0 {
                    network.set_training(false);
                    return Ok(Some((network, steps)));
                }
                // Statistics of a single image say nothing.
                if batch.len() < 2 && steps > 0 {
                    continue;
                }
                let rate = learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done.min(0.99)).cos());
                optimiser.set_learning_rate(rate)?;
                let dims = (batch.len(), self.data.train.shape().len());
                let images = Tensor::from_slice(batch.images, dims, &Device::Cpu)?;
                let value = supervised(loss, &network.forward(&images)?, batch)?;
                if !value.to_scalar::<f32>()?.is_finite() {
                    return Ok(None);
                }
                optimiser.backward_step(&value)?;
                latent.follow(&network, self.layers, self.constraints)?;
                steps += 1;
            }
        }
    }
}

/// Weights before they are rounded.
struct Latent {
    /// Name, latent values and the values that the network has.
    weights: Vec<(String, Vec<f32>, Vec<f32>)>,
}

impl Latent {
    fn of(network: &Network, layers: &[MatrixLayer], constraints: &Constraints) -> Result<Self, TrainError> {
        let tensors = Tensors::of(network);
        let rounded = |layer: &&MatrixLayer| constraints.get(&layer.path).is_some_and(|own| own.levels.is_some());
        let weights = layers.iter().filter(rounded).map(|layer| {
            let values = tensors.read(&layer.weight())?;
            Ok((layer.weight(), values.clone(), values))
        });
        Ok(Self { weights: weights.collect::<Result<_, TrainError>>()? })
    }

    /// Moves the latent weights as a step has moved those of the network, and makes those keep to their constraints again.
    fn follow(
        &mut self,
        network: &Network,
        layers: &[MatrixLayer],
        constraints: &Constraints,
    ) -> Result<(), TrainError> {
        let tensors = Tensors::of(network);
        for (name, latent, shown) in &mut self.weights {
            let now = tensors.read(name)?;
            for ((latent, shown), now) in latent.iter_mut().zip(shown.iter()).zip(&now) {
                *latent += now - shown;
            }
            tensors.write(name, latent)?;
        }
        apply_all(network, layers, constraints)?;
        for (name, _, shown) in &mut self.weights {
            *shown = tensors.read(name)?;
        }
        Ok(())
    }
}
