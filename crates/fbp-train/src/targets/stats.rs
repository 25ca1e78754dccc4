use serde::{Deserialize, Serialize};

use fbp_inverse::{BoundaryReport, ChainReport};

use super::record::{StageReport, TargetsReport};
use crate::store::ManifestParams;

/// Counts and sums over some samples; every shard keeps its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TargetStats {
    /// Number of samples.
    pub(super) samples: usize,
    /// Samples that the network classified as their label.
    pub(super) right_before: usize,
    /// Samples whose output already met the demand.
    pub(super) satisfied: usize,
    /// Each transitional stage.
    pub(super) stages: Vec<StageStats>,
}

/// Counts and sums of one stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct StageStats {
    /// Samples for which the frozen rest gives the label on the target.
    right: usize,
    /// Those of them that were wrong before.
    right_of_wrong: usize,
    distance_sq: f64,
    observed_sq: f64,
    missed: usize,
    corrected: usize,
    unattained: usize,
    violation_max: f64,
    violation_sum: f64,
}

impl StageStats {
    fn boundary(&self) -> BoundaryReport {
        BoundaryReport {
            distance_sq: self.distance_sq,
            observed_sq: self.observed_sq,
            missed: self.missed,
            corrected: self.corrected,
            unattained: self.unattained,
            violation_max: self.violation_max,
            violation_sum: self.violation_sum,
        }
    }

    /// Counts a sample whose target the frozen rest is right about, or not.
    pub(super) fn count_right(&mut self, right: bool, was_right: bool) {
        self.right += usize::from(right);
        self.right_of_wrong += usize::from(right && !was_right);
    }

    /// Counts a sample whose target is the observed feature.
    pub(super) fn add_satisfied(&mut self, right: bool, was_right: bool, observed_sq: f64) {
        self.count_right(right, was_right);
        self.observed_sq += observed_sq;
    }

    fn set_boundary(&mut self, report: BoundaryReport) {
        let BoundaryReport { distance_sq, observed_sq, missed, corrected, unattained, violation_max, violation_sum } =
            report;
        *self = Self { distance_sq, observed_sq, missed, corrected, unattained, violation_max, violation_sum, ..*self };
    }
}

impl TargetStats {
    /// Statistics of no samples.
    pub(super) fn empty(stages: usize) -> Self {
        Self { stages: vec![StageStats::default(); stages], ..Self::default() }
    }

    /// Whether all sums are numbers: they are not where a network overflows on its targets.
    pub(super) fn is_finite(&self) -> bool {
        let sums = |stage: &StageStats| {
            [stage.distance_sq, stage.observed_sq, stage.violation_max, stage.violation_sum]
                .iter()
                .all(|sum| sum.is_finite())
        };
        self.stages.iter().all(sums)
    }

    /// Counts a sample whose output already met the demand.
    pub(super) fn add_satisfied(&mut self, was_right: bool) {
        self.samples += 1;
        self.satisfied += 1;
        self.right_before += usize::from(was_right);
    }

    /// Takes over what the chain found; the last boundary, the output, is no transitional stage.
    pub(super) fn set_chain(&mut self, report: &ChainReport) {
        (self.samples, self.satisfied) = (report.samples, report.satisfied);
        for (stage, boundary) in self.stages.iter_mut().zip(&report.boundaries) {
            stage.set_boundary(*boundary);
        }
    }

    /// Adds the statistics of other samples.
    pub(super) fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.right_before += other.right_before;
        self.satisfied += other.satisfied;
        for (own, other) in self.stages.iter_mut().zip(&other.stages) {
            own.right += other.right;
            own.right_of_wrong += other.right_of_wrong;
            own.set_boundary(own.boundary().merge(other.boundary()));
        }
    }

    /// The report of a finished store, which took `seconds` in all its runs.
    pub(super) fn report(&self, params: &ManifestParams, seconds: f64) -> TargetsReport {
        let share = |part: usize, whole: usize| if whole == 0 { 1.0 } else { part as f64 / whole as f64 };
        let stages = params.stages.iter().zip(&self.stages).map(|(entry, stats)| StageReport {
            name: entry.name.clone(),
            frozen_rest_accuracy: share(stats.right, self.samples),
            frozen_rest_accuracy_of_wrong: share(stats.right_of_wrong, self.samples - self.right_before),
            violation_max: stats.violation_max,
            distance_relative: stats.boundary().distance_relative(),
            satisfied_before: self.satisfied,
            unattained: stats.unattained,
            corrected: stats.corrected,
        });
        TargetsReport {
            mode: params.mode,
            embedding: params.embedding,
            margin: params.margin,
            tolerance: params.tolerance,
            metric: params.metric,
            effort: params.effort,
            samples: self.samples,
            seconds,
            images_per_second: if seconds > 0.0 { self.samples as f64 / seconds } else { 0.0 },
            accuracy_before: share(self.right_before, self.samples),
            stages: stages.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(samples: usize, distance_sq: f64, violation_max: f64) -> TargetStats {
        let mut stats = TargetStats::empty(1);
        let boundary = BoundaryReport { distance_sq, observed_sq: 4.0, missed: 2, violation_max, ..Default::default() };
        let report = ChainReport { samples, satisfied: 1, boundaries: vec![boundary; 2], ..ChainReport::default() };
        stats.set_chain(&report);
        (stats.right_before, stats.stages[0].right) = (samples - 2, samples - 1);
        stats.stages[0].right_of_wrong = 1;
        stats
    }

    #[test]
    fn sums_of_tiles_give_the_shares_of_the_report() {
        let mut all = TargetStats::empty(1);
        all.add(&stats(10, 0.5, 0.25));
        all.add(&stats(30, 1.5, 0.125));
        let params = serde_json::from_value(serde_json::json!({
            "checkpoint_sha256": "", "model": "m", "data": {"name": "d", "sha256": "", "samples": 40},
            "mode": "attainable", "embedding": "margin", "margin": 1.0, "shard_samples": 40,
            "stages": [{"name": "conv1", "shape": [1, 1, 1], "dims": [1, 1, 1]}],
        }))
        .unwrap();
        let report = all.report(&params, 2.0);
        assert_eq!((report.samples, report.images_per_second, report.accuracy_before), (40, 20.0, 0.9));
        let stage = &report.stages[0];
        assert_eq!((stage.frozen_rest_accuracy, stage.frozen_rest_accuracy_of_wrong), (0.95, 0.5));
        assert_eq!((stage.violation_max, stage.distance_relative, stage.satisfied_before), (0.25, 0.5, 2));
    }
}
