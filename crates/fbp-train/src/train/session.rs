use std::ops::Range;
use std::time::Instant;

use fbp_models::{AdamW, AdamWParams, Network};

use super::aim::Aim;
use super::choice::{Choice, Chosen, Judged};
use super::curves::PostTrainCurves;
use super::epochs::{Course, Log};
use super::host::Host;
use super::options::PostTrainOptions;
use super::pace::Pace;
use super::slices::Slices;
use super::source::Source;
use crate::TrainError;
use crate::data::{DataBundle, Split};
use crate::evaluate::EvalSet;
use crate::progress::Progress;
use crate::scores::{ChosenScores, PostTrainScores};
use crate::settings::{Keep, LossKind, Measure, Objective};

/// What every objective is run with.
pub(super) struct Session<'a> {
    pub(super) data: &'a DataBundle,
    pub(super) split: Split,
    pub(super) options: &'a PostTrainOptions,
    pub(super) progress: &'a dyn Progress,
    pub(super) host: Host<'a>,
}

impl Session<'_> {
    /// The training of some stages on what `source` gives.
    pub(super) fn course<'b>(
        &'b self,
        network: &Network,
        stages: Range<usize>,
        source: Source<'b>,
    ) -> Result<Course<'b>, TrainError> {
        let PostTrainOptions { learning_rate, weight_decay, schedule, epochs, ema, seed, .. } = *self.options;
        let params = AdamWParams { learning_rate, weight_decay, ..AdamWParams::default() };
        Ok(Course {
            optimiser: AdamW::new(network.vars_of(stages)?, params)?,
            judged: Judged::new(network, ema)?,
            pace: Pace::new(learning_rate, schedule, epochs * source.batches()),
            source,
            epochs,
            seed,
            progress: self.progress,
            state: self.host.state.map(|files| files.part("")),
            slices: None,
        })
    }

    /// The same by all ranks of the team, each on its slice of every batch, if there are several. The network is in a group
    /// until [`Selection::run`] ends.
    pub(super) fn course_of_team<'b>(
        &'b self,
        network: &mut Network,
        stages: Range<usize>,
        source: Source<'b>,
    ) -> Result<Course<'b>, TrainError> {
        let course = self.course(network, stages, source)?;
        let state = course.state.filter(|_| self.host.is_first());
        Ok(Course { state, slices: Slices::join(network, &self.host.team)?, ..course })
    }

    /// The score of a network; of one that all ranks of the team have by all of them.
    pub(super) fn score(&self, set: &EvalSet, network: &Network) -> Result<f64, TrainError> {
        match self.options.objective {
            Objective::Full => set.score_of_team(network, &*self.host.team),
            _ => set.score(network),
        }
    }

    /// What is measured.
    pub(super) fn measure(&self) -> Measure {
        Measure::of(&self.data.train)
    }

    /// What is made small.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a loss that is not for such data.
    pub(super) fn loss(&self) -> Result<LossKind, TrainError> {
        LossKind::of(self.options.loss, &self.data.train)
    }

    /// Curves that begin with the score of the start on the test set.
    pub(super) fn curves(&self, network: &Network) -> Result<PostTrainCurves, TrainError> {
        let before = self.score(&self.test()?, network)?;
        let scores = PostTrainScores { measure: self.measure(), before, ..PostTrainScores::default() };
        Ok(PostTrainCurves { scores, ..PostTrainCurves::default() })
    }

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
        (epoch, validation): (usize, Option<f64>),
    ) -> Result<(), TrainError> {
        let test = match (self.options.objective, epoch) {
            // Has been evaluated.
            (Objective::Joint | Objective::Local, 1..) => curves.scores.test[epoch - 1],
            (_, 0) => curves.scores.before,
            _ => self.score(&self.test()?, network)?,
        };
        if !matches!(self.options.objective, Objective::Joint | Objective::Local) {
            curves.scores.test = vec![test];
        }
        let scores = ChosenScores { measure: self.measure(), validation, test };
        curves.chosen = Some(Chosen { epoch, scores });
        Ok(())
    }
}

/// How the state of a training that becomes its result is found.
pub(super) struct Selection<'a> {
    pub(super) keep: Keep,
    pub(super) measure: Measure,
    /// Score on the validation part; none without one.
    pub(super) validate: &'a dyn Fn(&Network) -> Result<Option<f64>, TrainError>,
    /// What is looked at after every epoch too, where the protocol asks for it.
    pub(super) test: Option<&'a EvalSet>,
}

impl Selection<'_> {
    /// Trains, notes every epoch in `curves` and puts the state that is kept into `network`; gives its epoch and its
    /// score on the validation part. Afterwards no stage is frozen.
    pub(super) fn run(
        &self,
        network: &mut Network,
        mut course: Course<'_>,
        aim: &mut dyn Aim,
        curves: &mut PostTrainCurves,
    ) -> Result<(usize, Option<f64>), TrainError> {
        let choice = Choice::new((self.keep, self.measure), network, (self.validate)(network)?)?;
        let mut log = Log { choice, curves: std::mem::take(curves) };
        course.run(network, aim, &mut log, &mut |epoch, Log { choice, curves }| {
            curves.training_seconds += epoch.seconds;
            epoch.means.store(curves);
            if let Some(test) = self.test {
                curves.scores.test.push(test.score(epoch.state)?);
            }
            let score = (self.validate)(epoch.state)?;
            curves.scores.validation.extend(score);
            choice.offer(epoch.number, epoch.state, score)
        })?;
        *curves = log.curves;
        network.set_group(None);
        course.judged.take(network);
        let chosen = log.choice.restore(network);
        network.set_training(false);
        network.freeze(0..0)?;
        Ok(chosen)
    }
}

/// Whether a score is better than another one; what is known is better than what is not.
pub(super) fn is_better(measure: Measure, new: Option<f64>, old: Option<f64>) -> bool {
    match (new, old) {
        (Some(new), Some(old)) => measure.is_better(new, old),
        (new, _) => new.is_some(),
    }
}

/// Ends work without steps of its own between two of its parts, if that is asked.
///
/// # Errors
/// [`TrainError::Stopped`].
pub(super) fn check_stop(progress: &dyn Progress) -> Result<(), TrainError> {
    let left = || "nothing is kept of work that takes so little time; the same command starts it again".to_owned();
    if progress.stop_asked() { Err(TrainError::Stopped { left: left() }) } else { Ok(()) }
}

/// Adds the time since `begun`.
pub(super) fn add_time(curves: &mut PostTrainCurves, begun: Instant) {
    curves.training_seconds += begun.elapsed().as_secs_f64();
}

/// Every stage of a network.
pub(super) fn all_stages(network: &Network) -> Range<usize> {
    0..network.stages().len()
}
