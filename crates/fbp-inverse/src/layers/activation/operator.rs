use std::marker::PhantomData;
use std::ops::Range;

use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::{FeatureShape, Real};

use super::kind::{Activation, BLOCK, EntryBlock, ScalarMap, Setting};
use crate::layers::columns::{
    MapPass, Outcome, Sample, SampleBox, SampleMap, SampleReverse, check_forward, check_jvp, check_vjp, distance_to,
    largest_magnitude,
};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::{InverseError, JvpPass, ReversePass, ReverseReport, VjpPass};

/// Reverse of an elementwise activation.
///
/// Per entry, with the target interval projected on what inputs within the range can produce: the nearest preimage of
/// `[lo, hi]`, and the interval of all preimages around it, with half-lines where the function is flat.
///
/// # Tolerance
/// An output within `tolerance × scale` of the flat end of the function's range counts as that end: a ReLU that must
/// give at most that much accepts every smaller input, and a tanh that must give 1 needs no infinite input. The scale
/// is the width of the range or, for functions without one (ReLU), the largest magnitude in the observed output of the
/// sample. The default is `1e-4`: solver noise in targets must not pull inputs across a kink. Outputs at a flat end may
/// miss their interval by as much and count as attained; elsewhere [`fbp_linalg::attained`] holds as it stands.
///
/// # Source
/// Own derivation.
#[derive(Clone, Debug)]
pub struct ActivationReverse<T> {
    name: String,
    activation: Activation,
    shape: FeatureShape,
    tolerance: f64,
    scalar: PhantomData<T>,
}

impl<T: Real> ActivationReverse<T> {
    /// Default of [`with_tolerance`](Self::with_tolerance).
    pub const DEFAULT_TOLERANCE: f64 = 1e-4;

    /// The activation on features of the given shape.
    ///
    /// # Errors
    /// [`InverseError::Parameter`] if a parameter of the activation is outside its range, also after rounding to `T`.
    pub fn new(name: impl Into<String>, activation: Activation, shape: FeatureShape) -> Result<Self, InverseError> {
        activation.check()?;
        activation.check_rounded::<T>()?;
        let (name, tolerance, scalar) = (name.into(), Self::DEFAULT_TOLERANCE, PhantomData);
        Ok(Self { name, activation, shape, tolerance, scalar })
    }

    /// Sets the relative tolerance at flat ends, `[0, 0.1]`; functions that only approach their ends need one `> 0`.
    ///
    /// # Errors
    /// [`InverseError::Parameter`] outside that range.
    pub fn with_tolerance(mut self, tolerance: f64) -> Result<Self, InverseError> {
        if !(0.0..=0.1).contains(&tolerance) {
            return Err(InverseError::Parameter { name: "tolerance", value: tolerance, range: "[0, 0.1]" });
        }
        self.tolerance = tolerance;
        Ok(self)
    }

    /// The function.
    pub fn activation(&self) -> Activation {
        self.activation
    }
}

/// Forward kernel.
pub(super) struct Forward<M>(pub(super) M);

impl<T: Real, M: ScalarMap<T>> SampleMap<T> for Forward<M> {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        for (out, &x) in out.iter_mut().zip(input) {
            *out = self.0.value(x);
        }
    }
}

/// Multiplies by the slope: the Jacobian is diagonal, so this is both the product with it and with its transpose.
pub(super) struct Slope<M>(pub(super) M);

impl<T: Real, M: ScalarMap<T>> SampleMap<T> for Slope<M> {
    #[inline(always)]
    fn map_sample(&self, at: &[T], direction: &[T], out: &mut [T]) {
        for ((out, &x), &d) in out.iter_mut().zip(at).zip(direction) {
            *out = self.0.slope(x) * d;
        }
    }
}

/// Reverse kernel.
pub(super) struct Reverse<M, T> {
    pub(super) map: M,
    pub(super) tolerance: T,
}

/// Outputs at the points of a block, and their distances to the target intervals.
struct Reached<T> {
    outputs: [T; BLOCK],
    distances: [T; BLOCK],
}

