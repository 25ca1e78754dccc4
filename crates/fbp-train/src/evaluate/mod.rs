//! Accuracy and errors of networks, and of their frozen rest on target features.

mod errors;
mod measures;
mod record;
mod sums;

pub use errors::ErrorMeasures;
pub(crate) use errors::{ErrorTally, largest_error, rmse};
pub use measures::{Measures, TopK};
pub use record::{EvalRecord, FrozenRest};
pub use sums::{EVAL_FILE, EvalSettings, EvalShard, EvalSums, eval_shards, merge_eval};

use candle_core::{Device, Tensor};
use faer::Par;
use fbp_linalg::attained::attained_slack;
use fbp_models::Network;

use self::measures::{Tally, cross_entropy};
use crate::TrainError;
use crate::collective::Collective;
use crate::data::{Batch, Batcher, Dataset, Normalization, Outputs};
use crate::metrics::{all_finite, argmax, count_right, lead};
use crate::settings::{Measure, check};
use crate::share::Share;
use crate::store::TargetStore;

/// Samples that are evaluated at a time.
const BATCH: usize = 500;

/// Threads of the current pool.
pub(crate) fn pool_par() -> Par {
    match rayon::current_num_threads() {
        1 => Par::Seq,
        threads => Par::rayon(threads),
    }
}

/// Most bytes of normalised images that are kept of data that stay in a file.
const KEPT: usize = 64 << 20;

/// Samples to evaluate networks on, normalised once, or if they are many each time.
#[derive(Debug)]
pub struct EvalSet {
    batches: Batches,
    samples: usize,
    /// An example of the outputs that samples should give, if they have some.
    outputs: Option<Outputs>,
    tolerance: Option<f64>,
}

#[derive(Debug)]
struct EvalBatch {
    images: Tensor,
    labels: Vec<u32>,
    /// One sample after the other; none where there are labels.
    outputs: Vec<f32>,
}

impl EvalBatch {
    fn of(batch: &Batch<'_>, data: &Dataset) -> Result<Self, TrainError> {
        let dims = (batch.len(), data.shape().len());
        Ok(Self {
            images: Tensor::from_slice(batch.images, dims, &Device::Cpu)?,
            labels: batch.labels.to_vec(),
            outputs: batch.outputs.to_vec(),
        })
    }
}

#[derive(Debug)]
enum Batches {
    Kept(Vec<EvalBatch>),
    Read(Box<(Dataset, Normalization, Vec<usize>)>),
}

impl EvalSet {
    /// The given samples of a data set, or all of them.
    ///
    /// # Errors
    /// [`TrainError::Data`] if a sample is not there or the normalisation does not fit.
    pub fn new(data: &Dataset, normalization: &Normalization, indices: Option<&[usize]>) -> Result<Self, TrainError> {
        let outputs = data.outputs().map(|outputs| outputs.picked(&[]));
        let mut batcher = match indices {
            Some([]) => return Ok(Self { batches: Batches::Kept(Vec::new()), samples: 0, outputs, tolerance: None }),
            Some(indices) => Batcher::new(data, indices.to_vec(), normalization, BATCH)?,
            None => Batcher::of_all(data, normalization, BATCH)?,
        };
        let samples = batcher.samples();
        if data.is_mapped() && samples * data.shape().len() * size_of::<f32>() > KEPT {
            let indices = indices.map_or_else(|| (0..data.len()).collect(), <[usize]>::to_vec);
            return Ok(Self {
                batches: Batches::Read(Box::new((data.clone(), normalization.clone(), indices))),
                samples,
                outputs,
                tolerance: None,
            });
        }
        let mut batches = Vec::with_capacity(batcher.batches());
        while let Some(batch) = batcher.next_batch(pool_par()) {
            batches.push(EvalBatch::of(&batch, data)?);
        }
        Ok(Self { batches: Batches::Kept(batches), samples, outputs, tolerance: None })
    }

    /// Gives `look` every batch.
    fn each_batch(&self, look: impl FnMut(&EvalBatch) -> Result<(), TrainError>) -> Result<(), TrainError> {
        self.each_batch_of(None, look)
    }

