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
//! # Source
//! Repeated linearisation: Moosavi-Dezfooli, Fawzi & Frossard, "DeepFool", CVPR 2016, there for the nearest point of
//! *another* class. Keeping cuts: Kelley, "The cutting-plane method for solving convex programs", J. SIAM 8 (1960).
//! Nearest points within a range, raised cuts and the use for targets: own derivation.

use faer::MatMut;
use faer::dyn_stack::{MemStack, StackReq};
use faer::reborrow::ReborrowMut;
use fbp_linalg::{BoxedSample, LinalgError, Real, SplitBatch, column_mut, for_each_part, parts_scratch};

use super::ReverseChain;
use super::cuts::{Cuts, MOST_CUTS, SampleCuts};
use super::goal::{Condition, SampleGoal};
use super::reverse::ChainGoal;
use super::workspace::{Batch, ChainWorkspace};
use crate::{InverseError, Range, VjpPass};

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

/// Memory of the iteration, for the samples of one batch.
#[derive(Debug)]
pub(super) struct JointMemory<T> {
    /// Open samples in the iteration, as places in the list of open samples.
    pub(super) active: Vec<usize>,
    /// Every feature of the rest of the network at the iterates of the active samples.
    iterates: Vec<Batch<T>>,
    cotangents: [Batch<T>; 2],
    conditions: Vec<Condition<T>>,
    condition_counts: Vec<usize>,
    cuts: Cuts<T>,
    /// Squared distance of the nearest iterate at the goal, by place; infinite if there is none.
    best: Vec<f64>,
}

impl<T: Real> JointMemory<T> {
    /// Memory for `capacity` samples; `lens` are the lengths of all features, `boundary` is the longest one that is
    /// reconstructed.
    pub(super) fn new(lens: &[usize], boundary: usize, capacity: usize) -> Self {
        let largest = lens.iter().copied().max().unwrap_or(0) * capacity;
        let none = Condition { plus: 0, minus: None, lower: T::ZERO, upper: T::ZERO };
        Self {
            active: Vec::with_capacity(capacity),
            iterates: lens.iter().map(|len| Batch::new(len * capacity)).collect(),
            cotangents: [Batch::new(largest), Batch::new(largest)],
            conditions: vec![none; MOST_CUTS * capacity],
            condition_counts: vec![0; capacity],
            cuts: Cuts::new(boundary, capacity),
            best: vec![f64::INFINITY; capacity],
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
        derivatives.or(parts_scratch(BoxedSample::<T>::solve_scratch(MOST_CUTS, longest), batch, par))
    }

    /// Whether the rest of the network above operator `first` has derivatives (and is not empty).
    fn is_differentiable_from(&self, first: usize) -> bool {
        let rest = &self.operators[first..];
        !rest.is_empty() && rest.iter().all(|op| op.differentiable().is_some())
    }

    /// Pushes the starts of the active samples through the rest of the network and improves them; writes the targets
    /// that reach the goal, and what the rest makes of the last target of every active sample.
    pub(super) fn join(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        start: Start,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        let first = self.starts[boundary];
        let steps = if self.is_differentiable_from(first) { STEPS } else { 0 };
        self.begin(boundary, start, work)?;
        self.judge(boundary, goal, true, work);
        for _ in 0..steps {
            if work.joint.active.is_empty() {
                break;
            }
            self.cut(first, goal, work)?;
            self.step(first, work)?;
            self.push_iterates(first, work)?;
            self.judge(boundary, goal, false, work);
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
        self.judge(boundary, goal, true, work);
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
    fn judge(&self, boundary: usize, goal: &ChainGoal<'_, T>, is_start: bool, work: &mut ChainWorkspace<T>) {
        let (first, last) = (self.starts[boundary], self.operators.len());
        let (len, classes) = (work.lens[first], self.out_len());
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
                let distance = squared_distance(iterate, work.features[first].column(len, sample));
                let before = joint.best[slot];
                if is_start || distance < before {
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
    fn cut(&self, first: usize, goal: &ChainGoal<'_, T>, work: &mut ChainWorkspace<T>) -> Result<(), InverseError> {
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
            for at in 0..active {
                if round >= joint.condition_counts[at] {
                    continue;
                }
                let slot = joint.active[at];
                let gradient = joint.cotangents[first % 2].column(len, at);
                let iterate = joint.iterates[first].column(len, at);
                let observed = work.features[first].column(len, work.open[slot]);
                let condition = &joint.conditions[at * MOST_CUTS + round];
                let value = condition.value(joint.iterates[last].column(classes, at));
                let back = gradient.iter().zip(observed).zip(iterate).map(|((g, v0), v)| *g * (*v0 - *v));
                joint.cuts.add(slot, gradient, value + back.sum::<T>(), condition);
            }
        }
        Ok(())
    }

    /// Moves every iterate to the nearest point that satisfies the cuts of its sample.
    fn step(&self, first: usize, work: &mut ChainWorkspace<T>) -> Result<(), InverseError> {
        let len = work.lens[first];
        let joint = &mut work.joint;
        let context = StepContext {
            features: &work.features[first],
            open: &work.open,
            cuts: &joint.cuts,
            range: self.ranges[first],
            len,
        };
        let iterates = joint.iterates[first].view_mut(len, joint.active.len());
        let part = BoxedSample::<T>::solve_scratch(MOST_CUTS, len);
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
            let SampleCuts { gradients, values, lower, upper } = self.cuts.of(slot, self.len);
            let in_layer = || InverseError::in_layer("chain");
            let solution = column_mut("chain", pass.iterates.rb_mut(), at).map_err(in_layer())?;
            let problem = BoxedSample {
                rows: gradients,
                observed_in: self.features.column(self.len, self.open[slot]),
                observed_out: values,
                lower,
                upper,
                bounds: (self.range.lower, self.range.upper),
                solution: &mut *solution,
            };
            // Cuts that contradict each other give a compromise: the next linearisation tells whether it was one.
            match problem.solve(stack) {
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

fn squared_distance<T: Real>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (*a - *b).to_f64()).map(|step| step * step).sum()
}
