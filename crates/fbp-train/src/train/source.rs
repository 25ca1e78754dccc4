use candle_core::{Device, Tensor};

use super::slices::part_of;
use crate::TrainError;
use crate::cache::FeatureCache;
use crate::data::{Augmentation, Batch, Batcher, DataBundle, shuffle_indices};
use crate::evaluate::pool_par;
use crate::share::Share;

/// What is trained on, batch by batch: images, or features that were computed once.
pub(super) enum Source<'a> {
    Images { batcher: Batcher<'a>, pixels: usize },
    Features { cache: FeatureCache, samples: &'a [usize], batch: usize },
}

impl<'a> Source<'a> {
    /// Images of some of the training samples, changed at random in every epoch as asked for.
    ///
    /// # Errors
    /// As [`Batcher::new`], and [`TrainError::Setting`] for changes of what is no image.
    pub(super) fn images(
        data: &'a DataBundle,
        samples: Vec<usize>,
        batch: usize,
        augment: Augmentation,
    ) -> Result<Self, TrainError> {
        if !augment.is_none() && !data.train.is_pixels() {
            let reason = format!("changes images, and the inputs of {} are none: leave it out", data.train.name());
            return Err(TrainError::Setting { name: "augment", value: augment.to_string(), reason });
        }
        let batcher = Batcher::new(&data.train, samples, &data.normalization, batch)?.with_augmentation(augment);
        Ok(Self::Images { batcher, pixels: data.train.shape().len() })
    }

    /// What `features` gives for the images of some of the training samples.
    ///
    /// # Errors
    /// As [`FeatureCache::new`].
    pub(super) fn features(
        data: &'a DataBundle,
        samples: &'a [usize],
        batch: usize,
        features: impl Fn(&Tensor) -> Result<Tensor, TrainError>,
    ) -> Result<Self, TrainError> {
        let cache = FeatureCache::new(&data.train, &data.normalization, samples, features)?;
        Ok(Self::Features { cache, samples, batch })
    }

    /// Samples of an epoch.
    pub(super) fn samples(&self) -> usize {
        match self {
            Self::Images { batcher, .. } => batcher.samples(),
            Self::Features { samples, .. } => samples.len(),
        }
    }

    /// Samples of the first batches of an epoch.
    pub(super) fn samples_of(&self, batches: usize) -> usize {
        let size = match self {
            Self::Images { batcher, .. } => batcher.batch_size(),
            Self::Features { batch, .. } => *batch,
        };
        batches.saturating_mul(size).min(self.samples())
    }

    /// Batches of an epoch.
    pub(super) fn batches(&self) -> usize {
        match self {
            Self::Images { batcher, .. } => batcher.batches(),
            Self::Features { samples, batch, .. } => samples.len().div_ceil(*batch),
        }
    }

    /// Gives `step` every batch of an epoch but the first `done`, as input of what is trained and as samples. Seed and epoch
    /// decide their order. Of sliced batches it gets the share given, and always how many samples the whole batch has.
    pub(super) fn each_batch(
        &mut self,
        seed: u64,
        (epoch, done): (usize, usize),
        share: Option<Share>,
        mut step: impl FnMut(&Tensor, Batch<'_>, usize) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        // Stream 0 of a seed makes weights.
        let stream = epoch as u64;
        match self {
            Self::Images { batcher, pixels } => {
                batcher.shuffle(seed, stream);
                batcher.skip(done);
                while let Some((batch, whole)) = batcher.next_part(pool_par(), |samples| part_of(share, samples)) {
                    step(&Tensor::from_slice(batch.images, (batch.len(), *pixels), &Device::Cpu)?, batch, whole)?;
                }
            }
            Self::Features { cache, samples, batch } => {
                let mut order: Vec<usize> = (0..samples.len()).collect();
                shuffle_indices(&mut order, seed, stream);
                for whole in order.chunks(*batch).skip(done) {
                    let places = &whole[part_of(share, whole.len())];
                    let (features, labels) = cache.batch(places)?;
                    let indices: Vec<usize> = places.iter().map(|&place| samples[place]).collect();
                    let outputs = cache.outputs_of(places);
                    let batch = Batch { indices: &indices, images: &[], labels: &labels, outputs: &outputs };
                    step(&features, batch, whole.len())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fbp_linalg::FeatureShape;

    use super::*;
    use crate::data::{Dataset, Normalization};

    #[test]
    fn only_images_are_changed_at_random() {
        let inputs = vec![0.5; 6];
        let data = Dataset::of_inputs("tensors", FeatureShape::image(1, 1, 2), 2, inputs, vec![0, 1, 0]).unwrap();
        let bundle = DataBundle::new(data.clone(), data, Normalization::new(vec![0.0], vec![1.0]).unwrap(), "");
        let source = |augment| Source::images(&bundle, vec![0, 1], 2, augment);
        assert!(source(Augmentation::default()).is_ok());
        let error = source(Augmentation { crop: false, flip: true }).err().unwrap().to_string();
        assert_eq!(error, "augment = flip changes images, and the inputs of tensors are none: leave it out");
    }
}
