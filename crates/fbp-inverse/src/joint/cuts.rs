use faer::MatRef;
use fbp_linalg::{Real, norm_sq, slope_along};

use super::batch::Batch;
use super::goal::Condition;

/// Most cuts that are kept for a sample unless boxes need more; the oldest go first.
pub(crate) const MOST_CUTS: usize = 16;

/// Most of them where boxes need more: steps take time with the cube of their number.
const MOST_OF_BOXES: usize = 256;

/// Conditions that a step looks at where the goal is a box of so many outputs: all of them together, if that can be.
pub(crate) fn conditions_of_boxes(outputs: usize) -> usize {
    outputs.clamp(MOST_CUTS, MOST_OF_BOXES)
}

/// A cut is moved to a point at the goal if that takes at most this share of the point's distance.
const MOVED: f64 = 0.05;

/// Linearised conditions, by sample: `lower <= value + gradient · (v - v0) <= upper`.
#[derive(Debug)]
pub(crate) struct Cuts<T> {
    /// Most that are kept for a sample.
    most: usize,
    /// Cuts that were added; with more than the most the oldest are overwritten.
    added: Vec<usize>,
    /// By how much the one-sided cuts of each sample were raised.
    raised: Vec<T>,
    gradients: Batch<T>,
    /// Gradients times the covariance of a metric; empty without metrics.
    mapped: Batch<T>,
    values: Vec<T>,
    lower: Vec<T>,
    upper: Vec<T>,
}

/// The cuts of one sample.
pub(crate) struct SampleCuts<'a, T> {
    /// One column per cut.
    pub(crate) gradients: MatRef<'a, T>,
    /// Times the covariance of the metric; of no meaning without one.
    pub(crate) mapped: MatRef<'a, T>,
    pub(crate) values: &'a [T],
    pub(crate) lower: &'a [T],
    pub(crate) upper: &'a [T],
}

impl<T: Real> Cuts<T> {
    /// Memory for `most` cuts of each of `capacity` samples with features of up to `longest` entries, up to `metric` in metrics
    /// of their own.
    pub(crate) fn new((longest, metric): (usize, usize), most: usize, capacity: usize) -> Self {
        let numbers = || vec![T::ZERO; most * capacity];
        Self {
            most,
            added: vec![0; capacity],
            raised: vec![T::ZERO; capacity],
            gradients: Batch::new(longest * most * capacity),
            mapped: Batch::new(metric * most * capacity),
            values: numbers(),
            lower: numbers(),
            upper: numbers(),
        }
    }

    /// Most cuts of a sample.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Forgets the cuts of a sample and what they were raised by.
    pub(crate) fn clear(&mut self, sample: usize) {
        self.added[sample] = 0;
        self.raised[sample] = T::ZERO;
    }

    /// Adds the cut of a condition; `value` is that of its linearisation at the observed feature.
    pub(crate) fn add(&mut self, sample: usize, gradient: &[T], value: T, condition: &Condition<T>) {
        let at = sample * self.most + self.added[sample] % self.most;
        self.gradients.column_mut(gradient.len(), at).copy_from_slice(gradient);
        let raised = if condition.upper == T::INFINITY { self.raised[sample] } else { T::ZERO };
        (self.values[at], self.lower[at], self.upper[at]) = (value, condition.lower + raised, condition.upper);
        self.added[sample] += 1;
    }

    /// Sets the gradient of the cut that was added last times the covariance.
    pub(crate) fn set_mapped(&mut self, sample: usize, mapped: &[T]) {
        let at = sample * self.most + (self.added[sample] - 1) % self.most;
        self.mapped.column_mut(mapped.len(), at).copy_from_slice(mapped);
    }

    /// Asks for more from every one-sided cut of a sample, also from later ones.
    pub(crate) fn raise(&mut self, sample: usize, by: T) {
        self.raised[sample] += by;
        let range = sample * self.most..(sample + 1) * self.most;
        for (lower, upper) in self.lower[range.clone()].iter_mut().zip(&self.upper[range]) {
            *lower += if *upper == T::INFINITY { by } else { T::ZERO };
        }
    }

    /// Takes back what the cuts of a sample were raised by.
    pub(crate) fn relax(&mut self, sample: usize) {
        let raised = self.raised[sample];
        self.raise(sample, -raised);
        self.raised[sample] = T::ZERO;
    }

    /// Forgets the cuts of a sample.
    pub(crate) fn forget(&mut self, sample: usize) {
        self.added[sample] = 0;
    }

    /// Makes the one-sided cuts of a sample hold at a point at the goal, `reach` away from the observed feature: a cut that
    /// it misses by a little is moved there, and one that it misses by more says nothing about its surroundings and ends.
    pub(crate) fn hold(&mut self, sample: usize, [point, observed]: [&[T]; 2], reach: f64) {
        let start = sample * self.most;
        for at in start..start + self.added[sample].min(self.most) {
            let gradient = self.gradients.column(point.len(), at);
            let value = self.values[at] + T::from_f64(slope_along(gradient, point, observed));
            let short = self.lower[at] - value;
            if self.upper[at] != T::INFINITY || short <= T::ZERO {
                continue;
            }
            if short.to_f64() <= MOVED * norm_sq(gradient).sqrt() * reach {
                self.values[at] += short;
            } else {
                self.lower[at] = T::NEG_INFINITY;
            }
        }
    }

    /// The cuts of a sample with features of `len` entries.
    pub(crate) fn of(&self, sample: usize, len: usize, with_metric: bool) -> SampleCuts<'_, T> {
        let (start, count) = (sample * self.most, self.added[sample].min(self.most));
        let range = start..start + count;
        SampleCuts {
            gradients: self.gradients.columns(len, start, count),
            mapped: if with_metric {
                self.mapped.columns(len, start, count)
            } else {
                MatRef::from_column_major_slice(&[], 0, 0)
            },
            values: &self.values[range.clone()],
            lower: &self.lower[range.clone()],
            upper: &self.upper[range],
        }
    }
}