    /// Gives `look` every batch of a share.
    fn each_batch_of(
        &self,
        share: Option<Share>,
        mut look: impl FnMut(&EvalBatch) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let is_own = |index: usize| share.is_none_or(|share| share.has(index));
        match &self.batches {
            Batches::Kept(batches) => {
                batches.iter().enumerate().filter(|(index, _)| is_own(*index)).try_for_each(|(_, batch)| look(batch))
            }
            Batches::Read(source) => {
                let (data, normalization, indices) = &**source;
                let own = indices.chunks(BATCH).enumerate().filter(|(index, _)| is_own(*index));
                let own: Vec<usize> = own.flat_map(|(_, indices)| indices.iter().copied()).collect();
                if own.is_empty() {
                    return Ok(());
                }
                let mut batcher = Batcher::new(data, own, normalization, BATCH)?;
                while let Some(batch) = batcher.next_batch(pool_par()) {
                    look(&EvalBatch::of(&batch, data)?)?;
                }
                Ok(())
            }
        }
    }

    /// The same; samples with outputs count as right if no output misses the wanted one by more than `tolerance`.
    #[must_use]
    pub fn within(self, tolerance: Option<f64>) -> Self {
        Self { tolerance, ..self }
    }

    /// Which samples the network classifies as their label, or gives all outputs of within the tolerance, in the order given.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the images do not have the shape of the network's input, [`TrainError::Missing`] for outputs
    /// without a [tolerance](Self::within), [`TrainError::Mismatch`] for another number of outputs.
    pub fn right(&self, network: &Network) -> Result<Vec<bool>, TrainError> {
        let mut right = Vec::with_capacity(self.samples);
        let tolerance = self.outputs.as_ref().map(|_| needed(self.tolerance)).transpose()?;
        self.each(network, |found, label, wanted| {
            right.push(match tolerance {
                Some(tolerance) => largest_error(found, wanted) <= tolerance,
                None => argmax(found) == label as usize,
            });
        })?;
        Ok(right)
    }

    /// Lead of every sample, in the order given: of its label over the strongest other class, or what its largest error leaves of
    /// the tolerance.
    ///
    /// # Errors
    /// As [`right`](Self::right).
    pub fn leads(&self, network: &Network) -> Result<Vec<f32>, TrainError> {
        let mut leads = Vec::with_capacity(self.samples);
        let tolerance = self.outputs.as_ref().map(|_| needed(self.tolerance)).transpose()?;
        self.each(network, |found, label, wanted| {
            leads.push(match tolerance {
                Some(tolerance) => (tolerance - largest_error(found, wanted)) as f32,
                None => lead(found, label as usize),
            });
        })?;
        Ok(leads)
    }

