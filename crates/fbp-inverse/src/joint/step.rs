//! One step of the joint iteration: the nearest points that satisfy the cuts.

use faer::dyn_stack::{MemStack, StackReq};
use faer::reborrow::ReborrowMut;
use faer::{MatMut, MatRef};
use fbp_linalg::{Bounds, BoxedSample, LinalgError, MetricSample, Real, SplitBatch, column, column_mut, for_each_part};

use super::cuts::{Cuts, SampleCuts};
use super::iterates::Iterates;
use super::metric::FeatureMetric;
use super::problem::Problem;
use crate::InverseError;

/// Workspace of the step of one sample with features of `len` entries and up to `cuts` cuts.
pub(super) fn step_scratch<T: Real>(len: usize, with_metric: bool, cuts: usize) -> StackReq {
    let euclidean = BoxedSample::<T>::solve_scratch(cuts, len);
    if with_metric { euclidean.or(MetricSample::<T>::solve_scratch(cuts, len)) } else { euclidean }
}

impl<T: Real> Problem<'_, T> {
    /// Moves every iterate to the nearest point that satisfies the cuts of its sample.
    pub(super) fn step(
        &self,
        metric: Option<&FeatureMetric<T>>,
        iterates: &mut Iterates<T>,
        cuts: &Cuts<T>,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let _span = tracing::trace_span!("nearest").entered();
        let context = StepContext { problem: Given::of(self), cuts, metric };
        let part = step_scratch::<T>(self.len(), metric.is_some(), cuts.most());
        let run = |pass: StepPass<'_, T>, stack: &mut MemStack| context.solve(pass, stack);
        let merge = |left: Result<(), InverseError>, right| left.and(right);
        let (active, iterates) = iterates.points_mut();
        for_each_part(StepPass { active, iterates }, part, self.par, stack, &run, &merge)
    }
}

/// What of a problem the steps need: threads share it, which need not hold for a rest.
struct Given<'a, T> {
    name: &'a str,
    observed: MatRef<'a, T>,
    bounds: Bounds<'a, T>,
}

impl<'a, T: Real> Given<'a, T> {
    fn of(problem: &Problem<'a, T>) -> Self {
        Self { name: problem.rest.name(), observed: problem.observed, bounds: problem.bounds() }
    }
}

/// What the steps of all samples share.
struct StepContext<'a, T> {
    problem: Given<'a, T>,
    cuts: &'a Cuts<T>,
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
        let Given { name, observed, bounds } = self.problem;
        for (at, &sample) in pass.active.iter().enumerate() {
            let SampleCuts { gradients: rows, mapped, values, lower, upper } =
                self.cuts.of(sample, observed.nrows(), self.metric.is_some());
            let in_layer = || InverseError::in_layer(name);
            let solution = column_mut("iterate", pass.iterates.rb_mut(), at).map_err(in_layer())?;
            let observed_in = column("observed", observed, sample).map_err(in_layer())?;
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
