use faer::dyn_stack::{MemStack, StackReq};
use fbp_linalg::{LinalgError, Real};

use super::NormReverse;
use super::group::{Group, GroupMemory};
use super::sphere::{Piece, Sphere};
use crate::Range;
use crate::layers::columns::{Outcome, Sample, SampleBox, SampleMap, is_within, largest_magnitude, violation_of};
use crate::layers::parts::ScratchReverse;

/// Sum of a group, in double precision.
#[inline(always)]
fn sum<T: Real>(values: impl Iterator<Item = T>) -> f64 {
    values.fold(0.0, |sum, x| sum + x.to_f64())
}

/// Mean (0 if not centred) and `1/√(variance + ε)` of a group.
#[inline(always)]
fn statistics<T: Real>(layer: &NormReverse<T>, values: &[T]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = if layer.centred { sum(values.iter().copied()) / n } else { 0.0 };
    let squares = values.iter().fold(0.0, |sum, x| sum + (x.to_f64() - mean) * (x.to_f64() - mean));
    let root = (squares / n + layer.epsilon).sqrt();
    (mean, if root > 0.0 { 1.0 / root } else { 0.0 })
}

/// Forward kernel.
pub(super) struct Forward<'a, T>(pub(super) &'a NormReverse<T>);

impl<T: Real> SampleMap<T> for Forward<'_, T> {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        let (layer, len) = (self.0, self.0.len);
        let groups = input.chunks_exact(len).zip(out.chunks_exact_mut(len));
        let parameters = layer.gain.chunks_exact(len).zip(layer.shift.chunks_exact(len));
        for ((input, out), (gain, shift)) in groups.zip(parameters) {
            let (mean, scale) = statistics(layer, input);
            for ((out, &x), (&g, &b)) in out.iter_mut().zip(input).zip(gain.iter().zip(shift)) {
                *out = T::from_f64((x.to_f64() - mean) * scale * g.to_f64() + b.to_f64());
            }
        }
    }
}

/// `J d = γ/r (d - mean(d) - u mean(u d))` or, `adjoint`, its transpose.
pub(super) struct Jacobian<'a, T> {
    pub(super) layer: &'a NormReverse<T>,
    pub(super) adjoint: bool,
}

impl<T: Real> SampleMap<T> for Jacobian<'_, T> {
    #[inline(always)]
    fn map_sample(&self, at: &[T], direction: &[T], out: &mut [T]) {
        let (layer, len) = (self.layer, self.layer.len);
        let groups = at.chunks_exact(len).zip(direction.chunks_exact(len)).zip(out.chunks_exact_mut(len));
        for (((at, direction), out), gain) in groups.zip(layer.gain.chunks_exact(len)) {
            let (mean, scale) = statistics(layer, at);
            let weight = |g: T| if self.adjoint { g.to_f64() } else { 1.0 };
            let (mut total, mut along) = (0.0, 0.0);
            for ((&x, &d), &g) in at.iter().zip(direction).zip(gain) {
                let d = d.to_f64() * weight(g);
                total += d;
                along += d * (x.to_f64() - mean) * scale;
            }
            let total = if layer.centred { total / len as f64 } else { 0.0 };
            along /= len as f64;
            for ((out, (&x, &d)), &g) in out.iter_mut().zip(at.iter().zip(direction)).zip(gain) {
                let rest = d.to_f64() * weight(g) - total - (x.to_f64() - mean) * scale * along;
                *out = T::from_f64(rest * scale * if self.adjoint { 1.0 } else { g.to_f64() });
            }
        }
    }
}

/// Reverse kernel.
pub(super) struct Reverse<'a, T>(pub(super) &'a NormReverse<T>);

