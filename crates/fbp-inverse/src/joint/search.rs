//! The joint problem: the feature nearest to the observed one that the whole frozen rest turns into the goal.
//!
//! ```text
//! min ½|v - z|²   subject to   f_L ∘ … ∘ f_{l+1}(v) reaches the goal,   v in the range
//! ```
//!
//! Every step linearises the rest of the network at the last iterate and adds the tightest conditions of the goal to
//! the cuts of the sample; the next iterate is the nearest point that satisfies all its cuts, a box-constrained problem
//! with a handful of rows. On networks of piecewise linear layers the rest is linear around most points, and one to
//! three steps end at the goal. Old cuts stay because the solution often lies on a kink, where the linearisations of
//! its two sides would take turns for ever; and every miss raises what the cuts ask for by a share of it.
//!
//! The first step tells how far the rest is from linear: by what share of the missing margin it ends beside the goal. Where
//! that is little, the point is the nearest one once it is moved to exactly the margin; elsewhere it is refined from there,
//! see `settle`. Samples that stay away from the goal start again from other points, see `rescue`.
//!
//! A boundary may have a [`FeatureMetric`] in place of the Euclidean one: `min ½ (v - z)ᵀ C⁻¹ (v - z)` under the same
//! conditions, for goals with margins. Each of its steps is exact too, the range included; but it moves many entries at
//! once, and crosses more kinks. So the Euclidean target comes first, and stays where nothing nearer in the metric is
//! found.
//!
//! # Source
//! Repeated linearisation: Moosavi-Dezfooli, Fawzi & Frossard, "DeepFool", CVPR 2016, there for the nearest point of
//! *another* class. Keeping cuts: Kelley, "The cutting-plane method for solving convex programs", J. SIAM 8 (1960).
//! Nearest points within a range, raised cuts and the use for targets: own derivation.

use faer::dyn_stack::StackReq;
use fbp_linalg::{Real, parts_scratch};

use super::batch::Batch;
use super::cuts::{Cuts, MOST_CUTS};
use super::goal::{Condition, SampleGoal};
use super::linearise::Linearisation;
use super::metric::FeatureMetric;
use super::step::step_scratch;
use crate::InverseError;
use crate::chain::ChainGoal;
use crate::chain::ChainWorkspace;
use crate::chain::ReverseChain;

/// Most steps per sample; most need one to three.
const STEPS: usize = 16;
/// Conditions of a margin that the first step linearises: the strongest rivals.
const MARGIN_CONDITIONS: usize = 4;
/// Conditions of a margin that a later step linearises, where the strongest rivals are known.
const LATER_CONDITIONS: usize = 2;
/// Share of the margin that is asked for on top of it once a step has missed, so that the next small miss is none.
const AIM: f64 = 0.01;
/// Share of a miss by which cuts are raised. Measured on the small Fashion-MNIST network, of 21,147 samples: without, a
/// quarter goes round in circles; with 0.3 to 0.5 all end within five steps, at 2.40 and 2.46 % of the norm; 1: 2.62 %.
const RAISE: f64 = 0.4;
/// Bend below which the first step is as good as at the goal: it is stretched to the margin.
const NEARLY: f64 = 1e-3;
/// Without margins, and in metrics, the iteration ends when a step at the goal brings a sample closer by less than this share.
const WORTHWHILE: f64 = 0.01;

/// Where the iteration starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the observed features.
    Observed,
    /// At what the targets are so far.
    Targets,
}

/// How iterates are judged.
#[derive(Clone, Copy)]
struct Judgement<'a, T> {
    /// In which distances are measured; none for the Euclidean one.
    metric: Option<&'a FeatureMetric<T>>,
    /// Steps taken before, or none where the iteration starts; the start is written in any case.
    step: Option<usize>,
}

/// What is known of the search for the target of one sample at one boundary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Squared distance of the nearest iterate at the goal; infinite if there is none.
    pub(crate) best: f64,
    /// Squared distance that an iterate at the goal has to fall below to become the target.
    pub(crate) bound: f64,
    /// Violation where the iteration started.
    missing: f64,
    /// Distance of the first step's output from the goal, as a share of what was missing: 0 if the rest is linear.
    pub(crate) bend: f64,
    /// Norm of the observed feature.
    pub(crate) size: f64,
    /// Norm of the gradient of the tightest condition at the target.
    pub(crate) steepness: f64,
    /// Whether the last descent has brought the target nearer.
    pub(crate) improved: bool,
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
    };
}

/// Memory of the iteration, for the samples of one batch.
#[derive(Debug)]
pub(crate) struct JointMemory<T> {
    /// Open samples in the iteration, as places in the list of open samples.
    pub(crate) active: Vec<usize>,
    /// Those with which the iteration began.
    pub(crate) group: Vec<usize>,
    /// Every feature of the rest of the network at the iterates of the active samples.
    pub(crate) iterates: Vec<Batch<T>>,
    pub(crate) cotangents: [Batch<T>; 2],
    pub(crate) conditions: Vec<Condition<T>>,
    pub(crate) condition_counts: Vec<usize>,
    pub(crate) cuts: Cuts<T>,
    /// Squared distances of the iterates of the active samples.
    pub(crate) distances: Vec<f64>,
    /// By place in the list of open samples.
    pub(crate) progress: Vec<Progress>,
    /// Ends of the segments on which the searches look for the margin, by place.
    pub(crate) ends: Batch<T>,
    /// Means of gradients and of their squares, by place.
    pub(crate) moments: [Batch<T>; 2],
    /// Numbers that one search keeps between its steps, by place.
    pub(crate) notes: Vec<[f64; 4]>,
}

