//! Slices of a batch that several processes or threads work on together.

use std::error::Error;
use std::fmt;

/// Where a slice is in its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSlice {
    /// Samples of the batch before it.
    pub before: usize,
    /// Samples of the whole batch.
    pub of: usize,
}

/// Those who train one network together, each on its slice of every batch.
///
/// What a layer computes from the whole batch in training, statistics above all, is then that of all slices together, in the
/// order of the slices: the result does not depend on who is first.
pub trait BatchGroup: fmt::Debug + Send + Sync {
    /// Where the slice at hand is; none while there are whole batches.
    fn slice(&self) -> Option<BatchSlice>;

    /// The values of all slices, one slice after the other. All give as many, and all wait for each other.
    ///
    /// # Errors
    /// What keeps them from reaching each other; nothing can be trained afterwards.
    fn all_gather(&self, own: &[f64]) -> Result<Vec<f64>, Box<dyn Error + Send + Sync>>;
}
