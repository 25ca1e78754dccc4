use fbp_train::data::Augmentation;
use fbp_train::settings::{Keep, Measure, Objective, Schedule};
use fbp_train::train::PostTrainRecord;

use super::{Run, Runs};
use crate::statistics::{BOOTSTRAP_SEED, PairedComparison, Spread};

/// The runs that differ in their seeds alone.
#[derive(Clone, Debug)]
pub(super) struct Group<'a> {
    pub(super) stage: &'a str,
    pub(super) mode: Objective,
    pub(super) alpha: Option<f64>,
    /// Kind of the targets, empty where there are none or one kind alone.
    pub(super) kind: String,
    pub(super) hyper: Hyper,
    pub(super) runs: Vec<&'a Run>,
}

/// What tuning changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hyper {
    pub(super) learning_rate: f64,
    pub(super) schedule: Schedule,
    pub(super) epochs: usize,
    pub(super) batch: usize,
    pub(super) weight_decay: f64,
    pub(super) keep: Keep,
    /// Decay of an average of the weights that was kept.
    pub(super) ema: Option<f64>,
    /// How training images were changed at random.
    pub(super) augment: Augmentation,
}

impl Hyper {
    fn of(run: &Run) -> Self {
        let s = &run.settings;
        let (learning_rate, schedule, keep) = (s.learning_rate, s.schedule, s.keep);
        Self {
            learning_rate,
            schedule,
            epochs: s.epochs,
            batch: s.batch,
            weight_decay: s.weight_decay,
            keep,
            ema: run.ema,
            augment: s.augment,
        }
    }
}

