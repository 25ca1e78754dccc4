//! What follows once samples are at the goal: targets with exactly the margin, and nearer ones where the rest is far from
//! linear.
//!
//! How far it is from linear, the first step has told (the *bend*). Measured with plain loops on a small network for
//! Fashion-MNIST of 85 % accuracy, margin 1, before its second convolution: a third of the samples have a bend above 0.08,
//! a twelfth above 0.2 and a hundredth above 0.3; below 0.04 targets with exactly the margin are 0.4 % too far on average
//! and 4 % at most, against the nearest point that any search found. Refinement takes about five steps per sample that it
//! is spent on. On random chains most bends are above 0.4; there and where targets are far, descents find nearer ones.

use faer::dyn_stack::MemStack;
use fbp_linalg::{Real, norm_sq};

use super::descend::Descent;
use super::memory::{Group, JointMemory, Progress};
use super::problem::{Effort, Problem};
use super::refine::Refinement;
use super::starts::Origin;
use super::targets::Targets;
use crate::InverseError;

/// Bend above which targets are refined.
const BENT: f64 = 0.08;
/// Bend above which the targets of far samples are refined.
const BENT_FAR: f64 = 0.02;
/// Share of the norm of the observed feature from which on a target is far.
const FAR: f64 = 0.12;
/// Norms of the observed feature beyond which a target is refined, but not searched for from other starts: the network knows nothing
/// of such a sample yet, and every descent takes more passes than all that was done before. Measured on `resnet20` after one epoch on
/// 120 images, all of them wrong: targets are 5 to 7 norms away, and descents would bring them 0 to 34 % nearer in about nine times the
/// time. Of a trained network no target is so far: those of 6,000 images of the demo are the same to the bit.
const BEYOND: f64 = 2.0;
/// Descents that look for nearer targets, each with the bend above which it is worth its steps, in ascending order; for far targets
/// any bend is.
///
/// Long steps and a weak pull at first find other pieces of the rest. Measured on 20 random chains of 40 samples, distances over
/// those of oracles from many starts: 90, 99 and 100 % of 2,355 targets lie below 1.004, 1.13 and 1.67 (steps of a tenth and half
/// the pull: 1.012, 1.23 and 1.67); without bounds on the bend below 1.0004, 1.07 and 1.67, at many times the cost on deep networks.
/// Those were with a bound of 0.2 on the last one, which then depended on the other samples of a batch; on 10 chains of 20 samples it
/// makes no difference, and on 512 images of `resnet20` after one epoch one of 0.05 %.
const DESCENTS: [(f64, Descent); 5] = [
    (0.2, Descent::new(Origin::Observed, 150, [1.0, 0.1])),
    (0.3, Descent::new(Origin::Around(1, 1.0), 150, [1.0, 0.1])),
    (0.4, Descent::new(Origin::Around(2, 1.0), 150, [0.6, 0.2])),
    (0.4, Descent::new(Origin::Around(3, 1.0), 150, [0.3, 0.2])),
    (0.4, Descent::new(Origin::Target, 60, [0.05, 0.5])),
];

impl<T: Real> Problem<'_, T> {
    /// Settles the targets of the group that are at the goal.
    pub(super) fn settle(
        &self,
        memory: &mut JointMemory<T>,
        targets: &mut Targets<T>,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        if self.rest.has_derivatives() && self.effort != Effort::Quick {
            for &sample in &memory.group.samples {
                memory.group.progress[sample].size = norm_sq(self.observed(sample)).sqrt();
            }
            memory.iterates.activate(memory.group.bent(BENT));
            self.refine(Refinement::FIRST, memory, targets, stack)?;
            let descents = if self.effort == Effort::Refined { &[] } else { &DESCENTS[..] };
            for &(bend, descent) in descents {
                memory.iterates.activate(memory.group.within_sight(bend));
                if memory.iterates.active.is_empty() {
                    // Bounds rise, so that nobody needs the descents behind it either.
                    break;
                }
                tracing::debug!(bend, samples = memory.iterates.active.len(), entries = self.len(), "descent");
                // Leaves the targets as the iterates.
                self.measure_steepness(memory, targets, stack)?;
                if descent.origin != Origin::Target {
                    self.load(descent.origin, targets, &memory.group, &mut memory.iterates);
                    memory.iterates.evaluate((self.rest, self.par), stack)?;
                }
                self.descend(descent, memory, targets, stack)?;
                let Group { samples, progress } = &memory.group;
                memory.iterates.activate(samples.iter().copied().filter(|&sample| progress[sample].improved));
                self.refine(Refinement::SECOND, memory, targets, stack)?;
            }
            if self.effort == Effort::Exhaustive {
                self.exhaust(memory, targets, stack)?;
            }
        }
        self.land(memory, targets, stack)
    }
}

impl Group {
    /// Those that have reached the goal where the rest bends by more than `bend`, and far ones of nearly any bend.
    fn bent(&self, bend: f64) -> impl Iterator<Item = usize> + '_ {
        self.samples.iter().copied().filter(move |&sample| {
            let Progress { best, size, bend: own, .. } = self.progress[sample];
            best < f64::INFINITY && (own > bend || own > BENT_FAR && best.sqrt() > FAR * size)
        })
    }

    /// Of these, those whose targets are not out of all proportion. (Of a feature that is zero everything is.)
    fn within_sight(&self, bend: f64) -> impl Iterator<Item = usize> + '_ {
        self.bent(bend).filter(|&sample| {
            let Progress { best, size, .. } = self.progress[sample];
            size == 0.0 || best.sqrt() <= BEYOND * size
        })
    }
}
