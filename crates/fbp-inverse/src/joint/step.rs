//! One step of the joint iteration: the nearest points that satisfy the cuts.

use faer::MatMut;
use faer::dyn_stack::{MemStack, StackReq};
use faer::reborrow::ReborrowMut;
use fbp_linalg::{BoxedSample, LinalgError, MetricSample, Real, SplitBatch, column_mut, for_each_part};

use super::batch::Batch;
use super::cuts::{Cuts, MOST_CUTS, SampleCuts};
use super::metric::FeatureMetric;
use crate::chain::ChainWorkspace;
use crate::chain::ReverseChain;
use crate::{InverseError, Range};

/// Workspace of the step of one sample with features of `len` entries.
pub(crate) fn step_scratch<T: Real>(len: usize, with_metric: bool) -> StackReq {
    let euclidean = BoxedSample::<T>::solve_scratch(MOST_CUTS, len);
    if with_metric { euclidean.or(MetricSample::<T>::solve_scratch(MOST_CUTS, len)) } else { euclidean }
}

impl<T: Real> ReverseChain<T> {
    /// Moves every iterate to the nearest point that satisfies the cuts of its sample.
    pub(crate) fn step(
        &self,
        boundary: usize,
        metric: Option<&FeatureMetric<T>>,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        let first = self.starts[boundary];
        let len = work.lens[first];
        let joint = &mut work.joint;
        let context = StepContext {
            features: &work.features[first],
            open: &work.open,
            cuts: &joint.cuts,
            range: self.ranges[first],
            len,
            metric,
        };
        let iterates = joint.iterates[first].view_mut(len, joint.active.len());
        let part = step_scratch::<T>(len, metric.is_some());
        let run = |pass: StepPass<'_, T>, stack: &mut MemStack| context.solve(pass, stack);
        let merge = |left: Result<(), InverseError>, right| left.and(right);
        let pass = StepPass { active: &joint.active, iterates };
        for_each_part(pass, part, work.par, MemStack::new(&mut work.memory), &run, &merge)
    }
}

/// What the steps of all samples share.
struct StepContext<'a, T> {
    features: &'a Batch<T>,
    open: &'a [usize],
    cuts: &'a Cuts<T>,
    range: Range<T>,
    len: usize,
    /// None for the Euclidean one.
    metric: Option<&'a FeatureMetric<T>>,
}

/// The iterates of some active samples.
struct StepPass<'a, T> {
    active: &'a [usize],
    iterates: MatMut<'a, T>,
}

impl<T: Real> SplitBatch for StepPass<'_, T> {
    fn batch(&self) -> usize {
        self.active.len()
    }

    fn split_at(self, count: usize) -> (Self, Self) {
        let (left, right) = self.active.split_at(count);
        let (iterates_left, iterates_right) = self.iterates.split_at_col_mut(count);
        (Self { active: left, iterates: iterates_left }, Self { active: right, iterates: iterates_right })
    }
}

impl<T: Real> StepContext<'_, T> {
    fn solve(&self, mut pass: StepPass<'_, T>, stack: &mut MemStack) -> Result<(), InverseError> {
        for (at, &slot) in pass.active.iter().enumerate() {
            let SampleCuts { gradients: rows, mapped, values, lower, upper } =
                self.cuts.of(slot, self.len, self.metric.is_some());
            let in_layer = || InverseError::in_layer("chain");
            let solution = column_mut("chain", pass.iterates.rb_mut(), at).map_err(in_layer())?;
            let observed_in = self.features.column(self.len, self.open[slot]);
            let bounds = (self.range.lower, self.range.upper);
            let solved = match self.metric {
                None => {
                    let solution = &mut *solution;
                    BoxedSample { rows, observed_in, observed_out: values, lower, upper, bounds, solution }.solve(stack)
                }
                Some(metric) => MetricSample {
                    covariance: metric.covariance(),
                    rows,
                    mapped,
                    observed_in,
                    observed_out: values,
                    lower,
                    bounds,
                    solution: &mut *solution,
                }
                .solve(stack),
            };
            // Cuts that contradict each other give a compromise: the next linearisation tells whether it was one.
            match solved {
                // A linearisation that overflowed: the sample leaves the iteration with what it has.
                Err(LinalgError::NonFinite { .. }) => solution.fill(T::from_f64(f64::NAN)),
                solved => {
                    solved.map_err(in_layer())?;
                }
            }
        }
        Ok(())
    }
}