impl<T: Real, M: ScalarMap<T>> SampleReverse<T> for Reverse<M, T> {
    #[inline(always)]
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome {
        let tolerance = match self.map.output_scale() {
            Some(scale) => self.tolerance * scale,
            None => self.tolerance * largest_magnitude(sample.observed_out),
        };
        let context = self.map.context(Setting { range: sample.in_range, tolerance });
        let mut reached = Reached { outputs: [T::ZERO; BLOCK], distances: [T::ZERO; BLOCK] };
        let mut outcome = Outcome::MET;
        for start in (0..target.point.len()).step_by(BLOCK) {
            let block = start..(start + BLOCK).min(target.point.len());
            let (lower, upper) = (&sample.lower[block.clone()], &sample.upper[block.clone()]);
            if is_same(lower, upper) {
                reverse_block::<T, M, true>(self.map, &context, block.clone(), (sample, target), &mut reached);
            } else {
                reverse_block::<T, M, false>(self.map, &context, block.clone(), (sample, target), &mut reached);
            }
            let mut worst = largest_magnitude(&reached.distances[..block.len()]).to_f64();
            if worst == 0.0 {
                continue;
            }
            if worst == f64::INFINITY {
                // The difference of two numbers may overflow.
                let ends = lower.iter().zip(upper).zip(&reached.outputs);
                worst = ends.map(|((&lo, &hi), &y)| distance_to(y, lo, hi)).fold(0.0, f64::max);
            }
            outcome.violation = outcome.violation.max(worst);
            if !outcome.missed && !is_rounding(&reached, block.len()) {
                outcome.missed = misses(self.map, &context, &target.point[block], &reached);
            }
        }
        outcome
    }
}

#[inline(always)]
fn is_same<T: Real>(lower: &[T], upper: &[T]) -> bool {
    lower.iter().zip(upper).fold(true, |same, (lo, hi)| same & (lo == hi))
}

/// Reverses a block of entries and evaluates the function at the points found.
#[inline(always)]
fn reverse_block<T: Real, M: ScalarMap<T>, const POINT: bool>(
    map: M,
    context: &M::Context,
    block: Range<usize>,
    (sample, target): (&Sample<'_, T>, &mut SampleBox<'_, T>),
    reached: &mut Reached<T>,
) {
    let (lower, upper) = (&sample.lower[block.clone()], &sample.upper[block.clone()]);
    let mut entries = EntryBlock {
        observed_in: &sample.observed_in[block.clone()],
        observed_out: &sample.observed_out[block.clone()],
        target_lower: lower,
        target_upper: upper,
        point: &mut target.point[block.clone()],
        lower: &mut target.lower[block.clone()],
        upper: &mut target.upper[block],
    };
    map.preimages::<POINT>(&mut entries, context);
    let outputs = reached.outputs.iter_mut().zip(reached.distances.iter_mut());
    for (((output, distance), &point), (&lower, &upper)) in outputs.zip(&*entries.point).zip(lower.iter().zip(upper)) {
        let y = map.value(point);
        let short = if y < lower { lower - y } else { T::ZERO };
        *output = y;
        *distance = if y > upper { y - upper } else { short };
    }
}

/// Whether all distances are within the rounding of the outputs alone: a fast answer for nearly every block.
#[inline(always)]
fn is_rounding<T: Real>(reached: &Reached<T>, count: usize) -> bool {
    let share = T::from_f64(attained_slack::<T>(1, 1.0));
    let entries = reached.distances[..count].iter().zip(&reached.outputs[..count]);
    entries.fold(true, |within, (&distance, &y)| within & (distance <= share * y.abs()))
}

/// Whether some entry misses its interval.
#[inline(always)]
fn misses<T: Real, M: ScalarMap<T>>(map: M, context: &M::Context, points: &[T], reached: &Reached<T>) -> bool {
    points.iter().zip(&reached.outputs).zip(&reached.distances).any(|((&x, &y), &distance)| {
        if distance == T::ZERO {
            return false;
        }
        let scale = y.to_f64().abs() + (x.to_f64() * map.slope(x).to_f64()).abs();
        let slack = attained_slack::<T>(1, scale) + map.allowance(y, context).to_f64();
        let held = distance.to_f64() <= slack;
        !held
    })
}

operator_once!(ActivationReverse);

impl<T: Real> LayerKernel<T> for ActivationReverse<T> {
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
        crate::Structure::SEPARABLE
    }

    fn out_range(&self, in_range: crate::Interval<T>) -> crate::Interval<T> {
        self.activation.image(in_range)
    }

    fn out_ranges(&self, in_ranges: &crate::ChannelRanges<T>) -> crate::ChannelRanges<T> {
        in_ranges.map(|range| self.out_range(range))
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        self.activation.forward_columns(MapPass { first: input, second: input, out: output }, par);
        Ok(())
    }

    fn reverse(
        &self,
        pass: ReversePass<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        Ok(self.activation.reverse_columns(T::from_f64(self.tolerance), pass, par))
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let pass = MapPass { first: pass.at, second: pass.tangent_in, out: pass.tangent_out };
        self.activation.slope_columns(pass, par);
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let pass = MapPass { first: pass.at, second: pass.cotangent_out, out: pass.cotangent_in };
        self.activation.slope_columns(pass, par);
        Ok(())
    }
}
