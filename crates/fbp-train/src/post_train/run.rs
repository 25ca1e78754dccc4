use std::ops::Range;
use std::time::Instant;

use fbp_models::Network;

use super::goal::{Goal, check_policy, check_stage};
use super::hierarchical::{SegmentRecord, cut_names};
use super::options::PostTrainOptions;
use super::{Chosen, closed_form, head, hierarchical, joint, tail};
use crate::TrainError;
use crate::data::{DataBundle, Split};
use crate::evaluate::EvalSet;
use crate::pretrain::SPLIT_SEED;
use crate::progress::Progress;
use crate::settings::Objective;

/// Means of one epoch, or accuracies after each; a list is empty if its quantity was not evaluated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PostTrainCurves {
    /// Accuracy on the test set before the first step.
    pub test_accuracy_before: f64,
    /// Accuracy on the test set: after each epoch for the published objectives (joint and local), whose protocol asks
    /// for it; for all others a single value, that of the result.
    pub test_accuracy: Vec<f64>,
    /// Accuracy on the validation part after each epoch, or of each candidate.
    pub validation_accuracy: Vec<f64>,
    /// Mean cross-entropy of each epoch, or of each candidate on the training part.
    pub cross_entropy: Vec<f64>,
    /// Mean squared distance to the targets of each epoch.
    pub target_distance: Vec<f64>,
    /// Mean weight of the distance in each epoch.
    pub weight: Vec<f64>,
    /// The state that was kept.
    pub chosen: Option<Chosen>,
    /// Damping of each candidate; for the objectives head and closed-form only.
    pub damping: Vec<f64>,
    /// Share of the step of each candidate; for the objective closed-form only.
    pub step: Vec<f64>,
    /// The segments from the input to the output; for the objective hierarchical only.
    pub segments: Vec<SegmentRecord>,
    /// Time of caching and training, without the evaluations.
    pub training_seconds: f64,
}

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

/// The stages that have features below the output, which can have targets.
pub fn transitional_stages(network: &Network) -> Vec<String> {
    let stages = network.stages();
    stages[..stages.len().saturating_sub(1)].iter().map(|stage| stage.name().to_owned()).collect()
}

/// Index of a transitional stage.
///
/// # Errors
/// [`TrainError::UnknownStage`] with the list of transitional stages.
pub fn transitional_stage(network: &Network, name: &str) -> Result<usize, TrainError> {
    let known = transitional_stages(network);
    let unknown = || TrainError::UnknownStage { stage: name.to_owned(), known: known.join(", ") };
    known.iter().position(|stage| stage == name).ok_or_else(unknown)
}

/// Checks that `stage` is given where the objective needs one, and names what is trained where it does not: `all` for
/// full fine-tuning, the last stage for the head. The objectives with a distance that gradients minimise (joint and
/// local) take the last stage too, whose targets come straight from the labels.
///
/// # Errors
/// [`TrainError::UnknownStage`], or [`TrainError::Parameter`] for a stage that is missing or not needed.
pub fn stage_of_mode(network: &Network, mode: Objective, stage: Option<&str>) -> Result<String, TrainError> {
    let last = network.stages().last().map_or("", |stage| stage.name());
    let (needed, known) = match mode {
        Objective::Joint | Objective::Local => {
            (None, network.stages().iter().map(|stage| stage.name().to_owned()).collect())
        }
        Objective::Tail | Objective::ClosedForm => (None, transitional_stages(network)),
        Objective::Hierarchical => return cut_names(network, stage),
        Objective::Full => (Some("all"), Vec::new()),
        Objective::Head => (Some(last), Vec::new()),
    };
    match (needed, stage) {
        (None, Some(stage)) if known.iter().any(|name| name == stage) => Ok(stage.to_owned()),
        (None, stage) => {
            Err(TrainError::UnknownStage { stage: stage.unwrap_or_default().to_owned(), known: known.join(", ") })
        }
        (Some(name), None) => Ok(name.to_owned()),
        (Some(name), Some(stage)) if name == stage => Ok(name.to_owned()),
        (Some(_), Some(stage)) => {
            let range = "what --mode full and --mode head take: they know what to train, so leave --stage out";
            Err(TrainError::Parameter { name: "--stage", value: stage.to_owned(), range })
        }
    }
}

