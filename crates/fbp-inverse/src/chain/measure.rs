use fbp_linalg::Real;

use super::reverse::ChainGoal;
use super::workspace::ChainWorkspace;
use super::{BoundaryReport, ReverseChain};
use crate::joint::SampleGoal;

impl<T: Real> ReverseChain<T> {
    /// Distances moved and violations left at a boundary, recomputed from the data.
    pub(crate) fn measure(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        work: &ChainWorkspace<T>,
        report: &mut BoundaryReport,
    ) {
        let k = self.starts[boundary];
        let rows = work.lens[k];
        for sample in 0..work.batch {
            let observed = work.features[k].column(rows, sample);
            report.observed_sq += observed.iter().map(|v| v.to_f64() * v.to_f64()).sum::<f64>();
        }
        for (slot, &sample) in work.open.iter().enumerate() {
            let observed = work.features[k].column(rows, sample);
            let target = work.targets[boundary].column(rows, sample);
            let moved = observed.iter().zip(target).map(|(v, t)| (*t - *v).to_f64());
            report.distance_sq += moved.map(|step| step * step).sum::<f64>();
            let output = work.pushed[boundary].column(self.out_len(), slot);
            let violation = SampleGoal::of(goal, sample).violation(output);
            report.violation_max = report.violation_max.max(violation);
            report.violation_sum += violation;
        }
    }

    /// Output of the frozen rest on the target of a sample at a boundary; the observed output for satisfied samples.
    ///
    /// # Panics
    /// If there is no such boundary or sample, or `work` belongs to another chain.
    pub fn pushed<'w>(&self, boundary: usize, sample: usize, work: &'w ChainWorkspace<T>) -> &'w [T] {
        let rows = self.out_len();
        match work.open.binary_search(&sample) {
            Ok(slot) => work.pushed[boundary].column(rows, slot),
            Err(_) => work.features[self.operators.len()].column(rows, sample),
        }
    }

    /// Whether the target of a sample at a boundary reaches the goal, as [`BoundaryReport`] defines it.
    ///
    /// # Panics
    /// If there is no such boundary or sample, or `work` belongs to another chain.
    pub fn attained(&self, boundary: usize, sample: usize, work: &ChainWorkspace<T>) -> bool {
        work.open.binary_search(&sample).is_err() || !work.missed[boundary * work.capacity + sample]
    }
}
