//! Last resort: climbs to the goal from many starts, for the samples that would be given up.

use faer::dyn_stack::MemStack;
use fbp_linalg::Real;

use super::descend::Descent;
use super::memory::{Group, JointMemory, Progress};
use super::problem::{Effort, Problem};
use super::targets::{Among, Targets};
use crate::InverseError;

/// Starts before anything else is tried.
pub(crate) const FIRST_STARTS: std::ops::Range<usize> = 0..4;
/// Starts where nothing else has reached the goal.
pub(crate) const LAST_STARTS: std::ops::Range<usize> = 4..128;

/// Climbs in a row that may come no nearer to the goal. Measured on 12 random chains of 20 samples and on networks after one epoch: of the
/// 165 samples that climbs brought to the goal, the slowest had 23 before that came no nearer.
const STALE: usize = 32;
/// Share of the violation that counts as nearer.
const NEARER: f64 = 0.01;
/// Starts of a quick search. Where a network has lost a class, no sample of it has a target, and every one would use up all starts.
const QUICK_STARTS: usize = 16;

impl Group {
    /// The samples that have not reached the goal, but for those that climbs bring no nearer any more.
    fn lost(&self) -> impl Iterator<Item = usize> + '_ {
        self.samples.iter().copied().filter(|&sample| self.progress[sample].is_lost())
    }
}

impl Progress {
    fn is_lost(&self) -> bool {
        !self.has_reached() && self.climbs.stale < STALE
    }
}

impl<T: Real> JointMemory<T> {
    /// Notes how near to the goal the climbs from one start have come, for those that have not reached it.
    fn note_climbs(&mut self) {
        let Self { group: Group { samples, progress }, descents, .. } = self;
        for &sample in &*samples {
            if progress[sample].is_lost() {
                progress[sample].climbs.note(descents.paces[sample].least, NEARER);
            }
        }
    }
}

impl<T: Real> Problem<'_, T> {
    /// Climbs to the goal from other points, for the samples that miss it; what gets there is settled. Returns the number of
    /// those that still miss it; they keep the targets that they have.
    ///
    /// A point at the goal gives one at every boundary above it. So samples for which a longer search has found none `above` are
    /// not searched for again, where every step is dearer.
    pub(crate) fn rescue(
        &self,
        (starts, above): (std::ops::Range<usize>, Option<&Targets<T>>),
        memory: &mut JointMemory<T>,
        targets: &mut Targets<T>,
        stack: &mut MemStack,
    ) -> Result<usize, InverseError> {
        let missed = targets.among(self.open, Among::Missed).count();
        let within_reach = |sample: &usize| above.is_none_or(|above| !above.is_missed(*sample));
        memory.iterates.restart(self.rest, targets.among(self.open, Among::Missed).filter(within_reach));
        if memory.iterates.active.is_empty() || !self.rest.has_derivatives() {
            return Ok(missed);
        }
        if self.goal.margin().is_none() {
            return if self.goal.is_wide() { self.rescue_to_box(starts, memory, targets, stack) } else { Ok(missed) };
        }
        let end = if self.effort == Effort::Quick { starts.end.min(QUICK_STARTS) } else { starts.end };
        memory.group.restart(&memory.iterates.active);
        for start in starts.start..end {
            let JointMemory { iterates, group, descents, .. } = &mut *memory;
            iterates.activate(group.lost());
            if iterates.active.is_empty() {
                break;
            }
            tracing::debug!(
                start,
                lost = iterates.active.len(),
                of = group.samples.len(),
                entries = self.len(),
                "climb"
            );
            self.scatter(start, iterates, &mut descents.paces);
            iterates.evaluate((self.rest, self.par), stack)?;
            self.descend(Descent::CLIMB, memory, targets, stack)?;
            memory.note_climbs();
        }
        self.settle(memory, targets, stack)?;
        Ok(targets.note(self.open, |sample| memory.group.progress[sample].has_reached()))
    }
}
