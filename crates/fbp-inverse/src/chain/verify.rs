use faer::dyn_stack::MemStack;
use fbp_linalg::Real;

use super::reverse::{ChainGoal, TargetMode};
use super::workspace::ChainWorkspace;
use super::{ChainReport, ReverseChain};
use crate::InverseError;

/// Share of the margin (or of the largest target) by which a goal may be missed and still count as reached.
const SLACK: f64 = 1e-2;

/// The goal of one sample at the output of the chain.
#[derive(Clone, Copy)]
pub(super) enum SampleGoal<'a, T> {
    /// The label's logit exceeds every other one by the margin.
    Margin { label: usize, margin: f64 },
    /// The output lies in the box.
    Box { lower: &'a [T], upper: &'a [T] },
}

impl<'a, T: Real> SampleGoal<'a, T> {
    pub(super) fn of(goal: &ChainGoal<'a, T>, sample: usize) -> Self {
        match goal.margins {
            Some(margins) => Self::Margin { label: margins.labels[sample], margin: margins.margin },
            None => Self::Box {
                lower: contiguous(goal.target_out.lower, sample),
                upper: contiguous(goal.target_out.upper, sample),
            },
        }
    }

    /// How far the output is from the goal; 0 if it is reached.
    pub(super) fn violation(&self, output: &[T]) -> f64 {
        match *self {
            Self::Margin { label, margin } => {
                let rival = output.iter().enumerate().filter(|(class, _)| *class != label);
                let rival = rival.map(|(_, logit)| logit.to_f64()).fold(f64::NEG_INFINITY, f64::max);
                (margin - (output[label].to_f64() - rival)).max(0.0)
            }
            Self::Box { lower, upper } => {
                let distance = |i: usize| (output[i].clip(lower[i], upper[i]) - output[i]).abs().to_f64();
                (0..output.len()).map(distance).fold(0.0, f64::max)
            }
        }
    }

    /// Violation that counts as reached: a share of what is asked for, and rounding.
    pub(super) fn tolerance(&self, output: &[T]) -> f64 {
        let scale = output.iter().map(|v| v.abs().to_f64()).fold(0.0, f64::max);
        let rounding = 64.0 * T::EPSILON.to_f64() * scale;
        rounding
            + SLACK
                * match *self {
                    Self::Margin { margin, .. } => margin,
                    Self::Box { .. } => 0.1 * scale,
                }
    }
}

/// A column of a view that `check_goal` has found contiguous.
fn contiguous<'a, T: Real>(view: faer::MatRef<'a, T>, index: usize) -> &'a [T] {
    fbp_linalg::column("chain", view, index).unwrap_or(&[])
}

impl<T: Real> ReverseChain<T> {
    /// Pushes the targets of every boundary through the frozen rest, corrects misses, and fills the report.
    pub(super) fn verify(
        &self,
        goal: &ChainGoal<'_, T>,
        mode: TargetMode,
        work: &mut ChainWorkspace<T>,
        report: &mut ChainReport,
    ) -> Result<(), InverseError> {
        for boundary in 0..self.boundaries() {
            self.push_targets(boundary, work)?;
            let rows = self.out_len();
            for slot in 0..work.open.len() {
                let sample = work.open[slot];
                let goal = SampleGoal::of(goal, sample);
                let entry = &mut report.boundaries[boundary];
                let mut output = work.pushed[boundary].column(rows, slot);
                let mut missed = goal.violation(output) > goal.tolerance(output);
                entry.missed += usize::from(missed);
                if missed && mode == TargetMode::Attainable && self.correct(boundary, slot, goal, work)? {
                    entry.corrected += 1;
                    missed = false;
                }
                output = work.pushed[boundary].column(rows, slot);
                let violation = goal.violation(output);
                entry.unattained += usize::from(missed);
                entry.violation_max = entry.violation_max.max(violation);
                entry.violation_sum += violation;
                work.missed[boundary * work.capacity + sample] = missed;
            }
            self.measure(boundary, work, report);
        }
        Ok(())
    }

    /// Output of the frozen rest on the targets of the open samples at a boundary, into `work.pushed`.
    fn push_targets(&self, boundary: usize, work: &mut ChainWorkspace<T>) -> Result<(), InverseError> {
        let open = work.open.len();
        let first = self.starts[boundary];
        let rows = work.lens[first];
        for (slot, &sample) in work.open.iter().enumerate() {
            let column = work.targets[boundary].column(rows, sample);
            work.gathered[first % 2].column_mut(rows, slot).copy_from_slice(column);
        }
        for k in first..self.operators.len() {
            let [even, odd] = &mut work.gathered;
            let (input, output) = if k % 2 == 0 { (even, odd) } else { (odd, even) };
            let input = input.view(work.lens[k], open);
            let output = output.view_mut(work.lens[k + 1], open);
            self.operators[k].forward(input, output, work.par, MemStack::new(&mut work.memory))?;
        }
        let rows = self.out_len();
        let output = work.gathered[self.operators.len() % 2].view(rows, open);
        work.pushed[boundary].view_mut(rows, open).copy_from(output);
        Ok(())
    }

    /// Distances moved at a boundary.
    fn measure(&self, boundary: usize, work: &ChainWorkspace<T>, report: &mut ChainReport) {
        let k = self.starts[boundary];
        let rows = work.lens[k];
        let entry = &mut report.boundaries[boundary];
        for sample in 0..work.batch {
            let observed = work.features[k].column(rows, sample);
            entry.observed_sq += observed.iter().map(|v| v.to_f64() * v.to_f64()).sum::<f64>();
        }
        for &sample in &work.open {
            let observed = work.features[k].column(rows, sample);
            let target = work.targets[boundary].column(rows, sample);
            let moved = observed.iter().zip(target).map(|(v, t)| (*t - *v).to_f64());
            entry.distance_sq += moved.map(|step| step * step).sum::<f64>();
        }
    }

    /// Output of the frozen rest on the target of a sample at a boundary; the observed output for satisfied samples.
    pub fn pushed<'w>(&self, boundary: usize, sample: usize, work: &'w ChainWorkspace<T>) -> &'w [T] {
        let rows = self.out_len();
        match work.open.binary_search(&sample) {
            Ok(slot) => work.pushed[boundary].column(rows, slot),
            Err(_) => work.features[self.operators.len()].column(rows, sample),
        }
    }

    /// Whether the target of a sample at a boundary reaches the goal.
    pub fn attained(&self, boundary: usize, sample: usize, work: &ChainWorkspace<T>) -> bool {
        work.open.binary_search(&sample).is_err() || !work.missed[boundary * work.capacity + sample]
    }
}
