//! The choices that people make by name.

use std::fmt;
use std::ops::RangeBounds;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// Checks a parameter against its range; NaN is outside of every range.
///
/// # Errors
/// [`TrainError::Parameter`].
pub fn check<V: PartialOrd + fmt::Display>(
    name: &'static str,
    value: V,
    allowed: impl RangeBounds<V>,
    range: &'static str,
) -> Result<(), TrainError> {
    if allowed.contains(&value) { Ok(()) } else { Err(TrainError::Parameter { name, value: value.to_string(), range }) }
}

/// Which preimages the reverse pass looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TargetMode {
    /// The nearest targets that the layers below can produce and that the whole rest of the network turns right.
    Attainable,
    /// Targets that the layers below can produce, layer by layer: each step is nearest, not the whole.
    LayerWise,
    /// The published point targets, without the ranges of the layers below.
    Point,
}

/// How a label becomes a target output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Embedding {
    /// The nearest output in which the label leads by the margin.
    Margin,
    /// The label's output is raised to the largest, all clamped to `[-10, 10]`.
    MaxAssign,
    /// 1 for the label, 0 for the others.
    OneHot,
}

/// In which metric targets are nearest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// `|v - z|²`.
    #[default]
    Euclidean,
    /// `(v - z)ᵀ C⁻¹ (v - z)`, `C` the covariance of the features over the data plus a hundredth of the mean variance: the
    /// change goes where features live.
    Mahalanobis,
}

impl Metric {
    /// Whether it is the Euclidean one, which manifests and records leave out.
    pub fn is_euclidean(&self) -> bool {
        *self == Self::Euclidean
    }
}

/// What post-training minimises, and over which weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Cross-entropy at the output plus the weighted distance to the target features.
    Joint,
    /// The distance to the target features alone.
    Local,
    /// Cross-entropy, all stages: plain fine-tuning.
    Full,
    /// Cross-entropy, the stages above one whose features are computed once.
    Tail,
    /// Cross-entropy, the last linear layer: a convex problem.
    Head,
    /// The distance to the target features, one layer: ridge regression.
    ClosedForm,
    /// The network is cut at some stages; every segment is trained on its own, from its features to its targets.
    Hierarchical,
}

impl Objective {
    /// Whether it is one of the published ones, with a distance to targets (or the baseline without).
    pub fn is_published(self) -> bool {
        matches!(self, Self::Joint | Self::Local)
    }

    /// Whether it trains step by step, so that learning rate, epochs and batch matter to it.
    pub fn takes_steps(self) -> bool {
        !matches!(self, Self::Head | Self::ClosedForm)
    }

    /// Whether targets are of use to it.
    pub fn may_use_targets(self) -> bool {
        matches!(self, Self::Joint | Self::Local | Self::ClosedForm | Self::Hierarchical)
    }
}

/// Which state of a run becomes its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The best one on the validation part, the start among them.
    Best,
    /// The one after the last epoch, as in the published recipe.
    Last,
}

/// When targets are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TargetPolicy {
    /// Once, from the network that the run starts from.
    #[default]
    Static,
    /// Before every epoch but the first again, from the network as it is.
    Refresh,
    /// For every batch, from the network as it is: at the output alone.
    Live,
}

/// How the learning rate changes over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Not at all.
    Constant,
    /// Half a cosine, from the full rate at the first step to nearly zero at the last.
    Cosine,
}

impl Schedule {
    /// Factor of the learning rate at `step` of `steps`, counted from 0.
    pub fn factor(self, step: usize, steps: usize) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps.max(1) as f64).cos()),
        }
    }
}

macro_rules! display_as_value {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // No value is skipped, so every one has a name.
                f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
            }
        }
    )*};
}

display_as_value!(TargetMode, Embedding, Metric, Objective, Keep, TargetPolicy, Schedule);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_falls_from_one_towards_zero() {
        assert_eq!(Schedule::Constant.factor(99, 100), 1.0);
        let factors: Vec<f64> = (0..100).map(|step| Schedule::Cosine.factor(step, 100)).collect();
        assert_eq!(factors[0], 1.0);
        assert!((factors[50] - 0.5).abs() < 1e-12);
        assert!(factors.is_sorted_by(|a, b| a > b) && factors[99] > 0.0);
    }

    #[test]
    fn settings_print_as_they_are_typed() {
        assert_eq!(TargetMode::Attainable.to_string(), "attainable");
        assert_eq!(Embedding::MaxAssign.to_string(), "max-assign");
        assert_eq!(TargetPolicy::Refresh.to_string(), "refresh");
        assert_eq!(serde_json::to_string(&Embedding::MaxAssign).unwrap(), "\"max-assign\"");
    }
}
