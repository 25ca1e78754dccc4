use std::time::Instant;

use candle_core::{Device, Tensor};
use fbp_models::ops::cross_entropy;
use fbp_models::{AdamW, AdamWParams, Network};

use super::record::StateMeasures;
use crate::TrainError;
use crate::data::{Batcher, DataBundle, Split};
use crate::evaluate::{EvalSet, pool_par};
use crate::pretrain::SPLIT_SEED;

/// The rival of a repair: fine-tuning of the whole network on the same samples, with early stopping.
#[derive(Clone, Debug)]
pub struct RivalOptions {
    /// Learning rates that are tried.
    pub learning_rates: Vec<f64>,
    /// Most steps; each sees all samples.
    pub steps: usize,
    /// Steps between two looks at the measures.
    pub every: usize,
    /// Share of repaired samples at which a run stops.
    pub efficacy: f64,
}

impl Default for RivalOptions {
    fn default() -> Self {
        Self { learning_rates: vec![1e-4, 3e-4, 1e-3], steps: 400, every: 10, efficacy: 0.99 }
    }
}

/// The network of the rival, and how it got there.
#[derive(Debug)]
pub(crate) struct Rival {
    pub(crate) network: Network,
    pub(crate) learning_rate: f64,
    pub(crate) steps: usize,
    pub(crate) measures: StateMeasures,
    pub(crate) curve: Vec<(f64, usize, StateMeasures)>,
    pub(crate) seconds: f64,
}

impl RivalOptions {
    /// Runs every learning rate and keeps the run with the most repaired samples (all that reach the wanted share count
    /// as equal) and the smallest loss on the validation part.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the images do not fit the network.
    pub(crate) fn run(
        &self,
        start: &Network,
        samples: &[usize],
        data: &DataBundle,
        validation: f64,
    ) -> Result<Rival, TrainError> {
        let begun = Instant::now();
        let split = Split::stratified(&data.train, validation, SPLIT_SEED)?;
        let held_back = EvalSet::new(&data.train, &data.normalization, Some(&split.validation))?;
        let own = EvalSet::new(&data.train, &data.normalization, Some(samples))?;
        let before = held_back.accuracy(start)?;
        let measure = |network: &Network| -> Result<StateMeasures, TrainError> {
            let drawdown_validation = before - held_back.accuracy(network)?;
            Ok(StateMeasures { efficacy: own.accuracy(network)?, drawdown_validation })
        };
        let mut batcher = Batcher::new(&data.train, samples.to_vec(), &data.normalization, samples.len())?;
        let Some(batch) = batcher.next_batch(pool_par()) else {
            return Err(TrainError::Samples { choice: "rival".into(), reason: "there is nothing to repair".into() });
        };
        let images = Tensor::from_slice(batch.images, (batch.len(), data.train.shape().len()), &Device::Cpu)?;
        let first = Rival {
            network: start.duplicate()?,
            learning_rate: 0.0,
            steps: 0,
            measures: measure(start)?,
            curve: Vec::new(),
            seconds: 0.0,
        };
        let (mut best, mut curve) = (first, Vec::new());
        for &learning_rate in &self.learning_rates {
            let network = start.duplicate()?;
            let params = AdamWParams { learning_rate, weight_decay: 0.0, ..AdamWParams::default() };
            let mut optimiser = AdamW::new(network.vars_of(0..network.stages().len())?, params)?;
            let (mut steps, mut measures) = (0, best.measures);
            while steps < self.steps {
                for _ in 0..self.every {
                    optimiser.backward_step(&cross_entropy(&network.forward(&images)?, batch.labels)?)?;
                }
                steps += self.every;
                measures = measure(&network)?;
                curve.push((learning_rate, steps, measures));
                if measures.efficacy >= self.efficacy {
                    break;
                }
            }
            let rank = |m: &StateMeasures| (m.efficacy.min(self.efficacy), -m.drawdown_validation);
            if rank(&measures) > rank(&best.measures) {
                best = Rival { network, learning_rate, steps, measures, ..best };
            }
        }
        Ok(Rival { curve, seconds: begun.elapsed().as_secs_f64(), ..best })
    }
}
