use faer::{MatMut, MatRef};
use fbp_linalg::Real;

use crate::joint::Batch;

/// What the forward pass of a chain has recorded: the feature before every operator, and the output.
pub(super) struct Recorded<T> {
    batch: usize,
    lens: Vec<usize>,
    features: Vec<Batch<T>>,
}

impl<T: Real> Recorded<T> {
    /// Memory for `capacity` samples with features of these lengths.
    pub(super) fn new(lens: &[usize], capacity: usize) -> Self {
        let features = lens.iter().map(|len| Batch::new(len * capacity)).collect();
        Self { batch: 0, lens: lens.to_vec(), features }
    }

    /// Begins a new batch with the input of the chain.
    pub(super) fn restart(&mut self, input: MatRef<'_, T>) {
        self.batch = input.ncols();
        self.features[0].view_mut(self.lens[0], self.batch).copy_from(input);
    }

    /// Input and output of operator `k`, the latter to be written.
    pub(super) fn around(&mut self, k: usize) -> (MatRef<'_, T>, MatMut<'_, T>) {
        let (below, above) = self.features.split_at_mut(k + 1);
        (below[k].view(self.lens[k], self.batch), above[0].view_mut(self.lens[k + 1], self.batch))
    }

    /// Number of samples.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// The input of operator `k`, or the output for `k` = number of operators.
    pub(super) fn feature(&self, k: usize) -> MatRef<'_, T> {
        self.features[k].view(self.lens[k], self.batch)
    }

    /// The output.
    pub(super) fn output(&self) -> MatRef<'_, T> {
        self.feature(self.features.len() - 1)
    }

    /// Copies the chosen samples of feature `k` to the front of a compact batch.
    pub(super) fn gather(&self, k: usize, chosen: &[usize], compact: &mut Batch<T>) {
        let rows = self.lens[k];
        for (place, &sample) in chosen.iter().enumerate() {
            compact.column_mut(rows, place).copy_from_slice(self.features[k].column(rows, sample));
        }
    }
}
