use std::marker::PhantomData;

use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::{FeatureShape, Real};

use super::columns::{
    MapPass, Outcome, Sample, SampleBox, SampleMap, SampleReverse, check_forward, check_jvp, check_vjp, judge,
    map_columns, reverse_columns,
};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::{Interval, InverseError, JvpPass, ReversePass, ReverseReport, VjpPass};

/// Flattening: the identity, from a feature of any shape to a vector.
///
/// Also stands for any layer that only renames the shape, and for dropout in evaluation mode.
///
/// # Shapes
/// `[C, H, W]` to `[C·H·W, 1, 1]`; the entries keep their order.
#[derive(Clone, Debug)]
pub struct FlattenReverse<T> {
    name: String,
    in_shape: FeatureShape,
    out_shape: FeatureShape,
    scalar: PhantomData<T>,
}

impl<T: Real> FlattenReverse<T> {
    /// Flattening of features of shape `in_shape`.
    pub fn new(name: impl Into<String>, in_shape: FeatureShape) -> Self {
        Self { name: name.into(), in_shape, out_shape: FeatureShape::vector(in_shape.len()), scalar: PhantomData }
    }

    /// Reading a feature of one shape as another of the same length.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if the lengths differ.
    pub fn reshape(
        name: impl Into<String>,
        in_shape: FeatureShape,
        out_shape: FeatureShape,
    ) -> Result<Self, InverseError> {
        let name = name.into();
        if in_shape.len() == out_shape.len() {
            return Ok(Self { name, in_shape, out_shape, scalar: PhantomData });
        }
        let reason =
            format!("{in_shape} cannot be read as {out_shape}: {} and {} entries", in_shape.len(), out_shape.len());
        Err(InverseError::Layer { layer: name, reason })
    }
}

/// The identity as a sample kernel; its only bound is the range.
pub(super) struct Identity;

impl<T: Real> SampleMap<T> for Identity {
    #[inline(always)]
    fn map_sample(&self, first: &[T], _second: &[T], out: &mut [T]) {
        out.copy_from_slice(first);
    }
}

impl<T: Real> SampleReverse<T> for Identity {
    #[inline(always)]
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome {
        let range = sample.in_range;
        let ends = sample.lower.iter().zip(sample.upper);
        let outputs = target.point.iter_mut().zip(target.lower.iter_mut()).zip(target.upper.iter_mut());
        for ((((point, lower), upper), (&lo, &hi)), &x0) in outputs.zip(ends).zip(sample.observed_in) {
            *lower = range.clip(lo);
            *upper = range.clip(hi);
            *point = x0.clip(*lower, *upper);
        }
        let point: &[T] = target.point;
        judge(point, sample.lower, sample.upper, |i| attained_slack::<T>(1, point[i].to_f64().abs()))
    }
}

operator_once!(FlattenReverse);

impl<T: Real> LayerKernel<T> for FlattenReverse<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        self.in_shape
    }

    fn out_shape(&self) -> FeatureShape {
        self.out_shape
    }

    fn structure(&self) -> crate::Structure {
        crate::Structure::SEPARABLE_AFFINE
    }

    fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
        in_range
    }

    fn out_ranges(&self, in_ranges: &crate::ChannelRanges<T>) -> crate::ChannelRanges<T> {
        in_ranges.clone().reshaped(self.in_shape, self.out_shape)
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        map_columns(&Identity, MapPass { first: input, second: input, out: output }, par);
        Ok(())
    }

    fn reverse(
        &self,
        pass: ReversePass<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        Ok(reverse_columns(&Identity, pass, par))
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let JvpPass { tangent_in, tangent_out, .. } = pass;
        map_columns(&Identity, MapPass { first: tangent_in, second: tangent_in, out: tangent_out }, par);
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let VjpPass { cotangent_out, cotangent_in, .. } = pass;
        map_columns(&Identity, MapPass { first: cotangent_out, second: cotangent_out, out: cotangent_in }, par);
        Ok(())
    }
}
