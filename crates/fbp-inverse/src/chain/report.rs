use fbp_linalg::Real;

use crate::ReverseReport;
use crate::joint::{Problem, Targets};

/// What a reverse pass did at one boundary.
///
/// A target *reaches the goal*, and its sample is *attained* there, if the frozen rest of the chain, evaluated by its own
/// operators in their own precision, turns it into
///
/// * with margins: an output whose label exceeds every other class by the margin, up to the rounding of that difference,
///   [`attained_slack`] of 2 terms and the scale `abs(label's logit) + abs(strongest other one)`;
/// * without: an output that misses the target box by at most [`attained_slack`] of the largest output; where an entry of the
///   box is a point, plus a thousandth of that output, what single precision leaves of an equation after a few layers.
///
/// *Unattained* means that nothing was found that does, not that nothing exists: with margins (and layers that have
/// derivatives) after linearisations, layer-wise targets and climbs from up to 128 starts, see [`Effort`](crate::Effort). Unattained
/// samples keep the target of the last attempt, and the violations tell by how much they miss.
///
/// [`attained_slack`]: fbp_linalg::attained::attained_slack
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BoundaryReport {
    /// `Σ |target - observed|²` over all samples.
    pub distance_sq: f64,
    /// `Σ |observed|²` over all samples.
    pub observed_sq: f64,
    /// Samples whose first target, pushed through the frozen rest, missed the goal.
    pub missed: usize,
    /// Missed samples that the second attempt brought to the goal.
    pub corrected: usize,
    /// Samples that still miss the goal: unattained, see [above](Self).
    pub unattained: usize,
    /// Largest remaining violation of the goal at the output of the frozen rest.
    pub violation_max: f64,
    /// Sum of the remaining violations over the samples.
    pub violation_sum: f64,
}

impl BoundaryReport {
    /// Distances moved and violations left, recomputed from the data.
    pub(super) fn measure<T: Real>(&mut self, problem: &Problem<'_, T>, targets: &Targets<T>) {
        self.observed_sq += problem.observed_sq();
        let measured = targets.measure(problem);
        self.distance_sq += measured.distance_sq;
        self.violation_max = self.violation_max.max(measured.violation_max);
        self.violation_sum += measured.violation_sum;
    }

    /// Distance of the targets from the observed features, relative to the latter, in Frobenius norms; 1 if those were zero.
    pub fn distance_relative(&self) -> f64 {
        match (self.distance_sq, self.observed_sq) {
            (0.0, _) => 0.0,
            (_, 0.0) => 1.0,
            (distance, observed) => (distance / observed).sqrt(),
        }
    }

    /// Combines reports over different samples.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            distance_sq: self.distance_sq + other.distance_sq,
            observed_sq: self.observed_sq + other.observed_sq,
            missed: self.missed + other.missed,
            corrected: self.corrected + other.corrected,
            unattained: self.unattained + other.unattained,
            violation_max: self.violation_max.max(other.violation_max),
            violation_sum: self.violation_sum + other.violation_sum,
        }
    }
}

/// What a reverse pass did: one entry per boundary and per operator. `Default` is the empty report.
///
/// What *attained* means at a boundary says [`BoundaryReport`]; in the reports of the operators, which judge one layer each,
/// it means what [`fbp_linalg::attained`] says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChainReport {
    /// Samples in the pass.
    pub samples: usize,
    /// Samples whose observed output met the goal: every target is the observed feature.
    pub satisfied: usize,
    /// Samples that were not reversed layer by layer all the way down: a layer has no solver of that size, or is a large affine
    /// one below a normalisation. From there on their targets are searched for through the whole rest.
    pub refused: usize,
    /// One report per boundary, from the input of the chain to its output.
    pub boundaries: Vec<BoundaryReport>,
    /// One report per operator, over the samples that were not satisfied.
    pub operators: Vec<ReverseReport>,
}

impl ChainReport {
    /// An empty report for a chain of this size.
    pub(super) fn empty(boundaries: usize, operators: usize) -> Self {
        Self {
            boundaries: vec![BoundaryReport::default(); boundaries],
            operators: vec![ReverseReport::default(); operators],
            ..Self::default()
        }
    }

    /// Combines reports of one chain over different samples; an empty report changes nothing.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        if self.boundaries.is_empty() {
            return other;
        }
        self.samples += other.samples;
        self.satisfied += other.satisfied;
        self.refused += other.refused;
        for (own, other) in self.boundaries.iter_mut().zip(other.boundaries) {
            *own = own.merge(other);
        }
        for (own, other) in self.operators.iter_mut().zip(other.operators) {
            *own = own.merge(other);
        }
        self
    }
}
