//! The reverse of one group of entries that are normalised together.

use super::search::minimise;
use super::sphere::{Piece, Sphere};
use crate::Interval;

/// Steps of the search for the smallest miss of a box.
const MISS_STEPS: usize = 300;

/// Largest change of the logarithm of a deviation, and how exactly it is found.
const SEARCH: f64 = 1.5;
const SEARCH_ACCURACY: f64 = 3e-7;

/// Smallest and largest change of a scale that nothing else determines (`ε = 0`).
const SCALE_CHANGE: (f64, f64) = (0.1, 10.0);

/// One group of one sample, widened, with memory.
pub(super) struct Group<'a> {
    pub(super) sphere: Sphere,
    pub(super) epsilon: f64,
    /// Relative tolerance of the amplitude of the normalised feature.
    pub(super) tolerance: f64,
    /// Smallest deviation relative to the mean, where a larger one is as good.
    pub(super) variation: f64,
    pub(super) range: Interval<f64>,
    /// Observed input.
    pub(super) input: &'a [f64],
    /// Scale of every entry.
    pub(super) gain: &'a [f64],
    /// Ends of the target intervals without the shift.
    pub(super) lower: &'a [f64],
    pub(super) upper: &'a [f64],
}

/// Memory of [`Group::reverse`], each as long as the group.
pub(super) struct GroupMemory<'a> {
    pub(super) observed: &'a mut [f64],
    pub(super) wanted: &'a mut [f64],
    /// Ends of the target intervals as normalised entries, infinite where the gain is 0.
    pub(super) first: &'a mut [f64],
    pub(super) last: &'a mut [f64],
    pub(super) low: &'a mut [f64],
    pub(super) high: &'a mut [f64],
    /// Where the last search for a feature in a box ended.
    pub(super) piece: Piece,
}

/// Mean and deviation of the observed input.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    pub(super) mean: f64,
    pub(super) deviation: f64,
}

/// An input on the line of those that give a normalised feature.
struct Attempt {
    mean: f64,
    scale: f64,
    /// Squared distance from the observed input.
    price: f64,
}

/// Mean (0 unless `centred`) and mean squared deviation from it.
pub(super) fn moments(values: &[f64], centred: bool) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = if centred { values.iter().sum::<f64>() / n } else { 0.0 };
    (mean, values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n)
}

