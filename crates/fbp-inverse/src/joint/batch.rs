use faer::{MatMut, MatRef};
use fbp_linalg::Real;

/// A batch buffer of fixed capacity whose number of rows may change from use to use.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    values: Vec<T>,
}

impl<T: Real> Batch<T> {
    pub(crate) fn new(len: usize) -> Self {
        Self { values: vec![T::ZERO; len] }
    }

    pub(crate) fn view(&self, rows: usize, cols: usize) -> MatRef<'_, T> {
        MatRef::from_column_major_slice(&self.values[..rows * cols], rows, cols)
    }

    pub(crate) fn view_mut(&mut self, rows: usize, cols: usize) -> MatMut<'_, T> {
        MatMut::from_column_major_slice_mut(&mut self.values[..rows * cols], rows, cols)
    }

    pub(crate) fn column(&self, rows: usize, index: usize) -> &[T] {
        &self.values[rows * index..rows * (index + 1)]
    }

    /// Columns `start..start + count`.
    pub(crate) fn columns(&self, rows: usize, start: usize, count: usize) -> MatRef<'_, T> {
        MatRef::from_column_major_slice(&self.values[rows * start..rows * (start + count)], rows, count)
    }

    /// Copies one column over another.
    pub(crate) fn move_column(&mut self, rows: usize, from: usize, to: usize) {
        if from != to {
            self.values.copy_within(rows * from..rows * (from + 1), rows * to);
        }
    }

    pub(crate) fn column_mut(&mut self, rows: usize, index: usize) -> &mut [T] {
        &mut self.values[rows * index..rows * (index + 1)]
    }
}
