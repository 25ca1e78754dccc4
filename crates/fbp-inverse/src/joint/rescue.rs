//! Last resort: climbs to the goal from many starts, for the samples that would be given up.

use fbp_linalg::Real;

use super::descend::Descent;
use crate::chain::ChainGoal;
use crate::chain::ChainWorkspace;
use crate::chain::ReverseChain;
use crate::{InverseError, Range};

/// Starts before anything else is tried.
pub(crate) const FIRST_STARTS: std::ops::Range<usize> = 0..4;
/// Starts where nothing else has reached the goal.
pub(crate) const LAST_STARTS: std::ops::Range<usize> = 4..64;

impl<T: Real> ReverseChain<T> {
    /// Climbs to the goal from other points, for the active samples, which miss it; what gets there is settled.
    ///
    /// Samples that no climb brings to the goal keep the targets that they have.
    pub(crate) fn rescue(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        starts: std::ops::Range<usize>,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        let first = self.starts[boundary];
        if goal.margins.is_none() || !self.is_differentiable_from(first) || work.joint.active.is_empty() {
            return Ok(());
        }
        work.joint.forget_progress();
        for start in starts {
            work.joint.active.clear();
            let joint = &mut work.joint;
            joint.active.extend(joint.group.iter().filter(|slot| joint.progress[**slot].best == f64::INFINITY));
            if joint.active.is_empty() {
                break;
            }
            self.scatter(first, start, work);
            self.descend(boundary, goal, Descent::CLIMB, work)?;
        }
        self.settle(boundary, goal, work)
    }

    /// Makes start number `start` the iterates of the active samples.
    ///
    /// It depends on nothing but the number and the observed feature, so that samples do not depend on their batch.
    fn scatter(&self, first: usize, start: usize, work: &mut ChainWorkspace<T>) {
        let (len, range) = (work.lens[first], self.ranges[first]);
        for (at, &slot) in work.joint.active.iter().enumerate() {
            let observed = work.features[first].column(len, work.open[slot]);
            let mean_square = observed.iter().map(|v| v.to_f64() * v.to_f64()).sum::<f64>() / len.max(1) as f64;
            let size = if mean_square > 0.0 { mean_square.sqrt() } else { 1.0 };
            let width = range.upper.to_f64() - range.lower.to_f64();
            work.joint.notes[slot][0] = if width.is_finite() { width } else { size };
            let mut dice = Dice::new(start);
            let iterate = work.joint.iterates[first].column_mut(len, at);
            for (to, &v0) in iterate.iter_mut().zip(observed) {
                *to = range.clip(T::from_f64(start_entry(v0.to_f64(), size, range, start, &mut dice)));
            }
        }
    }
}

/// One entry of a start: the observed feature itself first, then by turns with noise of growing size around it, anywhere in
/// the range, and at the ends of the range.
fn start_entry<T: Real>(observed: f64, size: f64, range: Range<T>, start: usize, dice: &mut Dice) -> f64 {
    let (lower, upper) = (range.lower.to_f64(), range.upper.to_f64());
    let width = upper - lower;
    let around = |spread: f64, dice: &mut Dice| observed + spread * (dice.uniform() + dice.uniform() - 1.0);
    if start == 0 {
        return observed;
    }
    let growing = (1 + start / 4 % 4) as f64;
    if !width.is_finite() {
        return around(growing * size * if start.is_multiple_of(2) { 1.0 } else { 0.25 }, dice);
    }
    match start % 4 {
        1 => around(0.35 * growing * width, dice),
        2 => lower + width * if dice.uniform() < 0.5 { 0.0 } else { 1.0 },
        3 => lower + width * dice.uniform(),
        _ => observed + growing / 4.0 * (lower + width * dice.uniform() - observed),
    }
}

/// SplitMix64: the same numbers on every machine.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: usize) -> Self {
        Self(seed as u64)
    }

    /// A number of `[0, 1)`.
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
