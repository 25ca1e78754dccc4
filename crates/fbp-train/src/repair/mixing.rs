use candle_core::{Device, Tensor};
use fbp_models::Network;

use super::finetune::{Rival, Samples, fine_tune};
use super::judge::Gauge;
use super::options::RepairOptions;
use super::origin::Given;
use super::record::StateMeasures;
use crate::TrainError;
use crate::data::{Batch, Batcher, DataBundle, SPLIT_SEED, Split};
use crate::evaluate::{check_labelled, pool_par};
use crate::objective::supervised;
use crate::processor::Stopwatch;
use crate::settings::LossKind;

/// The rival that is told what to leave alone: fine-tuning of the whole network on the samples to repair and on other training
/// images in the same steps.
#[derive(Clone, Debug)]
pub struct MixingOptions {
    /// Learning rates that are tried.
    pub learning_rates: Vec<f64>,
    /// Other training images per sample to repair in every step; those that are tried.
    pub others: Vec<usize>,
    /// Numbers of steps after which the network is looked at, ascending; each step sees all samples to repair.
    pub looks: Vec<usize>,
    /// A run ends after so many looks that are no better than an allowed one with enough samples right.
    pub patience: usize,
    /// What states are chosen by: the rules of the repair that it is compared with.
    pub repair: RepairOptions,
}

impl MixingOptions {
    /// Two mixtures at three rates, up to 320 steps, states chosen as those of a repair are.
    pub fn beside(repair: RepairOptions) -> Self {
        Self {
            learning_rates: vec![1e-4, 3e-4, 1e-3],
            others: vec![1, 4],
            looks: vec![10, 20, 40, 60, 80, 120, 160, 240, 320],
            patience: 3,
            repair,
        }
    }

    /// Runs every rate with every mixture. Of all states that lose no more than is allowed on the validation part it keeps the one
    /// that a repair would have kept; the network as it is, is one of them.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for data without labels, [`TrainError::Samples`] if there is nothing to repair or no other training
    /// image, [`TrainError::Model`] if the images do not fit the network.
    pub fn run(&self, start: &Network, given: Given<'_>, data: &DataBundle) -> Result<Rival, TrainError> {
        check_labelled(&data.train, "fine-tuning with other images mixed in")?;
        let begun = Stopwatch::start();
        let split = Split::stratified(&data.train, self.repair.validation, SPLIT_SEED)?;
        let gauge =
            Gauge::new(start, given, data, &split, None)?.preferring(self.repair.prefer, start, given, data, &split)?;
        let kept = |i: &usize| given.in_training().binary_search(i).is_err();
        let others: Vec<usize> = split.train.iter().copied().filter(kept).collect();
        if others.is_empty() {
            let reason = "there are no other training images to mix in".into();
            return Err(TrainError::Samples { choice: "rival".into(), reason });
        }
        let samples = Samples::new(given, data)?;
        let mut best = Rival::none(start, gauge.measure(start)?)?;
        let mut curve = Vec::new();
        for &mixed in &self.others {
            let mixture = Mixture { samples: &samples, data, others: &others, mixed };
            for &learning_rate in &self.learning_rates {
                let mut since = None;
                mixture.run(start, learning_rate, (&self.looks, self.repair.seed), |steps, network| {
                    let measures = gauge.measure(network)?;
                    curve.push((learning_rate, steps, measures));
                    if self.is_better(measures, best.measures) {
                        best.network = network.duplicate()?;
                        (best.learning_rate, best.steps, best.measures, best.mixed) =
                            (learning_rate, steps, measures, mixed);
                        since = Some(0);
                    } else {
                        since = since.or_else(|| self.is_enough(measures).then_some(0)).map(|looks| looks + 1);
                    }
                    Ok(since.is_none_or(|looks| looks < self.patience))
                })?;
            }
        }
        Ok(best.finished(curve, &begun))
    }

    fn is_allowed(&self, measures: StateMeasures) -> bool {
        measures.loses_at_most(self.repair.max_drawdown)
    }

    fn is_enough(&self, measures: StateMeasures) -> bool {
        self.is_allowed(measures) && measures.efficacy >= self.repair.efficacy
    }

    fn is_better(&self, measures: StateMeasures, than: StateMeasures) -> bool {
        self.is_allowed(measures) && measures.rank(self.repair.efficacy) > than.rank(self.repair.efficacy)
    }
}

/// What a step sees: all samples to repair, and `mixed` other images for each.
struct Mixture<'a> {
    samples: &'a Samples,
    data: &'a DataBundle,
    others: &'a [usize],
    mixed: usize,
}

impl Mixture<'_> {
    /// Looks at the network after the numbers of steps in `looks`, until `look` says that it is enough.
    fn run(
        &self,
        start: &Network,
        learning_rate: f64,
        (looks, seed): (&[usize], u64),
        look: impl FnMut(usize, &Network) -> Result<bool, TrainError>,
    ) -> Result<(), TrainError> {
        let size = (self.mixed * self.samples.labels.len()).clamp(1, self.others.len());
        let DataBundle { train, normalization, .. } = self.data;
        let mut batcher = Batcher::new(train, self.others.to_vec(), normalization, size)?;
        let (kind, mut pass) = (LossKind::of(None, train)?, 0);
        batcher.shuffle(seed, pass);
        let loss = |network: &Network| {
            loop {
                let Some(batch) = batcher.next_batch(pool_par()) else {
                    pass += 1;
                    batcher.shuffle(seed, pass);
                    continue;
                };
                let images = [&self.samples.values, batch.images].concat();
                let labels = [&self.samples.labels, batch.labels].concat();
                let images = Tensor::from_vec(images, (labels.len(), train.shape().len()), &Device::Cpu)?;
                let both = Batch { indices: &[], images: &[], labels: &labels, outputs: &[] };
                return supervised(kind, &network.forward(&images)?, both);
            }
        };
        fine_tune(start, learning_rate, looks.iter().copied(), loss, look).map(drop)
    }
}
