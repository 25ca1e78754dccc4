use fbp_linalg::attained::attained_slack;
use fbp_linalg::{FeatureShape, Real};

use super::simplex::{Class, Limits, nearest_probabilities};
use crate::Interval;
use crate::layers::activation::elementary::{decay, ln};
use crate::layers::columns::{Outcome, Sample, SampleBox, SampleMap, SampleReverse};

/// Smallest observed probability.
const SMALLEST: f64 = 1e-300;

/// Pixels that are handled together.
const BLOCK: usize = 64;

/// `output = eˣ / Σ eˣ` over the channels, from inputs relative to their maximum.
#[derive(Clone, Copy)]
pub(super) struct Softmax(pub(super) FeatureShape);

impl Softmax {
    #[inline(always)]
    fn of_vector<T: Real>(input: &[T], out: &mut [T]) {
        let largest = input.iter().fold(T::NEG_INFINITY, |m, &x| if x > m { x } else { m });
        for (out, &x) in out.iter_mut().zip(input) {
            *out = decay(x - largest);
        }
        let share = T::ONE / out.iter().fold(T::ZERO, |sum, &e| sum + e);
        out.iter_mut().for_each(|out| *out *= share);
    }

    #[inline(always)]
    fn of_image<T: Real>(self, input: &[T], out: &mut [T]) {
        let plane = self.0.plane();
        for start in (0..plane).step_by(BLOCK) {
            let count = BLOCK.min(plane - start);
            let (mut largest, mut sums) = ([T::NEG_INFINITY; BLOCK], [T::ZERO; BLOCK]);
            for channel in input.chunks_exact(plane) {
                for (m, &x) in largest.iter_mut().zip(&channel[start..start + count]) {
                    *m = if x > *m { x } else { *m };
                }
            }
            for (channel, out) in input.chunks_exact(plane).zip(out.chunks_exact_mut(plane)) {
                let pixels = channel[start..start + count].iter().zip(&mut out[start..start + count]);
                for ((&x, out), (sum, &m)) in pixels.zip(sums.iter_mut().zip(&largest)) {
                    *out = decay(x - m);
                    *sum += *out;
                }
            }
            for out in out.chunks_exact_mut(plane) {
                for (out, &sum) in out[start..start + count].iter_mut().zip(&sums) {
                    *out /= sum;
                }
            }
        }
    }
}

impl<T: Real> SampleMap<T> for Softmax {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        if self.0.plane() == 1 { Self::of_vector(input, out) } else { self.of_image(input, out) }
    }
}

/// `out = p (v - Σ p v)` with `p` the softmax of the first argument: the Jacobian, which is symmetric.
#[derive(Clone, Copy)]
pub(super) struct Jacobian(pub(super) Softmax);

impl<T: Real> SampleMap<T> for Jacobian {
    #[inline(always)]
    fn map_sample(&self, at: &[T], direction: &[T], out: &mut [T]) {
        self.0.map_sample(at, &[], out);
        let plane = self.0.0.plane();
        for start in (0..plane).step_by(BLOCK) {
            let count = BLOCK.min(plane - start);
            let mut mean = [T::ZERO; BLOCK];
            for (p, v) in out.chunks_exact(plane).zip(direction.chunks_exact(plane)) {
                let pixels = p[start..start + count].iter().zip(&v[start..start + count]);
                for (mean, (&p, &v)) in mean.iter_mut().zip(pixels) {
                    *mean += p * v;
                }
            }
            for (p, v) in out.chunks_exact_mut(plane).zip(direction.chunks_exact(plane)) {
                let pixels = p[start..start + count].iter_mut().zip(&v[start..start + count]);
                for ((p, &v), &mean) in pixels.zip(&mean) {
                    *p *= v - mean;
                }
            }
        }
    }
}

/// Reverse kernel.
#[derive(Clone, Copy)]
pub(super) struct Reverse {
    pub(super) shape: FeatureShape,
    pub(super) floor: f64,
}

