//! What repairs cost, layer by layer and beside their rivals: states of many strengths, each judged on the test set.

mod run;

pub use run::{CurveDemands, Curves};

use serde::{Deserialize, Serialize};

use super::demand::Demand;
use crate::identity::DataIdentity;

/// Stage of rivals that change every layer.
const ALL_STAGES: &str = "all";

/// One way to make samples right and what it came to: an entry of `repair.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepairPoint {
    /// What was done.
    #[serde(flatten)]
    pub method: RepairMethod,
    /// The stage that changed; `all` if every one did.
    pub stage: String,
    /// What it was done to.
    #[serde(flatten)]
    pub subject: RepairSubject,
    /// Accuracy on the test set before, 0 to 1.
    pub start_test_accuracy: f64,
    /// Whether it is the state that the method itself chooses, on the validation part.
    pub chosen: bool,
    /// Share of the samples to repair that are right.
    pub efficacy: f64,
    /// Share of the wrong test samples of the same kind that became right.
    pub generalisation: f64,
    /// Loss of accuracy on the test set, in percentage points; negative for a gain.
    pub drawdown_pp: f64,
    /// Loss of accuracy on the validation part, in percentage points.
    pub drawdown_validation_pp: f64,
    /// Time until the state is reached, in seconds; of a chosen one, with all states that it was chosen among.
    pub seconds: f64,
}

/// What is done to make samples right, with its strength.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum RepairMethod {
    /// The smallest change of one layer that satisfies linearised conditions.
    Repair {
        /// What was asked for; none if the network is left as it was.
        #[serde(flatten)]
        demand: Option<Demand>,
        /// Number of linearisations.
        round: usize,
    },
    /// Cross-entropy on the same samples, all layers, AdamW.
    FineTuning {
        /// Learning rate.
        learning_rate: f64,
        /// Steps; each sees all samples.
        steps: usize,
    },
    /// Cross-entropy on the same samples, last layer, damped towards the old weights in the metric of the other samples.
    HeadRefit {
        /// Weight of the mean squared change of the logits.
        damping: f64,
    },
}

impl RepairMethod {
    /// Its name in tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Repair { .. } => "repair",
            Self::FineTuning { .. } => "fine-tuning",
            Self::HeadRefit { .. } => "head refit",
        }
    }
}

/// What is repaired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairSubject {
    /// The choice of samples, as it was written.
    pub samples: String,
    /// Number of samples.
    pub count: usize,
    /// Seed of the choice.
    pub seed: u64,
    /// Name of the network.
    pub model: String,
    /// The data.
    pub data: DataIdentity,
    /// SHA-256 of the checkpoint.
    pub checkpoint_sha256: String,
}
