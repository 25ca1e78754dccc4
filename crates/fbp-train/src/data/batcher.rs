use std::ops::Range;

use faer::Par;

use super::{Augmentation, DataError, Dataset, Normalization, Outputs, shuffle_indices};

/// Hands out normalised batches of some samples of a data set, in a buffer that is used again and again.
///
/// All batches have the same number of samples, except the last one if the number of samples is no multiple of it.
#[derive(Clone, Debug)]
pub struct Batcher<'d> {
    data: &'d Dataset,
    normalization: Normalization,
    /// The samples as they were given: every epoch is shuffled from this order.
    given: Vec<usize>,
    order: Vec<usize>,
    batch_size: usize,
    next: usize,
    images: Vec<f32>,
    labels: Vec<u32>,
    augmentation: Augmentation,
    /// Seed and number of the pass.
    pass: (u64, u64),
    outputs: Vec<f32>,
}

/// Some samples, ready for a network.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'b> {
    /// Position of every sample in the data set.
    pub indices: &'b [usize],
    /// Normalised images, row-major `[N, C, H, W]`, which is a column-major `(C·H·W) × N` matrix.
    pub images: &'b [f32],
    /// Labels; all 0 where there are outputs.
    pub labels: &'b [u32],
    /// What the samples should give, one after the other; none where there are labels.
    pub outputs: &'b [f32],
}

impl Batch<'_> {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Never true: a batch has at least one sample.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

impl<'d> Batcher<'d> {
    /// Batches of the given samples, at first in the given order.
    ///
    /// # Errors
    /// [`DataError::Index`] for a sample that is not there, [`DataError::Empty`] without samples,
    /// [`DataError::Parameter`] if `batch_size` is 0, [`DataError::Length`] if the normalisation has another number of
    /// channels than the images.
    pub fn new(
        data: &'d Dataset,
        indices: Vec<usize>,
        normalization: &Normalization,
        batch_size: usize,
    ) -> Result<Self, DataError> {
        data.check_indices(&indices)?;
        normalization.check_channels(data.shape().channels)?;
        if indices.is_empty() {
            return Err(DataError::Empty { origin: data.name().to_owned(), what: "no samples to make batches of" });
        }
        if batch_size == 0 {
            return Err(DataError::Parameter { name: "batch size", value: 0.0, range: "1 or more" });
        }
        let largest = batch_size.min(indices.len());
        Ok(Self {
            data,
            normalization: normalization.clone(),
            order: indices.clone(),
            given: indices,
            batch_size: largest,
            next: 0,
            images: vec![0.0; largest * data.shape().len()],
            labels: vec![0; largest],
            augmentation: Augmentation::default(),
            pass: (0, 0),
            outputs: vec![0.0; data.outputs().map_or(0, |outputs| outputs.entries() * largest)],
        })
    }

    /// The same with images that are changed at random, in every pass in another way.
    #[must_use]
    pub fn with_augmentation(self, augmentation: Augmentation) -> Self {
        Self { augmentation, ..self }
    }

    /// Batches of all samples, in their order in the data set.
    ///
    /// # Errors
    /// See [`new`](Self::new).
    pub fn of_all(data: &'d Dataset, normalization: &Normalization, batch_size: usize) -> Result<Self, DataError> {
        Self::new(data, (0..data.len()).collect(), normalization, batch_size)
    }

    /// Number of samples of one pass.
    pub fn samples(&self) -> usize {
        self.order.len()
    }

    /// Number of samples of every batch but the last.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Number of batches of one pass.
    pub fn batches(&self) -> usize {
        self.order.len().div_ceil(self.batch_size)
    }

    /// Starts a pass in a random order that follows from the samples given, `seed` and `epoch` alone, so that a run
    /// that goes on at some epoch sees what an uninterrupted one would have seen.
    pub fn shuffle(&mut self, seed: u64, epoch: u64) {
        self.pass = (seed, epoch);
        self.order.copy_from_slice(&self.given);
        shuffle_indices(&mut self.order, seed, epoch);
        self.next = 0;
    }

    /// Leaves out so many batches of a pass.
    pub fn skip(&mut self, batches: usize) {
        self.next = self.next.saturating_add(batches.saturating_mul(self.batch_size)).min(self.order.len());
    }

    /// Starts a pass in the present order.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// The next batch, or nothing at the end of the pass.
    pub fn next_batch(&mut self, par: Par) -> Option<Batch<'_>> {
        self.next_part(par, |samples| 0..samples).map(|(batch, _)| batch)
    }

    /// A part of the next batch, chosen by the number of its samples, and that number; nothing at the end of the pass.
    ///
    /// # Panics
    /// If the part is not within the batch.
    pub fn next_part(&mut self, par: Par, part: impl Fn(usize) -> Range<usize>) -> Option<(Batch<'_>, usize)> {
        let rest = self.order.get(self.next..).filter(|rest| !rest.is_empty())?;
        let indices = &rest[..rest.len().min(self.batch_size)];
        let whole = indices.len();
        self.next += whole;
        let indices = &indices[part(whole)];
        let images = &mut self.images[..indices.len() * self.data.shape().len()];
        let change = (!self.augmentation.is_none()).then_some((self.augmentation, self.pass));
        self.data.normalise_checked(indices, &self.normalization, change, images, par);
        let labels = &mut self.labels[..indices.len()];
        for (label, &index) in labels.iter_mut().zip(indices) {
            *label = u32::from(self.data.labels()[index]);
        }
        let entries = self.data.outputs().map_or(0, Outputs::entries);
        let outputs = &mut self.outputs[..indices.len() * entries];
        if let Some(all) = self.data.outputs() {
            let rows = outputs.chunks_exact_mut(entries).zip(indices);
            rows.for_each(|(to, &index)| to.copy_from_slice(all.of(index)));
        }
        Some((Batch { indices, images, labels, outputs }, whole))
    }
}

