use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::candidate::Candidate;
use super::crew::{Crew, stopped};
use super::judge::{Score, choose, judge};
use super::options::Method;
use super::prepared::{Labelled, Prepared};
use super::record::TriedRecord;
use crate::TrainError;
use crate::data::{Dataset, Normalization};
use crate::evaluate::EvalSet;
use crate::processor::Stopwatch;
use crate::progress::Progress;
use crate::tasks::locked;

/// A candidate while it is tried.
struct Trial {
    candidate: Candidate,
    score: Score,
    test: Option<f64>,
    seconds: f64,
    processor_seconds: Option<f64>,
}

/// Labels and folds that everything is chosen by.
pub(super) struct Course<'a> {
    pub(super) data: Dataset,
    pub(super) folds: Vec<Vec<usize>>,
    pub(super) seed: u64,
    pub(super) test: Option<EvalSetSource<'a>>,
    pub(super) progress: &'a dyn Progress,
}

/// The test part, before it is normalised: some candidates change how.
pub(super) struct EvalSetSource<'a> {
    pub(super) data: &'a Dataset,
    pub(super) samples: &'a [usize],
}

/// What a course has found.
pub(super) struct Found {
    pub(super) prepared: Prepared,
    pub(super) start: Candidate,
    pub(super) chosen: Candidate,
    pub(super) tried: Vec<TriedRecord>,
    pub(super) seconds: f64,
    pub(super) processor_seconds: Option<f64>,
}

