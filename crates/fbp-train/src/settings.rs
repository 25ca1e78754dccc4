//! The choices that people make by name.

use std::fmt;
use std::ops::RangeBounds;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::data::Dataset;

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

/// A setting that is one of a few values, each with a name.
pub trait Choice: Copy + fmt::Display + FromStr<Err = TrainError> + Send + Sync + 'static {
    /// All values, in the order in which they are shown.
    const ALL: &'static [Self];

    /// The name, as people write it.
    fn name(self) -> &'static str;

    /// What it means, in a few words.
    fn meaning(self) -> &'static str;
}

/// An enum whose values have the names written behind them; their documentation is their meaning.
macro_rules! choice {
    (
        $(#[$outer:meta])*
        pub enum $kind:ident ($setting:literal) {
            $($(#[doc = $doc:literal])+ $value:ident $([$default:ident])? = $name:literal,)+
        }
    ) => {
        $(#[$outer])*
        pub enum $kind {
            $($(#[doc = $doc])+ $(#[$default])? $value,)+
        }

        impl Choice for $kind {
            const ALL: &'static [Self] = &[$(Self::$value),+];

            fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)+
                }
            }

            fn meaning(self) -> &'static str {
                match self {
                    $(Self::$value => concat!($($doc),+).trim().trim_end_matches('.'),)+
                }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $kind {
            type Err = TrainError;

            fn from_str(text: &str) -> Result<Self, TrainError> {
                let names = || Self::ALL.iter().map(|value| value.name()).collect::<Vec<_>>().join(", ");
                Self::ALL.iter().copied().find(|value| value.name() == text).ok_or_else(|| TrainError::UnknownChoice {
                    setting: $setting,
                    value: text.to_owned(),
                    known: names(),
                })
            }
        }
    };
}
pub(crate) use choice;

choice! {
    /// Which preimages the reverse pass looks for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum TargetMode ("targets") {
        /// The nearest targets that the layers below can produce and that the whole rest of the network turns right.
        Attainable = "attainable",
        /// Targets that the layers below can produce, layer by layer: each step is nearest, not the whole.
        LayerWise = "layer-wise",
        /// The published point targets, without the ranges of the layers below.
        Point = "point",
    }
}

choice! {
    /// How a label becomes a target output.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Embedding ("embedding") {
        /// The nearest output in which the label leads by the margin.
        Margin = "margin",
        /// The label's output is raised to the largest, all clamped to `[-10, 10]`.
        MaxAssign = "max-assign",
        /// 1 for the label, 0 for the others.
        OneHot = "one-hot",
        /// The nearest outputs within the tolerance of those wanted: for data with outputs, and what they get anyway.
        Tolerance = "tolerance",
    }
}

choice! {
    /// What a network is trained to make small.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum LossKind ("loss") {
        /// The cross-entropy of the label: for data with labels, and what they get by default.
        CrossEntropy = "cross-entropy",
        /// The mean squared error: for data with outputs, and what they get by default.
        Mse = "mse",
        /// The mean of half the squared error up to 1 and of the error less one half beyond: outliers pull less.
        SmoothL1 = "smooth-l1",
    }
}

impl LossKind {
    /// The loss of some data: that asked for, or their default.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a loss that is not for such data.
    pub fn of(asked: Option<Self>, data: &Dataset) -> Result<Self, TrainError> {
        let has_outputs = data.outputs().is_some();
        let loss = asked.unwrap_or(if has_outputs { Self::Mse } else { Self::CrossEntropy });
        if has_outputs != (loss == Self::CrossEntropy) {
            return Ok(loss);
        }
        let (own, others) = if has_outputs { ("outputs", "mse or smooth-l1") } else { ("labels", "cross-entropy") };
        let reason = format!("is not for {}, which have {own}: choose {others}, or leave it out", data.name());
        Err(TrainError::Setting { name: "loss", value: loss.to_string(), reason })
    }
}

choice! {
    /// What networks are judged by, on data that they were not trained on.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Measure ("measure") {
        /// The share of samples whose largest output is that of their label: more is better.
        Accuracy [default] = "accuracy",
        /// The root of the mean squared error of the outputs: less is better.
        Rmse = "rmse",
    }
}

