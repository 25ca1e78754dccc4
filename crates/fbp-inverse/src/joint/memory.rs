use fbp_linalg::Real;

use super::batch::Batch;
use super::cuts::Cuts;
use super::iterates::{Iterates, Sizes};
use super::linearise::Gradients;
use super::targets::Targets;

/// What is known of the search for the target of one sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// Squared distance of the nearest iterate at the goal; infinite if there is none.
    pub(super) best: f64,
    /// Squared distance that an iterate at the goal has to fall below to become the target.
    pub(super) bound: f64,
    /// Violation where the iteration started.
    pub(super) missing: f64,
    /// Distance of the first step's output from the goal, as a share of what was missing: 0 if the rest is linear.
    pub(super) bend: f64,
    /// Norm of the observed feature.
    pub(super) size: f64,
    /// Norm of the gradient of the tightest condition at the target.
    pub(super) steepness: f64,
    /// Whether the last descent has brought the target nearer.
    pub(super) improved: bool,
    /// Squared distance of a target that was set aside while another one is searched for.
    aside: Option<f64>,
    /// Searches in a row that have found nothing nearer.
    pub(super) stale: usize,
    /// What climbs to the goal have come to.
    pub(super) climbs: Climbs,
}

/// How near to the goal the climbs of one sample have come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Climbs {
    /// Least violation that they have met; infinite before the first one.
    least: f64,
    /// Those in a row that came no nearer.
    pub(super) stale: usize,
}

impl Climbs {
    const NONE: Self = Self { least: f64::INFINITY, stale: 0 };

    /// Notes the least violation that one has met. Less than the share `nearer` of the violation counts as nothing.
    pub(super) fn note(&mut self, violation: f64, nearer: f64) {
        if violation < (1.0 - nearer) * self.least {
            *self = Self { least: violation, stale: 0 };
        } else {
            self.stale += 1;
        }
    }
}

impl Progress {
    const NONE: Self = Self {
        best: f64::INFINITY,
        bound: f64::INFINITY,
        missing: 0.0,
        bend: f64::INFINITY,
        size: 0.0,
        steepness: 0.0,
        improved: false,
        aside: None,
        stale: 0,
        climbs: Climbs::NONE,
    };

    /// Whether the goal was reached.
    pub(super) fn has_reached(&self) -> bool {
        self.best < f64::INFINITY
    }

    /// Squared distance that tells how far away targets are: that of the nearest one, set aside or not.
    pub(super) fn scale_sq(&self) -> f64 {
        self.aside.map_or(self.best, |aside| aside.min(self.best))
    }

    /// Whether a target is set aside.
    pub(super) fn is_aside(&self) -> bool {
        self.aside.is_some()
    }

    /// Begins a search without the target that there is.
    pub(super) fn set_aside(&mut self) {
        self.aside = Some(std::mem::replace(&mut self.best, f64::INFINITY));
    }

    /// Ends it; tells whether what it has found is nearer. Less than the share `nearer` of the distance counts as nothing.
    pub(super) fn take_back(&mut self, nearer: f64) -> bool {
        let before = self.aside.take().unwrap_or(f64::INFINITY);
        self.stale = if self.best < (1.0 - nearer).powi(2) * before { 0 } else { self.stale + 1 };
        let is_nearer = self.best < before;
        self.best = self.best.min(before);
        is_nearer
    }
}

/// The samples that one search is for, and how far it is for each.
#[derive(Debug)]
pub(super) struct Group {
    /// The samples with which the search began.
    pub(super) samples: Vec<usize>,
    /// By sample of the batch.
    pub(super) progress: Vec<Progress>,
}

impl Group {
    /// Begins a search for these samples.
    pub(super) fn restart(&mut self, samples: &[usize]) {
        self.progress.fill(Progress::NONE);
        self.samples.clear();
        self.samples.extend_from_slice(samples);
    }
}

/// What refining keeps of one sample between two steps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Edge {
    /// Whether the last point missed the goal, or was no nearer than the target.
    pub(super) missed: bool,
    /// Excess at the end of the segment.
    pub(super) beyond: f64,
    /// Steps in a row that brought nothing.
    pub(super) idle: usize,
    /// Squared distance of the target before the step.
    pub(super) before: f64,
}

/// The part of the segment from the observed feature on in which the margin is looked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Landing {
    /// Both ends, as shares of the segment.
    pub(super) low: f64,
    pub(super) high: f64,
    /// Excess at these ends.
    pub(super) below: f64,
    pub(super) above: f64,
    /// The point that is tried.
    pub(super) share: f64,
}

/// What a descent keeps of one sample.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Length of the first step; a climb shortens it where it comes no closer.
    pub(super) length: f64,
    /// Length below which a climb ends.
    pub(super) shortest: f64,
    /// Reciprocal scale of the gradients: the norm of the first one of a climb.
    pub(super) scale: f64,
    /// Least violation so far.
    pub(super) least: f64,
    /// Violation when it was last notably less than before.
    pub(super) mark: f64,
    /// Steps since then.
    pub(super) idle: usize,
}

/// Segments of the samples: their far ends, and what a search for a point on them keeps.
#[derive(Debug)]
pub(super) struct Segments<T> {
    pub(super) ends: Batch<T>,
    pub(super) edges: Vec<Edge>,
    pub(super) landings: Vec<Landing>,
}

/// Memory of descents, by sample.
#[derive(Debug)]
pub(super) struct Descents<T> {
    /// Means of gradients.
    pub(super) means: Batch<T>,
    /// Means of their squares.
    pub(super) squares: Batch<T>,
    pub(super) paces: Vec<Pace>,
}

/// What searches with a target set aside are compared with.
#[derive(Debug)]
pub(super) struct Incumbents<T> {
    /// The targets that were set aside.
    pub(super) targets: Targets<T>,
    /// What another way has found.
    pub(super) proposals: Targets<T>,
    /// For which samples it has.
    pub(super) proposed: Vec<bool>,
}

/// Memory of the searches for one batch, one owner for each kind.
#[derive(Debug)]
pub(crate) struct JointMemory<T> {
    pub(super) iterates: Iterates<T>,
    pub(super) gradients: Gradients<T>,
    pub(super) cuts: Cuts<T>,
    pub(super) group: Group,
    pub(super) segments: Segments<T>,
    pub(super) descents: Descents<T>,
    /// Made by the first search that needs it.
    pub(super) incumbents: Option<Incumbents<T>>,
    /// Lengths of the longest feature and output.
    pub(super) largest: [usize; 2],
}

impl<T: Real> JointMemory<T> {
    /// Memory for `capacity` samples and rests of up to these sizes.
    pub(crate) fn new(sizes: Sizes, capacity: usize) -> Self {
        let features = || Batch::new(sizes.in_len * capacity);
        Self {
            iterates: Iterates::new(sizes, capacity),
            gradients: Gradients::new(sizes, capacity),
            cuts: Cuts::new((sizes.in_len, sizes.metric_len), sizes.conditions, capacity),
            group: Group { samples: Vec::with_capacity(capacity), progress: vec![Progress::NONE; capacity] },
            segments: Segments {
                ends: features(),
                edges: vec![Edge::default(); capacity],
                landings: vec![Landing::default(); capacity],
            },
            descents: Descents { means: features(), squares: features(), paces: vec![Pace::default(); capacity] },
            incumbents: None,
            largest: [sizes.in_len, sizes.out_len],
        }
    }
}
