use candle_core::Tensor;
use fbp_models::Network;

use super::losses::Loss;
use crate::TrainError;
use crate::data::Batch;

/// What is descended.
pub(super) trait Aim {
    /// An epoch begins, counted from 1.
    ///
    /// # Errors
    /// Everything that keeps the aim from being ready for it.
    fn begin(&mut self, _network: &Network, _epoch: usize) -> Result<(), TrainError> {
        Ok(())
    }

    /// The mean loss of a batch.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the input does not fit, and those of targets.
    fn loss(&mut self, network: &Network, input: &Tensor, batch: Batch<'_>) -> Result<Loss, TrainError>;

    /// What it has averaged step by step, if it does.
    fn averages(&self) -> Option<[f64; 2]> {
        None
    }

    /// Goes on from what [`averages`](Self::averages) gave.
    fn set_averages(&mut self, _averages: [f64; 2]) {}

    /// Whether [`begin`](Self::begin) depends on the weights.
    fn begins_with_weights(&self) -> bool {
        false
    }
}