impl Group<'_> {
    /// Writes the input wanted into `out`.
    #[inline(always)]
    pub(super) fn reverse(&self, memory: &mut GroupMemory<'_>, out: &mut [f64]) {
        let (mean, variance) = moments(self.input, self.sphere.centred);
        let observed = Moments { mean, deviation: variance.sqrt() };
        let mut pairs = self.gain.iter().zip(self.lower.iter().zip(self.upper));
        let best = if pairs.all(|(g, (a, b))| *g != 0.0 && a == b) {
            self.sphere.nearest(self.gain, self.lower, out);
            self.settle(observed, out)
        } else {
            self.write_ends(memory);
            if self.solve_jointly(observed, memory, out) {
                self.settle(observed, out)
            } else {
                self.search(observed, memory, out)
            }
        };
        out.iter_mut().for_each(|u| *u = self.range.clip_wide(best.mean + best.scale * *u));
    }

    /// The target intervals as those of normalised entries; a zero scale asks for nothing.
    fn write_ends(&self, memory: &mut GroupMemory<'_>) {
        let ends = self.gain.iter().zip(self.lower.iter().zip(self.upper));
        for ((first, last), (&gain, (&a, &b))) in memory.first.iter_mut().zip(memory.last.iter_mut()).zip(ends) {
            (*first, *last) = if gain == 0.0 { (f64::NEG_INFINITY, f64::INFINITY) } else { (a / gain, b / gain) };
            if gain < 0.0 {
                std::mem::swap(first, last);
            }
        }
    }

    /// What [`solve_jointly`](Self::solve_jointly) did not find: for a given deviation the nearest feature of the box, with
    /// a search for the deviation; out of reach the smallest miss.
    fn search(&self, observed: Moments, memory: &mut GroupMemory<'_>, out: &mut [f64]) -> Attempt {
        let Moments { mean, deviation } = observed;
        if !self.choose((mean, deviation), memory, out) {
            self.miss((mean, deviation), memory, out);
            return self.settle(observed, out);
        }
        let best = self.settle(observed, out);
        if deviation == 0.0 {
            return best;
        }
        let price = |at: f64| {
            let found = self.choose((mean, deviation * at.exp()), memory, out);
            if found { self.settle(observed, out).price } else { f64::INFINITY }
        };
        let (change, least) = minimise((-SEARCH, SEARCH), SEARCH_ACCURACY, price);
        let change = if least < best.price { change.exp() } else { 1.0 };
        self.choose((mean, deviation * change), memory, out);
        self.settle(observed, out)
    }

    /// The nearest input that gives a normalised feature `u`, whose direction, of unit size, replaces it.
    fn settle(&self, observed: Moments, u: &mut [f64]) -> Attempt {
        let (n, start) = (u.len() as f64, observed.mean);
        let norm = (u.iter().map(|u| u * u).sum::<f64>() / n).sqrt();
        if norm > 0.0 {
            u.iter_mut().for_each(|u| *u /= norm);
        }
        let along = self.input.iter().zip(&*u).map(|(x, u)| (x - start) * u).sum::<f64>() / n;
        let (least, most) = self.scales(norm, observed.deviation, u);
        let least = least.max((self.variation * start.abs()).min(most));
        let (mean, scale) = self.place(start, along, (least, most), u);
        let miss = |(x, u): (&f64, &f64)| (mean + scale * u - x) * (mean + scale * u - x);
        Attempt { mean, scale, price: self.input.iter().zip(&*u).map(miss).sum() }
    }

    /// `1/√(s² + ε)`, 0 if both are 0, and the observed entries normalised by it into the memory.
    fn normalise(&self, (mean, deviation): (f64, f64), memory: &mut GroupMemory<'_>) -> f64 {
        let root = (deviation * deviation + self.epsilon).sqrt();
        let share = if root > 0.0 { 1.0 / root } else { 0.0 };
        memory.observed.iter_mut().zip(self.input).for_each(|(u, x)| *u = (x - mean) * share);
        share
    }

    /// The normalised feature in the box to ask for, into `u`, if one is found for this deviation.
    fn choose(&self, (mean, deviation): (f64, f64), memory: &mut GroupMemory<'_>, u: &mut [f64]) -> bool {
        let share = self.normalise((mean, deviation), memory);
        let wanted = u.len() as f64 * deviation * share * deviation * share;
        for keeps_range in [true, false] {
            let ends = memory.low.iter_mut().zip(memory.high.iter_mut());
            for ((low, high), (&first, &last)) in ends.zip(memory.first.iter().zip(memory.last.iter())) {
                (*low, *high) = (first, last);
                if keeps_range && share > 0.0 {
                    *low = low.max((self.range.lower - mean) * share);
                    *high = high.min((self.range.upper - mean) * share);
                }
            }
            if self.sphere.within(
                memory.observed,
                wanted,
                (memory.low, memory.high),
                (memory.wanted, u),
                &mut memory.piece,
            ) {
                return true;
            }
        }
        false
    }

    /// Out of reach: the nearest point of the box to the feature, the nearest feature to that point, and so on.
    fn miss(&self, at: (f64, f64), memory: &mut GroupMemory<'_>, u: &mut [f64]) {
        self.normalise(at, memory);
        u.copy_from_slice(memory.observed);
        for _ in 0..MISS_STEPS {
            let mut change = 0.0_f64;
            let ends = self.gain.iter().zip(self.lower.iter().zip(self.upper));
            for (wanted, (u, (g, (&a, &b)))) in memory.wanted.iter_mut().zip(u.iter().zip(ends)) {
                let next = (g * u).max(a).min(b);
                change = change.max((next - *wanted).abs());
                *wanted = next;
            }
            self.sphere.nearest(self.gain, memory.wanted, u);
            let size = memory.wanted.iter().fold(0.0_f64, |size, t| size.max(t.abs()));
            if change <= 1e-12 * size {
                break;
            }
        }
    }

    /// Scales `s` with which `direction · s/√(s² + ε)` is what was asked for, of size `norm`.
    fn scales(&self, norm: f64, deviation: f64, direction: &[f64]) -> (f64, f64) {
        if self.sphere.hollow {
            return (SCALE_CHANGE.0 * deviation, SCALE_CHANGE.1 * deviation);
        }
        let (mut low, mut high) = (0.0_f64, f64::INFINITY);
        for ((&u, &g), (&a, &b)) in direction.iter().zip(self.gain).zip(self.lower.iter().zip(self.upper)) {
            let y = g * u;
            if y != 0.0 {
                let (first, last) = if y > 0.0 { (a / y, b / y) } else { (b / y, a / y) };
                (low, high) = (low.max(first), high.min(last));
            }
        }
        let (low, high) = (low.min(norm * (1.0 - self.tolerance)), high.max(norm * (1.0 + self.tolerance)));
        let scale = |size: f64| {
            if size >= 1.0 { f64::INFINITY } else { size * (self.epsilon / ((1.0 - size) * (1.0 + size))).sqrt() }
        };
        // The largest sizes are only reached by infinite inputs.
        (scale(low.min(1.0 - self.tolerance)), scale(high))
    }

    /// The mean and the scale nearest to `mean` and `along` within the limits and the range.
    ///
    /// For a given scale the mean is clipped to where all entries lie in the range; what is left is convex and piecewise
    /// quadratic in the scale, so that its minimum is one of a few candidates.
    fn place(&self, mean: f64, along: f64, (least, most): (f64, f64), direction: &[f64]) -> (f64, f64) {
        let (low, high) = direction.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &u| (a.min(u), b.max(u)));
        let Interval { lower, upper } = self.range;
        if !self.sphere.centred {
            let mut limits = (least, most);
            if high > 0.0 {
                limits = (limits.0.max(lower / high).min(limits.1), limits.1.min(upper / high));
            }
            if low < 0.0 {
                limits.1 = limits.1.min(lower / low);
            }
            return (0.0, along.clamp(limits.0.min(limits.1), limits.1.max(0.0)));
        }
        let widest = if high > low { (upper - lower) / (high - low) } else { f64::INFINITY };
        let (least, most) = (least.min(widest), most.min(widest));
        let at = |scale: f64| {
            let (floor, ceiling) = (lower - scale * low, upper - scale * high);
            if floor > ceiling { 0.5 * (floor + ceiling) } else { mean.max(floor).min(ceiling) }
        };
        let price = |scale: f64| (at(scale) - mean).powi(2) + (scale - along).powi(2);
        let candidates = [
            along,
            (along + low * (lower - mean)) / (1.0 + low * low),
            (along + high * (upper - mean)) / (1.0 + high * high),
        ];
        let mut best = along.clamp(least, most);
        for scale in candidates.into_iter().filter(|scale| scale.is_finite()).map(|scale| scale.clamp(least, most)) {
            if price(scale) < price(best) {
                best = scale;
            }
        }
        (at(best), best)
    }
}

impl Interval<f64> {
    /// The nearest value within the range.
    fn clip_wide(&self, value: f64) -> f64 {
        value.max(self.lower).min(self.upper)
    }
}
