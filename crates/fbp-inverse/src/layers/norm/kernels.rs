use faer::dyn_stack::{MemStack, StackReq};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::{LinalgError, Real};
use pulp::{Arch, NullaryFnOnce};

use super::NormReverse;
use super::group::{Group, GroupMemory};
use super::sphere::{Piece, Sphere};
use super::statistics::{Statistics, unit_for};
use crate::Range;
use crate::layers::columns::{Outcome, Sample, SampleBox, SampleMap, distance_to, is_within, largest_magnitude};
use crate::layers::parts::ScratchReverse;

/// Forward kernel.
pub(super) struct Forward<'a, T>(pub(super) &'a NormReverse<T>);

impl<T: Real> SampleMap<T> for Forward<'_, T> {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        let (layer, len) = (self.0, self.0.len);
        let groups = input.chunks_exact(len).zip(out.chunks_exact_mut(len));
        let parameters = layer.gain.chunks_exact(len).zip(layer.shift.chunks_exact(len));
        for ((input, out), (gain, shift)) in groups.zip(parameters) {
            let statistics = Statistics::of(input, layer.centred, layer.epsilon);
            for ((out, &x), (&g, &b)) in out.iter_mut().zip(input).zip(gain.iter().zip(shift)) {
                *out = T::from_f64(statistics.normal(x) * g.to_f64() + b.to_f64());
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
            let statistics = Statistics::of(at, layer.centred, layer.epsilon);
            let weight = |g: T| if self.adjoint { g.to_f64() } else { 1.0 };
            let (mut total, mut along) = (0.0, 0.0);
            for ((&x, &d), &g) in at.iter().zip(direction).zip(gain) {
                let d = d.to_f64() * weight(g);
                total += d;
                along += d * statistics.normal(x);
            }
            let total = if layer.centred { total / len as f64 } else { 0.0 };
            along /= len as f64;
            for ((out, (&x, &d)), &g) in out.iter_mut().zip(at.iter().zip(direction)).zip(gain) {
                let rest = d.to_f64() * weight(g) - total - statistics.normal(x) * along;
                *out = T::from_f64(rest * statistics.slope() * if self.adjoint { 1.0 } else { g.to_f64() });
            }
        }
    }
}

/// Reverse kernel.
pub(super) struct Reverse<'a, T>(pub(super) &'a NormReverse<T>);

impl<T: Real> ScratchReverse<T> for Reverse<'_, T> {
    fn sample_scratch(&self) -> StackReq {
        StackReq::new::<f64>(self.0.len).array(11)
    }

    fn reverse_sample(
        &self,
        sample: &Sample<'_, T>,
        target: &mut SampleBox<'_, T>,
        stack: &mut MemStack,
    ) -> Result<(Outcome, usize), LinalgError> {
        let mut outcome = Outcome::MET;
        for group in 0..self.0.shape.len() / self.0.len {
            Arch::new().dispatch(ReverseGroup { kernel: self, group, sample, target, stack, outcome: &mut outcome });
        }
        target.lower.copy_from_slice(target.point);
        target.upper.copy_from_slice(target.point);
        Ok((outcome, 0))
    }
}

/// Deviation relative to the mean that features resolve to within the rounding that counts as attained.
const LEAST_VARIATION: f64 = 1.0 / 16.0;

/// Misses, relative to the largest scale, that a larger deviation may avoid.
const SMALL_MISS: f64 = 0.05;

/// One group, run inside a dispatch so that its loops use wide registers.
struct ReverseGroup<'a, 's, 't, T> {
    kernel: &'a Reverse<'a, T>,
    group: usize,
    sample: &'a Sample<'s, T>,
    target: &'a mut SampleBox<'t, T>,
    stack: &'a mut MemStack,
    outcome: &'a mut Outcome,
}

impl<T: Real> NullaryFnOnce for ReverseGroup<'_, '_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let len = self.kernel.0.len;
        let at = self.group * len..(self.group + 1) * len;
        let (kernel, sample) = (self.kernel, self.sample);
        let mut found = Outcome::MET;
        kernel.reverse_group(at.clone(), 0.0, (sample, self.target), self.stack);
        kernel.judge_group(at.clone(), sample, self.target.point, &mut found);
        if found.missed && found.violation <= SMALL_MISS * largest_magnitude(&kernel.0.gain[at.clone()]).to_f64() {
            // The nearest input may vary too little around its mean for the precision of the features.
            self.target.lower[at.clone()].copy_from_slice(&self.target.point[at.clone()]);
            let mut varied = Outcome::MET;
            kernel.reverse_group(at.clone(), LEAST_VARIATION, (sample, self.target), self.stack);
            kernel.judge_group(at.clone(), sample, self.target.point, &mut varied);
            if varied.missed {
                self.target.point[at.clone()].copy_from_slice(&self.target.lower[at]);
            } else {
                found = varied;
            }
        }
        self.outcome.violation = self.outcome.violation.max(found.violation);
        self.outcome.missed |= found.missed;
    }
}

