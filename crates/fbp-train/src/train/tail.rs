use candle_core::Tensor;
use fbp_models::Network;

use super::curves::PostTrainCurves;
use super::epochs::Supervised;
use super::session::{Selection, Session, add_time, all_stages};
use super::source::Source;
use crate::TrainError;
use crate::cache::FeatureCache;

/// Trains every stage on the labels or outputs, by all ranks of the team.
///
/// # Errors
/// As [`post_train`](super::post_train).
pub(super) fn run_full(network: &mut Network, session: Session<'_>) -> Result<PostTrainCurves, TrainError> {
    let validation = session.validation()?;
    let validate =
        |network: &Network| (!validation.is_empty()).then(|| session.score(&validation, network)).transpose();
    let (batch, augment) = (session.options.batch, session.options.augment);
    let source = Source::images(session.data, session.split.train.clone(), batch, augment)?;
    let mut curves = session.curves(network)?;
    network.freeze(0..0)?;
    network.set_training(true);
    session.progress.begin("fine-tuning", session.options.epochs * source.samples(), "images");
    let (stages, loss) = (all_stages(network), session.loss()?);
    let course = session.course_of_team(network, stages.clone(), source)?;
    let selection =
        Selection { keep: session.options.keep, measure: session.measure(), validate: &validate, test: None };
    let chosen = selection.run(network, course, &mut Supervised { stages, loss }, &mut curves)?;
    session.progress.end();
    session.conclude(&mut curves, network, chosen)?;
    Ok(curves)
}

/// Trains the stages above `stage` on the labels or outputs, from the features of `stage`, which are computed once.
///
/// # Errors
/// As [`post_train`](super::post_train).
pub(super) fn run_cached(
    network: &mut Network,
    stage: usize,
    session: Session<'_>,
) -> Result<PostTrainCurves, TrainError> {
    let (data, options, first) = (session.data, session.options, stage + 1);
    let mut curves = session.curves(network)?;
    let begun = std::time::Instant::now();
    let features = |images: &Tensor| Ok(network.infer_stages(0..first, images)?);
    let source = Source::features(data, &session.split.train, options.batch, features)?;
    let validation = FeatureCache::new(&data.train, &data.normalization, &session.split.validation, features)?;
    add_time(&mut curves, begun);
    let validate = |network: &Network| validation.score(network, first);
    network.freeze(0..first)?;
    network.set_training(true);
    session.progress.begin("tail", options.epochs * source.samples(), "images");
    let (stages, loss) = (first..network.stages().len(), session.loss()?);
    let course = session.course(network, stages.clone(), source)?;
    let selection = Selection { keep: options.keep, measure: session.measure(), validate: &validate, test: None };
    let chosen = selection.run(network, course, &mut Supervised { stages, loss }, &mut curves)?;
    session.progress.end();
    session.conclude(&mut curves, network, chosen)?;
    Ok(curves)
}
