use candle_core::Tensor;
use fbp_models::{Network, bridge};

use super::options::PostTrainOptions;
use crate::TrainError;
use crate::cache::FeatureCache;
use crate::data::{Batch, DataBundle};
use crate::metrics::all_finite;
use crate::objective::BatchTargets;
use crate::progress::Progress;
use crate::settings::{Objective, TargetMode, TargetPolicy};
use crate::store::{StageTargets, TargetStore};
use crate::targets::{MemoryTargets, OutputGoal, TargetsSource, WantedOutputs};

/// What features are pulled towards.
#[derive(Clone, Copy, Debug)]
pub enum Goal<'a> {
    /// Target features of a transitional stage, from a store.
    Stage(StageTargets<'a>),
    /// Target outputs, straight from the labels.
    Output(OutputGoal),
    /// Targets of several stages.
    Stages(&'a TargetStore),
}

impl<'a> Goal<'a> {
    /// What an objective needs of a store.
    ///
    /// # Errors
    /// As [`TargetStore::stage`].
    pub fn of_store(
        store: &'a TargetStore,
        network: &Network,
        objective: Objective,
        stage: &str,
    ) -> Result<Self, TrainError> {
        let is_output = network.stages().last().is_some_and(|last| last.name() == stage);
        match objective {
            Objective::Hierarchical => Ok(Self::Stages(store)),
            _ if is_output => Ok(Self::Output(OutputGoal::of(&store.manifest().params))),
            _ => store.stage(stage).map(Self::Stage),
        }
    }
}

/// Checks that live targets are asked for at the output alone, and refreshed ones where a whole network is run.
///
/// # Errors
/// [`TrainError::Setting`].
pub fn check_policy(network: &Network, stage: &str, options: &PostTrainOptions) -> Result<(), TrainError> {
    let PostTrainOptions { policy, objective, .. } = *options;
    let has_output =
        objective == Objective::Hierarchical || network.stages().last().is_some_and(|last| last.name() == stage);
    let last = network.stages().last().map_or("", |last| last.name());
    let reason = match policy {
        TargetPolicy::Live if !has_output => format!(
            "can be had for the last stage alone, {last}: choose static (computed once) or refresh (before every epoch) \
             for {stage}, or the stage {last}"
        ),
        TargetPolicy::Refresh if !objective.is_published() => {
            format!("is for the modes joint and local: with the mode {objective} targets are static, so leave it out")
        }
        _ => return Ok(()),
    };
    Err(TrainError::Setting { name: "policy", value: policy.to_string(), reason })
}

/// Where the targets of a batch come from while a network is trained.
pub(super) enum BatchGoal<'a> {
    /// Computed before, sample by sample.
    Stored(StageTargets<'a>),
    /// Computed again for this epoch.
    Refreshed { targets: MemoryTargets, mode: TargetMode },
    /// Outputs computed before, one sample of the data after the other.
    Fixed(Vec<f32>),
    /// From the output of the batch.
    Live(OutputGoal),
}

impl<'a> BatchGoal<'a> {
    /// The targets that the objective needs, or none.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] if the goal does not fit the stage or the data.
    pub(super) fn new(
        network: &Network,
        stage: usize,
        data: &DataBundle,
        goal: Option<Goal<'a>>,
        options: &PostTrainOptions,
    ) -> Result<Option<Self>, TrainError> {
        let is_output = stage + 1 == network.stages().len();
        match (goal, options.policy) {
            _ if !options.uses_targets() => Ok(None),
            (Some(Goal::Output(goal)), TargetPolicy::Live) if is_output => {
                goal.check_fits(&data.train)?;
                Ok(Some(Self::Live(goal)))
            }
            (Some(Goal::Output(goal)), _) if is_output => Self::of_output(network, data, goal).map(Some),
            (Some(Goal::Stage(targets)), _) => {
                check_stage(network, stage, data, targets).map(|()| Some(Self::Stored(targets)))
            }
            _ => {
                let reason = "there are none for it".into();
                Err(mismatch(network, stage, reason))
            }
        }
    }

    /// The targets of the present epoch where they are refreshed, from the network as it is; none for a goal that has no
    /// stage of its own.
    ///
    /// # Errors
    /// [`TrainError::NonFiniteOutput`] if the network has diverged, [`TrainError::Model`] or [`TrainError::Inverse`] if a
    /// layer cannot be reversed, [`TrainError::Stopped`].
    pub(super) fn refreshed(
        network: &Network,
        stage: usize,
        data: &DataBundle,
        goal: Goal<'_>,
        (samples, progress): (&[usize], &dyn Progress),
    ) -> Result<Option<Self>, TrainError> {
        match goal {
            Goal::Output(goal) => Self::of_output(network, data, goal).map(Some),
            Goal::Stage(stored) => {
                let source = TargetsSource { network, data: &data.train, normalization: &data.normalization };
                let targets = MemoryTargets::compute(source, stage, stored.params(), samples, progress)?;
                Ok(Some(Self::Refreshed { targets, mode: stored.params().mode }))
            }
            Goal::Stages(_) => Ok(None),
        }
    }

    /// Targets of the output of the network as it is, for every sample.
    fn of_output(network: &Network, data: &DataBundle, goal: OutputGoal) -> Result<Self, TrainError> {
        let samples: Vec<usize> = (0..data.train.len()).collect();
        let logits = |images: &Tensor| Ok(network.infer(images)?);
        let cache = FeatureCache::new(&data.train, &data.normalization, &samples, logits)?;
        goal.check_fits(&data.train)?;
        let wanted = WantedOutputs { labels: &cache.labels, outputs: &cache.outputs };
        goal.embed(&cache.values, wanted).map(Self::Fixed)
    }

    /// The targets of a batch whose features are `features`. Samples whose target does not turn the frozen rest of the
    /// network right do not count, except those of point targets, which are seldom attained.
    ///
    /// # Errors
    /// [`TrainError::Inverse`] for a label that is no class.
    pub(super) fn of_batch(&self, features: &Tensor, batch: Batch<'_>) -> Result<BatchTargets, TrainError> {
        match self {
            Self::Stored(targets) => {
                let rows = batch.indices.iter().map(|&sample| (targets.row(sample), targets.attained(sample)));
                Ok(of_rows(rows, targets.params().mode))
            }
            Self::Refreshed { targets, mode } => {
                Ok(of_rows(batch.indices.iter().filter_map(|&sample| targets.of(sample)), *mode))
            }
            Self::Fixed(values) => {
                let len = features.elem_count() / batch.len();
                let rows = batch.indices.iter().map(|&sample| &values[sample * len..][..len]);
                Ok(BatchTargets { values: gather(rows), counted: None })
            }
            Self::Live(goal) => {
                let outputs = bridge::with_matrix(features, |matrix| gather(matrix.col_iter().map(column)))?;
                // Without numbers the loss is none either, which the end of the epoch reports.
                let diverged = !all_finite(&outputs);
                let wanted = WantedOutputs { labels: batch.labels, outputs: batch.outputs };
                let values = if diverged { outputs } else { goal.embed(&outputs, wanted)? };
                Ok(BatchTargets { values, counted: None })
            }
        }
    }
}

/// Targets of a batch, each with whether it is attained.
fn of_rows<'r>(rows: impl Iterator<Item = (&'r [f32], bool)> + Clone, mode: TargetMode) -> BatchTargets {
    let counted = (mode != TargetMode::Point).then(|| rows.clone().map(|(_, attained)| attained).collect());
    BatchTargets { values: gather(rows.map(|(row, _)| row)), counted }
}

