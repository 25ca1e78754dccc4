//! Accuracy of networks, and of their frozen rest on target features.

mod measures;
mod record;

pub use measures::{Measures, TopK};
pub use record::{EvalRecord, FrozenRest};

use candle_core::{Device, Tensor};
use faer::Par;
use fbp_models::Network;

use self::measures::Tally;
use crate::TrainError;
use crate::data::{Batcher, Dataset, Normalization};
use crate::metrics::{all_finite, argmax, count_right};
use crate::settings::check;
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
}

#[derive(Debug)]
enum Batches {
    Kept(Vec<(Tensor, Vec<u32>)>),
    Read(Box<(Dataset, Normalization, Vec<usize>)>),
}

impl EvalSet {
    /// The given samples of a data set, or all of them.
    ///
    /// # Errors
    /// [`TrainError::Data`] if a sample is not there or the normalisation does not fit.
    pub fn new(data: &Dataset, normalization: &Normalization, indices: Option<&[usize]>) -> Result<Self, TrainError> {
        let mut batcher = match indices {
            Some([]) => return Ok(Self { batches: Batches::Kept(Vec::new()), samples: 0 }),
            Some(indices) => Batcher::new(data, indices.to_vec(), normalization, BATCH)?,
            None => Batcher::of_all(data, normalization, BATCH)?,
        };
        let samples = batcher.samples();
        if data.is_mapped() && samples * data.shape().len() * size_of::<f32>() > KEPT {
            let indices = indices.map_or_else(|| (0..data.len()).collect(), <[usize]>::to_vec);
            return Ok(Self {
                batches: Batches::Read(Box::new((data.clone(), normalization.clone(), indices))),
                samples,
            });
        }
        let mut batches = Vec::with_capacity(batcher.batches());
        while let Some(batch) = batcher.next_batch(pool_par()) {
            let dims = (batch.len(), data.shape().len());
            batches.push((Tensor::from_slice(batch.images, dims, &Device::Cpu)?, batch.labels.to_vec()));
        }
        Ok(Self { batches: Batches::Kept(batches), samples })
    }

    /// Gives `look` every batch of images with their labels.
    fn each(&self, mut look: impl FnMut(&Tensor, &[u32]) -> Result<(), TrainError>) -> Result<(), TrainError> {
        match &self.batches {
            Batches::Kept(batches) => batches.iter().try_for_each(|(images, labels)| look(images, labels)),
            Batches::Read(source) => {
                let (data, normalization, indices) = &**source;
                let mut batcher = Batcher::new(data, indices.clone(), normalization, BATCH)?;
                while let Some(batch) = batcher.next_batch(pool_par()) {
                    let dims = (batch.len(), data.shape().len());
                    look(&Tensor::from_slice(batch.images, dims, &Device::Cpu)?, batch.labels)?;
                }
                Ok(())
            }
        }
    }

    /// Which samples the network classifies as their label, in the order given.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the images do not have the shape of the network's input.
    pub fn right(&self, network: &Network) -> Result<Vec<bool>, TrainError> {
        let mut right = Vec::with_capacity(self.samples);
        self.each(|images, labels| {
            let (values, classes) = finite_logits(&network.infer(images)?)?;
            right.extend(values.chunks_exact(classes).zip(labels).map(|(row, label)| argmax(row) == *label as usize));
            Ok(())
        })?;
        Ok(right)
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
        let classes = network.spec().classes;
        check("top_k", k, 1..=classes, "1 to the number of classes")?;
        let mut tally = Tally::new(classes, k);
        self.each(|images, labels| {
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
        Ok(tally.measures())
    }

    /// Share of the samples that the network classifies as their label; 0 without samples.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the images do not have the shape of the network's input.
    pub fn accuracy(&self, network: &Network) -> Result<f64, TrainError> {
        let mut right = 0;
        self.each(|images, labels| {
            right += right_logits(&network.infer(images)?, labels)?;
            Ok(())
        })?;
        Ok(right as f64 / self.samples.max(1) as f64)
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

/// Accuracy of the stages above a transitional stage, fed with the targets of that stage.
///
/// # Errors
/// [`TrainError::UnknownStage`] if the store does not have the stage, [`TrainError::Model`] if the network does not.
pub fn frozen_rest_accuracy(network: &Network, store: &TargetStore, stage: &str) -> Result<f64, TrainError> {
    let targets = store.stage(stage)?;
    let above = network.stage_index(stage)? + 1;
    let labels: Vec<u32> = store.labels().collect();
    let (mut right, mut done) = (0, 0);
    for shard in targets.shards() {
        for features in shard.chunks(BATCH * targets.feature_len()) {
            let count = features.len() / targets.feature_len();
            let features = Tensor::from_slice(features, (count, targets.feature_len()), &Device::Cpu)?;
            let logits = network.infer_stages(above..network.stages().len(), &features)?;
            right += right_logits(&logits, &labels[done..done + count])?;
            done += count;
        }
    }
    Ok(right as f64 / done.max(1) as f64)
}
