//! The joint problem: the feature nearest to the observed one that the whole frozen rest turns into the goal.
//!
//! ```text
//! min ½|v - z|²   subject to   f_L ∘ … ∘ f_{l+1}(v) reaches the goal,   v in the range
//! ```
//!
//! Every step linearises the rest of the network at the last iterate and adds the tightest conditions of the goal to
//! the cuts of the sample; the next iterate is the nearest point that satisfies all its cuts, a box-constrained problem
//! with a handful of rows. On networks of piecewise linear layers the rest is linear around most points, and two or
//! three steps end at the goal. Old cuts stay because the solution often lies on a kink, where the linearisations of
//! its two sides would take turns for ever; and every miss raises what the cuts ask for by a share of it.
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

use faer::Accum;
use faer::dyn_stack::{MemStack, StackReq};
use faer::linalg::matmul::matmul;
use fbp_linalg::{Real, parts_scratch};

use super::cuts::{Cuts, MOST_CUTS};
use super::goal::{Condition, SampleGoal};
use super::reverse::ChainGoal;
use super::step::step_scratch;
use super::workspace::{Batch, ChainWorkspace};
use super::{FeatureMetric, ReverseChain};
use crate::{InverseError, VjpPass};

/// Most steps per sample; most need two or three.
const STEPS: usize = 16;
/// Conditions of a margin that one step linearises: the strongest rivals.
const MARGIN_CONDITIONS: usize = 4;
/// Share of the margin that is asked for on top of it, so that the last small miss is none.
const AIM: f64 = 0.01;
/// Share of a miss by which cuts are raised. Measured on the small Fashion-MNIST network, of 21,147 samples: without, a
/// quarter goes round in circles; with 0.3 to 0.5 all end within five steps, at 2.40 and 2.46 % of the norm; 1: 2.62 %.
const RAISE: f64 = 0.4;
/// The iteration ends when a step at the goal brings a sample closer by less than this share of its distance.
const WORTHWHILE: f64 = 0.01;

/// Where the iteration starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
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
    /// Whether they are where the iteration starts, which is written in any case.
    is_start: bool,
}

/// Memory of the iteration, for the samples of one batch.
#[derive(Debug)]
pub(super) struct JointMemory<T> {
    /// Open samples in the iteration, as places in the list of open samples.
    pub(super) active: Vec<usize>,
    /// Every feature of the rest of the network at the iterates of the active samples.
    pub(super) iterates: Vec<Batch<T>>,
    cotangents: [Batch<T>; 2],
    conditions: Vec<Condition<T>>,
    condition_counts: Vec<usize>,
    pub(super) cuts: Cuts<T>,
    /// Squared distances of the iterates of the active samples.
    distances: Vec<f64>,
    /// Squared distance of the nearest iterate at the goal, by place; infinite if there is none.
    best: Vec<f64>,
    /// Squared distance that an iterate at the goal has to fall below to become the target, by place.
    bound: Vec<f64>,
}

impl<T: Real> JointMemory<T> {
    /// Memory for `capacity` samples; `lens` are the lengths of all features, `boundary` is the longest one that is
    /// reconstructed, `metric` the longest one with a metric.
    pub(super) fn new(lens: &[usize], [boundary, metric]: [usize; 2], capacity: usize) -> Self {
        let largest = lens.iter().copied().max().unwrap_or(0) * capacity;
        let none = Condition { plus: 0, minus: None, lower: T::ZERO, upper: T::ZERO };
        Self {
            active: Vec::with_capacity(capacity),
            iterates: lens.iter().map(|len| Batch::new(len * capacity)).collect(),
            cotangents: [Batch::new(largest), Batch::new(largest)],
            conditions: vec![none; MOST_CUTS * capacity],
            condition_counts: vec![0; capacity],
            cuts: Cuts::new(boundary, metric, capacity),
            distances: vec![0.0; capacity],
            best: vec![f64::INFINITY; capacity],
            bound: vec![f64::INFINITY; capacity],
        }
    }

    /// Whether the sample at this place of the list of open samples has reached the goal.
    pub(super) fn has_reached(&self, slot: usize) -> bool {
        self.best[slot] < f64::INFINITY
    }
}

impl<T: Real> ReverseChain<T> {
    /// Workspace of the steps for `batch` samples.
    pub(super) fn joint_scratch(&self, batch: usize, par: faer::Par) -> StackReq {
        let longest = self.starts.iter().map(|&k| self.feature_len(k)).max().unwrap_or(0);
        let derivatives = self.operators.iter().filter_map(|op| op.differentiable());
        let derivatives = derivatives.fold(StackReq::EMPTY, |req, op| req.or(op.derivative_scratch(batch, par)));
        let longest_metric = self.longest_metric();
        let euclidean = parts_scratch(step_scratch::<T>(longest, false), batch, par);
        derivatives.or(euclidean).or(parts_scratch(step_scratch::<T>(longest_metric, longest_metric > 0), batch, par))
    }

