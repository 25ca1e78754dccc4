use crate::record::PostTrainRecord;
use crate::settings::Objective;

/// Mean and spread of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) mean: f64,
    /// Standard deviation with `n - 1`; 0 for a single number.
    pub(super) deviation: f64,
}

impl Spread {
    /// `None` if there are no numbers.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self { mean, deviation: if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 } })
    }
}

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

    /// Whether this is plain fine-tuning.
    pub(super) fn is_baseline(&self) -> bool {
        self.mode == Objective::Joint && self.alpha == Some(0.0)
    }

    /// What a line of a chart or table is called.
    pub(super) fn label(&self) -> String {
        match self.alpha {
            None => "targets alone (local)".into(),
            Some(0.0) => "α = 0 (plain fine-tuning)".into(),
            Some(alpha) => format!("α = {alpha}"),
        }
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

    /// Difference of the last accuracies to another group, paired by seed.
    pub(super) fn against(&self, baseline: &Self) -> Option<Spread> {
        let pairs: Vec<f64> = self
            .runs
            .iter()
            .filter_map(|run| {
                let same = |other: &&&PostTrainRecord| other.settings.seed == run.settings.seed;
                let other = baseline.runs.iter().find(same)?;
                Some(run.test_accuracy.last()? - other.test_accuracy.last()?)
            })
            .collect();
        Spread::of(&pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_the_sample_standard_deviation() {
        let spread = Spread::of(&[1.0, 2.0, 4.0]).unwrap();
        assert!((spread.mean - 7.0 / 3.0).abs() < 1e-15);
        // ((16 + 1 + 25) / 9) / 2 = 7/3.
        assert!((spread.deviation - (7.0_f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(Spread::of(&[3.0]), Some(Spread { mean: 3.0, deviation: 0.0 }));
        assert_eq!(Spread::of(&[]), None);
    }
}