#[cfg(test)]
mod tests {
    use fbp_linalg::FeatureShape;

    use super::*;

    fn numbered(samples: u8) -> Dataset {
        let images = (0..samples).flat_map(|i| [i; 4]).collect();
        let labels = (0..samples).map(|i| i % 5).collect();
        Dataset::new("numbered", FeatureShape::image(1, 2, 2), 5, images, labels).unwrap()
    }

    fn bytes() -> Normalization {
        Normalization::new(vec![0.0], vec![1.0 / 255.0]).unwrap()
    }

    #[test]
    fn a_pass_gives_every_sample_once_with_its_own_label() {
        let data = numbered(23);
        let mut batches = Batcher::of_all(&data, &bytes(), 10).unwrap();
        assert_eq!((batches.samples(), batches.batches()), (23, 3));
        for epoch in 0..3 {
            batches.shuffle(9, epoch);
            let (mut seen, mut sizes) = (Vec::new(), Vec::new());
            while let Some(batch) = batches.next_batch(Par::Seq) {
                sizes.push(batch.len());
                assert_eq!(batch.images.len(), 4 * batch.len());
                for ((&index, image), &label) in batch.indices.iter().zip(batch.images.chunks(4)).zip(batch.labels) {
                    assert_eq!((image, label), ([index as f32; 4].as_slice(), index as u32 % 5));
                    seen.push(index);
                }
            }
            assert_eq!(sizes, [10, 10, 3]);
            assert!(batches.next_batch(Par::Seq).is_none(), "the end is the end");
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..23));
        }
    }

    #[test]
    fn the_order_of_an_epoch_does_not_depend_on_the_epochs_before() {
        let data = numbered(20);
        let mut one = Batcher::new(&data, (0..15).collect(), &bytes(), 4).unwrap();
        let mut other = one.clone();
        one.shuffle(3, 0);
        one.next_batch(Par::Seq);
        one.shuffle(3, 1);
        other.shuffle(3, 1);
        assert_eq!(one.order, other.order);
        assert_eq!(one.next_batch(Par::Seq).unwrap().images, other.next_batch(Par::Seq).unwrap().images);
        other.rewind();
        assert_eq!(other.next_batch(Par::Seq).unwrap().indices, &one.order[..4]);
    }

    #[test]
    fn a_pass_goes_on_behind_batches_that_are_left_out() {
        let data = numbered(11);
        let mut whole = Batcher::of_all(&data, &bytes(), 4).unwrap();
        let mut rest = whole.clone();
        whole.shuffle(3, 1);
        rest.shuffle(3, 1);
        rest.skip(2);
        (0..2).for_each(|_| assert!(whole.next_batch(Par::Seq).is_some()));
        assert_eq!(whole.next_batch(Par::Seq).unwrap().indices, rest.next_batch(Par::Seq).unwrap().indices);
        rest.skip(usize::MAX);
        assert!(rest.next_batch(Par::Seq).is_none());
    }

    #[test]
    fn augmented_images_are_the_same_in_any_batch_on_any_number_of_threads() {
        let images = (0..700 * 12).map(|index| (index * 41 % 256) as u8).collect();
        let data = Dataset::new("images", FeatureShape::image(1, 3, 4), 1, images, vec![0; 700]).unwrap();
        let augmentation = Augmentation { crop: true, flip: true };
        let of_epoch = |size: usize, par: Par, epoch| {
            let mut batches = Batcher::of_all(&data, &bytes(), size).unwrap().with_augmentation(augmentation);
            batches.shuffle(1, epoch);
            let mut found = vec![Vec::new(); data.len()];
            while let Some(batch) = batches.next_batch(par) {
                for (&index, image) in batch.indices.iter().zip(batch.images.chunks(12)) {
                    found[index] = image.to_vec();
                }
            }
            found
        };
        let first = of_epoch(700, Par::rayon(2), 1);
        assert_eq!(first, of_epoch(13, Par::Seq, 1));
        assert_ne!(first, of_epoch(13, Par::Seq, 2));
    }

    #[test]
    fn faulty_requests_are_refused() {
        let (data, bytes) = (numbered(3), bytes());
        let new = |indices: &[usize], norm, size| Batcher::new(&data, indices.to_vec(), norm, size).unwrap_err();
        assert!(matches!(new(&[0, 3], &bytes, 2), DataError::Index { index: 3, len: 3, .. }));
        assert!(matches!(new(&[], &bytes, 2), DataError::Empty { .. }));
        assert!(matches!(new(&[0], &bytes, 0), DataError::Parameter { .. }));
        let two = Normalization::new(vec![0.0; 2], vec![1.0; 2]).unwrap();
        assert!(matches!(new(&[0], &two, 2), DataError::Length { .. }));
        // A batch larger than the data takes no more memory than the data.
        assert_eq!(Batcher::of_all(&data, &bytes, usize::MAX).unwrap().images.len(), 12);
    }

    #[test]
    fn can_be_shared_between_threads() {
        fn assert_send_sync<T: Send + Sync>() {}
        assert_send_sync::<Batcher<'_>>();
        assert_send_sync::<Dataset>();
        assert_send_sync::<DataError>();
    }
}
