use faer::{MatRef, Par};
use fbp_linalg::Real;

use super::goal::{JointGoal, SampleGoal};
use super::rest::FrozenRest;
use crate::Interval;

/// What the searches for targets of one feature are given.
///
/// Samples are numbered as the columns of the batch. *Open samples* are those whose observed output misses the goal: only
/// they are searched for.
#[derive(Clone, Copy)]
pub(crate) struct Problem<'a, T> {
    pub(crate) rest: &'a dyn FrozenRest<T>,
    /// Observed features: `in × N`, contiguous columns.
    pub(crate) observed: MatRef<'a, T>,
    /// What the rest makes of them.
    pub(crate) observed_out: MatRef<'a, T>,
    pub(crate) goal: JointGoal<'a, T>,
    /// The open samples, in order.
    pub(crate) open: &'a [usize],
    pub(crate) par: Par,
}

impl<'a, T: Real> Problem<'a, T> {
    /// The observed feature of a sample.
    pub(super) fn observed(&self, sample: usize) -> &'a [T] {
        fbp_linalg::column("observed", self.observed, sample).expect("columns are contiguous")
    }

    /// The observed output of a sample.
    pub(super) fn observed_out(&self, sample: usize) -> &'a [T] {
        fbp_linalg::column("observed_out", self.observed_out, sample).expect("columns are contiguous")
    }

    /// The goal of a sample.
    pub(super) fn goal_of(&self, sample: usize) -> SampleGoal<'a, T> {
        self.goal.of(sample)
    }

    /// Where targets may lie.
    pub(super) fn interval(&self) -> Interval<T> {
        self.rest.interval()
    }

    /// Length of the feature.
    pub(super) fn len(&self) -> usize {
        self.rest.in_len()
    }
}

/// Squared norm.
pub(super) fn norm_sq<T: Real>(values: &[T]) -> f64 {
    values.iter().map(|v| v.to_f64() * v.to_f64()).sum::<f64>()
}

/// Squared distance.
pub(super) fn distance_sq<T: Real>(a: &[T], b: &[T]) -> f64 {
    let steps = a.iter().zip(b).map(|(a, b)| (*a - *b).to_f64());
    steps.map(|step| step * step).sum::<f64>()
}