impl<T: Real> SampleReverse<T> for Reverse {
    #[inline(always)]
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome {
        let (plane, range) = (self.shape.plane(), sample.in_range);
        let limits = Limits {
            floor: self.floor,
            ratio: (range.upper.to_f64() - range.lower.to_f64()).exp(),
            // Half of what counts as attained.
            rounding: 8.0 * T::EPSILON.to_f64(),
        };
        // First the wanted probabilities, then all logarithms in one vectorised sweep, then the shift of each pixel.
        for pixel in 0..plane {
            let classes = || (pixel..sample.observed_in.len()).step_by(plane).map(|i| class_of(sample, i));
            let recipe = nearest_probabilities(&classes, limits);
            for i in (pixel..sample.observed_in.len()).step_by(plane) {
                target.point[i] = T::from_f64(recipe.probability(class_of(sample, i)));
            }
        }
        target.point.iter_mut().for_each(|p| *p = ln(*p));
        for pixel in 0..plane {
            self.shift_pixel(pixel, range, sample, target);
        }
        target.lower.copy_from_slice(target.point);
        target.upper.copy_from_slice(target.point);
        self.judged(sample, target.point)
    }
}

#[inline(always)]
fn class_of<T: Real>(sample: &Sample<'_, T>, i: usize) -> Class {
    Class {
        // Probabilities that underflowed must still be able to grow.
        observed: sample.observed_out[i].to_f64().max(SMALLEST),
        lower: sample.lower[i].to_f64(),
        upper: sample.upper[i].to_f64(),
    }
}

impl Reverse {
    /// Adds to the logarithms of one pixel, which `target.point` holds, the constant that brings them nearest to the
    /// observed input; a pixel that is met already gets its input back.
    #[inline(always)]
    fn shift_pixel<T: Real>(
        &self,
        pixel: usize,
        range: Interval<T>,
        sample: &Sample<'_, T>,
        target: &mut SampleBox<'_, T>,
    ) {
        let plane = self.shape.plane();
        let sites = || (pixel..sample.observed_in.len()).step_by(plane);
        let (mut sum, mut least, mut most, mut met) = (0.0, f64::INFINITY, f64::NEG_INFINITY, true);
        for i in sites() {
            let (x, log) = (sample.observed_in[i], target.point[i].to_f64());
            sum += x.to_f64() - log;
            (least, most) = (least.min(log), most.max(log));
            met &= (sample.lower[i] <= sample.observed_out[i]) & (sample.observed_out[i] <= sample.upper[i]);
            met &= range.contains(x);
        }
        // The range may leave no room by rounding only; the later bound then counts.
        let count = self.shape.channels as f64;
        // Sums of the largest numbers overflow, which their mean cannot; logarithms do not count beside them.
        let shift =
            if sum.is_finite() { sum / count } else { sites().map(|i| sample.observed_in[i].to_f64() / count).sum() };
        let shift = shift.min(range.upper.to_f64() - most).max(range.lower.to_f64() - least);
        for i in sites() {
            let moved = range.clip(T::from_f64(target.point[i].to_f64() + shift));
            target.point[i] = if met { sample.observed_in[i] } else { moved };
        }
    }

    /// Compares the probabilities at `point` with their intervals.
    ///
    /// Targets below the floor are not asked for; what they leave to the other probabilities may be missing there.
    #[inline(always)]
    fn judged<T: Real>(&self, sample: &Sample<'_, T>, point: &[T]) -> Outcome {
        let plane = self.shape.plane();
        let mut outcome = Outcome::MET;
        for pixel in 0..plane {
            let sites = || (pixel..point.len()).step_by(plane);
            let largest = sites().fold(T::NEG_INFINITY, |m, i| if point[i] > m { point[i] } else { m });
            let (mut total, mut withheld) = (0.0, 0.0);
            for i in sites() {
                total += decay(point[i] - largest).to_f64();
                withheld += (self.floor - sample.upper[i].to_f64().max(0.0)).max(0.0);
            }
            for i in sites() {
                let p = decay(point[i] - largest).to_f64() / total;
                let distance = (sample.lower[i].to_f64() - p).max(p - sample.upper[i].to_f64());
                let scale = || p + point[i].to_f64().abs() * p * (1.0 - p);
                outcome.note(distance, || attained_slack::<T>(1, scale()) + withheld);
            }
        }
        outcome
    }
}