impl<'a> Group<'a> {
    /// Groups records in their order.
    pub(super) fn all(runs: &'a Runs) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for run in &runs.post_train {
            let settings = &run.settings;
            let group = Self {
                stage: &settings.stage,
                mode: settings.mode,
                alpha: settings.alpha,
                kind: kind_of(runs, run),
                hyper: Hyper::of(run),
                runs: Vec::new(),
            };
            let place = groups.iter().position(|other| other.is_like(&group) && other.hyper == group.hyper);
            let place = place.unwrap_or_else(|| {
                groups.push(group);
                groups.len() - 1
            });
            groups[place].runs.push(run);
        }
        groups
    }

    /// Of the groups that differ in what tuning changes, the best one on the validation part, in their order.
    pub(super) fn tuned(groups: &[Self]) -> Vec<&Self> {
        let mut best: Vec<&Self> = Vec::new();
        for group in groups {
            match best.iter_mut().find(|other| other.is_like(group)) {
                Some(other) if group.is_better_than(other) => *other = group,
                Some(_) => {}
                None => best.push(group),
            }
        }
        best
    }

    /// What was measured.
    pub(super) fn measure(&self) -> Measure {
        self.runs.first().map_or(Measure::Accuracy, |run| run.measure())
    }

    /// Whether it is better on the validation part; what has none is worse than what has one.
    pub(super) fn is_better_than(&self, other: &Self) -> bool {
        match (self.validation(), other.validation()) {
            (Some(own), Some(other)) => self.measure().is_better(own, other),
            (own, other) => own.is_some() && other.is_none(),
        }
    }

    /// Whether only what tuning changes may differ.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.stage, self.mode, self.alpha, &self.kind) == (other.stage, other.mode, other.alpha, &other.kind)
    }

    /// Whether this is plain fine-tuning, of every stage or of those up to one.
    pub(super) fn is_baseline(&self) -> bool {
        self.mode == Objective::Full || self.mode == Objective::Joint && self.alpha == Some(0.0)
    }

    /// Whether targets take part.
    pub(super) fn uses_targets(&self) -> bool {
        self.mode.may_use_targets() && !self.is_baseline()
    }

    /// What a line of a chart or table is called.
    pub(super) fn label(&self) -> String {
        let text = match (self.alpha, self.mode) {
            (None, Objective::Full) => "plain fine-tuning".into(),
            (None, Objective::Tail) => "fine-tuning above it, its features computed once (tail)".into(),
            (None, Objective::ClosedForm) => "one layer solved for its targets (closed-form)".into(),
            (None, Objective::Hierarchical) => "all segments at once, each for its targets (hierarchical)".into(),
            (None, Objective::Head) => "refit of the last layer (head)".into(),
            (None, Objective::Joint | Objective::Local) => "targets alone (local)".into(),
            (Some(0.0), _) => "α = 0 (plain fine-tuning)".into(),
            (Some(alpha), _) => format!("α = {alpha}"),
        };
        if self.kind.is_empty() { text } else { format!("{text} ({})", self.kind) }
    }

    /// Its name in tables.
    pub(super) fn name(&self) -> String {
        let alpha = self.alpha.map(|alpha| format!(" α = {alpha}")).unwrap_or_default();
        format!("{}{alpha}, {}", self.mode, self.stage)
    }

    /// Learning rate with its schedule, as far as the mode has one.
    pub(super) fn rate(&self) -> String {
        let Hyper { learning_rate, schedule, ema, augment, .. } = self.hyper;
        if matches!(self.mode, Objective::Head | Objective::ClosedForm) {
            return "–".into();
        }
        let schedule = if schedule == Schedule::Cosine { " cosine" } else { "" };
        let average = ema.map(|decay| format!(", weights averaged ({decay})")).unwrap_or_default();
        let changed = if augment.is_none() { String::new() } else { format!(", images changed ({augment})") };
        format!("{learning_rate}{schedule}{average}{changed}")
    }

    /// Number of epochs that all runs have.
    pub(super) fn epochs(&self) -> usize {
        self.runs.iter().map(|run| run.scores.test.len()).min().unwrap_or(0)
    }

    fn spread(&self, of: impl Fn(&PostTrainRecord) -> Option<f64>) -> Option<Spread> {
        Spread::of(&self.runs.iter().filter_map(|run| of(&run.record)).collect::<Vec<_>>())
    }

    /// Test accuracy, or RMSE of outputs, after `epoch` epochs over the seeds; epoch 0 is the start.
    pub(super) fn score(&self, epoch: usize) -> Option<Spread> {
        self.spread(|run| match epoch {
            0 => Some(run.scores.before),
            _ => run.scores.test.get(epoch - 1).copied(),
        })
    }

    /// Test accuracy of the results, or RMSE of outputs.
    pub(super) fn result(&self) -> Option<Spread> {
        self.spread(|run| Some(run.result()))
    }

    /// Gain of the results over their starts.
    pub(super) fn gain(&self) -> f64 {
        self.spread(|run| Some(run.measure().gain(run.result(), run.scores.before))).map_or(0.0, |spread| spread.mean)
    }

    /// Accuracy of the results on the validation part, by which settings are chosen; none if a run has none.
    pub(super) fn validation(&self) -> Option<f64> {
        let of = |run: &&Run| match &run.chosen {
            Some(chosen) => chosen.scores.validation,
            None => run.scores.validation.last().copied(),
        };
        let all: Option<Vec<f64>> = self.runs.iter().map(of).collect();
        Spread::of(&all?).map(|spread| spread.mean)
    }

    /// Best epoch of each run, over the seeds.
    pub(super) fn best(&self) -> Option<Spread> {
        let better = |a: f64, b: f64| if self.measure().is_better(b, a) { b } else { a };
        self.spread(|run| run.scores.test.iter().copied().reduce(better))
    }

    /// Mean time of a run, without evaluations where that is known.
    pub(super) fn seconds(&self) -> f64 {
        let of = |run: &PostTrainRecord| if run.training_seconds > 0.0 { run.training_seconds } else { run.seconds };
        self.spread(|run| Some(of(run))).map_or(0.0, |spread| spread.mean)
    }

    /// Time of all its runs.
    pub(super) fn total_seconds(&self) -> f64 {
        self.seconds() * self.runs.len() as f64
    }

    /// Gains of the results over another group, paired by checkpoint and seed: differences of accuracies, or the share of the other
    /// group's RMSE that is gone.
    pub(super) fn against(&self, yardstick: &Self) -> Option<PairedComparison> {
        let key = |run: &'a Run| (run.settings.seed, run.settings.checkpoint_sha256.as_str());
        let pair = |run: &&'a Run| {
            let other = yardstick.runs.iter().find(|other| key(other) == key(run))?;
            Some(run.measure().gain(run.result(), other.result()))
        };
        let differences: Vec<f64> = self.runs.iter().filter_map(pair).collect();
        PairedComparison::of(&differences, BOOTSTRAP_SEED)
    }

    /// What this tuned group is measured by: plain fine-tuning of the same stages, with the same settings and tuned, and
    /// tuned fine-tuning of all stages.
    pub(super) fn yardsticks<'b>(&self, all: &'b [Self], tuned: &[&'b Self]) -> Vec<&'b Self> {
        if self.is_baseline() {
            return Vec::new();
        }
        let same_stage = |other: &Self| other.is_baseline() && other.stage == self.stage;
        let mut found: Vec<&'b Self> =
            all.iter().filter(|other| same_stage(other) && other.hyper == self.hyper).collect();
        let tuned = tuned.iter().filter(|other| same_stage(other) || other.mode == Objective::Full);
        for other in tuned {
            if !found.iter().any(|known| std::ptr::eq(*known, *other)) {
                found.push(other);
            }
        }
        found
    }
}

/// What kind of targets a run used, if those of its start are of several kinds.
fn kind_of(runs: &Runs, run: &Run) -> String {
    let own = run.targets_name();
    let same_start = |other: &&Run| other.settings.checkpoint_sha256 == run.settings.checkpoint_sha256;
    let mut others = runs.post_train.iter().filter(same_start).map(Run::targets_name).filter(|name| !name.is_empty());
    if own.is_empty() || others.all(|other| other == own) { String::new() } else { own }
}
