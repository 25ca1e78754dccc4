use candle_core::{Device, Tensor};
use fbp_models::{AdamW, AdamWParams, Network};

use super::judge::Gauge;
use super::origin::Given;
use super::record::StateMeasures;
use crate::TrainError;
use crate::data::{Batch, Batcher, DataBundle, SPLIT_SEED, Split};
use crate::evaluate::pool_par;
use crate::objective::supervised;
use crate::processor::{Clock, Stopwatch};
use crate::settings::LossKind;

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
    /// How far an output may be from the wanted one; for data with outputs, which need it.
    pub tolerance: Option<f64>,
}

impl Default for RivalOptions {
    fn default() -> Self {
        Self { learning_rates: vec![1e-4, 3e-4, 1e-3], steps: 400, every: 10, efficacy: 0.99, tolerance: None }
    }
}

/// The network of the rival, and how it got there.
#[derive(Debug)]
pub struct Rival {
    /// The network.
    pub network: Network,
    /// Learning rate of the run that was kept.
    pub learning_rate: f64,
    /// Number of its steps.
    pub steps: usize,
    /// Other training images per sample to repair in each of them.
    pub mixed: usize,
    /// What it came to.
    pub measures: StateMeasures,
    /// Learning rate, number of steps and measures of every state that was judged.
    pub curve: Vec<(f64, usize, StateMeasures)>,
    /// Time of all runs.
    pub seconds: f64,
    /// The same as time of the processor on all threads, if the system tells.
    pub processor_seconds: Option<f64>,
}

impl RivalOptions {
    /// Runs every learning rate and keeps the run with the most repaired samples (all that reach the wanted share count
    /// as equal) and the smallest loss on the validation part.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the images do not fit the network.
    pub fn run(
        &self,
        start: &Network,
        given: Given<'_>,
        data: &DataBundle,
        validation: f64,
    ) -> Result<Rival, TrainError> {
        let begun = Stopwatch::start();
        let split = Split::stratified(&data.train, validation, SPLIT_SEED)?;
        let gauge = Gauge::new(start, given, data, &split, self.tolerance)?;
        let tuning = FineTuning::new(start, given, data)?;
        let (mut best, mut curve) = (Rival::none(start, gauge.measure(start)?)?, Vec::new());
        for &learning_rate in &self.learning_rates {
            let (mut steps, mut measures) = (0, best.measures);
            let looks = (0..self.steps).step_by(self.every).map(|taken| (taken + self.every).min(self.steps));
            let network = tuning.run(learning_rate, looks, |taken, network| {
                steps = taken;
                // The validation part judges where a run ends, and nothing before.
                if taken < self.steps && gauge.efficacy(network)? < self.efficacy {
                    return Ok(true);
                }
                measures = gauge.measure(network)?;
                curve.push((learning_rate, steps, measures));
                Ok(measures.efficacy < self.efficacy)
            })?;
            if measures.rank(self.efficacy) > best.measures.rank(self.efficacy) {
                best = Rival { network, learning_rate, steps, measures, ..best };
            }
        }
        Ok(best.finished(curve, &begun))
    }
}

impl Rival {
    /// No step at all.
    pub(super) fn none(start: &Network, measures: StateMeasures) -> Result<Self, TrainError> {
        let network = start.duplicate()?;
        Ok(Self {
            network,
            learning_rate: 0.0,
            steps: 0,
            mixed: 0,
            measures,
            curve: Vec::new(),
            seconds: 0.0,
            processor_seconds: None,
        })
    }

    pub(super) fn finished(self, curve: Vec<(f64, usize, StateMeasures)>, begun: &Stopwatch) -> Self {
        Self { curve, seconds: begun.seconds(Clock::Wall), processor_seconds: begun.processor_seconds(), ..self }
    }
}

/// All samples to repair, normalised.
pub(super) struct Samples {
    pub(super) values: Vec<f32>,
    pub(super) labels: Vec<u32>,
    pub(super) outputs: Vec<f32>,
}

impl Samples {
    /// # Errors
    /// [`TrainError::Samples`] if there are none.
    pub(super) fn new(given: Given<'_>, data: &DataBundle) -> Result<Self, TrainError> {
        let (images, samples) = (given.origin.images(data), given.samples);
        let mut batcher = Batcher::new(images, samples.to_vec(), &data.normalization, samples.len())?;
        let Some(batch) = batcher.next_batch(pool_par()) else {
            return Err(TrainError::Samples { choice: "rival".into(), reason: "there is nothing to repair".into() });
        };
        Ok(Self { values: batch.images.to_vec(), labels: batch.labels.to_vec(), outputs: batch.outputs.to_vec() })
    }
}

/// Fine-tuning of all stages with one rate. Looks at the network after the numbers of steps in `looks`, which ascend, until `look`
/// says that it is enough; `loss` gives that of every step.
///
/// # Errors
/// [`TrainError::Model`] if an operation has no gradient, and those of `loss` and `look`.
pub(super) fn fine_tune(
    start: &Network,
    learning_rate: f64,
    looks: impl IntoIterator<Item = usize>,
    mut loss: impl FnMut(&Network) -> Result<Tensor, TrainError>,
    mut look: impl FnMut(usize, &Network) -> Result<bool, TrainError>,
) -> Result<Network, TrainError> {
    let network = start.duplicate()?;
    let params = AdamWParams { learning_rate, weight_decay: 0.0, ..AdamWParams::default() };
    let mut optimiser = AdamW::new(network.vars_of(0..network.stages().len())?, params)?;
    let mut taken = 0;
    for steps in looks {
        while taken < steps {
            optimiser.backward_step(&loss(&network)?)?;
            taken += 1;
        }
        if !look(steps, &network)? {
            break;
        }
    }
    Ok(network)
}

/// Fine-tuning of all stages on all samples to repair at once.
pub(super) struct FineTuning<'a> {
    start: &'a Network,
    images: Tensor,
    samples: Samples,
    loss: LossKind,
}

impl<'a> FineTuning<'a> {
    /// # Errors
    /// As [`Samples::new`].
    pub(super) fn new(start: &'a Network, given: Given<'_>, data: &DataBundle) -> Result<Self, TrainError> {
        let images = given.origin.images(data);
        let (loss, samples) = (LossKind::of(None, images)?, Samples::new(given, data)?);
        let images = Tensor::from_slice(&samples.values, (given.samples.len(), images.shape().len()), &Device::Cpu)?;
        Ok(Self { start, images, samples, loss })
    }

    /// As [`fine_tune`].
    ///
    /// # Errors
    /// [`TrainError::Model`] if the images do not fit the network, and those of `look`.
    pub(super) fn run(
        &self,
        learning_rate: f64,
        looks: impl IntoIterator<Item = usize>,
        look: impl FnMut(usize, &Network) -> Result<bool, TrainError>,
    ) -> Result<Network, TrainError> {
        let Samples { labels, outputs, .. } = &self.samples;
        let loss = |network: &Network| {
            let batch = Batch { indices: &[], images: &[], labels, outputs };
            supervised(self.loss, &network.forward(&self.images)?, batch)
        };
        fine_tune(self.start, learning_rate, looks, loss, look)
    }
}
