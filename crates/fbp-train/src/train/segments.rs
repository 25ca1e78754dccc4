use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use candle_core::Tensor;
use fbp_models::Network;
use rayon::ThreadPool;

use super::aim::Aim;
use super::curves::{PostTrainCurves, SegmentRecord};
use super::goal::{BatchGoal, check_stage};
use super::losses::Loss;
use super::parcel::{Delivery, Trained, deliver};
use super::session::{Selection, Session, add_time, is_better};
use super::source::Source;
use crate::TrainError;
use crate::cache::FeatureCache;
use crate::data::{Augmentation, Batch};
use crate::objective::{mean_squared_distance, supervised};
use crate::scores::{PostTrainScores, SegmentScores};
use crate::settings::{Keep, LossKind, TargetPolicy};
use crate::store::TargetStore;
use crate::targets::{OutputGoal, transitional_names};
use crate::tasks::{locked, run_tasks};

/// Between the names of the stages after which a network is cut.
const SEPARATOR: char = '+';

/// Checks the names of the stages after which a network is cut, and puts them in order; all of them if none is given.
///
/// # Errors
/// [`TrainError::UnknownStage`] with the list of stages.
pub(super) fn cut_names(network: &Network, names: Option<&str>) -> Result<String, TrainError> {
    let known = transitional_names(network);
    let Some(names) = names else {
        let reason = "the mode hierarchical cuts a network between stages, and this one has a single stage";
        let unknown = || TrainError::Setting { name: "mode", value: "hierarchical".into(), reason: reason.into() };
        return if known.is_empty() { Err(unknown()) } else { Ok(known.join("+")) };
    };
    let wanted: Vec<&str> = names.split(SEPARATOR).collect();
    match wanted.iter().find(|name| !known.iter().any(|known| known == *name)) {
        Some(name) => Err(TrainError::UnknownStage { stage: (*name).to_owned(), known: known.join(", ") }),
        None => {
            let cuts: Vec<_> = known.into_iter().filter(|name| wanted.contains(&name.as_str())).collect();
            Ok(cuts.join("+"))
        }
    }
}

/// The stages of each segment.
fn segments(network: &Network, cuts: &str) -> Result<Vec<Range<usize>>, TrainError> {
    let mut first = 0;
    let mut segments = Vec::new();
    for name in cuts.split(SEPARATOR) {
        let end = network.stage_index(name)? + 1;
        segments.push(first..end);
        first = end;
    }
    segments.push(first..network.stages().len());
    Ok(segments)
}

/// Trains all segments at the same time, each from the features that the start gives it, and puts them together: from the
/// output to the input, each segment becomes part of the result if that improves the score on the validation part.
///
/// As many segments are trained at a time as there are threads, and each rank of a team trains those that are dealt to it. The
/// result does not depend on that.
///
/// # Errors
/// As [`post_train`](super::post_train).
///
/// # Source
/// arXiv:2506.07188 (decoupled training of segments against reconstructed features); the choice on the validation part:
/// own.
pub(super) fn run(
    network: &mut Network,
    cuts: &str,
    store: &TargetStore,
    session: Session<'_>,
) -> Result<PostTrainCurves, TrainError> {
    let segments = segments(network, cuts)?;
    let mut curves = session.curves(network)?;
    let validation = session.validation()?;
    let validate = |network: &Network| (!validation.is_empty()).then(|| validation.score(network)).transpose();
    let begun = Instant::now();
    let images = session.options.epochs * session.split.train.len() * segments.len();
    session.progress.begin("segments", images, "images");
    let trained = train_all(network, &segments, store, &session);
    session.progress.end();
    let trained = match deliver(trained, network, &segments, &*session.host.team)? {
        Delivery::All(trained) => trained,
        Delivery::Sent => return Ok(curves),
    };
    add_time(&mut curves, begun);

    let (mut score, measure) = (validate(network)?, session.measure());
    let mut accepted = 0;
    let mut records = Vec::new();
    for (segment, Trained { network: own, mut record }) in segments.into_iter().zip(trained).rev() {
        let before = network.duplicate()?;
        network.copy_stages(&own, segment.clone())?;
        let new = validate(network)?;
        curves.scores.validation.extend(new);
        record.accepted = session.options.keep == Keep::Last || new.is_none() || is_better(measure, new, score);
        if record.accepted {
            (score, accepted) = (new, accepted + 1);
        } else {
            network.copy_stages(&before, segment)?;
        }
        records.push(record);
    }
    records.reverse();
    curves.segments = records;
    session.conclude(&mut curves, network, (accepted, score))?;
    Ok(curves)
}