impl<T: Real> ScratchReverse<T> for Reverse<'_, T> {
    fn sample_scratch(&self) -> StackReq {
        StackReq::new::<f64>(self.0.len).array(9).or(StackReq::new::<T>(self.0.shape.len()))
    }

    fn reverse_sample(
        &self,
        sample: &Sample<'_, T>,
        target: &mut SampleBox<'_, T>,
        stack: &mut MemStack,
    ) -> Result<(Outcome<T>, usize), LinalgError> {
        for group in 0..self.0.shape.len() / self.0.len {
            self.reverse_group(group, sample, target, stack);
        }
        target.lower.copy_from_slice(target.point);
        target.upper.copy_from_slice(target.point);
        let (mut reached, _) = stack.make_with(target.point.len(), |_| T::ZERO);
        Forward(self.0).map_sample(target.point, &[], &mut reached);
        let violation = violation_of(&reached, sample.lower, sample.upper);
        Ok((Outcome { violation, tolerance: self.tolerance(target.point, &reached) }, 0))
    }
}

impl<T: Real> Reverse<'_, T> {
    fn reverse_group(&self, group: usize, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>, stack: &mut MemStack) {
        let (layer, len, range) = (self.0, self.0.len, sample.in_range);
        let at = group * len..(group + 1) * len;
        let (lower, upper) = (&sample.lower[at.clone()], &sample.upper[at.clone()]);
        let observed = &sample.observed_in[at.clone()];
        if is_within(&sample.observed_out[at.clone()], lower, upper) && observed.iter().all(|&x| range.contains(x)) {
            target.point[at].copy_from_slice(observed);
            return;
        }
        let wide = |values: &[T], i: usize| values[i].to_f64();
        let (gains, shifts) = (&layer.gain[at.clone()], &layer.shift[at.clone()]);
        let (input, stack) = stack.make_with(len, |i| wide(observed, i));
        let (gain, stack) = stack.make_with(len, |i| wide(gains, i));
        let (lower, stack) = stack.make_with(len, |i| wide(lower, i) - wide(shifts, i));
        let (upper, stack) = stack.make_with(len, |i| wide(upper, i) - wide(shifts, i));
        let (mut normal, stack) = stack.make_with(len, |_| 0.0_f64);
        let (mut wanted, stack) = stack.make_with(len, |_| 0.0_f64);
        let (mut low, stack) = stack.make_with(len, |_| 0.0_f64);
        let (mut high, stack) = stack.make_with(len, |_| 0.0_f64);
        let (mut out, _) = stack.make_with(len, |_| 0.0_f64);
        let problem = Group {
            sphere: Sphere { centred: layer.centred, hollow: layer.epsilon == 0.0 },
            epsilon: layer.epsilon,
            tolerance: layer.tolerance,
            range: Range::new(range.lower.to_f64(), range.upper.to_f64()),
            input: &input,
            gain: &gain,
            lower: &lower,
            upper: &upper,
        };
        let mut memory = GroupMemory {
            observed: &mut normal,
            wanted: &mut wanted,
            low: &mut low,
            high: &mut high,
            piece: Piece::START,
        };
        problem.reverse(&mut memory, &mut out);
        for (point, &x) in target.point[at].iter_mut().zip(out.iter()) {
            *point = range.clip(T::from_f64(x));
        }
    }

    /// What counts as rounding: that of the inputs, as the normalisation magnifies it, and the tolerance of the size.
    fn tolerance(&self, point: &[T], reached: &[T]) -> T {
        let (layer, len) = (self.0, self.0.len);
        let mut worst = 0.0_f64;
        for (group, gain) in point.chunks_exact(len).zip(layer.gain.chunks_exact(len)) {
            let (_, scale) = statistics(layer, group);
            let magnified = largest_magnitude(group).to_f64() * scale * largest_magnitude(gain).to_f64();
            worst = worst.max(magnified);
        }
        // A shift can hide how large the normalised feature is.
        let size = largest_magnitude(reached).to_f64() + largest_magnitude(&layer.shift).to_f64();
        T::from_f64(2.0 * layer.tolerance * size + 16.0 * T::EPSILON.to_f64() * (worst + size))
    }
}
