use std::ops::Range;
use std::time::Instant;

use fbp_models::Network;

use super::choice::Chosen;
use super::curves::PostTrainCurves;
use super::options::PostTrainOptions;
use crate::TrainError;
use crate::data::{DataBundle, Split};
use crate::evaluate::EvalSet;
use crate::progress::Progress;
use crate::settings::Objective;

/// What every objective is run with.
pub(super) struct Session<'a> {
    pub(super) data: &'a DataBundle,
    pub(super) split: Split,
    pub(super) options: &'a PostTrainOptions,
    pub(super) progress: &'a dyn Progress,
}

impl Session<'_> {
    /// The held-back samples as images.
    pub(super) fn validation(&self) -> Result<EvalSet, TrainError> {
        EvalSet::new(&self.data.train, &self.data.normalization, Some(&self.split.validation))
    }

    /// The test samples as images.
    pub(super) fn test(&self) -> Result<EvalSet, TrainError> {
        EvalSet::new(&self.data.test, &self.data.normalization, None)
    }

    /// Notes the result: the only look at the test set besides that at the start.
    pub(super) fn conclude(
        &self,
        curves: &mut PostTrainCurves,
        network: &Network,
        (epoch, validation_accuracy): (usize, Option<f64>),
    ) -> Result<(), TrainError> {
        let test_accuracy = match (self.options.objective, epoch) {
            // Has been evaluated.
            (Objective::Joint | Objective::Local, 1..) => curves.test_accuracy[epoch - 1],
            (_, 0) => curves.test_accuracy_before,
            _ => self.test()?.accuracy(network)?,
        };
        if !matches!(self.options.objective, Objective::Joint | Objective::Local) {
            curves.test_accuracy = vec![test_accuracy];
        }
        curves.chosen = Some(Chosen { epoch, validation_accuracy, test_accuracy });
        Ok(())
    }
}

/// Adds the time since `begun`.
pub(super) fn add_time(curves: &mut PostTrainCurves, begun: Instant) {
    curves.training_seconds += begun.elapsed().as_secs_f64();
}

/// Every stage of a network.
pub(super) fn all_stages(network: &Network) -> Range<usize> {
    0..network.stages().len()
}