impl Course<'_> {
    /// Tries what needs no labels first, and then the others with the best of these as their start.
    ///
    /// # Errors
    /// [`TrainError::Stopped`], [`TrainError::Diverged`] if what was chosen does so on all labels, and those of the fits.
    pub(super) fn run(
        &self,
        begin: &Prepared,
        first: Vec<Candidate>,
        second: Vec<Candidate>,
        method: Method,
    ) -> Result<Found, TrainError> {
        let begun = Instant::now();
        let crew = Crew::new(self.progress)?;
        let mut trials = self.trials(first);
        let mut spent = self.cross_validate(&crew, begin, &Candidate::leave(), &mut trials)?;
        let start = trials[best_of(&trials, false)].candidate;
        let mut others = self.trials(second);
        if !others.is_empty() {
            spent = both(spent, self.cross_validate(&crew, begin, &start, &mut others)?);
        }
        // A named method is taken whatever the network as it is can do.
        let chosen = match method != Method::Auto && !others.is_empty() {
            true => trials.len() + best_of(&others, true),
            false => best_of(&trials.iter().chain(&others).collect::<Vec<_>>(), true),
        };
        trials.extend(others);
        let all: Vec<usize> = (0..self.data.len()).collect();
        let whole = Labelled { data: &self.data, samples: &all, seed: self.seed };
        let started = self.fit(&start, begin, whole)?;
        let fitted = |candidate: &Candidate| match (candidate.method.needs_no_labels(), &started) {
            (true, _) => self.fit(candidate, begin, whole),
            (false, Some(from)) => self.fit(candidate, from, whole),
            (false, None) => Ok(None),
        };
        let chosen = trials[chosen].candidate;
        let last = Stopwatch::start();
        let prepared = fitted(&chosen)?.ok_or(TrainError::Diverged { epoch: 1 })?;
        let (seconds, processor_seconds) = (begun.elapsed().as_secs_f64(), both(spent, last.processor_seconds()));
        if let Some(source) = &self.test {
            self.test(&crew, source, &mut trials, (&chosen, &prepared), fitted)?;
        }
        let leave = trials.iter().position(|trial| trial.candidate.method == Method::Leave);
        let tried = trials.iter().map(|trial| trial.record(leave.map(|place| &trials[place].score))).collect();
        Ok(Found { prepared, start, chosen, tried, seconds, processor_seconds })
    }

    fn trials(&self, candidates: Vec<Candidate>) -> Vec<Trial> {
        let trial = |candidate| Trial {
            candidate,
            score: Score::new(self.data.len()),
            test: None,
            seconds: 0.0,
            processor_seconds: Some(0.0),
        };
        candidates.into_iter().map(trial).collect()
    }

    /// Fits and judges every candidate in every fold. Gives the time of the processor of all of it, if the system tells.
    fn cross_validate(
        &self,
        crew: &Crew<'_>,
        begin: &Prepared,
        start: &Candidate,
        trials: &mut [Trial],
    ) -> Result<Option<f64>, TrainError> {
        // In every fold what the candidates begin with, and then these.
        let each = trials.len() + 1;
        let need = |task: usize| if task.is_multiple_of(each) { Vec::new() } else { vec![task - task % each] };
        let needs: Vec<Vec<usize>> = (0..self.folds.len() * each).map(need).collect();
        let rest: Vec<Vec<usize>> = self.folds.iter().map(|fold| without(self.data.len(), fold)).collect();
        let beginnings: Vec<Beginning> = self.folds.iter().map(|_| Beginning::new(trials.len())).collect();
        let judged = crew.run(&needs, |task| {
            let (fold, place) = (task / each, task % each);
            let labelled = Labelled { data: &self.data, samples: &rest[fold], seed: self.seed };
            let Some(place) = place.checked_sub(1) else {
                *locked(&beginnings[fold].prepared) = self.fit(start, begin, labelled)?.map(Arc::new);
                return Ok(None);
            };
            let fitted = match beginnings[fold].get() {
                Some(from) => self.fit(&trials[place].candidate, &from, labelled)?,
                None => None,
            };
            judge(&self.data, &self.folds[fold], fitted.as_ref())
        })?;
        let spent = judged.iter().map(|timed| timed.processor_seconds).sum();
        for (task, timed) in judged.into_iter().enumerate().filter(|(task, _)| task % each > 0) {
            let trial = &mut trials[task % each - 1];
            trial.score.put(&self.folds[task / each], timed.value);
            trial.seconds += timed.seconds;
            trial.processor_seconds = both(trial.processor_seconds, timed.processor_seconds);
        }
        Ok(spent)
    }

    /// Judges every candidate on the test part, fitted to all labels; `known` is one that has been fitted so.
    fn test(
        &self,
        crew: &Crew<'_>,
        source: &EvalSetSource<'_>,
        trials: &mut [Trial],
        known: (&Candidate, &Prepared),
        fitted: impl Fn(&Candidate) -> Result<Option<Prepared>, TrainError> + Sync,
    ) -> Result<(), TrainError> {
        // Most candidates leave the normalisation alone, and the images are large.
        let sets: Mutex<Vec<(Normalization, Arc<EvalSet>)>> = Mutex::new(Vec::new());
        let set_of = |normalization: &Normalization| {
            let mut sets = locked(&sets);
            if let Some((_, set)) = sets.iter().find(|(known, _)| known == normalization) {
                return Ok(Arc::clone(set));
            }
            let set = Arc::new(EvalSet::new(source.data, normalization, Some(source.samples))?);
            sets.push((normalization.clone(), Arc::clone(&set)));
            Ok::<_, TrainError>(set)
        };
        let accuracy = |Prepared { network, normalization }: &Prepared| match set_of(normalization)?.accuracy(network) {
            Err(TrainError::NonFiniteOutput) => Ok(0.0),
            accuracy => accuracy,
        };
        let judged = crew.run(&vec![Vec::new(); trials.len()], |place| {
            let candidate = &trials[place].candidate;
            if candidate == known.0 {
                return accuracy(known.1);
            }
            fitted(candidate)?.as_ref().map_or(Ok(0.0), accuracy)
        })?;
        trials.iter_mut().zip(judged).for_each(|(trial, judged)| trial.test = Some(judged.value));
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
}

/// What the candidates of a fold begin with, as long as one of them still needs it.
struct Beginning {
    prepared: Mutex<Option<Arc<Prepared>>>,
    left: AtomicUsize,
}

impl Beginning {
    fn new(candidates: usize) -> Self {
        Self { prepared: Mutex::new(None), left: AtomicUsize::new(candidates) }
    }

    /// For one of the candidates; none if it is no network.
    fn get(&self) -> Option<Arc<Prepared>> {
        let mut prepared = locked(&self.prepared);
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 { prepared.take() } else { prepared.clone() }
    }
}

/// All numbers below one that are not in an ascending list.
fn without(count: usize, fold: &[usize]) -> Vec<usize> {
    (0..count).filter(|sample| fold.binary_search(sample).is_err()).collect()
}

/// Two times together, if both are known.
fn both(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one? + other?)
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
            processor_seconds: self.processor_seconds,
        }
    }
}