impl Measure {
    /// That of some data: accuracy for labels, RMSE for outputs.
    pub fn of(data: &Dataset) -> Self {
        if data.outputs().is_some() { Self::Rmse } else { Self::Accuracy }
    }

    /// Whether it is the accuracy.
    pub fn is_accuracy(&self) -> bool {
        *self == Self::Accuracy
    }

    /// Whether `new` is better than `old`.
    pub fn is_better(self, new: f64, old: f64) -> bool {
        match self {
            Self::Accuracy => new > old,
            Self::Rmse => new < old,
        }
    }

    /// By how much `new` is better than `old`, as a share: the difference of accuracies, or the part of the old error that is
    /// gone.
    pub fn gain(self, new: f64, old: f64) -> f64 {
        match self {
            Self::Accuracy => new - old,
            Self::Rmse if old == new => 0.0,
            Self::Rmse => (old - new) / old.max(f64::MIN_POSITIVE),
        }
    }

    /// What every state is better than.
    pub fn worst(self) -> f64 {
        match self {
            Self::Accuracy => f64::NEG_INFINITY,
            Self::Rmse => f64::INFINITY,
        }
    }

    /// A value as people read it: `81.35 %` or `0.4217`.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Accuracy => format!("{:.2} %", 100.0 * value),
            Self::Rmse => format!("{value:.4}"),
        }
    }

    /// Its name in a sentence.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Rmse => "RMSE",
        }
    }

    /// What a [`gain`](Self::gain) times 100 is counted in.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Accuracy => "pp",
            Self::Rmse => "% of the RMSE",
        }
    }
}

choice! {
    /// In which metric targets are nearest.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Metric ("metric") {
        /// `|v - z|²`.
        Euclidean [default] = "euclidean",
        /// `(v - z)ᵀ C⁻¹ (v - z)`, `C` the covariance of the features over the data plus a hundredth of the mean variance: the
        /// change goes where features live.
        Mahalanobis = "mahalanobis",
    }
}

impl Metric {
    /// Whether it is the Euclidean one, which manifests and records leave out.
    pub fn is_euclidean(&self) -> bool {
        *self == Self::Euclidean
    }
}

choice! {
    /// How much is spent on nearer targets once they are at the goal.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Effort ("effort") {
        /// The first target at the goal, moved to exactly the margin; samples that miss it are given up sooner.
        Quick = "quick",
        /// Also refined where the rest of the network bends.
        Refined = "refined",
        /// Also searched for from other starts where it bends much.
        Thorough [default] = "thorough",
        /// From ever new starts, and from layer-wise targets, until nothing nearer turns up: 16 to 130 times as long.
        Exhaustive = "exhaustive",
    }
}

impl Effort {
    /// Whether it is the default one, which manifests and records leave out.
    pub fn is_thorough(&self) -> bool {
        *self == Self::Thorough
    }
}

choice! {
    /// Which images of a data set.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Part ("part") {
        /// The training images.
        Train [default] = "train",
        /// The test images.
        Test = "test",
    }
}

impl Part {
    /// Whether it is the training images, which records leave out.
    pub fn is_train(&self) -> bool {
        *self == Self::Train
    }
}

choice! {
    /// What counts among the states of a repair with enough samples right and an allowed loss.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Preference ("prefer") {
        /// The smallest loss on the validation part.
        Accuracy [default] = "accuracy",
        /// The most others of their kind right: wrong images of the validation part, corrupted if the samples are.
        Generalisation = "generalisation",
    }
}

impl Preference {
    /// Whether it is the usual one, which records leave out.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

choice! {
    /// Which features of a network are looked at.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Every ("every") {
        /// Those between the stages of the description.
        Stage [default] = "stage",
        /// Those between all blocks, also within a stage.
        Block = "block",
    }
}

impl Every {
    /// Whether it is the stages, which records leave out.
    pub fn is_stage(&self) -> bool {
        *self == Self::Stage
    }
}

