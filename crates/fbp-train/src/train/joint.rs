use candle_core::Tensor;
use fbp_models::Network;

use super::aim::Aim;
use super::curves::PostTrainCurves;
use super::goal::{BatchGoal, Goal};
use super::losses::{Loss, Losses, value};
use super::session::{Selection, Session};
use super::source::Source;
use crate::TrainError;
use crate::data::Batch;
use crate::objective::{DistanceWeight, mean_squared_distance, supervised};
use crate::settings::{LossKind, Objective, TargetPolicy};

/// Trains the stages up to `stage` in place; the stages above are frozen.
///
/// # Errors
/// As [`post_train`](super::post_train).
pub(super) fn run(
    network: &mut Network,
    stage: &str,
    goal: Option<Goal<'_>>,
    session: Session<'_>,
) -> Result<PostTrainCurves, TrainError> {
    let options = session.options;
    let stage = network.stage_index(stage)?;
    let targets = BatchGoal::new(network, stage, session.data, goal, options)?;
    let (validation, test) = (session.validation()?, session.test()?);
    let validate = |network: &Network| (!validation.is_empty()).then(|| validation.score(network)).transpose();
    let source = Source::images(session.data, session.split.train.clone(), options.batch, options.augment)?;
    network.freeze(stage + 1..network.stages().len())?;
    network.set_training(true);
    let mut aim = TowardsTargets {
        stage,
        targets,
        refreshed: goal.filter(|_| options.policy == TargetPolicy::Refresh && options.uses_targets()),
        weight: DistanceWeight::new(options.alpha),
        loss: session.loss()?,
        session: &session,
    };
    let mut curves = session.curves(network)?;
    session.progress.begin("post-training", options.epochs * source.samples(), "images");
    let course = session.course(network, 0..stage + 1, source)?;
    let selection =
        Selection { keep: options.keep, measure: session.measure(), validate: &validate, test: Some(&test) };
    let chosen = selection.run(network, course, &mut aim, &mut curves)?;
    session.progress.end();
    session.conclude(&mut curves, network, chosen)?;
    Ok(curves)
}

/// Loss of the data and weighted distance to the targets of a stage, or one of them.
struct TowardsTargets<'a> {
    stage: usize,
    targets: Option<BatchGoal<'a>>,
    /// Whose targets are computed again before every epoch but the first.
    refreshed: Option<Goal<'a>>,
    weight: DistanceWeight,
    loss: LossKind,
    session: &'a Session<'a>,
}

impl Aim for TowardsTargets<'_> {
    fn begin(&mut self, network: &Network, epoch: usize) -> Result<(), TrainError> {
        if let Some(goal) = self.refreshed.filter(|_| epoch > 1) {
            // The memory of the old ones first.
            self.targets = None;
            let Session { data, split, progress, .. } = self.session;
            self.targets = BatchGoal::refreshed(network, self.stage, data, goal, (&split.train, *progress))?;
        }
        Ok(())
    }

    fn averages(&self) -> Option<[f64; 2]> {
        self.weight.averages()
    }

    fn set_averages(&mut self, averages: [f64; 2]) {
        self.weight.set_averages(averages);
    }

    fn begins_with_weights(&self) -> bool {
        self.refreshed.is_some()
    }

    fn loss(&mut self, network: &Network, input: &Tensor, batch: Batch<'_>) -> Result<Loss, TrainError> {
        let feature = network.forward_stages(0..self.stage + 1, input)?;
        let distance = match &self.targets {
            Some(targets) => Some(mean_squared_distance(&feature, targets.of_batch(&feature, batch)?)?),
            None => None,
        };
        let data = match self.session.options.objective {
            Objective::Joint => Some(supervised(self.loss, &network.forward_from(self.stage + 1, &feature)?, batch)?),
            _ => None,
        };
        match (data, distance) {
            (Some(data), Some(distance)) => {
                let values = (value(&data)?, value(&distance)?);
                let weight = self.weight.update(values.0, values.1);
                let parts = Losses { data: Some(values.0), distance: Some(values.1), weight: Some(weight) };
                Ok(Loss { total: (data + (distance * weight)?)?, parts })
            }
            (Some(data), None) => Loss::alone(data),
            (None, distance) => {
                let total =
                    distance.expect("checked by BatchGoal::new: only the joint objective can be without targets");
                let parts = Losses { distance: Some(value(&total)?), ..Losses::default() };
                Ok(Loss { total, parts })
            }
        }
    }
}
