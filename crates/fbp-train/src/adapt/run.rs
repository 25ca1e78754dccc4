use fbp_models::Network;

use super::candidate::Candidate;
use super::course::{Course, EvalSetSource, Found};
use super::folds::{balanced_labels, default_folds, stratified_folds};
use super::options::{AdaptOptions, Method};
use super::prepared::Prepared;
use super::record::TriedRecord;
use crate::TrainError;
use crate::data::{DataBundle, Dataset, Normalization};
use crate::progress::Progress;
use crate::settings::Choice;

/// What an adaptation did.
#[derive(Debug)]
pub struct Adaptation {
    /// The adapted network.
    pub network: Network,
    /// The normalisation of the images that it sees.
    pub normalization: Normalization,
    /// What the candidates that need labels begin with.
    pub start: Candidate,
    /// All candidates.
    pub tried: Vec<TriedRecord>,
    /// The chosen one.
    pub chosen: Candidate,
    /// Number of labels of every class.
    pub class_counts: Vec<usize>,
    /// Number of folds.
    pub folds: usize,
    /// Time of all fits, in seconds, without judging on the test part.
    pub seconds: f64,
    /// The same as time of the processor on all threads, if the system tells.
    pub processor_seconds: Option<f64>,
}

/// Adapts a network to few labelled samples of changed data; the network itself stays as it is.
///
/// 1. Labels are drawn, equally many of every class, and dealt into stratified folds.
/// 2. What needs no labels comes first: statistics of the images or of batch normalisations. The best of these by cross-validation,
///    or the network as it is, is what all others begin with, in every fold with statistics of that fold's samples alone.
/// 3. All candidates are fitted to the labels of all folds but one and judged on that one. Taken is, of those right more often than
///    the network as it is by more than one and a half standard errors and within one of the most often right one, that of the smallest
///    cross-entropy.
/// 4. It is fitted again to all labels. If nothing is that much better than the network as it is, that stays, to the last bit.
///
/// With a method that is named, its settings alone are compared, and they begin with the network as it is.
///
/// `judged` are the samples of the test part that judge candidates where that is asked for.
///
/// # Errors
/// As [`AdaptOptions::check`]; [`TrainError::Mismatch`] for data with outputs, [`TrainError::Setting`] for fewer labels than classes
/// or more than there are, more folds than labels, or a method that does not fit the network, [`TrainError::Diverged`] if every setting
/// of a named method diverges.
pub fn adapt(
    network: &Network,
    data: &DataBundle,
    options: &AdaptOptions,
    judged: &[usize],
    progress: &dyn Progress,
) -> Result<Adaptation, TrainError> {
    options.check()?;
    if data.train.outputs().is_some() {
        return Err(TrainError::Mismatch {
            left: "an adaptation".into(),
            right: data.train.name().to_owned(),
            reason: "it counts right labels, and these data have outputs: use post-train".into(),
        });
    }
    let drawn = balanced_labels(&data.train, options.labels, options.seed)?;
    let labelled = data.train.subset(&drawn)?;
    let folds = options.folds.unwrap_or_else(|| default_folds(labelled.len()).max(2));
    let course = Course {
        folds: stratified_folds(&labelled, folds, options.seed)?,
        seed: options.seed,
        test: options.judge_all.then_some(EvalSetSource { data: &data.test, samples: judged }),
        progress,
        data: labelled,
    };
    let begin = Prepared { network: network.duplicate()?, normalization: data.normalization.clone() };
    let (first, second) = candidates(options.method, network, &course.data)?;
    // In every fold what others begin with is fitted too.
    let beginnings = folds * (1 + usize::from(!second.is_empty()));
    let fits = beginnings + (first.len() + second.len()) * (folds + usize::from(options.judge_all));
    progress.begin("adapting", fits, "fits");
    let adapted = course.run(&begin, first, second, options.method);
    progress.end();
    let Found { prepared, start, chosen, tried, seconds, processor_seconds } = adapted?;
    Ok(Adaptation {
        network: prepared.network,
        normalization: prepared.normalization,
        start,
        tried,
        chosen,
        class_counts: course.data.class_counts(),
        folds,
        seconds,
        processor_seconds,
    })
}

/// The candidates that need no labels, and those that do.
fn candidates(
    method: Method,
    network: &Network,
    data: &Dataset,
) -> Result<(Vec<Candidate>, Vec<Candidate>), TrainError> {
    if method != Method::Auto {
        if !Candidate::fits(method, network, data) {
            let reason = format!("is not for {} on {}: choose another one, or auto", network.spec().name, data.name());
            return Err(TrainError::Setting { name: "method", value: method.to_string(), reason });
        }
        let grid = Candidate::grid(method);
        return Ok(if method.needs_no_labels() { (grid, Vec::new()) } else { (vec![Candidate::leave()], grid) });
    }
    let fitting = Method::ALL.iter().copied().filter(|method| Candidate::fits(*method, network, data));
    let all = fitting.flat_map(Candidate::grid);
    Ok(all.partition(|candidate: &Candidate| candidate.method.needs_no_labels()))
}