    /// Loss of every sample, in the order given: its cross-entropy, or the mean squared error of its outputs.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub fn losses(&self, network: &Network) -> Result<Vec<f64>, TrainError> {
        let mut losses = Vec::with_capacity(self.samples);
        self.each(network, |found, label, wanted| {
            losses.push(match (wanted, found.get(label as usize)) {
                ([], own) => own.map_or(f64::INFINITY, |&own| cross_entropy(found, own)),
                (wanted, _) => rmse(found, wanted).powi(2),
            });
        })?;
        Ok(losses)
    }

    /// How far the outputs are from those wanted; none for samples with labels.
    ///
    /// # Errors
    /// As [`right`](Self::right), but for the tolerance.
    pub fn errors(&self, network: &Network) -> Result<Option<ErrorMeasures>, TrainError> {
        Ok(self.error_tally(network)?.map(ErrorTally::measures))
    }

    fn error_tally(&self, network: &Network) -> Result<Option<ErrorTally>, TrainError> {
        let Some(outputs) = &self.outputs else { return Ok(None) };
        let mut tally = ErrorTally::new(outputs);
        self.each(network, |found, _, wanted| tally.add(found, wanted))?;
        Ok(Some(tally))
    }

    /// What is measured: accuracy for labels, RMSE for outputs.
    pub fn kind(&self) -> Measure {
        if self.outputs.is_some() { Measure::Rmse } else { Measure::Accuracy }
    }

    /// Accuracy of the labels, or RMSE of the outputs; 0 without samples.
    ///
    /// # Errors
    /// As [`errors`](Self::errors).
    pub fn score(&self, network: &Network) -> Result<f64, TrainError> {
        match self.errors(network)? {
            Some(errors) => Ok(errors.rmse),
            None => self.accuracy(network),
        }
    }

    /// The [score](Self::score) of a network that all ranks of a team have. Labels are looked at by all of them, each its share:
    /// they are counted, so the result is that of one. Outputs are looked at by every one.
    ///
    /// # Errors
    /// As [`score`](Self::score), and [`TrainError::Collective`].
    pub(crate) fn score_of_team(&self, network: &Network, team: &dyn Collective) -> Result<f64, TrainError> {
        if team.size() == 1 || self.outputs.is_some() {
            return self.score(network);
        }
        let own = self.right_labels(network, Some(Share::new(team.rank() + 1, team.size())?))?;
        let mut right = [own as f64];
        team.sum(&mut right)?;
        Ok(right[0] / self.samples.max(1) as f64)
    }

    /// How many of the samples of a share have the right label.
    fn right_labels(&self, network: &Network, share: Option<Share>) -> Result<usize, TrainError> {
        let mut right = 0;
        self.each_batch_of(share, |EvalBatch { images, labels, .. }| {
            right += right_logits(&network.infer(images)?, labels)?;
            Ok(())
        })?;
        Ok(right)
    }

    /// Shows `take` what the network gives for every sample, its label and the outputs wanted of it, if any.
    fn each(&self, network: &Network, mut take: impl FnMut(&[f32], u32, &[f32])) -> Result<(), TrainError> {
        self.each_batch(|EvalBatch { images, labels, outputs }| {
            let (values, len) = finite_logits(&network.infer(images)?)?;
            let entries = outputs.len() / labels.len().max(1);
            if entries > 0 && entries != len {
                return Err(other_outputs(entries, len));
            }
            for (place, (found, &label)) in values.chunks_exact(len).zip(labels).enumerate() {
                take(found, label, &outputs[place * entries..][..entries]);
            }
            Ok(())
        })
    }

    /// Whether there is nothing to evaluate on.
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// Accuracy, accuracy of the `k` best guesses, loss, and which classes are taken for which.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] unless `k` is 1 to the number of classes, [`TrainError::Model`] if the images do not have
    /// the shape of the network's input, [`TrainError::Mismatch`] for labels that the network has no class for.
    pub fn measure(&self, network: &Network, k: usize) -> Result<Measures, TrainError> {
        Ok(self.tally(network, k)?.measures())
    }

    fn tally(&self, network: &Network, k: usize) -> Result<Tally, TrainError> {
        let classes = network.spec().classes;
        check("top_k", k, 1..=classes, "1 to the number of classes")?;
        let mut tally = Tally::new(classes, k);
        self.each_batch(|EvalBatch { images, labels, .. }| {
            let (values, classes) = finite_logits(&network.infer(images)?)?;
            for (row, &label) in values.chunks_exact(classes).zip(labels) {
                if label as usize >= classes {
                    return Err(TrainError::Mismatch {
                        left: "the data".into(),
                        right: "the network".into(),
                        reason: format!("they hold label {label}, and it has {classes} classes, from 0"),
                    });
                }
                tally.add(row, label as usize);
            }
            Ok(())
        })?;
        Ok(tally)
    }

    /// Share of the samples that are [right](Self::right); 0 without samples.
    ///
    /// # Errors
    /// As [`right`](Self::right).
    pub fn accuracy(&self, network: &Network) -> Result<f64, TrainError> {
        if self.outputs.is_some() {
            let right = self.right(network)?;
            return Ok(right.iter().filter(|right| **right).count() as f64 / self.samples.max(1) as f64);
        }
        Ok(self.right_labels(network, None)? as f64 / self.samples.max(1) as f64)
    }
}

/// The tolerance that outputs are judged by.
///
/// # Errors
/// [`TrainError::Missing`].
pub(crate) fn needed(tolerance: Option<f64>) -> Result<f64, TrainError> {
    tolerance.ok_or_else(|| TrainError::Missing {
        name: "tolerance",
        reason: "outputs are right or wrong only within one: give it in the units of the outputs".into(),
    })
}

