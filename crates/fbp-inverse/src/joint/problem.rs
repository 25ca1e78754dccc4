use faer::{MatRef, Par};
use fbp_linalg::{Bounds, Real, norm_sq};

use super::goal::{JointGoal, SampleGoal};
use super::rest::FrozenRest;

/// How much is spent on nearer targets once they are at the goal. Where the rest is linear the first ones are the nearest.
///
/// Whatever the effort, a target is at the goal with exactly the margin. For samples that miss it, climbs from up to 128 starts go on until
/// 32 in a row have come no nearer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// The first target at the goal is moved along the line to the observed feature. For deep networks, whose many kinks and
    /// products make every further step dear. Samples that miss the goal are given up after 16 starts.
    Quick,
    /// Where the rest bends, targets are refined by what is found around them: up to 20 steps.
    Refined,
    /// Where it bends much, also up to five descents of 60 to 150 steps, most of them from other starts; not for targets more than two
    /// norms of the observed feature away.
    #[default]
    Thorough,
    /// From ever new starts, from what a reversal layer by layer gives and from the targets one boundary below, until twenty
    /// searches in a row have brought nothing: 16 to 130 times as dear, for targets that no other search was found to beat by more
    /// than a fifteenth.
    Exhaustive,
}

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
    pub(crate) effort: Effort,
}

impl<'a, T: Real> Problem<'a, T> {
    /// The observed feature of a sample.
    pub(super) fn observed(&self, sample: usize) -> &'a [T] {
        fbp_linalg::column("observed", self.observed, sample).expect("columns are contiguous")
    }

    /// `Σ |observed|²` over all samples.
    pub(crate) fn observed_sq(&self) -> f64 {
        (0..self.observed.ncols()).map(|sample| norm_sq(self.observed(sample))).sum()
    }

    /// The observed output of a sample.
    pub(super) fn observed_out(&self, sample: usize) -> &'a [T] {
        fbp_linalg::column("observed_out", self.observed_out, sample).expect("columns are contiguous")
    }

    /// The goal of a sample.
    pub(super) fn goal_of(&self, sample: usize) -> SampleGoal<'a, T> {
        self.goal.of(sample)
    }

    /// Where the entries of targets may lie.
    pub(super) fn bounds(&self) -> Bounds<'a, T> {
        self.rest.bounds()
    }

    /// Length of the feature.
    pub(super) fn len(&self) -> usize {
        self.rest.in_len()
    }
}
