use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::{FeatureShape, LinalgError, Real};

use super::columns::{
    MapPass, Outcome, Sample, SampleBox, SampleMap, SampleReverse, check_forward, check_jvp, check_vjp, distance_to,
    largest_magnitude, map_columns, reverse_columns,
};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::{ChannelRanges, Interval, InverseError, JvpPass, ReversePass, ReverseReport, VjpPass};

/// Batch normalisation in evaluation mode, an affine map `y = a x + c` per channel, and its exact reverse.
///
/// Boxes map to boxes, their ends exchanged where `a < 0`. A channel whose scale is 0 (or subnormal) is constant: its
/// inputs keep their value and may be anything in the range, and what its output misses is reported. So is what would
/// need inputs beyond the largest finite number. An entry is attained as a row of an affine map with the terms `a x` and
/// `c` is, see [`fbp_linalg::attained`].
///
/// # Shapes
/// `[C, H, W]` to the same; one scale and one shift per channel. Vectors are `[C, 1, 1]`.
///
/// # Source
/// Own derivation.
#[derive(Clone, Debug)]
pub struct BatchNormReverse<T> {
    name: String,
    shape: FeatureShape,
    scale: Vec<T>,
    shift: Vec<T>,
}

/// Parameters and running statistics of a batch normalisation, one value per channel.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormStatistics<'a, T> {
    /// Learned scale `γ`.
    pub weight: &'a [T],
    /// Learned shift `β`.
    pub bias: &'a [T],
    /// Running mean.
    pub mean: &'a [T],
    /// Running variance.
    pub variance: &'a [T],
    /// Added to the variance, `> 0` if a variance is 0.
    pub epsilon: f64,
}

impl<T: Real> BatchNormReverse<T> {
    /// Batch normalisation of features of the given shape: `a = γ / √(variance + ε)`, `c = β - a · mean`.
    ///
    /// # Errors
    /// [`InverseError::Solve`] if a slice does not have one value per channel or `a` or `c` is not finite.
    pub fn new(
        name: impl Into<String>,
        shape: FeatureShape,
        statistics: BatchNormStatistics<'_, T>,
    ) -> Result<Self, InverseError> {
        let name = name.into();
        let BatchNormStatistics { weight, bias, mean, variance, epsilon } = statistics;
        for (what, values) in [("weight", weight), ("bias", bias), ("mean", mean), ("variance", variance)] {
            expect_channels(&name, what, values, shape)?;
        }
        let scale: Vec<f64> =
            weight.iter().zip(variance).map(|(g, v)| g.to_f64() / (v.to_f64() + epsilon).sqrt()).collect();
        let shift = scale.iter().zip(mean).zip(bias).map(|((a, m), b)| T::from_f64(b.to_f64() - a * m.to_f64()));
        let shift = shift.collect();
        Self::from_affine(name, shape, scale.into_iter().map(T::from_f64).collect(), shift)
    }

    /// Any per-channel map `y = scale · x + shift`.
    ///
    /// # Errors
    /// [`InverseError::Solve`] if a vector does not have one value per channel or a value is not finite.
    pub fn from_affine(
        name: impl Into<String>,
        shape: FeatureShape,
        scale: Vec<T>,
        shift: Vec<T>,
    ) -> Result<Self, InverseError> {
        let name = name.into();
        for (what, values) in [("scale", &scale), ("shift", &shift)] {
            expect_channels(&name, what, values, shape)?;
            if let Some(row) = values.iter().position(|value| !value.is_finite()) {
                return Err(InverseError::in_layer(&name)(LinalgError::NonFinite { what, row, column: 0 }));
            }
        }
        Ok(Self { name, shape, scale, shift })
    }
}

fn expect_channels<T>(layer: &str, what: &'static str, values: &[T], shape: FeatureShape) -> Result<(), InverseError> {
    let (expected, found) = (shape.channels, values.len());
    if found == expected {
        return Ok(());
    }
    Err(InverseError::in_layer(layer)(LinalgError::Length { what, expected, found }))
}

/// `a x + c` (with `shift`) or `a x` (the Jacobian and its transpose).
struct Affine<'a, T> {
    layer: &'a BatchNormReverse<T>,
    with_shift: bool,
}

impl<T: Real> SampleMap<T> for Affine<'_, T> {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        let (scale, shift) = (&self.layer.scale, &self.layer.shift);
        let plane = self.layer.shape.plane();
        if plane == 1 {
            for (((out, &x), &a), &c) in out.iter_mut().zip(input).zip(scale).zip(shift) {
                *out = x * a + if self.with_shift { c } else { T::ZERO };
            }
            return;
        }
        let planes = out.chunks_exact_mut(plane).zip(input.chunks_exact(plane));
        for ((out, input), (&a, &c)) in planes.zip(scale.iter().zip(shift)) {
            let c = if self.with_shift { c } else { T::ZERO };
            for (out, &x) in out.iter_mut().zip(input) {
                *out = x * a + c;
            }
        }
    }
}

/// Reverse kernel.
struct Reverse<'a, T>(&'a BatchNormReverse<T>);

/// One channel, or one entry.
#[derive(Clone, Copy)]
struct Channel<T> {
    scale: T,
    shift: T,
    is_constant: bool,
    range: Interval<T>,
}