impl<T: Real> JointMemory<T> {
    /// Memory for `capacity` samples; `lens` are the lengths of all features, `boundary` is the longest one that is
    /// reconstructed, `metric` the longest one with a metric.
    pub(crate) fn new(lens: &[usize], [boundary, metric]: [usize; 2], capacity: usize) -> Self {
        let largest = lens.iter().copied().max().unwrap_or(0) * capacity;
        let none = Condition { plus: 0, minus: None, lower: T::ZERO, upper: T::ZERO };
        let reconstructed = || Batch::new(boundary * capacity);
        Self {
            active: Vec::with_capacity(capacity),
            group: Vec::with_capacity(capacity),
            iterates: lens.iter().map(|len| Batch::new(len * capacity)).collect(),
            cotangents: [Batch::new(largest), Batch::new(largest)],
            conditions: vec![none; MOST_CUTS * capacity],
            condition_counts: vec![0; capacity],
            cuts: Cuts::new(boundary, metric, capacity),
            distances: vec![0.0; capacity],
            progress: vec![Progress::NONE; capacity],
            ends: reconstructed(),
            moments: [reconstructed(), reconstructed()],
            notes: vec![[0.0; 4]; capacity],
        }
    }

    /// Whether the sample at this place of the list of open samples has reached the goal.
    pub(crate) fn has_reached(&self, slot: usize) -> bool {
        self.progress[slot].best < f64::INFINITY
    }

    /// Makes the active samples the group of a new search.
    pub(crate) fn forget_progress(&mut self) {
        self.progress.fill(Progress::NONE);
        self.group.clear();
        self.group.extend_from_slice(&self.active);
    }

    /// Keeps the active sample `at` as number `kept`, with every feature above operator `first`.
    pub(crate) fn keep(&mut self, at: usize, kept: usize, first: usize, lens: &[usize]) {
        for (iterates, &len) in self.iterates.iter_mut().zip(lens).skip(first) {
            iterates.move_column(len, at, kept);
        }
        self.active[kept] = self.active[at];
        self.distances[kept] = self.distances[at];
    }
}

impl<T: Real> ReverseChain<T> {
    /// Workspace of the steps for `batch` samples.
    pub(crate) fn joint_scratch(&self, batch: usize, par: faer::Par) -> StackReq {
        let longest = self.starts.iter().map(|&k| self.feature_len(k)).max().unwrap_or(0);
        let derivatives = self.operators.iter().filter_map(|op| op.differentiable());
        let derivatives = derivatives.fold(StackReq::EMPTY, |req, op| req.or(op.derivative_scratch(batch, par)));
        let longest_metric = self.longest_metric();
        let euclidean = parts_scratch(step_scratch::<T>(longest, false), batch, par);
        derivatives.or(euclidean).or(parts_scratch(step_scratch::<T>(longest_metric, longest_metric > 0), batch, par))
    }

    /// Whether the rest of the network above operator `first` has derivatives (and is not empty).
    pub(crate) fn is_differentiable_from(&self, first: usize) -> bool {
        let rest = &self.operators[first..];
        !rest.is_empty() && rest.iter().all(|op| op.differentiable().is_some())
    }

    /// Pushes the starts of the active samples through the rest of the network and improves them in the Euclidean metric;
    /// writes the targets that reach the goal, and what the rest makes of the last target of every active sample.
    pub(crate) fn join(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        start: Start,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        work.joint.progress.fill(Progress::NONE);
        self.begin(boundary, start, work)?;
        self.judge(boundary, goal, Judgement { metric: None, step: None }, work);
        self.iterate(boundary, goal, None, work)?;
        if goal.margins.is_some() { self.settle(boundary, goal, work) } else { Ok(()) }
    }

    /// Looks for targets of the active samples that are nearer in a metric than those they have, from the observed features
    /// on, by enough to count. A linearisation may hold nowhere near where the metric leads; then the targets stay.
    pub(crate) fn improve(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        metric: &FeatureMetric<T>,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        work.joint.progress.fill(Progress::NONE);
        self.begin(boundary, Start::Targets, work)?;
        self.measure_iterates(self.starts[boundary], Some(metric), work);
        for (at, &slot) in work.joint.active.iter().enumerate() {
            let has_target = !work.missed[boundary * work.capacity + work.open[slot]];
            let least = (1.0 - WORTHWHILE).powi(2) * work.joint.distances[at];
            work.joint.progress[slot].bound = if has_target { least } else { f64::INFINITY };
        }
        self.begin(boundary, Start::Observed, work)?;
        let aim = T::from_f64(AIM * goal.margins.map_or(0.0, |margins| margins.margin));
        let JointMemory { active, cuts, .. } = &mut work.joint;
        active.iter().for_each(|&slot| cuts.raise(slot, aim));
        self.iterate(boundary, goal, Some(metric), work)?;
        self.land(boundary, goal, work)
    }

