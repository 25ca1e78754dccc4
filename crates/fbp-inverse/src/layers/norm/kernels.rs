use faer::dyn_stack::{MemStack, StackReq};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::{LinalgError, Real};
use pulp::{Arch, NullaryFnOnce};

use super::NormReverse;
use super::group::{Group, GroupMemory};
use super::sphere::{Piece, Sphere};
use super::statistics::{Statistics, sums, unit_for};
use crate::Interval;
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
            // A copy: what lies behind a reference is read again for every entry, as the output might lie there too.
            let adjoint = self.adjoint;
            let weight = |g: f64| if adjoint { g } else { 1.0 };
            let [total, along] = sums([at, direction, gain], |x, d, g| {
                let d = d * weight(g);
                [d, d * statistics.normal_of(x)]
            });
            let total = if layer.centred { total / len as f64 } else { 0.0 };
            let along = along / len as f64;
            for ((out, (&x, &d)), &g) in out.iter_mut().zip(at.iter().zip(direction)).zip(gain) {
                let rest = d.to_f64() * weight(g.to_f64()) - total - statistics.normal(x) * along;
                *out = T::from_f64(rest * statistics.slope() * if adjoint { 1.0 } else { g.to_f64() });
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

/// What rounding the entries of a group may move a normalised one by, in roundings of the largest entry: half of one for the
/// entry itself, for the mean, and for the deviation.
const MARGIN: f64 = 1.5;

/// What is asked of a point beside the target, so that it still attains that once it is rounded.
#[derive(Clone, Copy, Default)]
struct Care {
    /// Smallest deviation relative to the mean.
    variation: f64,
    /// By how much intervals are narrowed, as normalised entries; wide ones at most to their middle.
    margin: f64,
}

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
        kernel.reverse_group(at.clone(), Care::default(), (sample, self.target), self.stack);
        kernel.judge_group(at.clone(), sample, self.target.point, &mut found);
        if found.missed {
            kernel.retry_group(at, &mut found, (sample, self.target), self.stack);
        }
        self.outcome.violation = self.outcome.violation.max(found.violation);
        self.outcome.missed |= found.missed;
    }
}

impl<T: Real> Reverse<'_, T> {
    /// Tries again where the point may have missed because entries vary too little around their mean for the precision of
    /// the features: with intervals that are narrower by what rounding takes, then with a deviation that is twice, four
    /// times, .. as large. Ends at the first point that attains its target; where none does, the first one stays.
    #[cold]
    #[inline(never)]
    fn retry_group(
        &self,
        at: std::ops::Range<usize>,
        found: &mut Outcome,
        (sample, target): (&Sample<'_, T>, &mut SampleBox<'_, T>),
        stack: &mut MemStack,
    ) {
        let layer = self.0;
        let first = &target.point[at.clone()];
        let largest = largest_magnitude(first).to_f64();
        let resolved = Statistics::of(first, layer.centred, layer.epsilon).slope() * largest * T::EPSILON.to_f64();
        let gain = largest_magnitude(&layer.gain[at.clone()]).to_f64();
        if !(resolved > 0.0 && found.violation <= gain * SMALL_MISS.max(4.0 * resolved)) {
            return;
        }
        // Not read before it is written at the end.
        target.lower[at.clone()].copy_from_slice(first);
        let mut variation = T::EPSILON.to_f64() / resolved;
        let mut care = Care { variation: 0.0, margin: MARGIN * resolved };
        let is_point = sample.lower[at.clone()] == sample.upper[at.clone()];
        if is_point && variation >= LEAST_VARIATION {
            return;
        }
        loop {
            let mut varied = Outcome::MET;
            self.reverse_group(at.clone(), care, (sample, target), stack);
            self.judge_group(at.clone(), sample, target.point, &mut varied);
            if !varied.missed {
                *found = varied;
                return;
            }
            if variation >= LEAST_VARIATION {
                target.point[at.clone()].copy_from_slice(&target.lower[at]);
                return;
            }
            variation = (2.0 * variation).min(LEAST_VARIATION);
            care = Care { variation, margin: MARGIN * T::EPSILON.to_f64() / variation };
        }
    }

    #[inline(always)]
    fn reverse_group(
        &self,
        at: std::ops::Range<usize>,
        care: Care,
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
        let room = |i: usize| {
            let half = 0.5 * (wide(upper, i) - wide(lower, i));
            if care.margin > 0.0 { (care.margin * wide(gains, i).abs()).min(half) } else { 0.0 }
        };
        let end = |ends: &[T], inward: f64, i: usize| far((wide(ends, i) + inward - wide(shifts, i)) * steepness);
        let (input, stack) = stack.make_with(len, |i| wide(observed, i) * unit);
        let (gain, stack) = stack.make_with(len, |i| wide(gains, i) * steepness);
        let (lower, stack) = stack.make_with(len, |i| end(lower, room(i), i));
        let (upper, stack) = stack.make_with(len, |i| end(upper, -room(i), i));
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
            variation: care.variation,
            range: Interval::new(range.lower.to_f64() * unit, range.upper.to_f64() * unit),
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
