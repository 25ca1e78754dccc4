use std::time::Instant;

use fbp_models::Network;

use super::candidate::Candidate;
use super::folds::{balanced_labels, default_folds, stratified_folds};
use super::judge::{Score, choose};
use super::options::{AdaptOptions, Method};
use super::prepared::{Labelled, Prepared};
use super::record::TriedRecord;
use crate::TrainError;
use crate::data::{DataBundle, Dataset, Normalization};
use crate::evaluate::EvalSet;
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
}

/// A candidate while it is tried.
struct Trial {
    candidate: Candidate,
    score: Score,
    test: Option<f64>,
    seconds: f64,
}

/// Labels and folds that everything is chosen by.
struct Course<'a> {
    data: Dataset,
    folds: Vec<Vec<usize>>,
    seed: u64,
    test: Option<EvalSetSource<'a>>,
    progress: &'a dyn Progress,
}

/// The test part, which is normalised for every candidate anew: some change the normalisation.
struct EvalSetSource<'a> {
    data: &'a Dataset,
    samples: &'a [usize],
}

/// Adapts a network to few labelled samples of changed data; the network itself stays as it is.
///
/// 1. Labels are drawn, equally many of every class, and dealt into stratified folds.
/// 2. What needs no labels comes first: statistics of the images or of batch normalisations. The best of these by cross-validation,
///    or the network as it is, is what all others begin with, in every fold with statistics of that fold's samples alone.
/// 3. All candidates are fitted to the labels of all folds but one and judged on that one. Taken is, of those right more often than
///    the network as it is by more than a standard error and within one of the most often right one, that of the smallest cross-entropy.
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
    let fits = (first.len() + second.len()) * (folds + usize::from(options.judge_all));
    progress.begin("adapting", fits, "fits");
    let adapted = course.run(&begin, first, second, options.method);
    progress.end();
    let Found { prepared, start, chosen, trials, seconds } = adapted?;
    let leave = trials.iter().position(|trial| trial.candidate.method == Method::Leave);
    let tried = trials.iter().map(|trial| trial.record(leave.map(|place| &trials[place].score))).collect();
    Ok(Adaptation {
        network: prepared.network,
        normalization: prepared.normalization,
        start,
        tried,
        chosen,
        class_counts: course.data.class_counts(),
        folds,
        seconds,
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

/// What a course has found.
struct Found {
    prepared: Prepared,
    start: Candidate,
    chosen: Candidate,
    trials: Vec<Trial>,
    seconds: f64,
}

impl Course<'_> {
    fn run(
        &self,
        begin: &Prepared,
        first: Vec<Candidate>,
        second: Vec<Candidate>,
        method: Method,
    ) -> Result<Found, TrainError> {
        let begun = Instant::now();
        let mut trials = self.trials(first);
        self.cross_validate(begin, &Candidate::leave(), &mut trials)?;
        let start = trials[best_of(&trials, false)].candidate;
        let mut others = self.trials(second);
        self.cross_validate(begin, &start, &mut others)?;
        // A named method is taken whatever the network as it is can do.
        let chosen = match method != Method::Auto && !others.is_empty() {
            true => trials.len() + best_of(&others, true),
            false => best_of(&trials.iter().chain(&others).collect::<Vec<_>>(), true),
        };
        trials.extend(others);
        let all: Vec<usize> = (0..self.data.len()).collect();
        let whole = Labelled { data: &self.data, samples: &all, seed: self.seed };
        let started = |candidate: &Candidate| match candidate.method.needs_no_labels() {
            true => begin.duplicate().map(Some),
            false => self.fit(&start, begin, whole),
        };
        let fitted = |candidate: &Candidate| match started(candidate)? {
            Some(from) => self.fit(candidate, &from, whole),
            None => Ok(None),
        };
        let chosen = trials[chosen].candidate;
        let prepared = fitted(&chosen)?.ok_or(TrainError::Diverged { epoch: 1 })?;
        let seconds = begun.elapsed().as_secs_f64();
        if let Some(test) = &self.test {
            for trial in &mut trials {
                self.check_stop()?;
                trial.test = match fitted(&trial.candidate)? {
                    Some(Prepared { network, normalization }) => {
                        match EvalSet::new(test.data, &normalization, Some(test.samples))?.accuracy(&network) {
                            Err(TrainError::NonFiniteOutput) => Some(0.0),
                            accuracy => Some(accuracy?),
                        }
                    }
                    None => Some(0.0),
                };
                self.progress.advance(1);
            }
        }
        Ok(Found { prepared, start, chosen, trials, seconds })
    }

    fn trials(&self, candidates: Vec<Candidate>) -> Vec<Trial> {
        let score = || Score::new(self.data.len());
        candidates.into_iter().map(|candidate| Trial { candidate, score: score(), test: None, seconds: 0.0 }).collect()
    }

    /// Fits and judges every candidate in every fold.
    fn cross_validate(&self, begin: &Prepared, start: &Candidate, trials: &mut [Trial]) -> Result<(), TrainError> {
        if trials.is_empty() {
            return Ok(());
        }
        for fold in &self.folds {
            let samples: Vec<usize> =
                (0..self.data.len()).filter(|sample| fold.binary_search(sample).is_err()).collect();
            let labelled = Labelled { data: &self.data, samples: &samples, seed: self.seed };
            let from = self.fit(start, begin, labelled)?;
            for trial in &mut *trials {
                self.check_stop()?;
                let begun = Instant::now();
                let fitted = match &from {
                    Some(from) => self.fit(&trial.candidate, from, labelled)?,
                    None => None,
                };
                trial.score.take(&self.data, fold, fitted.as_ref())?;
                trial.seconds += begun.elapsed().as_secs_f64();
                self.progress.advance(1);
            }
        }
        Ok(())
    }

    /// Fits a candidate, which may be told to stop on its way.
    fn fit(
        &self,
        candidate: &Candidate,
        from: &Prepared,
        labelled: Labelled<'_>,
    ) -> Result<Option<Prepared>, TrainError> {
        candidate.fit(from, labelled, self.progress).map_err(|error| match error {
            TrainError::Stopped { .. } => stopped(),
            other => other,
        })
    }

    fn check_stop(&self) -> Result<(), TrainError> {
        if self.progress.stop_asked() { Err(stopped()) } else { Ok(()) }
    }
}

fn stopped() -> TrainError {
    let left = "nothing is kept of an adaptation that is not finished; the same command starts it again";
    TrainError::Stopped { left: left.to_owned() }
}

/// The place of the best trial, which takes the place of the network as it is only if it is better, and if `surely`, by more than noise.
fn best_of<T: AsRef<Trial>>(trials: &[T], surely: bool) -> usize {
    let scores: Vec<_> = trials.iter().map(|trial| (trial.as_ref().candidate.method, &trial.as_ref().score)).collect();
    choose(&scores, surely)
}

impl AsRef<Trial> for Trial {
    fn as_ref(&self) -> &Trial {
        self
    }
}

impl Trial {
    fn record(&self, leave: Option<&Score>) -> TriedRecord {
        let (gain, gain_error) = leave.map_or((0.0, 0.0), |leave| self.score.gain(leave));
        TriedRecord {
            candidate: self.candidate,
            accuracy: self.score.accuracy(),
            error: self.score.error(),
            gain,
            gain_error,
            loss: Some(self.score.loss()).filter(|loss| loss.is_finite()),
            failed: !self.score.is_whole,
            test: self.test,
            right: self.test.map(|_| self.score.right.iter().map(|right| if *right { '1' } else { '0' }).collect()),
            seconds: self.seconds,
        }
    }
}
