use faer::Par;

use super::{DataError, Dataset, Normalization, shuffle_indices};

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
}

/// Some samples, ready for a network.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'b> {
    /// Position of every sample in the data set.
    pub indices: &'b [usize],
    /// Normalised images, row-major `[N, C, H, W]`, which is a column-major `(C·H·W) × N` matrix.
    pub images: &'b [f32],
    /// Labels.
    pub labels: &'b [u32],
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
            return Err(DataError::Parameter { name: "batch size", value: 0.0, range: "[1, ∞)" });
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
        })
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

    /// Number of batches of one pass.
    pub fn batches(&self) -> usize {
        self.order.len().div_ceil(self.batch_size)
    }

    /// Starts a pass in a random order that follows from the samples given, `seed` and `epoch` alone, so that a run
    /// that goes on at some epoch sees what an uninterrupted one would have seen.
    pub fn shuffle(&mut self, seed: u64, epoch: u64) {
        self.order.copy_from_slice(&self.given);
        shuffle_indices(&mut self.order, seed, epoch);
        self.next = 0;
    }

    /// Starts a pass in the present order.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// The next batch, or nothing at the end of the pass.
    pub fn next_batch(&mut self, par: Par) -> Option<Batch<'_>> {
        let rest = self.order.get(self.next..).filter(|rest| !rest.is_empty())?;
        let indices = &rest[..rest.len().min(self.batch_size)];
        self.next += indices.len();
        let images = &mut self.images[..indices.len() * self.data.shape().len()];
        self.data.normalise_checked(indices, &self.normalization, images, par);
        let labels = &mut self.labels[..indices.len()];
        for (label, &index) in labels.iter_mut().zip(indices) {
            *label = u32::from(self.data.labels()[index]);
        }
        Some(Batch { indices, images, labels })
    }
}