impl<T: Real> Channel<T> {
    /// `(point, lower, upper)`.
    #[inline(always)]
    fn reverse(self, x0: T, y0: T, lo: T, hi: T) -> (T, T, T) {
        let (low, high) = ((lo - self.shift) / self.scale, (hi - self.shift) / self.scale);
        let flips = self.scale < T::ZERO;
        let (low, high) = if flips { (high, low) } else { (low, high) };
        let lower = if self.is_constant { self.range.lower } else { self.range.clip(low).min(T::MAX) };
        let upper = if self.is_constant { self.range.upper } else { self.range.clip(high).max(-T::MAX) };
        let met = (lo <= y0) & (y0 <= hi) & self.range.contains(x0);
        let point = if met { x0 } else { x0.clip(lower, upper) };
        (point, if point < lower { point } else { lower }, if point > upper { point } else { upper })
    }
}

impl<T: Real> SampleReverse<T> for Reverse<'_, T> {
    #[inline(always)]
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome {
        let layer = self.0;
        let channel = |c: usize| Channel {
            scale: layer.scale[c],
            shift: layer.shift[c],
            is_constant: layer.scale[c].abs() < T::MIN_POSITIVE,
            range: sample.in_range,
        };
        let plane = layer.shape.plane();
        for c in 0..layer.shape.channels {
            let (channel, block) = (channel(c), c * plane..(c + 1) * plane);
            let inputs = sample.observed_in[block.clone()].iter().zip(&sample.observed_out[block.clone()]);
            let ends = sample.lower[block.clone()].iter().zip(&sample.upper[block.clone()]);
            let outputs = target.point[block.clone()].iter_mut().zip(&mut target.lower[block.clone()]);
            let outputs = outputs.zip(&mut target.upper[block]);
            for (((&x0, &y0), (&lo, &hi)), ((point, lower), upper)) in inputs.zip(ends).zip(outputs) {
                (*point, *lower, *upper) = channel.reverse(x0, y0, lo, hi);
            }
        }
        let mut outcome = Outcome::MET;
        // Runs of one channel, or of all entries where every one is a channel of its own.
        let run = if plane == 1 { target.point.len().max(1) } else { plane };
        for first in (0..target.point.len()).step_by(run) {
            let channel = first / plane;
            let coefficients = |i: usize| {
                if plane == 1 { (layer.scale[i], layer.shift[i]) } else { (layer.scale[channel], layer.shift[channel]) }
            };
            for start in (first..first + run).step_by(BLOCK) {
                let block = start..(start + BLOCK).min(first + run);
                judge_block(&mut outcome, sample, target.point, block, coefficients);
            }
        }
        outcome
    }
}

/// Entries that are judged together.
const BLOCK: usize = 64;

/// Takes in the entries of a block, each one judged as a row `a x + c`.
#[inline(always)]
fn judge_block<T: Real>(
    outcome: &mut Outcome,
    sample: &Sample<'_, T>,
    point: &[T],
    block: std::ops::Range<usize>,
    coefficients: impl Fn(usize) -> (T, T),
) {
    let (mut distances, mut scales) = ([0.0_f64; BLOCK], [0.0_f64; BLOCK]);
    let entries = distances.iter_mut().zip(&mut scales).zip(block);
    for ((distance, scale), i) in entries {
        let (a, c) = coefficients(i);
        let product = point[i] * a;
        *distance = distance_to(product + c, sample.lower[i], sample.upper[i]);
        *scale = product.to_f64().abs() + c.to_f64().abs();
    }
    let worst = largest_magnitude(&distances);
    if worst > 0.0 {
        outcome.violation = outcome.violation.max(worst);
        let held = |(distance, scale): (&f64, &f64)| *distance <= attained_slack::<T>(2, *scale);
        outcome.missed |= !distances.iter().zip(&scales).fold(true, |all, entry| all & held(entry));
    }
}

operator_once!(BatchNormReverse);

impl<T: Real> LayerKernel<T> for BatchNormReverse<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        self.shape
    }

    fn out_shape(&self) -> FeatureShape {
        self.shape
    }

    fn structure(&self) -> crate::Structure {
        crate::Structure::SEPARABLE_AFFINE.normalising()
    }

    fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
        self.out_ranges(&in_range.into()).hull()
    }

    fn out_ranges(&self, in_ranges: &ChannelRanges<T>) -> ChannelRanges<T> {
        let ends = self.scale.iter().zip(&self.shift).enumerate().map(|(channel, (&a, &c))| {
            let range = in_ranges.of(channel);
            // 0 · ∞ is the constant, not NaN. The product is rounded once more here than where it is fused with the sum.
            let at = |x: T, outwards: T| {
                let product = if a == T::ZERO { T::ZERO } else { a * x };
                let slack = if product.is_finite() { T::EPSILON * product.abs() } else { T::ZERO };
                product + c + outwards * slack
            };
            let (low, high) = if a < T::ZERO { (range.upper, range.lower) } else { (range.lower, range.upper) };
            Interval::new(at(low, -T::ONE), at(high, T::ONE))
        });
        ends.collect::<Vec<_>>().into()
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        let pass = MapPass { first: input, second: input, out: output };
        map_columns(&Affine { layer: self, with_shift: true }, pass, par);
        Ok(())
    }

    fn reverse(
        &self,
        pass: ReversePass<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        Ok(reverse_columns(&Reverse(self), pass, par))
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let JvpPass { tangent_in, tangent_out, .. } = pass;
        let pass = MapPass { first: tangent_in, second: tangent_in, out: tangent_out };
        map_columns(&Affine { layer: self, with_shift: false }, pass, par);
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let VjpPass { cotangent_out, cotangent_in, .. } = pass;
        let pass = MapPass { first: cotangent_out, second: cotangent_out, out: cotangent_in };
        map_columns(&Affine { layer: self, with_shift: false }, pass, par);
        Ok(())
    }
}