/// Goes on training a network in place.
///
/// | objective | trains | on |
/// |---|---|---|
/// | joint | stages up to `stage` | `CE(z_L, y) + w · MSE(z_r, ẑ_r)` with the weight of the published recipe; α = 0 leaves the second term out |
/// | local | stages up to `stage` | `MSE(z_r, ẑ_r)` alone; the stages above are not evaluated |
/// | full | every stage | `CE`: plain fine-tuning |
/// | tail | stages above `stage` | `CE`, from the features of `stage`, which are computed once |
/// | hierarchical | every stage | the stages named cut the network in segments; all at the same time, each segment on `MSE(z_r, ẑ_r)` from its features, which are computed once, the last one on `CE` or, with live targets, on the distance to them |
/// | closed-form | one layer of `stage` | ridge regression from its inputs to its targets |
/// | head | the last linear layer | `CE` and a damping towards the old weights, a convex problem, by L-BFGS |
///
/// `goal` may be left out if [`uses_targets`](PostTrainOptions::uses_targets) is false; its samples are those of
/// `data.train`. [`stage_of_mode`] says what `stage` has to be. With joint and local, targets that do not turn the frozen
/// rest of the network right are left out of the distance, unless they are point targets; with the policy refresh, the
/// targets of the samples that are trained on are computed again before every epoch but the first.
///
/// After an error the weights are somewhere on the way, but no stage is frozen.
///
/// # Errors
/// [`TrainError::UnknownStage`], [`TrainError::Parameter`], [`TrainError::Mismatch`] if the targets do not fit the data
/// or the stage, [`TrainError::Diverged`].
///
/// # Source
/// arXiv:2506.07188 (joint and local); the others are common practice.
pub fn post_train(
    network: &mut Network,
    stage: &str,
    data: &DataBundle,
    goal: Option<Goal<'_>>,
    options: &PostTrainOptions,
    progress: &dyn Progress,
) -> Result<PostTrainCurves, TrainError> {
    options.check()?;
    let stage = stage_of_mode(network, options.objective, Some(stage))?;
    check_policy(network, &stage, options)?;
    let split = Split::stratified(&data.train, options.validation, SPLIT_SEED)?;
    let session = Session { data, split, options, progress };
    let result = match options.objective {
        Objective::Joint | Objective::Local => joint::run(network, &stage, goal, session),
        Objective::Full => tail::run_full(network, session),
        Objective::Tail => tail::run_cached(network, transitional_stage(network, &stage)?, session),
        Objective::Head => head::run(network, session),
        Objective::Hierarchical => {
            let Some(Goal::Stages(store)) = goal else { return Err(missing_targets(options.objective)) };
            hierarchical::run(network, &stage, store, session)
        }
        Objective::ClosedForm => {
            let stage = transitional_stage(network, &stage)?;
            let Some(Goal::Stage(targets)) = goal else { return Err(missing_targets(options.objective)) };
            check_stage(network, stage, data, targets).and_then(|()| closed_form::run(network, stage, targets, session))
        }
    };
    if result.is_err() {
        network.set_batch_statistics(false);
        network.freeze(0..0)?;
    }
    result
}

fn missing_targets(mode: Objective) -> TrainError {
    let (left, reason) = (format!("--mode {mode}"), "name them with --targets".into());
    TrainError::Mismatch { left, right: "no targets".into(), reason }
}

/// Every stage of a network.
pub(super) fn all_stages(network: &Network) -> Range<usize> {
    0..network.stages().len()
}

#[cfg(test)]
mod tests {
    use fbp_linalg::FeatureShape;
    use fbp_models::zoo;

    use super::*;
    use crate::data::{Dataset, Normalization};
    use crate::progress::Silent;

    #[test]
    fn no_stage_is_frozen_after_an_error() {
        let images = (0..40 * 784).map(|k| (k * 37 % 251) as u8).collect();
        let labels = (0..40).map(|sample| sample % 10).collect();
        let train = Dataset::new("toy", FeatureShape::image(1, 28, 28), 10, images, labels).unwrap();
        let normalization = Normalization::fashion_mnist();
        let data = DataBundle { test: train.clone(), train, normalization, folder: "toy".into() };
        // Every step multiplies the weights by 1 - 10.
        let options = PostTrainOptions {
            alpha: 0.0,
            learning_rate: 1.0,
            weight_decay: 10.0,
            batch: 4,
            epochs: 50,
            ..PostTrainOptions::default()
        };
        let mut network = Network::new(&zoo::spec("simple-cnn-mnist-v1").unwrap(), 0).unwrap();
        let result = post_train(&mut network, "conv1", &data, None, &options, &Silent);
        assert!(matches!(result, Err(TrainError::Diverged { .. } | TrainError::NonFiniteOutput)), "{result:?}");
        assert!(network.stages().iter().all(|stage| !stage.is_frozen()));
    }
}
