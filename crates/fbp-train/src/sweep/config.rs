use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::list::List;
use crate::TrainError;
use crate::data::Augmentation;
use crate::input::DataRequest;
use crate::settings::{Embedding, Keep, LossKind, Metric, Objective, Schedule, TargetMode, TargetPolicy};

/// A sweep as it is written down: see the [module](super).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// Where it was read from, for messages.
    #[serde(skip)]
    pub(super) path: PathBuf,
    pub(crate) data: DataRequest,
    pub(super) model: Option<String>,
    pub(super) loss: Option<LossKind>,
    pub(super) seeds: Seeds,
    #[serde(default = "tenth")]
    pub(super) validation: f64,
    #[serde(default = "one")]
    pub(super) threads_per_run: usize,
    #[serde(default)]
    pub(super) keep_checkpoints: bool,
    #[serde(default)]
    pub(super) keep_targets: bool,
    pub(super) starts: Vec<StartTable>,
    pub(super) runs: Vec<RunTable>,
}

fn tenth() -> f64 {
    0.1
}

fn one() -> usize {
    1
}

/// Seeds, one by one or as a range.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a list of seeds like [0, 1, 2], or { from = 0, count = 10 }")]
pub(super) enum Seeds {
    These(Vec<u64>),
    Range(SeedRange),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SeedRange {
    pub(super) from: u64,
    pub(super) count: u64,
}

impl Seeds {
    /// How many there are.
    pub(super) fn count(&self) -> u128 {
        match self {
            Self::These(seeds) => seeds.len() as u128,
            Self::Range(range) => u128::from(range.count),
        }
    }

    /// The seeds; call it after [`count`](Self::count) was found to be small.
    pub(super) fn list(&self) -> Vec<u64> {
        match self {
            Self::These(seeds) => seeds.clone(),
            Self::Range(range) => (range.from..range.from.saturating_add(range.count)).collect(),
        }
    }
}

/// Where runs start: a checkpoint, or a pretraining that is done first, once for every seed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StartTable {
    pub(super) name: String,
    pub(super) checkpoint: Option<PathBuf>,
    pub(super) model: Option<String>,
    pub(super) epochs: Option<usize>,
    pub(super) batch: Option<usize>,
    pub(super) learning_rate: Option<f64>,
    pub(super) schedule: Option<Schedule>,
    pub(super) weight_decay: Option<f64>,
    pub(super) augment: Option<Augmentation>,
    pub(super) seed: Option<u64>,
}

impl StartTable {
    /// A key that has no meaning beside a checkpoint, if one is given.
    pub(super) fn pretraining_key(&self) -> Option<&'static str> {
        let keys = [
            ("model", self.model.is_some()),
            ("epochs", self.epochs.is_some()),
            ("batch", self.batch.is_some()),
            ("learning_rate", self.learning_rate.is_some()),
            ("schedule", self.schedule.is_some()),
            ("weight_decay", self.weight_decay.is_some()),
            ("augment", self.augment.is_some()),
            ("seed", self.seed.is_some()),
        ];
        keys.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

/// Runs: every combination of the values.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunTable {
    pub(super) starts: Option<List<String>>,
    pub(super) seeds: Option<Seeds>,
    pub(super) mode: List<Objective>,
    pub(super) stage: Option<List<String>>,
    pub(super) alpha: Option<List<f64>>,
    pub(super) margin: Option<List<f64>>,
    pub(super) tolerance: Option<List<f64>>,
    pub(super) targets: Option<List<TargetMode>>,
    pub(super) embedding: Option<List<Embedding>>,
    pub(super) metric: Option<List<Metric>>,
    pub(super) policy: Option<List<TargetPolicy>>,
    pub(super) epochs: Option<List<usize>>,
    pub(super) batch: Option<List<usize>>,
    pub(super) learning_rate: Option<List<f64>>,
    pub(super) schedule: Option<List<Schedule>>,
    pub(super) weight_decay: Option<List<f64>>,
    pub(super) keep: Option<List<Keep>>,
    pub(super) ema: Option<List<f64>>,
}

impl RunTable {
    /// A key that has no meaning for any of the modes, if one is given.
    pub(super) fn idle_key(&self) -> Option<&'static str> {
        let any = |is: fn(&Objective) -> bool| self.mode.0.iter().any(is);
        let joint = any(|mode| *mode == Objective::Joint);
        let staged = any(|mode| !matches!(mode, Objective::Full | Objective::Head));
        let targets = any(|mode| mode.may_use_targets());
        let steps = any(|mode| mode.takes_steps());
        let keys = [
            ("stage", self.stage.is_some(), staged),
            ("alpha", self.alpha.is_some(), joint),
            ("margin", self.margin.is_some(), targets),
            ("tolerance", self.tolerance.is_some(), targets),
            ("targets", self.targets.is_some(), targets),
            ("embedding", self.embedding.is_some(), targets),
            ("metric", self.metric.is_some(), targets),
            ("policy", self.policy.is_some(), any(|mode| mode.is_published() || *mode == Objective::Hierarchical)),
            ("epochs", self.epochs.is_some(), steps),
            ("batch", self.batch.is_some(), steps),
            ("learning_rate", self.learning_rate.is_some(), steps),
            ("schedule", self.schedule.is_some(), steps),
            ("weight_decay", self.weight_decay.is_some(), steps),
            ("ema", self.ema.is_some(), steps),
        ];
        keys.into_iter().find(|(_, given, used)| *given && !used).map(|(name, ..)| name)
    }
}

impl SweepConfig {
    /// Reads a description.
    ///
    /// # Errors
    /// [`TrainError::Read`], or [`TrainError::Sweep`] with the line of the mistake.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(TrainError::reading(path))?;
        Self::parse(&text, path)
    }

    /// Parses a description; `path` stands in messages.
    ///
    /// # Errors
    /// [`TrainError::Sweep`] with the line of the mistake.
    pub fn parse(text: &str, path: &Path) -> Result<Self, TrainError> {
        let mut config: Self = toml::from_str(text).map_err(|error| {
            // Shows the line with a mark under the place.
            let reason = format!("{}\n`fbp help sweep` explains the format", error.to_string().trim_end());
            TrainError::Sweep { path: path.to_owned(), reason }
        })?;
        config.path = path.to_owned();
        Ok(config)
    }

    /// An error of this description.
    pub(super) fn error(&self, reason: impl Into<String>) -> TrainError {
        TrainError::Sweep { path: self.path.clone(), reason: reason.into() }
    }
}
