//! Probability vectors within a box.

use fbp_linalg::Real;

use crate::layers::shift::clipped_shift;

/// Smallest probability whose logarithm is taken.
const TINY: f64 = 1e-30;

/// One class of a softmax: its observed probability and its target interval.
#[derive(Clone, Copy)]
pub(super) struct Class {
    pub(super) observed: f64,
    pub(super) lower: f64,
    pub(super) upper: f64,
}

/// What probabilities may be at all.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Smallest probability that a target can ask for; smaller ones would need inputs that are far away.
    pub(super) floor: f64,
    /// Largest ratio of two probabilities that inputs within the range can produce.
    pub(super) ratio: f64,
    /// By how much ends may sum to more or less than 1 by rounding.
    pub(super) rounding: f64,
}

/// How each probability follows from its class.
#[derive(Clone, Copy)]
pub(super) struct Recipe {
    bounds: Bounds,
    rule: Rule,
}

#[derive(Clone, Copy)]
enum Rule {
    /// The lower ends sum to more than 1: all give way by the same amount.
    BelowLower(f64),
    /// The upper ends sum to less than 1: all are exceeded by the same amount.
    AboveUpper(f64),
    /// The lower or the upper ends sum to 1 but for their rounding, which is relative to their size: all give way by the
    /// same share. An equal amount would be many roundings of the small ones.
    Lower(f64),
    Upper(f64),
    /// The observed probabilities, scaled and clipped to their intervals: free classes keep their proportions.
    Scaled(f64),
}

/// Bounds on all probabilities.
#[derive(Clone, Copy)]
struct Bounds {
    least: f64,
    most: f64,
    /// Whether a class that is observed below `least` may stay there.
    is_soft: bool,
    rounding: f64,
}

impl Bounds {
    fn least(&self, class: Class) -> f64 {
        if self.is_soft { self.least.min(class.observed).max(TINY) } else { self.least }
    }

    /// The target interval, as far as the bounds allow.
    fn interval(&self, class: Class) -> (f64, f64) {
        let least = self.least(class);
        (class.lower.clip(least, self.most), class.upper.clip(least, self.most))
    }
}

impl Recipe {
    /// The probability of a class.
    pub(super) fn probability(&self, class: Class) -> f64 {
        let (least, most) = (self.bounds.least(class), self.bounds.most);
        match self.rule {
            Rule::BelowLower(shift) => (class.lower.max(least) + shift).clip(least, most),
            Rule::AboveUpper(shift) => (class.upper.min(most) + shift).clip(least, most),
            Rule::Lower(factor) => (factor * class.lower.max(least)).clip(least, most),
            Rule::Upper(factor) => (factor * class.upper.min(most)).clip(least, most),
            Rule::Scaled(factor) => {
                let (lower, upper) = self.bounds.interval(class);
                (factor * class.observed).clip(lower, upper)
            }
        }
    }

    fn within<C: Iterator<Item = Class>>(classes: &impl Fn() -> C, bounds: Bounds) -> Self {
        let (mut lowest, mut highest) = (0.0, 0.0);
        for class in classes() {
            let (lower, upper) = bounds.interval(class);
            (lowest, highest) = (lowest + lower, highest + upper);
        }
        let (least, most) = (|class| bounds.least(class), bounds.most);
        let rule = if lowest > 1.0 && lowest <= 1.0 + bounds.rounding {
            Rule::Lower(1.0 / lowest)
        } else if highest < 1.0 && highest >= 1.0 - bounds.rounding {
            Rule::Upper(1.0 / highest)
        } else if lowest > 1.0 {
            let entries = || classes().map(|class| (class.lower.max(least(class)), least(class), most));
            Rule::BelowLower(clipped_shift(entries, 1.0))
        } else if highest < 1.0 {
            let entries = || classes().map(|class| (class.upper.min(most), least(class), most));
            Rule::AboveUpper(clipped_shift(entries, 1.0))
        } else {
            Rule::Scaled(clipped_scale(classes, bounds))
        };
        Self { bounds, rule }
    }
}

/// Solves `Σ clip(θ p_i, l_i, u_i) = 1` for `θ` by Newton's method on this piecewise linear function, in a bracket.
fn clipped_scale<C: Iterator<Item = Class>>(classes: &impl Fn() -> C, bounds: Bounds) -> f64 {
    let (mut low, mut high, mut factor) = (1.0 / f64::MAX, f64::MAX, 1.0_f64);
    for _ in 0..200 {
        let (sum, free) = classes().fold((0.0, 0.0), |(sum, free), class| {
            let (lower, upper) = bounds.interval(class);
            let scaled = factor * class.observed;
            let is_free = lower < scaled && scaled < upper;
            (sum + scaled.clip(lower, upper), free + if is_free { class.observed } else { 0.0 })
        });
        let gap = 1.0 - sum;
        if gap.abs() <= 4.0 * f64::EPSILON {
            break;
        }
        if gap > 0.0 {
            low = factor;
        } else {
            high = factor;
        }
        let newton = factor + gap / free;
        factor = if free > 0.0 && low < newton && newton < high { newton } else { low.sqrt() * high.sqrt() };
    }
    factor
}

/// Probabilities that sum to 1, keep the limits, and miss the box by as little as possible.
pub(super) fn nearest_probabilities<C: Iterator<Item = Class>>(classes: &impl Fn() -> C, limits: Limits) -> Recipe {
    let free =
        Recipe::within(classes, Bounds { least: limits.floor, most: 1.0, is_soft: true, rounding: limits.rounding });
    let (mut smallest, mut largest, mut count) = (f64::INFINITY, 0.0_f64, 0_usize);
    for class in classes() {
        let p = free.probability(class);
        (smallest, largest, count) = (smallest.min(p), largest.max(p), count + 1);
    }
    if largest <= smallest * limits.ratio * (1.0 + 8.0 * f64::EPSILON) {
        return free;
    }
    // All probabilities in [m, m · ratio]: the least miss is convex in m, so a ternary search finds it.
    let bounded = |m: f64| {
        let bounds = Bounds { least: m, most: m * limits.ratio, is_soft: false, rounding: limits.rounding };
        Recipe::within(classes, bounds)
    };
    let miss = |m: f64| {
        let recipe = bounded(m);
        let distance = |class: Class| {
            let p = recipe.probability(class);
            (class.lower - p).max(p - class.upper).max(0.0)
        };
        classes().map(|class| distance(class) * distance(class)).sum::<f64>()
    };
    let (mut low, mut high) = (1.0 / (count as f64 * limits.ratio), 1.0 / count as f64);
    for _ in 0..160 {
        let (left, right) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if miss(left) <= miss(right) {
            high = right;
        } else {
            low = left;
        }
    }
    bounded(0.5 * (low + high))
}