    /// Whether the rest of the network above operator `first` has derivatives (and is not empty).
    fn is_differentiable_from(&self, first: usize) -> bool {
        let rest = &self.operators[first..];
        !rest.is_empty() && rest.iter().all(|op| op.differentiable().is_some())
    }

    /// Pushes the starts of the active samples through the rest of the network and improves them in the Euclidean metric;
    /// writes the targets that reach the goal, and what the rest makes of the last target of every active sample.
    pub(super) fn join(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        start: Start,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        work.joint.bound.fill(f64::INFINITY);
        self.begin(boundary, start, work)?;
        self.judge(boundary, goal, Judgement { metric: None, is_start: true }, work);
        self.iterate(boundary, goal, None, work)
    }

    /// Looks for targets of the active samples that are nearer in a metric than those they have, from the observed features
    /// on. A linearisation may hold nowhere near where the metric leads; then the targets stay.
    pub(super) fn improve(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        metric: &FeatureMetric<T>,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        self.begin(boundary, Start::Targets, work)?;
        self.measure_iterates(self.starts[boundary], Some(metric), work);
        for (at, &slot) in work.joint.active.iter().enumerate() {
            let has_target = !work.missed[boundary * work.capacity + work.open[slot]];
            work.joint.bound[slot] = if has_target { work.joint.distances[at] } else { f64::INFINITY };
        }
        self.begin(boundary, Start::Observed, work)?;
        self.iterate(boundary, goal, Some(metric), work)
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
        for _ in 0..steps {
            if work.joint.active.is_empty() {
                break;
            }
            self.cut(first, goal, metric, work)?;
            self.step(boundary, metric, work)?;
            self.push_iterates(first, work)?;
            self.judge(boundary, goal, Judgement { metric, is_start: false }, work);
        }
        Ok(())
    }

    /// Pushes the targets of the active samples through the rest of the network without changing them.
    pub(super) fn check(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        self.begin(boundary, Start::Targets, work)?;
        work.joint.bound.fill(f64::INFINITY);
        self.judge(boundary, goal, Judgement { metric: None, is_start: true }, work);
        Ok(())
    }

    fn begin(&self, boundary: usize, start: Start, work: &mut ChainWorkspace<T>) -> Result<(), InverseError> {
        let first = self.starts[boundary];
        let len = work.lens[first];
        work.joint.cuts.clear();
        for (at, &slot) in work.joint.active.iter().enumerate() {
            let sample = work.open[slot];
            let from = match start {
                Start::Observed => work.features[first].column(len, sample),
                Start::Targets => work.targets[boundary].column(len, sample),
            };
            work.joint.iterates[first].column_mut(len, at).copy_from_slice(from);
            work.joint.best[slot] = f64::INFINITY;
        }
        self.push_iterates(first, work)
    }

    /// Runs the rest of the network on the iterates, recording every feature.
    fn push_iterates(&self, first: usize, work: &mut ChainWorkspace<T>) -> Result<(), InverseError> {
        let active = work.joint.active.len();
        for k in first..self.operators.len() {
            let (below, above) = work.joint.iterates.split_at_mut(k + 1);
            let input = below[k].view(work.lens[k], active);
            let output = above[0].view_mut(work.lens[k + 1], active);
            self.operators[k].forward(input, output, work.par, MemStack::new(&mut work.memory))?;
        }
        Ok(())
    }

    /// Keeps the iterates that reach the goal closer than before, and takes finished samples out of the iteration.
    fn judge(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        judgement: Judgement<'_, T>,
        work: &mut ChainWorkspace<T>,
    ) {
        let Judgement { metric, is_start } = judgement;
        let (first, last) = (self.starts[boundary], self.operators.len());
        let (len, classes) = (work.lens[first], self.out_len());
        self.measure_iterates(first, metric, work);
        let joint = &mut work.joint;
        let mut kept = 0;
        for at in 0..joint.active.len() {
            let slot = joint.active[at];
            let sample = work.open[slot];
            let goal = SampleGoal::of(goal, sample);
            let output = joint.iterates[last].column(classes, at);
            let reached = goal.is_reached(output);
            if is_start || reached {
                let iterate = joint.iterates[first].column(len, at);
                let distance = joint.distances[at];
                let before = joint.best[slot];
                if is_start || distance < before.min(joint.bound[slot]) {
                    work.targets[boundary].column_mut(len, sample).copy_from_slice(iterate);
                    work.pushed[boundary].column_mut(classes, slot).copy_from_slice(output);
                }
                if reached {
                    joint.best[slot] = distance.min(before);
                    if distance == 0.0
                        || before < f64::INFINITY && distance.sqrt() >= (1.0 - WORTHWHILE) * before.sqrt()
                    {
                        continue;
                    }
                    joint.cuts.relax(slot);
                }
            }
            if !reached && !is_start {
                let violation = goal.violation(output);
                if violation == f64::INFINITY || joint.best[slot] < f64::INFINITY {
                    // The step has overflowed, or went too far from a target that is good already.
                    continue;
                }
                joint.cuts.raise(slot, T::from_f64(RAISE * violation));
            }
            for (iterates, &len) in joint.iterates.iter_mut().zip(&work.lens).skip(first) {
                iterates.move_column(len, at, kept);
            }
            joint.active[kept] = slot;
            kept += 1;
        }
        joint.active.truncate(kept);
    }