/// Checks that there is a tolerance where there are outputs, and none where there are labels.
///
/// # Errors
/// [`TrainError::Missing`], [`TrainError::Setting`].
pub(crate) fn check_tolerance(tolerance: Option<f64>, data: &Dataset) -> Result<(), TrainError> {
    match (data.outputs(), tolerance) {
        (Some(_), tolerance) => needed(tolerance).map(|_| ()),
        (None, Some(tolerance)) => {
            let reason = format!("has no meaning for {}, which have labels: leave it out", data.name());
            Err(TrainError::Setting { name: "tolerance", value: tolerance.to_string(), reason })
        }
        (None, None) => Ok(()),
    }
}

/// Checks that data have labels, for work that is about them.
///
/// # Errors
/// [`TrainError::Mismatch`].
pub(crate) fn check_labelled(data: &Dataset, what: &str) -> Result<(), TrainError> {
    match data.outputs() {
        None => Ok(()),
        Some(_) => Err(TrainError::Mismatch {
            left: what.to_owned(),
            right: data.name().to_owned(),
            reason: "these data have outputs, and it is about classes".into(),
        }),
    }
}

/// Whether outputs are within a tolerance, up to the rounding that counts as attained.
fn is_within(found: &[f32], wanted: &[f32], tolerance: f64) -> bool {
    let scale = found.iter().map(|v| f64::from(v.abs())).fold(0.0, f64::max);
    largest_error(found, wanted) <= tolerance + attained_slack::<f32>(found.len(), scale)
}

fn other_outputs(wanted: usize, found: usize) -> TrainError {
    TrainError::Mismatch {
        left: "the data".into(),
        right: "the network".into(),
        reason: format!("they have {wanted} outputs, and it gives {found}"),
    }
}

/// The values of a batch of logits, and the number of classes.
fn finite_logits(logits: &Tensor) -> Result<(Vec<f32>, usize), TrainError> {
    let values = logits.flatten_all()?.to_vec1::<f32>()?;
    if !all_finite(&values) {
        return Err(TrainError::NonFiniteOutput);
    }
    Ok((values, logits.dim(1)?))
}

fn right_logits(logits: &Tensor, labels: &[u32]) -> Result<usize, TrainError> {
    let (values, classes) = finite_logits(logits)?;
    Ok(count_right(&values, classes, labels))
}

/// Share of the samples that the stages above a transitional stage get right, fed with the targets of that stage: that they
/// classify as their label, or give all outputs of `data` within the tolerance of the store.
///
/// # Errors
/// [`TrainError::UnknownStage`] if the store does not have the stage, [`TrainError::Model`] if the network does not,
/// [`TrainError::Mismatch`] for data of another size.
pub fn frozen_rest_accuracy(
    network: &Network,
    store: &TargetStore,
    stage: &str,
    data: &Dataset,
) -> Result<f64, TrainError> {
    let targets = store.stage(stage)?;
    let above = network.stage_index(stage)? + 1;
    let labels: Vec<u32> = store.labels().collect();
    let outputs = data.outputs().filter(|_| store.manifest().params.tolerance.is_some());
    if outputs.is_some_and(|outputs| outputs.samples() != labels.len()) {
        let (left, right) = ("the targets".to_owned(), data.name().to_owned());
        let reason = format!("{} targets for {} samples", labels.len(), data.len());
        return Err(TrainError::Mismatch { left, right, reason });
    }
    let tolerance = store.manifest().params.tolerance.unwrap_or(0.0);
    let (mut right, mut done) = (0, 0);
    for shard in targets.shards() {
        for features in shard.chunks(BATCH * targets.feature_len()) {
            let count = features.len() / targets.feature_len();
            let features = Tensor::from_slice(features, (count, targets.feature_len()), &Device::Cpu)?;
            let logits = network.infer_stages(above..network.stages().len(), &features)?;
            right += match outputs {
                None => right_logits(&logits, &labels[done..done + count])?,
                Some(outputs) => {
                    let (values, len) = finite_logits(&logits)?;
                    let rows = values.chunks_exact(len).enumerate();
                    rows.filter(|(place, row)| is_within(row, outputs.of(done + place), tolerance)).count()
                }
            };
            done += count;
        }
    }
    Ok(right as f64 / done.max(1) as f64)
}
