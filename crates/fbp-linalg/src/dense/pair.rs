//! Two factors, and how they are scaled and rounded.

use faer::{Mat, MatRef};

use crate::Real;

/// Most entries of one register.
const REGISTER: usize = 16;

/// Factors of a correction `outer·(inner·r)`.
#[derive(Clone, Debug)]
pub(super) struct Pair<T> {
    /// `k × m`.
    pub(super) inner: Mat<T>,
    /// `n × k`.
    pub(super) outer: Mat<T>,
}

impl<T> Pair<T> {
    pub(super) fn views(&self) -> (MatRef<'_, T>, MatRef<'_, T>) {
        (self.inner.as_ref(), self.outer.as_ref())
    }
}

impl Pair<f64> {
    /// Factors of the system itself, from those of its rows times `scales`.
    pub(super) fn of_balanced(mut self, scales: &[f64]) -> Self {
        scale_columns(&mut self.inner, scales);
        self
    }

    pub(super) fn narrow<T: Real>(&self) -> Pair<T> {
        Pair { inner: narrow(&self.inner), outer: narrow(&self.outer) }
    }
}

pub(super) fn scale_columns(a: &mut Mat<f64>, scales: &[f64]) {
    for (j, scale) in scales.iter().enumerate() {
        a.col_mut(j).iter_mut().for_each(|x| *x *= scale);
    }
}

/// Rounds a matrix. Its columns are padded with zeros: products load whole registers, and what an allocation happens to
/// hold behind a column may be subnormal, which costs hundreds of cycles (measured: 10 × 64 took 2.7 times as long).
pub(super) fn narrow<T: Real>(a: &Mat<f64>) -> Mat<T> {
    let (rows, cols) = a.shape();
    let entry = |i: usize, j: usize| if i < rows { T::from_f64(a[(i, j)]) } else { T::ZERO };
    let mut rounded = Mat::from_fn(rows.next_multiple_of(REGISTER), cols, entry);
    rounded.truncate(rows, cols);
    rounded
}
