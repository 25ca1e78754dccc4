use fbp_linalg::{FeatureShape, LinalgError, Real, compile_once};

use crate::channel_ranges::EntryBounds;
use crate::joint::{Effort, MOST_CUTS, conditions_of_boxes};
use crate::sequence::OperatorList;
use crate::{ChannelRanges, FeatureMetric, InverseError, ReverseOperator};

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
    pub(super) list: OperatorList<T>,
    /// `starts[s]` is the index of the first operator of stage `s`; one more entry marks the end.
    pub(super) starts: Vec<usize>,
    names: Vec<String>,
    /// `ranges[k]` holds for the input of operator `k`; the last one for the output.
    pub(super) ranges: Vec<EntryBounds<T>>,
    /// `metrics[b]` is that of boundary `b`; none for the Euclidean one.
    pub(super) metrics: Vec<Option<FeatureMetric<T>>>,
    pub(super) effort: Effort,
    /// Most conditions that a step of the joint iteration looks at.
    pub(super) conditions: usize,
}

compile_once! {
    fn joined<'a, T>(stages: Vec<ChainStage<T>>, in_ranges: ChannelRanges<T>) -> Result<ReverseChain<T>, InverseError> =
        ReverseChain::<T>::join;
}

impl<T: Real> ReverseChain<T> {
    /// Joins stages whose first input lies in `in_ranges`: an [`Interval`] (of everything, if nothing is known about it), or one
    /// for each of its channels.
    ///
    /// What the layers make of these ranges, channel by channel where they know it, is where the targets of
    /// [`TargetMode::Attainable`] lie. A reversal layer by layer keeps the smallest interval around all channels.
    ///
    /// # Errors
    /// [`InverseError::Chain`] if two neighbours do not fit, [`InverseError::Layer`] if a stage has no layers,
    /// [`InverseError::Shape`] for another number of ranges than the input has channels, [`InverseError::Solve`] if `in_ranges`,
    /// or what a layer makes of them, hold no finite number.
    ///
    /// [`Interval`]: crate::Interval
    /// [`TargetMode::Attainable`]: crate::TargetMode::Attainable
    pub fn new(stages: Vec<ChainStage<T>>, in_ranges: impl Into<ChannelRanges<T>>) -> Result<Self, InverseError> {
        joined(stages, in_ranges.into())
    }

    fn join(stages: Vec<ChainStage<T>>, in_ranges: ChannelRanges<T>) -> Result<Self, InverseError> {
        let mut chain = Self {
            list: OperatorList::new(
                stages.iter().flat_map(|stage| &stage.operators).next().map_or(0, |first| first.in_shape().len()),
            ),
            starts: vec![0],
            names: Vec::new(),
            ranges: Vec::new(),
            metrics: Vec::new(),
            effort: Effort::default(),
            conditions: MOST_CUTS,
        };
        let mut ranges = in_ranges;
        let mut shape = None;
        for stage in stages {
            if stage.operators.is_empty() {
                return Err(InverseError::Layer {
                    layer: stage.name,
                    reason: "a stage needs at least one layer".into(),
                });
            }
            for operator in stage.operators {
                let own = operator.in_shape();
                ranges = ranges.reshaped(shape.unwrap_or(own), own);
                check_ranges(&ranges, own, &chain)?;
                chain.ranges.push(ranges.entries(own));
                ranges = operator.out_ranges(&ranges);
                shape = Some(operator.out_shape());
                chain.list.push(operator)?;
            }
            chain.starts.push(chain.list.operators.len());
            chain.names.push(stage.name);
        }
        let Some(shape) = shape else {
            return Err(InverseError::Layer {
                layer: "chain".into(),
                reason: "a chain needs at least one stage".into(),
            });
        };
        check_ranges(&ranges, shape, &chain)?;
        chain.ranges.push(ranges.entries(shape));
        chain.metrics.resize_with(chain.boundaries(), || None);
        Ok(chain)
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
        match self.list.operators.get(start) {
            Some(operator) => Some(operator.in_shape()),
            None => self.list.operators.last().map(|last| last.out_shape()),
        }
    }

    /// Length of the output.
    pub(super) fn out_len(&self) -> usize {
        self.list.lens[self.list.operators.len()]
    }

    /// Makes room for goals that are boxes of many outputs: a step of the joint iteration then looks at up to 256 outputs at
    /// once, and not at 16.
    ///
    /// Workspaces made before do not fit the chain any more.
    pub fn expect_boxes(&mut self) {
        self.conditions = conditions_of_boxes(self.out_len());
    }

    /// How much [`TargetMode::Attainable`] spends on nearer targets, and on samples that miss the goal, for goals with margins.
    ///
    /// [`TargetMode::Attainable`]: crate::TargetMode::Attainable
    pub fn set_effort(&mut self, effort: Effort) {
        self.effort = effort;
    }

    /// Sets the metric in which the targets at a boundary are nearest, for [`TargetMode::Attainable`] and goals with
    /// margins; all others keep the Euclidean one. So do samples that have to be reversed layer by layer, and those for
    /// which nothing is found that is nearer in the metric than the Euclidean target.
    ///
    /// Workspaces made before do not fit the chain any more.
    ///
    /// # Errors
    /// [`InverseError::Shape`] if there is no such boundary or its features have another length.
    ///
    /// [`TargetMode::Attainable`]: crate::TargetMode::Attainable
    pub fn set_metric(&mut self, boundary: usize, metric: FeatureMetric<T>) -> Result<(), InverseError> {
        let len = self.starts.get(boundary).map_or(0, |&first| self.list.lens[first]);
        match self.metrics.get_mut(boundary) {
            Some(own) if metric.len() == len => *own = Some(metric),
            _ => {
                let (expected, found) = ((len, len), (metric.len(), metric.len()));
                return Err(InverseError::Shape { layer: "chain".into(), what: "metric", expected, found });
            }
        }
        Ok(())
    }
}

/// Checks what the last layer of a chain gives, or what the chain is fed if it has none yet.
fn check_ranges<T: Real>(
    ranges: &ChannelRanges<T>,
    shape: FeatureShape,
    chain: &ReverseChain<T>,
) -> Result<(), InverseError> {
    let layer = || chain.list.operators.last().map_or("chain", |below| below.name());
    if let Some(channels) = ranges.channels().filter(|&channels| channels != shape.channels) {
        let (expected, found) = ((shape.channels, 1), (channels, 1));
        return Err(InverseError::Shape { layer: layer().into(), what: "ranges of the channels", expected, found });
    }
    if ranges.is_empty() {
        // What the layer gives (or what the chain is fed) would be infinite.
        let source = LinalgError::EmptyBox { what: "range of a feature", row: 0, column: 0 };
        return Err(InverseError::in_layer(layer())(source));
    }
    Ok(())
}