fn gather<'r>(rows: impl Iterator<Item = &'r [f32]>) -> Vec<f32> {
    let mut values = Vec::new();
    rows.for_each(|row| values.extend_from_slice(row));
    values
}

fn column(column: faer::ColRef<'_, f32>) -> &[f32] {
    column.try_as_col_major().expect("the bridge gives column-major matrices").as_slice()
}

fn mismatch(network: &Network, stage: usize, reason: String) -> TrainError {
    let right = format!("stage {} and the training data", network.stages()[stage].name());
    TrainError::Mismatch { left: "the targets".into(), right, reason }
}

/// Checks that targets are those of a stage and of the data.
///
/// # Errors
/// [`TrainError::Mismatch`].
pub(super) fn check_stage(
    network: &Network,
    stage: usize,
    data: &DataBundle,
    targets: StageTargets<'_>,
) -> Result<(), TrainError> {
    let (name, len) = (network.stages()[stage].name(), network.stages()[stage].output().len());
    if targets.feature_len() != len || targets.entry().name != name {
        let found = (&targets.entry().name, targets.feature_len());
        let reason = format!("they are for stage {} of {} entries, not {len}", found.0, found.1);
        return Err(mismatch(network, stage, reason));
    }
    if targets.samples() != data.train.len() {
        let reason = format!("{} targets for {} samples", targets.samples(), data.train.len());
        return Err(mismatch(network, stage, reason));
    }
    Ok(())
}
