//! The one loop over epochs and batches, for every way to train.

use std::ops::Range;
use std::time::Instant;

use candle_core::Tensor;
use fbp_models::{AdamW, Network};

use super::choice::Judged;
use super::losses::{Loss, Means};
use super::pace::Pace;
use super::source::Source;
use crate::TrainError;
use crate::data::Batch;
use crate::objective::supervised;
use crate::progress::Progress;
use crate::settings::LossKind;

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
}

/// Loss of the labels or outputs behind some stages.
pub(super) struct Supervised {
    pub(super) stages: Range<usize>,
    pub(super) loss: LossKind,
}

impl Aim for Supervised {
    fn loss(&mut self, network: &Network, input: &Tensor, batch: Batch<'_>) -> Result<Loss, TrainError> {
        let output = network.forward_stages(self.stages.clone(), input)?;
        Loss::alone(supervised(self.loss, &output, batch)?)
    }
}

/// A training from its first step to its last.
pub(super) struct Course<'a> {
    pub(super) source: Source<'a>,
    pub(super) optimiser: AdamW,
    pub(super) judged: Judged,
    pub(super) pace: Pace,
    pub(super) epochs: usize,
    /// Seed of the order of the samples.
    pub(super) seed: u64,
    pub(super) progress: &'a dyn Progress,
}

/// What an epoch came to.
pub(super) struct Epoch<'a> {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) means: Means,
    /// Time of its steps.
    pub(super) seconds: f64,
    /// The network to judge.
    pub(super) state: &'a Network,
}

impl Course<'_> {
    /// Does all epochs, and shows `after` each what it came to.
    ///
    /// # Errors
    /// [`TrainError::Diverged`], and those of `aim` and `after`.
    pub(super) fn run(
        &mut self,
        network: &Network,
        aim: &mut dyn Aim,
        after: &mut dyn FnMut(Epoch<'_>) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let Self { source, optimiser, judged, pace, progress, .. } = self;
        for number in 1..=self.epochs {
            let begun = Instant::now();
            aim.begin(network, number)?;
            let mut means = Means::default();
            source.each_batch(self.seed, number, |input, batch| {
                optimiser.set_learning_rate(pace.next())?;
                let Loss { total, parts } = aim.loss(network, input, batch)?;
                optimiser.backward_step(&total)?;
                judged.step()?;
                means.add(&parts, batch.len());
                progress.advance(batch.len());
                Ok(())
            })?;
            let seconds = begun.elapsed().as_secs_f64();
            if !means.finite() {
                return Err(TrainError::Diverged { epoch: number });
            }
            after(Epoch { number, means, seconds, state: judged.network(network) })?;
        }
        Ok(())
    }
}
