use std::marker::PhantomData;
use std::ops::Range;

use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real};

use super::kind::{Activation, BLOCK, EntryBlock, ScalarMap, Setting};
use crate::layers::columns::{
    MapPass, Outcome, Sample, SampleBox, SampleMap, SampleReverse, check_forward, check_jvp, check_vjp,
    largest_magnitude,
};
use crate::{DifferentiableOperator, InverseError, JvpPass, ReverseOperator, ReversePass, ReverseReport, VjpPass};

/// Reverse of an elementwise activation.
///
/// Per entry, with the target interval projected on what inputs within the range can produce: the nearest preimage of
/// `[lo, hi]`, and the interval of all preimages around it, with half-lines where the function is flat.
///
/// # Tolerance
/// An output within `tolerance × scale` of the flat end of the function's range counts as that end: a ReLU that must
/// give at most that much accepts every smaller input, and a tanh that must give 1 needs no infinite input. The scale
/// is the width of the range or, for functions without one (ReLU), the largest magnitude in the observed output of the
/// sample. The default is `1e-4`: solver noise in targets must not pull inputs across a kink.
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
    /// [`InverseError::Parameter`] if a parameter of the activation is outside its range.
    pub fn new(name: impl Into<String>, activation: Activation, shape: FeatureShape) -> Result<Self, InverseError> {
        activation.check()?;
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

impl<T: Real, M: ScalarMap<T>> SampleReverse<T> for Reverse<M, T> {
    #[inline(always)]
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome<T> {
        let largest = largest_magnitude(sample.observed_out);
        let tolerance = self.tolerance * self.map.output_scale().unwrap_or(largest);
        let context = self.map.context(Setting { range: sample.in_range, tolerance });
        let mut violation = T::ZERO;
        for start in (0..target.point.len()).step_by(BLOCK) {
            let block = start..(start + BLOCK).min(target.point.len());
            let is_point = is_same(&sample.lower[block.clone()], &sample.upper[block.clone()]);
            let worst = if is_point {
                reverse_block::<T, M, true>(self.map, &context, block, (sample, target))
            } else {
                reverse_block::<T, M, false>(self.map, &context, block, (sample, target))
            };
            violation = if worst > violation { worst } else { violation };
        }
        let rounding = T::from_f64(32.0) * T::EPSILON * (largest + self.map.output_scale().unwrap_or(T::ZERO));
        Outcome { violation, tolerance: tolerance + rounding }
    }
}

#[inline(always)]
fn is_same<T: Real>(lower: &[T], upper: &[T]) -> bool {
    lower.iter().zip(upper).fold(true, |same, (lo, hi)| same & (lo == hi))
}

/// Reverses a block of entries and returns their largest violation.
#[inline(always)]
fn reverse_block<T: Real, M: ScalarMap<T>, const POINT: bool>(
    map: M,
    context: &M::Context,
    block: Range<usize>,
    (sample, target): (&Sample<'_, T>, &mut SampleBox<'_, T>),
) -> T {
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
    let mut distances = [T::ZERO; BLOCK];
    for (((distance, &point), &lower), &upper) in distances.iter_mut().zip(&*entries.point).zip(lower).zip(upper) {
        let y = map.value(point);
        let short = if y < lower { lower - y } else { T::ZERO };
        *distance = if y > upper { y - upper } else { short };
    }
    largest_magnitude(&distances)
}

impl<T: Real> ReverseOperator<T> for ActivationReverse<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        self.shape
    }

    fn out_shape(&self) -> FeatureShape {
        self.shape
    }

    fn out_range(&self, in_range: crate::Range<T>) -> crate::Range<T> {
        self.activation.image(in_range)
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

    fn differentiable(&self) -> Option<&dyn DifferentiableOperator<T>> {
        Some(self)
    }
}

impl<T: Real> DifferentiableOperator<T> for ActivationReverse<T> {
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
