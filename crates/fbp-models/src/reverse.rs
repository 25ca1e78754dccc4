use std::ops::Range as StageRange;

use fbp_inverse::{ChainStage, ChannelRanges, ReverseChain};

use crate::{ModelError, Network};

impl Network {
    /// Reverse operators of some stages for their present parameters, in the order in which the layers run.
    ///
    /// A nondecreasing activation directly followed by max-pooling comes as max-pooling, then activation. The two
    /// commute, so the output of the stage is the same, and the pooling then chooses the input of a window that has to
    /// change by its value *before* the activation, which makes the change smallest. Operators are named by the path of their layer
    /// and its kind, for example `layer1.0.conv1.conv2d`. Layers under one name stand for themselves; residual and parallel layers
    /// are one operator each.
    ///
    /// # Errors
    /// [`ModelError::StageRange`] if there are no such stages, [`ModelError::Reverse`] for a layer that cannot be
    /// reversed, which it names.
    pub fn operators(&self, stages: StageRange<usize>) -> Result<Vec<ChainStage<f32>>, ModelError> {
        let mut chain = Vec::with_capacity(stages.len());
        for stage in self.range(stages)? {
            chain.push(ChainStage { name: stage.name().to_owned(), operators: stage.layers().operators()? });
        }
        Ok(chain)
    }

    /// What the channels of the input of stage `stage` can be, if the input of the network is in `input`: an interval, or one
    /// for each channel.
    ///
    /// `stage` may be the number of stages, for the ranges of the logits. The reverse operators of the layers below say what
    /// they can produce, for their present parameters.
    ///
    /// # Errors
    /// As [`operators`](Self::operators).
    pub fn ranges_below(
        &self,
        stage: usize,
        input: impl Into<ChannelRanges<f32>>,
    ) -> Result<ChannelRanges<f32>, ModelError> {
        let below = self.operators(0..stage)?;
        Ok(input.into().through(below.iter().flat_map(|stage| &stage.operators).map(|operator| &**operator)))
    }

    /// The chain that runs the stages from `first` to the last backwards, for their present parameters.
    ///
    /// Its boundary 0 is the input of stage `first`, and its ranges are what the stages below can produce from inputs
    /// in `input`.
    ///
    /// # Errors
    /// As [`operators`](Self::operators).
    pub fn reverse_chain(
        &self,
        first: usize,
        input: impl Into<ChannelRanges<f32>>,
    ) -> Result<ReverseChain<f32>, ModelError> {
        let stages = self.operators(first..self.stages().len())?;
        Ok(ReverseChain::new(stages, self.ranges_below(first, input)?)?)
    }
}

#[cfg(test)]
pub(crate) mod tests;