/// Trains the segments of this rank, each in a copy of the network; gives them with their numbers.
fn train_all(
    network: &Network,
    segments: &[Range<usize>],
    store: &TargetStore,
    session: &Session<'_>,
) -> Result<Vec<(usize, Trained)>, TrainError> {
    let team = &session.host.team;
    let own: Vec<usize> = (0..segments.len()).filter(|index| index % team.size() == team.rank()).collect();
    let threads = rayon::current_num_threads();
    // A number of its own for every segment, or the last bits would depend on how many go on at a time.
    let pool = || Ok(rayon::ThreadPoolBuilder::new().num_threads((threads / segments.len()).max(1)).build()?);
    let trained = Mutex::new(Vec::with_capacity(own.len()));
    let work = |pool: &ThreadPool, place: usize| {
        let index = own[place];
        let done = pool.install(|| train(network.duplicate()?, &segments[index], store, session))?;
        locked(&trained).push((index, done));
        Ok(())
    };
    let failures = run_tasks(&vec![Vec::new(); own.len()], threads, pool, work, |_| false)?;
    if let Some((_, error)) = failures.into_iter().next() {
        return Err(error);
    }
    let mut trained = trained.into_inner().unwrap_or_else(PoisonError::into_inner);
    trained.sort_by_key(|(index, _)| *index);
    Ok(trained)
}

/// Trains one segment of a network and keeps the best state, the start among them.
fn train(
    mut network: Network,
    segment: &Range<usize>,
    store: &TargetStore,
    session: &Session<'_>,
) -> Result<Trained, TrainError> {
    let (data, options) = (session.data, session.options);
    let last = network.stages()[segment.end - 1].name().to_owned();
    let goal = goal(&network, segment, store, session)?;
    let mut aim = SegmentAim { segment: segment.clone(), goal, loss: session.loss()? };
    let features = |images: &Tensor| Ok(network.infer_stages(0..segment.start, images)?);
    let mut curves = PostTrainCurves::default();
    let begun = Instant::now();
    let source = match segment.start {
        0 => Source::images(data, session.split.train.clone(), options.batch, Augmentation::default())?,
        _ => Source::features(data, &session.split.train, options.batch, features)?,
    };
    add_time(&mut curves, begun);
    let held_back = FeatureCache::new(&data.train, &data.normalization, &session.split.validation, features)?;
    let validate = |network: &Network| held_back.score(network, segment.start);
    network.set_training(true);
    let mut course = session.course(&network, segment.clone(), source)?;
    // Until all are done, those that are wait.
    course.state = session.host.state.map(|files| files.part(&format!("segment{}-", segment.start)));
    course.state.iter_mut().for_each(|part| part.keeps_end = true);
    let selection = Selection { keep: options.keep, measure: session.measure(), validate: &validate, test: None };
    let (epoch, _) = selection.run(&mut network, course, &mut aim, &mut curves)?;
    let PostTrainCurves { scores: PostTrainScores { validation, loss, .. }, training_seconds: seconds, .. } = curves;
    let scores = SegmentScores { measure: session.measure(), validation };
    let record = SegmentRecord { last_stage: last, loss, scores, epoch, accepted: false, seconds };
    Ok(Trained { network, record })
}

/// What one segment is trained on: the distance to its targets, or the loss of the data.
struct SegmentAim<'a> {
    segment: Range<usize>,
    goal: Option<BatchGoal<'a>>,
    loss: LossKind,
}

impl Aim for SegmentAim<'_> {
    fn loss(&mut self, network: &Network, input: &Tensor, batch: Batch<'_>) -> Result<Loss, TrainError> {
        let output = network.forward_stages(self.segment.clone(), input)?;
        Loss::alone(match &self.goal {
            Some(goal) => mean_squared_distance(&output, goal.of_batch(&output, batch)?)?,
            None => supervised(self.loss, &output, batch)?,
        })
    }
}

/// The targets of a segment; the last one has none, and is trained on the labels or outputs, unless targets are live.
fn goal<'a>(
    network: &Network,
    segment: &Range<usize>,
    store: &'a TargetStore,
    session: &Session<'_>,
) -> Result<Option<BatchGoal<'a>>, TrainError> {
    let stage = segment.end - 1;
    if segment.end < network.stages().len() {
        let targets = store.stage(network.stages()[stage].name())?;
        check_stage(network, stage, session.data, targets)?;
        return Ok(Some(BatchGoal::Stored(targets)));
    }
    let output = OutputGoal::of(&store.manifest().params);
    Ok((session.options.policy == TargetPolicy::Live).then_some(BatchGoal::Live(output)))
}
