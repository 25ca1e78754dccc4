//! Targets for every stage of a network: joint or layer by layer, verified by the frozen rest.

mod measure;
mod report;
mod reverse;
#[cfg(test)]
mod tests;
mod workspace;

use fbp_linalg::{FeatureShape, LinalgError, Real};

pub use report::{BoundaryReport, ChainReport};
pub use reverse::{ChainGoal, Margins, TargetMode};
pub use workspace::ChainWorkspace;

use crate::{FeatureMetric, InverseError, Range, ReverseOperator};

/// One stage of a network: the layers between two transitional features.
pub struct ChainStage<T> {
    /// Name of the stage, for reports.
    pub name: String,
    /// Its layers in forward order.
    pub operators: Vec<Box<dyn ReverseOperator<T>>>,
}

/// A chain of stages that is run forwards once and backwards once per batch.
///
/// The features between two stages are *boundaries*: boundary 0 is the input of the chain, boundary `i` the output of
/// stage `i - 1`. For a batch, [`forward`](Self::forward) records every feature and [`reverse`](Self::reverse) writes
/// at every boundary what the feature should have been, so that the stages above give the wanted output.
///
/// # Source
/// arXiv:2506.07188, §3 (chained reversal); ranges, boxes, verification and correction: own derivation.
pub struct ReverseChain<T> {
    pub(crate) operators: Vec<Box<dyn ReverseOperator<T>>>,
    /// `starts[s]` is the index of the first operator of stage `s`; one more entry marks the end.
    pub(crate) starts: Vec<usize>,
    names: Vec<String>,
    /// `ranges[k]` holds for the input of operator `k`; the last one for the output.
    pub(crate) ranges: Vec<Range<T>>,
    /// `metrics[b]` is that of boundary `b`; none for the Euclidean one.
    pub(crate) metrics: Vec<Option<FeatureMetric<T>>>,
}

impl<T: Real> ReverseChain<T> {
    /// Joins stages whose first input lies in `in_range` (everything, if nothing is known about it).
    ///
    /// # Errors
    /// [`InverseError::Chain`] if two neighbours do not fit, [`InverseError::Layer`] if a stage has no layers,
    /// [`InverseError::Solve`] if `in_range`, or what a layer makes of it, holds no finite number.
    pub fn new(stages: Vec<ChainStage<T>>, in_range: Range<T>) -> Result<Self, InverseError> {
        let mut chain = Self {
            operators: Vec::new(),
            starts: vec![0],
            names: Vec::new(),
            ranges: vec![in_range],
            metrics: Vec::new(),
        };
        for stage in stages {
            if stage.operators.is_empty() {
                return Err(InverseError::Layer {
                    layer: stage.name,
                    reason: "a stage needs at least one layer".into(),
                });
            }
            for operator in stage.operators {
                chain.push(operator)?;
            }
            chain.starts.push(chain.operators.len());
            chain.names.push(stage.name);
        }
        if let Some(at) = chain.ranges.iter().position(Range::is_empty) {
            // What the layer below gives (or what the chain is fed) would be infinite.
            let layer = at.checked_sub(1).map_or("chain", |below| chain.operators[below].name());
            let source = LinalgError::EmptyBox { what: "range of a feature", row: 0, column: 0 };
            return Err(InverseError::in_layer(layer)(source));
        }
        if chain.operators.is_empty() {
            return Err(InverseError::Layer {
                layer: "chain".into(),
                reason: "a chain needs at least one stage".into(),
            });
        }
        chain.metrics.resize_with(chain.boundaries(), || None);
        Ok(chain)
    }

    fn push(&mut self, operator: Box<dyn ReverseOperator<T>>) -> Result<(), InverseError> {
        if let Some(below) = self.operators.last()
            && below.out_shape().len() != operator.in_shape().len()
        {
            let (expected, found) = (operator.in_shape(), below.out_shape());
            return Err(InverseError::Chain { layer: operator.name().to_owned(), expected, found });
        }
        let below = self.ranges.last().copied().unwrap_or(Range::EVERYTHING);
        self.ranges.push(operator.out_range(below));
        self.operators.push(operator);
        Ok(())
    }

    /// Number of boundaries: one more than stages.
    pub fn boundaries(&self) -> usize {
        self.starts.len()
    }

    /// Names of the stages.
    pub fn stage_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Shape of the feature at a boundary; `None` beyond the last one.
    pub fn boundary_shape(&self, boundary: usize) -> Option<FeatureShape> {
        let start = *self.starts.get(boundary)?;
        match self.operators.get(start) {
            Some(operator) => Some(operator.in_shape()),
            None => self.operators.last().map(|last| last.out_shape()),
        }
    }

    /// Length of the feature before operator `k`, or of the output for `k` = number of operators.
    pub(crate) fn feature_len(&self, k: usize) -> usize {
        if k == 0 { self.operators[0].in_shape().len() } else { self.operators[k - 1].out_shape().len() }
    }

    /// Length of the output.
    pub(crate) fn out_len(&self) -> usize {
        self.feature_len(self.operators.len())
    }
}
