//! Nearer targets from targets at the goal: cuts of their surroundings.
//!
//! The cuts of a target and of points just beyond the goal's edge describe the rest around it. The nearest point that
//! satisfies them is nearer than the target; where it is at the goal it becomes the target, and elsewhere the edge is looked
//! for on the way there and the rest is linearised behind it. Cuts that a new target misses come from another piece of the
//! rest, and end.
//!
//! # Source
//! Bundle methods: Kiwiel, *Methods of Descent for Nondifferentiable Optimization*, 1985, ch. 5 (feasible points, cuts
//! shifted to them). The form for targets within a range is our own.

use fbp_linalg::Real;

use super::descend::Origin;
use super::goal::SampleGoal;
use super::linearise::Linearisation;
use crate::InverseError;
use crate::chain::ChainGoal;
use crate::chain::ChainWorkspace;
use crate::chain::ReverseChain;

/// Conditions that a step linearises.
const CONDITIONS: usize = 2;
/// Points that are tried to find the goal's edge.
const TRIES: usize = 2;
/// Steps in a row that may bring nothing.
const IDLE: usize = 4;

/// How much is spent on refining.
#[derive(Clone, Copy)]
pub(crate) struct Refinement {
    /// Most steps.
    steps: usize,
    /// Share of the distance that a step has to promise.
    worthwhile: f64,
}

impl Refinement {
    /// For the targets of the first search.
    pub(crate) const FIRST: Self = Self { steps: 20, worthwhile: 3e-3 };
    /// For the results of a descent.
    pub(crate) const SECOND: Self = Self { steps: 10, worthwhile: 2e-3 };
}

impl<T: Real> ReverseChain<T> {
    /// Brings the targets of the active samples, all at the goal, nearer to the observed features.
    pub(crate) fn refine(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        how: Refinement,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        let first = self.starts[boundary];
        let len = work.lens[first];
        if work.joint.active.is_empty() {
            return Ok(());
        }
        self.load(boundary, Origin::Target, work);
        self.push_iterates(first, work)?;
        for &slot in &work.joint.active {
            work.joint.cuts.clear(slot);
            work.joint.notes[slot] = [0.0; 4];
        }
        for _ in 0..how.steps {
            self.cut(goal, Linearisation { first, metric: None, room: CONDITIONS }, work)?;
            for &slot in &work.joint.active {
                let sample = work.open[slot];
                let target = work.targets[boundary].column(len, sample);
                let observed = work.features[first].column(len, sample);
                work.joint.cuts.hold(slot, [target, observed], work.joint.progress[slot].best.sqrt());
            }
            self.step(boundary, None, work)?;
            self.drop_settled(first, how, work);
            if work.joint.active.is_empty() {
                break;
            }
            self.push_iterates(first, work)?;
            self.find_edges(boundary, goal, how, work)?;
            if work.joint.active.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Ends the samples whose cuts promise nothing nearer.
    fn drop_settled(&self, first: usize, how: Refinement, work: &mut ChainWorkspace<T>) {
        self.measure_iterates(first, None, work);
        let len = work.lens[first];
        let joint = &mut work.joint;
        let mut kept = 0;
        for at in 0..joint.active.len() {
            let slot = joint.active[at];
            let promised = joint.distances[at].sqrt();
            if promised < (1.0 - how.worthwhile) * joint.progress[slot].best.sqrt() {
                joint.iterates[first].move_column(len, at, kept);
                (joint.active[kept], joint.distances[kept]) = (slot, joint.distances[at]);
                kept += 1;
            }
        }
        joint.active.truncate(kept);
    }

    /// Accepts the iterates at the goal, and for the others points on the way to them; leaves as iterates the points to be
    /// linearised at.
    ///
    /// Notes per sample: whether the step has missed, the excess at the end of its segment, steps in a row that brought
    /// nothing, and the distance before.
    fn find_edges(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        how: Refinement,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        let (first, last) = (self.starts[boundary], self.operators.len());
        let (len, classes) = (work.lens[first], self.out_len());
        let mut missed = 0;
        for at in 0..work.joint.active.len() {
            let slot = work.joint.active[at];
            work.joint.notes[slot][3] = work.joint.progress[slot].best;
            missed += usize::from(!self.try_iterate(boundary, goal, at, work));
        }
        let tries = if missed == 0 { 0 } else { TRIES };
        for round in 0..=tries {
            let joint = &mut work.joint;
            for (at, &slot) in joint.active.iter().enumerate() {
                let target = work.targets[boundary].column(len, work.open[slot]);
                let [missed, beyond, ..] = joint.notes[slot];
                let inside = SampleGoal::of(goal, work.open[slot]).excess(work.pushed[boundary].column(classes, slot));
                let share = if missed == 0.0 {
                    0.0
                } else if round == tries {
                    1.0
                } else {
                    (inside.max(0.0) / (inside.max(0.0) - beyond)).clamp(0.1, 0.9)
                };
                let t = T::from_f64(share);
                let ends = target.iter().zip(joint.ends.column(len, slot));
                let iterate = joint.iterates[first].column_mut(len, at).iter_mut();
                iterate.zip(ends).for_each(|(v, (v0, v1))| {
                    *v = if share == 0.0 {
                        *v0
                    } else if share == 1.0 {
                        *v1
                    } else {
                        *v0 + t * (*v1 - *v0)
                    };
                });
            }
            if tries > 0 {
                self.push_iterates(first, work)?;
            }
            if round < tries {
                self.measure_iterates(first, None, work);
                for at in 0..work.joint.active.len() {
                    if work.joint.notes[work.joint.active[at]][0] != 0.0 {
                        self.try_iterate(boundary, goal, at, work);
                        work.joint.notes[work.joint.active[at]][0] = 1.0;
                    }
                }
            }
        }
        let joint = &mut work.joint;
        let mut kept = 0;
        for at in 0..joint.active.len() {
            let slot = joint.active[at];
            let [missed, _, idle, before] = &mut joint.notes[slot];
            let gained = joint.progress[slot].best.sqrt() < (1.0 - how.worthwhile) * before.sqrt();
            *idle = if gained || *missed == 0.0 { 0.0 } else { *idle + 1.0 };
            if *idle > IDLE as f64 || joint.iterates[last].column(classes, at).iter().any(|v| !v.is_finite()) {
                continue;
            }
            joint.keep(at, kept, first, &work.lens);
            kept += 1;
        }
        joint.active.truncate(kept);
        Ok(())
    }

    /// Accepts an iterate at the goal that is nearer than the target, or makes it the end of the segment of its sample;
    /// tells which.
    fn try_iterate(&self, boundary: usize, goal: &ChainGoal<'_, T>, at: usize, work: &mut ChainWorkspace<T>) -> bool {
        let (first, last) = (self.starts[boundary], self.operators.len());
        let (len, classes) = (work.lens[first], self.out_len());
        let slot = work.joint.active[at];
        let goal = SampleGoal::of(goal, work.open[slot]);
        let joint = &mut work.joint;
        let output = joint.iterates[last].column(classes, at);
        if goal.is_reached(output) && joint.distances[at] < joint.progress[slot].best {
            joint.progress[slot].best = joint.distances[at];
            joint.notes[slot][0] = 0.0;
            self.accept(boundary, at, work);
            return true;
        }
        (joint.notes[slot][0], joint.notes[slot][1]) = (1.0, goal.excess(output).clamp(-f64::MAX, -f64::MIN_POSITIVE));
        let iterate = joint.iterates[first].column(len, at);
        joint.ends.column_mut(len, slot).copy_from_slice(iterate);
        false
    }
}
