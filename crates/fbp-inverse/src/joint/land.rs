//! Targets with exactly the margin.

use faer::dyn_stack::MemStack;
use fbp_linalg::{Real, distance_sq};

use super::goal::SampleGoal;
use super::memory::{JointMemory, Landing};
use super::problem::Problem;
use super::targets::Targets;
use crate::InverseError;

/// Most points that are tried to find the margin on a segment.
const LANDINGS: usize = 6;
/// Share of the missing margin by which a target may be short to be stretched.
const STRETCH: f64 = 0.01;
/// Share of the missing margin by which a target may exceed the margin.
const LANDED: f64 = 1e-5;

impl<T: Real> Problem<'_, T> {
    /// Moves the targets of the group that exceed the margin towards the observed features, to where they have it exactly;
    /// and those that miss it by little away from them.
    ///
    /// On that line the distance falls towards the observed feature, in every metric; a secant finds the margin.
    pub(super) fn land(
        &self,
        memory: &mut JointMemory<T>,
        targets: &mut Targets<T>,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let bounds = self.bounds();
        self.choose_landings(memory, targets);
        for round in 0..LANDINGS {
            let JointMemory { iterates, segments, group, .. } = &mut *memory;
            if iterates.active.is_empty() {
                break;
            }
            for at in 0..iterates.active.len() {
                let sample = iterates.active[at];
                let Landing { low, high, below, above, share } = &mut segments.landings[sample];
                let part = if round % 3 == 2 { 0.5 } else { (-*below / (*above - *below)).clamp(0.0, 1.0) };
                // A little inside, so that rounding does not end on the wrong side for ever.
                let t = T::from_f64(*low + (*high - *low) * (part + LANDED).min(1.0));
                let ends = self.observed(sample).iter().zip(segments.ends.column(self.len(), sample));
                let iterate = iterates.point_mut(at);
                iterate.iter_mut().zip(ends).for_each(|(v, (v0, v1))| *v = *v0 + t * (*v1 - *v0));
                bounds.clip_all(iterate);
                *share = t.to_f64();
            }
            iterates.evaluate((self.rest, self.par), stack)?;
            let mut kept = 0;
            for at in 0..iterates.active.len() {
                let sample = iterates.active[at];
                let landing = &mut segments.landings[sample];
                let goal = self.goal_of(sample);
                let output = iterates.output(at);
                let excess = goal.excess(output);
                if goal.is_reached(output) {
                    let has_landed = excess <= landed(&goal, output, landing.below);
                    targets.set(sample, iterates.point(at), output);
                    let length_sq = distance_sq(segments.ends.column(self.len(), sample), self.observed(sample));
                    let progress = &mut group.progress[sample];
                    progress.best = progress.best.min(landing.share * landing.share * length_sq);
                    (landing.high, landing.above) = (landing.share, excess);
                    if has_landed {
                        continue;
                    }
                } else {
                    (landing.low, landing.below) = (landing.share, excess.max(-f64::MAX));
                }
                iterates.keep_place(at, kept);
                kept += 1;
            }
            iterates.active.truncate(kept);
        }
        Ok(())
    }

    /// Makes those of the group active whose targets exceed the margin, and notes the ends of their segments.
    fn choose_landings(&self, memory: &mut JointMemory<T>, targets: &Targets<T>) {
        let JointMemory { iterates, segments, group, .. } = memory;
        iterates.active.clear();
        for &sample in &group.samples {
            let goal = self.goal_of(sample);
            let output = targets.output(sample);
            let (observed, excess) = (goal.excess(self.observed_out(sample)), goal.excess(output));
            let exceeds = goal.is_reached(output) && excess > landed(&goal, output, observed);
            let is_short = !goal.is_reached(output) && excess > STRETCH * observed;
            if observed < 0.0 && (exceeds || is_short) {
                segments.ends.column_mut(self.len(), sample).copy_from_slice(targets.point(sample));
                let (low, high, below, above) = if exceeds {
                    (0.0, 1.0, observed, excess)
                } else {
                    // What a linear rest would do twice as far beyond the target as it is short.
                    (1.0, 1.0 + 2.0 * excess / observed, excess, -excess)
                };
                segments.landings[sample] = Landing { low, high, below, above, share: low };
                iterates.active.push(sample);
            }
        }
    }
}

/// Excess that counts as the margin itself, where `missing < 0` is that of the other end.
fn landed<T: Real>(goal: &SampleGoal<'_, T>, output: &[T], missing: f64) -> f64 {
    goal.tolerance(output).max(-LANDED * missing)
}
