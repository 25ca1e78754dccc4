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

impl Spread {
    /// Whether the mean of `n` differences is different from 0 by a two-sided t-test at the 5 % level.
    pub(super) fn differs_from_zero(&self, n: usize) -> bool {
        /// Quantiles at 97.5 % of Student's t distribution with 1 to 30 degrees of freedom.
        const T: [f64; 30] = [
            12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
            2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
        ];
        let quantile = n.checked_sub(2).map(|index| T.get(index).copied().unwrap_or(2.042));
        quantile.is_some_and(|t| self.mean.abs() > t * self.deviation / (n as f64).sqrt())
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

    #[test]
    fn few_runs_show_only_large_differences() {
        // t = mean √n / deviation: 2.6 for three runs (needs 4.3), 4.5 for nine (needs 2.3).
        let spread = Spread { mean: 1.5, deviation: 1.0 };
        assert!(!spread.differs_from_zero(3) && spread.differs_from_zero(9));
        assert!(!spread.differs_from_zero(1) && !spread.differs_from_zero(0));
        assert!(spread.differs_from_zero(1000));
    }
}