    /// Adds a cut for each of the tightest conditions of every active sample.
    fn cut(
        &self,
        first: usize,
        goal: &ChainGoal<'_, T>,
        metric: Option<&FeatureMetric<T>>,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        let (last, classes, len) = (self.operators.len(), self.out_len(), work.lens[first]);
        let joint = &mut work.joint;
        let active = joint.active.len();
        let room = if goal.margins.is_some() { MARGIN_CONDITIONS } else { MOST_CUTS };
        let mut rounds = 0;
        for (at, &slot) in joint.active.iter().enumerate() {
            let output = joint.iterates[last].column(classes, at);
            if goal.margins.is_none() {
                // Boxes may be points, and equations from two linearisations contradict each other.
                joint.cuts.forget(slot);
            }
            let aim = AIM * goal.margins.map_or(0.0, |margins| margins.margin);
            let chosen = &mut joint.conditions[at * MOST_CUTS..][..room];
            let count = SampleGoal::of(goal, work.open[slot]).tightest(output, aim, chosen);
            joint.condition_counts[at] = count;
            rounds = rounds.max(count);
        }
        for round in 0..rounds {
            for at in 0..active {
                // Samples with fewer conditions compute a gradient that nobody reads.
                let condition = &joint.conditions[at * MOST_CUTS + round];
                condition.write_gradient(joint.cotangents[last % 2].column_mut(classes, at));
            }
            for k in (first..last).rev() {
                let Some(operator) = self.operators[k].differentiable() else { continue };
                let [even, odd] = &mut joint.cotangents;
                let (above, below) = if k % 2 == 0 { (odd, even) } else { (even, odd) };
                let pass = VjpPass {
                    at: joint.iterates[k].view(work.lens[k], active),
                    cotangent_out: above.view(work.lens[k + 1], active),
                    cotangent_in: below.view_mut(work.lens[k], active),
                };
                operator.vjp(pass, work.par, MemStack::new(&mut work.memory))?;
            }
            let [even, odd] = &mut joint.cotangents;
            let (gradients, mapped) = if first.is_multiple_of(2) { (even, odd) } else { (odd, even) };
            if let Some(metric) = metric {
                let (gradients, to) = (gradients.view(len, active), mapped.view_mut(len, active));
                matmul(to, Accum::Replace, metric.covariance(), gradients, T::ONE, work.par); // (n×n)(n×N)
            }
            for at in 0..active {
                if round >= joint.condition_counts[at] {
                    continue;
                }
                let slot = joint.active[at];
                let gradient = gradients.column(len, at);
                let iterate = joint.iterates[first].column(len, at);
                let observed = work.features[first].column(len, work.open[slot]);
                let condition = &joint.conditions[at * MOST_CUTS + round];
                let value = condition.value(joint.iterates[last].column(classes, at));
                let back = gradient.iter().zip(observed).zip(iterate).map(|((g, v0), v)| *g * (*v0 - *v));
                joint.cuts.add(slot, gradient, value + back.sum::<T>(), condition);
                if metric.is_some() {
                    joint.cuts.set_mapped(slot, mapped.column(len, at));
                }
            }
        }
        Ok(())
    }

    /// Squared distances of the iterates from the observed features.
    fn measure_iterates(&self, first: usize, metric: Option<&FeatureMetric<T>>, work: &mut ChainWorkspace<T>) {
        let len = work.lens[first];
        let JointMemory { active, iterates, cotangents: [moved, weighted], distances, .. } = &mut work.joint;
        for (at, &slot) in active.iter().enumerate() {
            let observed = work.features[first].column(len, work.open[slot]);
            let entries = iterates[first].column(len, at).iter().zip(observed);
            moved.column_mut(len, at).iter_mut().zip(entries).for_each(|(to, (v, v0))| *to = *v - *v0);
        }
        let weighted = match metric {
            None => &*moved,
            Some(metric) => {
                let (moved, to) = (moved.view(len, active.len()), weighted.view_mut(len, active.len()));
                matmul(to, Accum::Replace, metric.precision(), moved, T::ONE, work.par); // (n×n)(n×N)
                &*weighted
            }
        };
        for (at, distance) in distances[..active.len()].iter_mut().enumerate() {
            let products = moved.column(len, at).iter().zip(weighted.column(len, at));
            // Rounding may leave less than nothing.
            *distance = products.map(|(a, b)| a.to_f64() * b.to_f64()).sum::<f64>().max(0.0);
        }
    }
}
