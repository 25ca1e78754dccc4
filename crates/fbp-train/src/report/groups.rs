use super::comparison::BOOTSTRAP_SEED;
use crate::record::PostTrainRecord;
use crate::settings::Objective;
use crate::statistics::{PairedComparison, Spread};

/// The runs of one stage, objective and α, one for each seed.
#[derive(Clone, Debug)]
pub(super) struct Group<'a> {
    pub(super) stage: &'a str,
    pub(super) mode: Objective,
    pub(super) alpha: Option<f64>,
    pub(super) runs: Vec<&'a PostTrainRecord>,
}

impl<'a> Group<'a> {
    /// Groups neighbours; records are sorted by stage, mode and α.
    pub(super) fn all(records: &'a [PostTrainRecord]) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for run in records {
            let settings = &run.settings;
            let (stage, mode, alpha) = (settings.stage.as_str(), settings.mode, settings.alpha);
            match groups.last_mut() {
                Some(last) if (last.stage, last.mode, last.alpha) == (stage, mode, alpha) => last.runs.push(run),
                _ => groups.push(Self { stage, mode, alpha, runs: vec![run] }),
            }
        }
        groups
    }

    /// Whether this is plain fine-tuning, of every stage or of those up to one.
    pub(super) fn is_baseline(&self) -> bool {
        self.mode == Objective::Full || self.mode == Objective::Joint && self.alpha == Some(0.0)
    }

    /// What a line of a chart or table is called.
    pub(super) fn label(&self) -> String {
        match self.alpha {
            None => match self.mode {
                Objective::Full => "plain fine-tuning".into(),
                Objective::Tail => "fine-tuning above it, its features computed once (tail)".into(),
                Objective::ClosedForm => "one layer solved for its targets (closed-form)".into(),
                Objective::Hierarchical => "all segments at once, each for its targets (hierarchical)".into(),
                Objective::Head => "refit of the last layer (head)".into(),
                Objective::Joint | Objective::Local => "targets alone (local)".into(),
            },
            Some(0.0) => "α = 0 (plain fine-tuning)".into(),
            Some(alpha) => format!("α = {alpha}"),
        }
    }

    /// Its name in tables.
    pub(super) fn name(&self) -> String {
        let alpha = self.alpha.map(|alpha| format!(" α = {alpha}")).unwrap_or_default();
        format!("{}{alpha}, {}", self.mode, self.stage)
    }

    /// Number of epochs that all runs have.
    pub(super) fn epochs(&self) -> usize {
        self.runs.iter().map(|run| run.test_accuracy.len()).min().unwrap_or(0)
    }

    /// Test accuracy after `epoch` epochs over the seeds; epoch 0 is the start.
    pub(super) fn accuracy(&self, epoch: usize) -> Option<Spread> {
        let at = |run: &&PostTrainRecord| match epoch {
            0 => Some(run.test_accuracy_before),
            _ => run.test_accuracy.get(epoch - 1).copied(),
        };
        Spread::of(&self.runs.iter().filter_map(at).collect::<Vec<_>>())
    }

    /// Best epoch of each run, over the seeds.
    pub(super) fn best(&self) -> Option<Spread> {
        let best = |run: &&PostTrainRecord| run.test_accuracy.iter().copied().reduce(f64::max);
        Spread::of(&self.runs.iter().filter_map(best).collect::<Vec<_>>())
    }

    /// Mean time of a run.
    pub(super) fn seconds(&self) -> f64 {
        Spread::of(&self.runs.iter().map(|run| run.seconds).collect::<Vec<_>>()).map_or(0.0, |spread| spread.mean)
    }

    /// Differences of the results' accuracies to another group, paired by seed.
    pub(super) fn against(&self, yardstick: &Self) -> Option<PairedComparison> {
        let pair = |run: &&PostTrainRecord| {
            let same = |other: &&&PostTrainRecord| other.settings.seed == run.settings.seed;
            let other = yardstick.runs.iter().find(same)?;
            Some(run.result() - other.result())
        };
        let differences: Vec<f64> = self.runs.iter().filter_map(pair).collect();
        PairedComparison::of(&differences, BOOTSTRAP_SEED)
    }

    /// What this group is measured by: plain fine-tuning of the same stages and of all.
    pub(super) fn yardsticks<'b>(&self, groups: &'b [Self]) -> Vec<&'b Self> {
        if self.is_baseline() {
            return Vec::new();
        }
        let is_yardstick =
            |other: &&Self| other.is_baseline() && (other.stage == self.stage || other.mode == Objective::Full);
        groups.iter().filter(is_yardstick).collect()
    }
}