    /// Linearises and steps until every active sample has ended.
    fn iterate(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        metric: Option<&FeatureMetric<T>>,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        let first = self.starts[boundary];
        let steps = if self.is_differentiable_from(first) { STEPS } else { 0 };
        for step in 0..steps {
            if work.joint.active.is_empty() {
                break;
            }
            let room = match (goal.margins, metric) {
                (None, _) => MOST_CUTS,
                (Some(_), None) if step > 0 => LATER_CONDITIONS,
                (Some(_), _) => MARGIN_CONDITIONS,
            };
            self.cut(goal, Linearisation { first, metric, room }, work)?;
            self.step(boundary, metric, work)?;
            self.push_iterates(first, work)?;
            self.judge(boundary, goal, Judgement { metric, step: Some(step) }, work);
        }
        Ok(())
    }

    /// Pushes the targets of the active samples through the rest of the network without changing them.
    pub(crate) fn check(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        work.joint.progress.fill(Progress::NONE);
        self.begin(boundary, Start::Targets, work)?;
        self.judge(boundary, goal, Judgement { metric: None, step: None }, work);
        Ok(())
    }

    fn begin(&self, boundary: usize, start: Start, work: &mut ChainWorkspace<T>) -> Result<(), InverseError> {
        let first = self.starts[boundary];
        let len = work.lens[first];
        let joint = &mut work.joint;
        joint.group.clear();
        joint.group.extend_from_slice(&joint.active);
        for (at, &slot) in joint.active.iter().enumerate() {
            let sample = work.open[slot];
            let from = match start {
                Start::Observed => work.features[first].column(len, sample),
                Start::Targets => work.targets[boundary].column(len, sample),
            };
            joint.iterates[first].column_mut(len, at).copy_from_slice(from);
            joint.cuts.clear(slot);
            joint.progress[slot].best = f64::INFINITY;
        }
        self.push_iterates(first, work)
    }

    /// Keeps the iterates that reach the goal closer than before, and takes finished samples out of the iteration.
    fn judge(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        judgement: Judgement<'_, T>,
        work: &mut ChainWorkspace<T>,
    ) {
        let Judgement { metric, step } = judgement;
        let (first, last) = (self.starts[boundary], self.operators.len());
        let (len, classes) = (work.lens[first], self.out_len());
        // Euclidean targets for margins are settled once they are at the goal.
        let ends_at_goal = goal.margins.is_some() && metric.is_none();
        let aim = AIM * goal.margins.map_or(0.0, |margins| margins.margin);
        self.measure_iterates(first, metric, work);
        let joint = &mut work.joint;
        let mut kept = 0;
        for at in 0..joint.active.len() {
            let slot = joint.active[at];
            let sample = work.open[slot];
            let goal = SampleGoal::of(goal, sample);
            let output = joint.iterates[last].column(classes, at);
            let (reached, excess) = (goal.is_reached(output), goal.excess(output));
            let progress = &mut joint.progress[slot];
            match step {
                None => progress.missing = -excess,
                Some(0) => progress.bend = excess.abs() / progress.missing,
                Some(_) => {}
            }
            if step.is_none() || reached {
                let iterate = joint.iterates[first].column(len, at);
                let distance = joint.distances[at];
                let before = progress.best;
                if step.is_none() || distance < before.min(progress.bound) {
                    work.targets[boundary].column_mut(len, sample).copy_from_slice(iterate);
                    work.pushed[boundary].column_mut(classes, slot).copy_from_slice(output);
                }
                if reached {
                    progress.best = distance.min(before);
                    if distance == 0.0
                        || ends_at_goal
                        || before < f64::INFINITY && distance.sqrt() >= (1.0 - WORTHWHILE) * before.sqrt()
                    {
                        continue;
                    }
                    joint.cuts.relax(slot);
                    joint.cuts.raise(slot, T::from_f64(aim));
                }
            }
            if let (false, Some(step)) = (reached, step) {
                if step == 0 && ends_at_goal && progress.bend < NEARLY {
                    // The rest is linear, and rounding is all that is missing.
                    let iterate = joint.iterates[first].column(len, at);
                    work.targets[boundary].column_mut(len, sample).copy_from_slice(iterate);
                    work.pushed[boundary].column_mut(classes, slot).copy_from_slice(output);
                    continue;
                }
                if excess == f64::NEG_INFINITY || progress.best < f64::INFINITY {
                    // The step has overflowed, or went too far from a target that is good already.
                    continue;
                }
                let aim = if step == 0 && ends_at_goal { aim } else { 0.0 };
                joint.cuts.raise(slot, T::from_f64(aim - RAISE * excess));
            }
            joint.keep(at, kept, first, &work.lens);
            kept += 1;
        }
        joint.active.truncate(kept);
    }
}
