//! Points at which searches start.

use fbp_linalg::{Real, norm_sq};

use super::iterates::Iterates;
use super::memory::{Group, Pace};
use super::problem::Problem;
use super::targets::Targets;
use crate::Interval;

/// Where a descent starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Origin {
    /// At the targets.
    Target,
    /// At the observed features.
    Observed,
    /// Around the observed features, about as far away as the targets times a factor; the number seeds the noise.
    Around(usize, f64),
}

impl<T: Real> Problem<'_, T> {
    /// Makes the origins of a search the iterates of the active samples.
    pub(super) fn load(&self, origin: Origin, targets: &Targets<T>, group: &Group, iterates: &mut Iterates<T>) {
        let bounds = self.bounds();
        for at in 0..iterates.active.len() {
            let sample = iterates.active[at];
            let iterate = iterates.point_mut(at);
            match origin {
                Origin::Target => iterate.copy_from_slice(targets.point(sample)),
                Origin::Observed => iterate.copy_from_slice(self.observed(sample)),
                Origin::Around(seed, spread) => {
                    let spread =
                        spread * group.progress[sample].scale_sq().sqrt() * (6.0 / self.len().max(1) as f64).sqrt();
                    let mut dice = Dice::new(seed);
                    for (to, &v0) in iterate.iter_mut().zip(self.observed(sample)) {
                        let noise = dice.uniform() + dice.uniform() - 1.0;
                        *to = v0 + T::from_f64(spread * noise);
                    }
                    bounds.clip_all(iterate);
                }
            }
        }
    }

    /// Makes start number `start` the iterates of the active samples, and notes the scale of the first steps from there.
    ///
    /// It depends on nothing but the number and the observed feature, so that samples do not depend on their batch.
    pub(super) fn scatter(&self, start: usize, iterates: &mut Iterates<T>, paces: &mut [Pace]) {
        let (interval, bounds) = (self.rest.interval(), self.bounds());
        for at in 0..iterates.active.len() {
            let sample = iterates.active[at];
            let observed = self.observed(sample);
            let mean_square = norm_sq(observed) / self.len().max(1) as f64;
            let size = if mean_square > 0.0 { mean_square.sqrt() } else { 1.0 };
            let width = interval.upper.to_f64() - interval.lower.to_f64();
            paces[sample].length = if width.is_finite() { width } else { size };
            let mut dice = Dice::new(start);
            let iterate = iterates.point_mut(at);
            for (to, &v0) in iterate.iter_mut().zip(observed) {
                *to = T::from_f64(start_entry(v0.to_f64(), size, interval, start, &mut dice));
            }
            bounds.clip_all(iterate);
        }
    }
}

/// One entry of a start: the observed feature itself first, then by turns with noise of growing size around it, anywhere in
/// the interval, and at the ends of the interval.
fn start_entry<T: Real>(observed: f64, size: f64, interval: Interval<T>, start: usize, dice: &mut Dice) -> f64 {
    let (lower, upper) = (interval.lower.to_f64(), interval.upper.to_f64());
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
struct Dice(u64);

impl Dice {
    fn new(seed: usize) -> Self {
        Self(seed as u64)
    }

    /// A number of `[0, 1)`.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
