use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::settings::{Choice, check, choice};

choice! {
    /// How a network is adapted, the smallest change first.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Method ("method") {
        /// Whichever of the others is best by cross-validation among the labels.
        Auto [default] = "auto",
        /// The network as it is.
        Leave = "leave",
        /// Mean and deviation of the images estimated again, without labels.
        Renormalise = "renormalise",
        /// Statistics of batch normalisations estimated again, without labels.
        Statistics = "statistics",
        /// The last layer in closed form: ridge regression towards the nearest right outputs, centred at the old weights.
        Head = "head",
        /// The last layer by its cross-entropy, damped towards the old weights.
        HeadRefit = "head-refit",
        /// Layer after layer in closed form: ridge regression towards attainable feature targets, the last layer towards right outputs.
        LayerWise = "layer-wise",
        /// Fine-tuning of the last layer.
        HeadFineTune = "head-fine-tune",
        /// Fine-tuning of the second half of the stages.
        Tail = "tail",
        /// Fine-tuning of all stages with weights anchored at the start.
        L2Sp = "l2-sp",
        /// Fine-tuning of all stages towards labels and target outputs together.
        Joint = "joint",
        /// Fine-tuning of all stages.
        Full = "full",
    }
}

impl Method {
    /// Whether it looks at images alone.
    pub fn needs_no_labels(self) -> bool {
        matches!(self, Self::Leave | Self::Renormalise | Self::Statistics)
    }

    /// Whether it takes gradient steps, with a learning rate.
    pub fn takes_steps(self) -> bool {
        matches!(self, Self::HeadFineTune | Self::Tail | Self::L2Sp | Self::Joint | Self::Full)
    }
}

/// How to adapt a network. Nothing has to be chosen.
///
/// | field       | default                                   | range                       |
/// |-------------|-------------------------------------------|-----------------------------|
/// | `labels`    | all training samples                      | the number of classes or more |
/// | `method`    | `auto`                                    |                             |
/// | `folds`     | 10 below 50 labels, 5 below 300, 3 above  | 2 to the number of labels   |
/// | `seed`      | 0                                         |                             |
/// | `judge_all` | no                                        |                             |
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AdaptOptions {
    /// Number of labelled samples, drawn by the seed, equally many of every class.
    pub labels: Option<usize>,
    /// Which candidates there are.
    pub method: Method,
    /// Number of folds of the cross-validation.
    pub folds: Option<usize>,
    /// Seed of the draw, the folds and the order of the samples.
    pub seed: u64,
    /// Fits every candidate on all labels and judges it on the test part too: what each would have been worth. Nothing is chosen
    /// by that.
    pub judge_all: bool,
}

impl AdaptOptions {
    /// Checks what can be checked without the data.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] for no labels or fewer than two folds.
    pub fn check(&self) -> Result<(), TrainError> {
        check("labels", self.labels.unwrap_or(1), 1.., "as many labels as there are classes, or more")?;
        check("folds", self.folds.unwrap_or(2), 2.., "2 or more, up to the number of labels")
    }
}
