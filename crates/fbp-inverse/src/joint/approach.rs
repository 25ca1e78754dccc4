//! Last resort for boxes: damped Gauss-Newton steps towards the box, from wherever a search has got to.
//!
//! The iteration of the module `search` goes from the observed feature to the nearest point that a linearisation promises. Where
//! that is far, the promise is seldom kept. Here each step starts where the last one ended and is the shortest that the
//! linearisation there promises; it is halved until the output is nearer to the box. Once there, the usual iteration brings the
//! point nearer to the observed feature.
//!
//! # Source
//! Damped Gauss-Newton for systems of inequalities: Burke & Ferris, "A Gauss-Newton method for convex composite optimization",
//! Math. Programming 71 (1995).

use faer::dyn_stack::MemStack;
use fbp_linalg::Real;

use super::linearise::Linearisation;
use super::memory::{Edge, JointMemory};
use super::problem::Problem;
use super::search::Start;
use super::starts::Origin;
use super::targets::{Among, Targets};
use crate::InverseError;

/// Most steps from one start.
const STEPS: usize = 24;
/// Most lengths that are tried for one step.
const LENGTHS: usize = 6;
/// Share of the violation that a step has to take away.
const DECREASE: f64 = 1e-3;
/// Most starts: a box that none of them reaches is hardly reached from more.
const STARTS: usize = 4;

impl<T: Real> Problem<'_, T> {
    /// Steps to the box from some starts, for the samples that miss it. Returns the number of those that still do; they keep
    /// the point whose output is nearest to the box from the last start.
    pub(super) fn rescue_to_box(
        &self,
        starts: std::ops::Range<usize>,
        memory: &mut JointMemory<T>,
        targets: &mut Targets<T>,
        stack: &mut MemStack,
    ) -> Result<usize, InverseError> {
        memory.group.restart(&memory.iterates.active);
        for start in starts.take(STARTS) {
            let JointMemory { iterates, group, descents, .. } = &mut *memory;
            let is_lost = |sample: &usize| !self.goal_of(*sample).is_reached(targets.output(*sample));
            iterates.activate(group.samples.iter().copied().filter(is_lost));
            if iterates.active.is_empty() {
                break;
            }
            self.scatter(start, iterates, &mut descents.paces);
            iterates.evaluate((self.rest, self.par), stack)?;
            for (at, &sample) in iterates.active.iter().enumerate() {
                targets.set(sample, iterates.point(at), iterates.output(at));
            }
            self.approach(memory, targets, stack)?;
        }
        self.join((Among::Missed, Start::Targets), memory, targets, stack)
    }

    /// Moves the targets of the active samples towards the box, as far as steps bring them nearer.
    fn approach(
        &self,
        memory: &mut JointMemory<T>,
        targets: &mut Targets<T>,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let (len, batch) = (self.len(), self.observed.ncols());
        let JointMemory { iterates, gradients, cuts, group, segments, .. } = memory;
        // Samples whose steps bring nothing have *missed*.
        iterates.active.iter().for_each(|&sample| segments.edges[sample] = Edge::default());
        for _ in 0..STEPS {
            let goes_on = |sample: &usize| {
                !segments.edges[*sample].missed && !self.goal_of(*sample).is_reached(targets.output(*sample))
            };
            iterates.activate(group.samples.iter().copied().filter(goes_on));
            if iterates.active.is_empty() {
                break;
            }
            self.load(Origin::Target, targets, group, iterates);
            for &sample in &iterates.active {
                segments.ends.column_mut(len, sample).copy_from_slice(targets.point(sample));
            }
            iterates.evaluate((self.rest, self.par), stack)?;
            let here = Problem { observed: segments.ends.view(len, batch), ..*self };
            here.cut(Linearisation { metric: None, room: cuts.most() }, (iterates, gradients, cuts), stack)?;
            here.step(None, iterates, cuts, stack)?;
            for length in 1..=LENGTHS {
                iterates.evaluate((self.rest, self.par), stack)?;
                let mut kept = 0;
                for at in 0..iterates.active.len() {
                    let sample = iterates.active[at];
                    let goal = self.goal_of(sample);
                    let before = goal.violation(targets.output(sample));
                    if goal.violation(iterates.output(at)) <= (1.0 - DECREASE) * before {
                        targets.set(sample, iterates.point(at), iterates.output(at));
                        continue;
                    }
                    if length == LENGTHS {
                        segments.edges[sample].missed = true;
                        continue;
                    }
                    let half = T::from_f64(0.5);
                    let base = segments.ends.column(len, sample);
                    iterates.point_mut(at).iter_mut().zip(base).for_each(|(v, v0)| *v = *v0 + half * (*v - *v0));
                    iterates.keep_point(at, kept);
                    kept += 1;
                }
                iterates.active.truncate(kept);
            }
        }
        Ok(())
    }
}
