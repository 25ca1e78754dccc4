use faer::Mat;

use super::layers::MatrixLayer;
use super::options::{Bits, Criterion};
use super::ridge::solve_damped;
use super::rounding::Levels;
use super::statistics::Sums;
use crate::TrainError;

/// What the weights of one group of a layer are solved for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem<'a> {
    pub(super) layer: &'a MatrixLayer,
    /// Weights before, one output after the other.
    pub(super) weights: &'a [f32],
    /// Which of them stay by their size alone; all if there is none.
    pub(super) kept: Option<&'a [bool]>,
    /// Which of them stay in the end.
    pub(super) criterion: Criterion,
    /// The fours of a pattern, of which two stay.
    pub(super) fours: Option<&'a [[usize; 4]]>,
    pub(super) bits: Option<Bits>,
    /// Levels that the weights have if they are only rounded.
    pub(super) levels: Option<&'a [Levels]>,
}

impl Problem<'_> {
    /// Weights of an output.
    pub(super) fn row(&self, output: usize) -> &[f32] {
        &self.weights[output * self.layer.inputs..][..self.layer.inputs]
    }

    /// Whether other weights than the largest ones may stay.
    pub(super) fn chooses(&self) -> bool {
        self.criterion == Criterion::Reconstruction && self.kept.is_some()
    }

    pub(super) fn stays(&self, output: usize, entry: usize) -> bool {
        self.kept.is_none_or(|kept| kept[output * self.layer.inputs + entry])
    }

    /// A change of the weights, and none of the constant.
    pub(super) fn change(&self, weights: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut change: Vec<f64> = weights.collect();
        change.resize(self.layer.column_len(), 0.0);
        change
    }

    /// Changes of every output that only make zeros, outside its support.
    pub(super) fn zeroed_outside(&self, supports: &[Vec<usize>]) -> Vec<Vec<f64>> {
        let zeroed = |(output, support): (usize, &Vec<usize>)| {
            let mut change = self.change(self.row(output).iter().map(|&weight| -f64::from(weight)));
            support.iter().for_each(|&entry| change[entry] = 0.0);
            change
        };
        supports.iter().enumerate().map(zeroed).collect()
    }

    /// Changes of every output: zeros outside its support, and on it what then misses least.
    ///
    /// # Errors
    /// [`TrainError::Singular`] if a number on the way is not finite.
    pub(super) fn fitted(
        &self,
        supports: &[Vec<usize>],
        total: &Sums,
        lambda: f64,
    ) -> Result<Vec<Vec<f64>>, TrainError> {
        let mut changes = self.zeroed_outside(supports);
        let found = solve_damped(supports, &total.moved(columns(&changes).as_ref()), lambda)
            .ok_or(TrainError::Singular { what: "the inputs of a layer" })?;
        for (change, found) in changes.iter_mut().zip(found.col_iter()) {
            change.iter_mut().zip(found.iter()).for_each(|(change, found)| *change += found);
        }
        Ok(changes)
    }

    /// Entries of a column that an output may use, the constant last.
    pub(super) fn support(&self, stays: impl Fn(usize) -> bool) -> Vec<usize> {
        (0..self.layer.column_len()).filter(|&entry| entry >= self.layer.inputs || stays(entry)).collect()
    }

    /// The weights of an output with a change, the constant left out.
    pub(super) fn new_row(&self, output: usize, change: &[f64]) -> Vec<f32> {
        self.row(output).iter().zip(change).map(|(&weight, change)| (f64::from(weight) + change) as f32).collect()
    }
}

/// Changes of all outputs as columns.
pub(super) fn columns(changes: &[Vec<f64>]) -> Mat<f64> {
    Mat::from_fn(changes.first().map_or(0, Vec::len), changes.len(), |i, output| changes[output][i])
}