impl<T: Real> Reverse<'_, T> {
    #[inline(always)]
    fn reverse_group(
        &self,
        at: std::ops::Range<usize>,
        variation: f64,
        (sample, target): (&Sample<'_, T>, &mut SampleBox<'_, T>),
        stack: &mut MemStack,
    ) {
        let (layer, len, range) = (self.0, self.0.len, sample.in_range);
        let (lower, upper) = (&sample.lower[at.clone()], &sample.upper[at.clone()]);
        let observed = &sample.observed_in[at.clone()];
        if is_within(&sample.observed_out[at.clone()], lower, upper) && observed.iter().all(|&x| range.contains(x)) {
            target.point[at].copy_from_slice(observed);
            return;
        }
        let wide = |values: &[T], i: usize| values[i].to_f64();
        let (gains, shifts) = (&layer.gain[at.clone()], &layer.shift[at.clone()]);
        // Inputs in one unit and outputs in another one, so that squares neither overflow nor vanish.
        let unit = unit_for(largest_magnitude(observed).to_f64(), layer.epsilon);
        let steepness = unit_for(largest_magnitude(gains).to_f64(), 0.0);
        let end = |ends: &[T], i: usize| far((wide(ends, i) - wide(shifts, i)) * steepness);
        let (input, stack) = stack.make_with(len, |i| wide(observed, i) * unit);
        let (gain, stack) = stack.make_with(len, |i| wide(gains, i) * steepness);
        let (lower, stack) = stack.make_with(len, |i| end(lower, i));
        let (upper, stack) = stack.make_with(len, |i| end(upper, i));
        let (mut normal, stack) = stack.make_with(len, |_| 0.0_f64);
        let (mut wanted, stack) = stack.make_with(len, |_| 0.0_f64);
        let (mut first, stack) = stack.make_with(len, |_| 0.0_f64);
        let (mut last, stack) = stack.make_with(len, |_| 0.0_f64);
        let (mut low, stack) = stack.make_with(len, |_| 0.0_f64);
        let (mut high, stack) = stack.make_with(len, |_| 0.0_f64);
        let (mut out, _) = stack.make_with(len, |_| 0.0_f64);
        let problem = Group {
            sphere: Sphere { centred: layer.centred, hollow: layer.epsilon == 0.0 },
            epsilon: layer.epsilon * unit * unit,
            // Not all of it, so that what is asked for stays within it after rounding.
            tolerance: 0.9 * layer.tolerance,
            variation,
            range: Range::new(range.lower.to_f64() * unit, range.upper.to_f64() * unit),
            input: &input,
            gain: &gain,
            lower: &lower,
            upper: &upper,
        };
        let mut memory = GroupMemory {
            observed: &mut normal,
            wanted: &mut wanted,
            first: &mut first,
            last: &mut last,
            low: &mut low,
            high: &mut high,
            piece: Piece::START,
        };
        problem.reverse(&mut memory, &mut out);
        let finite = range.finite();
        for ((point, &wanted), &x) in target.point[at].iter_mut().zip(out.iter()).zip(observed) {
            *point = finite.clip(if wanted.is_nan() { x } else { T::from_f64(wanted / unit) });
        }
    }

    /// Compares the outputs of a group at `point`, evaluated in double precision, with their intervals.
    ///
    /// Besides rounding, the amplitude of the normalised feature may be off by its tolerance.
    #[inline(always)]
    fn judge_group(&self, at: std::ops::Range<usize>, sample: &Sample<'_, T>, point: &[T], outcome: &mut Outcome) {
        let layer = self.0;
        let point = &point[at.clone()];
        let statistics = Statistics::of(point, layer.centred, layer.epsilon);
        let mut spread = None;
        for (&x, i) in point.iter().zip(at) {
            let (normal, gain, shift) = (statistics.normal(x), layer.gain[i].to_f64(), layer.shift[i].to_f64());
            let (lower, upper) = (sample.lower[i].to_f64(), sample.upper[i].to_f64());
            outcome.note(distance_to(normal * gain + shift, lower, upper), || {
                let mean_size = || point.iter().map(|&x| statistics.normal(x).abs()).sum::<f64>() / point.len() as f64;
                let spread = if layer.centred { *spread.get_or_insert_with(mean_size) } else { 0.0 };
                let rounding = attained_slack::<T>(2, gain.abs() * (normal.abs() + spread) + shift.abs());
                rounding + layer.tolerance * (gain * normal).abs()
            });
        }
    }
}

/// Ends of intervals so far away that only their direction counts are brought back to where squares do not overflow.
fn far(end: f64) -> f64 {
    const FAR: f64 = 1e140;
    if end.is_finite() { end.clamp(-FAR, FAR) } else { end }
}
