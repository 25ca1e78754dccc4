//! Nearer targets from targets at the goal: cuts of their surroundings.
//!
//! The cuts of a target and of points just beyond the goal's edge describe the rest around it. The nearest point that
//! satisfies them is nearer than the target; where it is at the goal it becomes the target, and elsewhere the edge is looked
//! for on the way there and the rest is linearised behind it. Cuts that a new target misses come from another piece of the
//! rest, and end.
//!
//! # Source
//! Bundle methods: Kiwiel, *Methods of Descent for Nondifferentiable Optimization*, 1985, ch. 5 (feasible points, cuts
//! shifted to them). The form for targets within an interval is our own.

use faer::dyn_stack::MemStack;
use fbp_linalg::Real;

use super::iterates::Iterates;
use super::linearise::Linearisation;
use super::memory::{Edge, Group, JointMemory, Segments};
use super::problem::Problem;
use super::starts::Origin;
use super::targets::Targets;
use crate::InverseError;

/// Conditions that a step linearises.
const CONDITIONS: usize = 2;
/// Points that are tried to find the goal's edge.
const TRIES: usize = 2;
/// Steps in a row that may bring nothing.
const IDLE: usize = 4;

/// How much is spent on refining.
#[derive(Clone, Copy)]
pub(super) struct Refinement {
    /// Most steps.
    steps: usize,
    /// Share of the distance that a step has to promise.
    worthwhile: f64,
}

impl Refinement {
    /// For the targets of the first search.
    pub(super) const FIRST: Self = Self { steps: 20, worthwhile: 3e-3 };
    /// For the results of a descent.
    pub(super) const SECOND: Self = Self { steps: 10, worthwhile: 2e-3 };
}

impl<T: Real> Problem<'_, T> {
    /// Brings the targets of the active samples, all at the goal, nearer to the observed features.
    pub(super) fn refine(
        &self,
        how: Refinement,
        memory: &mut JointMemory<T>,
        targets: &mut Targets<T>,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let JointMemory { iterates, gradients, cuts, group, segments, .. } = memory;
        if iterates.active.is_empty() {
            return Ok(());
        }
        self.load(Origin::Target, targets, group, iterates);
        iterates.evaluate((self.rest, self.par), stack)?;
        for &sample in &iterates.active {
            cuts.clear(sample);
            segments.edges[sample] = Edge::default();
        }
        for _ in 0..how.steps {
            self.cut(Linearisation { metric: None, room: CONDITIONS }, (iterates, gradients, cuts), stack)?;
            for &sample in &iterates.active {
                let points = [targets.point(sample), self.observed(sample)];
                cuts.hold(sample, points, group.progress[sample].best.sqrt());
            }
            self.step(None, iterates, cuts, stack)?;
            self.drop_settled(how, iterates, group);
            if iterates.active.is_empty() {
                break;
            }
            iterates.evaluate((self.rest, self.par), stack)?;
            self.find_edges((iterates, segments), group, targets, stack)?;
            self.drop_idle(how, (iterates, segments), group);
            if iterates.active.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Ends the samples whose cuts promise nothing nearer.
    fn drop_settled(&self, how: Refinement, iterates: &mut Iterates<T>, group: &Group) {
        self.measure_iterates(iterates);
        let mut kept = 0;
        for at in 0..iterates.active.len() {
            let best = group.progress[iterates.active[at]].best;
            if iterates.distances[at].sqrt() < (1.0 - how.worthwhile) * best.sqrt() {
                iterates.keep_point(at, kept);
                kept += 1;
            }
        }
        iterates.active.truncate(kept);
    }

    /// Ends the samples that several steps in a row have not brought nearer, and those that have overflowed.
    fn drop_idle(&self, how: Refinement, (iterates, segments): (&mut Iterates<T>, &mut Segments<T>), group: &Group) {
        let mut kept = 0;
        for at in 0..iterates.active.len() {
            let sample = iterates.active[at];
            let Edge { missed, idle, before, .. } = &mut segments.edges[sample];
            let gained = group.progress[sample].best.sqrt() < (1.0 - how.worthwhile) * before.sqrt();
            *idle = if gained || !*missed { 0 } else { *idle + 1 };
            if *idle > IDLE || iterates.output(at).iter().any(|v| !v.is_finite()) {
                continue;
            }
            iterates.keep(at, kept);
            kept += 1;
        }
        iterates.active.truncate(kept);
    }

    /// Accepts the iterates at the goal, and for the others points on the way to them; leaves as iterates the points to be
    /// linearised at.
    fn find_edges(
        &self,
        (iterates, segments): (&mut Iterates<T>, &mut Segments<T>),
        group: &mut Group,
        targets: &mut Targets<T>,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let mut any_missed = false;
        for at in 0..iterates.active.len() {
            let sample = iterates.active[at];
            segments.edges[sample].before = group.progress[sample].best;
            segments.edges[sample].missed = !self.try_iterate(at, iterates, (segments, group), targets);
            any_missed |= segments.edges[sample].missed;
        }
        if !any_missed {
            return Ok(());
        }
        for round in 0..=TRIES {
            for at in 0..iterates.active.len() {
                let sample = iterates.active[at];
                let Edge { missed, beyond, .. } = segments.edges[sample];
                let (target, end) = (targets.point(sample), segments.ends.column(self.len(), sample));
                let iterate = iterates.point_mut(at);
                if !missed {
                    iterate.copy_from_slice(target);
                } else if round == TRIES {
                    iterate.copy_from_slice(end);
                } else {
                    let inside = self.goal_of(sample).excess(targets.output(sample)).max(0.0);
                    let t = T::from_f64((inside / (inside - beyond)).clamp(0.1, 0.9));
                    let ends = target.iter().zip(end);
                    iterate.iter_mut().zip(ends).for_each(|(v, (v0, v1))| *v = *v0 + t * (*v1 - *v0));
                }
            }
            iterates.evaluate((self.rest, self.par), stack)?;
            if round == TRIES {
                break;
            }
            self.measure_iterates(iterates);
            let mut any_accepted = false;
            for at in 0..iterates.active.len() {
                // What has missed once is linearised beyond the edge, also if a later point is accepted.
                if segments.edges[iterates.active[at]].missed {
                    any_accepted |= self.try_iterate(at, iterates, (segments, group), targets);
                }
            }
            if round + 1 == TRIES && !any_accepted {
                // The iterates are the ends already.
                break;
            }
        }
        Ok(())
    }

    /// Accepts an iterate at the goal that is nearer than the target, or makes it the end of the segment of its sample;
    /// tells which.
    fn try_iterate(
        &self,
        at: usize,
        iterates: &Iterates<T>,
        (segments, group): (&mut Segments<T>, &mut Group),
        targets: &mut Targets<T>,
    ) -> bool {
        let sample = iterates.active[at];
        let goal = self.goal_of(sample);
        let (output, progress) = (iterates.output(at), &mut group.progress[sample]);
        if goal.is_reached(output) && iterates.distances[at] < progress.best {
            progress.best = iterates.distances[at];
            targets.set(sample, iterates.point(at), output);
            return true;
        }
        segments.edges[sample].beyond = goal.excess(output).clamp(-f64::MAX, -f64::MIN_POSITIVE);
        segments.ends.column_mut(self.len(), sample).copy_from_slice(iterates.point(at));
        false
    }
}