choice! {
    /// What post-training minimises, and over which weights.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Objective ("mode") {
        /// The loss of the data at the output plus the weighted distance to the target features.
        Joint = "joint",
        /// The distance to the target features alone.
        Local = "local",
        /// The loss of the data, all stages: plain fine-tuning.
        Full = "full",
        /// The loss of the data, the stages above one whose features are computed once.
        Tail = "tail",
        /// The loss of the data, the last linear layer: a convex problem.
        Head = "head",
        /// The distance to the target features, one layer: ridge regression.
        ClosedForm = "closed-form",
        /// The network is cut at some stages; every segment is trained on its own, from its features to its targets.
        Hierarchical = "hierarchical",
    }
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

    /// Checks that it can make a loss small.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for the head and a loss that it has no fit for.
    pub fn check_loss(self, loss: LossKind) -> Result<(), TrainError> {
        if self != Self::Head || loss != LossKind::SmoothL1 {
            return Ok(());
        }
        let reason = "is not for the mode head, which fits outputs by least squares: leave it out, or use tail";
        Err(TrainError::Setting { name: "loss", value: loss.to_string(), reason: reason.into() })
    }

    /// Whether targets are of use to it.
    pub fn may_use_targets(self) -> bool {
        matches!(self, Self::Joint | Self::Local | Self::ClosedForm | Self::Hierarchical)
    }
}

choice! {
    /// Which state of a run becomes its result.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Keep ("keep") {
        /// The best one on the validation part, the start among them.
        Best = "best",
        /// The one after the last epoch, as in the published recipe.
        Last = "last",
    }
}

choice! {
    /// When targets are computed.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum TargetPolicy ("policy") {
        /// Once, from the network that the run starts from.
        Static [default] = "static",
        /// Before every epoch but the first again, from the network as it is.
        Refresh = "refresh",
        /// For every batch, from the network as it is: at the output alone.
        Live = "live",
    }
}

choice! {
    /// How the learning rate changes over a run.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Schedule ("schedule") {
        /// Not at all.
        Constant = "constant",
        /// Half a cosine, from the full rate at the first step to nearly zero at the last.
        Cosine = "cosine",
    }
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
    fn more_accuracy_and_less_error_are_gains() {
        let (accuracy, rmse) = (Measure::Accuracy, Measure::Rmse);
        assert!(accuracy.is_better(0.9, 0.8) && !accuracy.is_better(0.8, 0.9) && !accuracy.is_better(0.8, 0.8));
        assert!(rmse.is_better(0.8, 0.9) && !rmse.is_better(0.9, 0.8) && !rmse.is_better(0.8, 0.8));
        assert_eq!((accuracy.gain(0.75, 0.5), rmse.gain(1.0, 4.0), rmse.gain(5.0, 4.0)), (0.25, 0.75, -0.25));
        assert_eq!(rmse.gain(0.0, 0.0), 0.0);
        for measure in [accuracy, rmse] {
            assert!(measure.is_better(0.5, measure.worst()) && !measure.is_better(f64::NAN, 0.5));
        }
        assert_eq!((accuracy.text(0.8135), rmse.text(0.42171)), ("81.35 %".into(), "0.4217".into()));
    }

    #[test]
    fn settings_print_as_they_are_typed() {
        assert_eq!(TargetMode::Attainable.to_string(), "attainable");
        assert_eq!(Embedding::MaxAssign.to_string(), "max-assign");
        assert_eq!(TargetPolicy::Refresh.to_string(), "refresh");
    }

    /// Command line, files and records use one name.
    fn names_are_those_of_files<C: Choice + PartialEq + fmt::Debug + Serialize>() {
        for &value in C::ALL {
            assert_eq!(serde_json::to_string(&value).unwrap(), format!("\"{}\"", value.name()));
            assert_eq!(value.name().parse::<C>().unwrap(), value);
            assert!(!value.meaning().is_empty() && !value.meaning().contains("  "), "{:?}", value.meaning());
        }
        let error = "nonsense".parse::<C>().map(|_| ()).unwrap_err().to_string();
        assert!(C::ALL.iter().all(|value| error.contains(value.name())), "{error}");
    }

    #[test]
    fn every_choice_has_one_name_and_a_meaning() {
        names_are_those_of_files::<TargetMode>();
        names_are_those_of_files::<Embedding>();
        names_are_those_of_files::<LossKind>();
        names_are_those_of_files::<Measure>();
        names_are_those_of_files::<Metric>();
        names_are_those_of_files::<Objective>();
        names_are_those_of_files::<Keep>();
        names_are_those_of_files::<TargetPolicy>();
        names_are_those_of_files::<Schedule>();
    }
}
