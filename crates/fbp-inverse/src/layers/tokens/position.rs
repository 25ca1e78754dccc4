use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::{FeatureShape, Real};

use super::select::expect_finite;
use super::tokens;
use crate::layers::columns::{
    MapPass, Outcome, Sample, SampleBox, SampleMap, SampleReverse, check_forward, check_jvp, check_vjp, distance_to,
    map_columns, reverse_columns,
};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::{Interval, InverseError, JvpPass, ReversePass, ReverseReport, VjpPass};

/// Adds a learned constant to every entry, `y = x + p` on tokens `[T, 1, D]`.
///
/// # Reverse
/// Exact: `x` moves into `[lo - p, hi - p]`.
///
/// # Source
/// Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021, equation 1.
#[derive(Clone, Debug)]
pub struct PositionEmbedding<T> {
    name: String,
    shape: FeatureShape,
    embedding: Vec<T>,
}

impl<T: Real> PositionEmbedding<T> {
    /// Adds `embedding`, token after token, to `count` tokens of `width` entries.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if it has another length, [`InverseError::Solve`] if an entry is not finite.
    pub fn new(name: impl Into<String>, (count, width): (usize, usize), embedding: &[T]) -> Result<Self, InverseError> {
        let (name, shape) = (name.into(), tokens(count, width));
        if embedding.len() != shape.len() {
            let reason = format!("{} constants for {count} tokens of {width}", embedding.len());
            return Err(InverseError::Layer { layer: name, reason });
        }
        expect_finite(&name, "embedding", embedding)?;
        Ok(Self { name, shape, embedding: embedding.to_vec() })
    }
}

/// The sum as a sample kernel.
struct Shift<'a, T>(&'a [T]);

impl<T: Real> SampleMap<T> for Shift<'_, T> {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        for ((out, &x), &p) in out.iter_mut().zip(input).zip(self.0) {
            *out = x + p;
        }
    }
}

/// Products with its Jacobian.
struct Identity;

impl<T: Real> SampleMap<T> for Identity {
    #[inline(always)]
    fn map_sample(&self, direction: &[T], _second: &[T], out: &mut [T]) {
        out.copy_from_slice(direction);
    }
}

impl<T: Real> SampleReverse<T> for Shift<'_, T> {
    #[inline(always)]
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome {
        let (range, mut outcome) = (sample.in_range, Outcome::MET);
        for (i, &p) in self.0.iter().enumerate() {
            let (wanted_lower, wanted_upper) = (sample.lower[i], sample.upper[i]);
            // An end that overflows would be a point at infinity.
            let lower = range.clip((wanted_lower - p).min(T::MAX));
            let upper = range.clip((wanted_upper - p).max(-T::MAX));
            let x = sample.observed_in[i].clip(lower, upper);
            (target.point[i], target.lower[i], target.upper[i]) = (x, lower, upper);
            let distance = distance_to(x + p, wanted_lower, wanted_upper);
            outcome.note(distance, || attained_slack::<T>(2, x.to_f64().abs() + p.to_f64().abs()));
        }
        outcome
    }
}

operator_once!(PositionEmbedding);

impl<T: Real> LayerKernel<T> for PositionEmbedding<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        self.shape
    }

    fn out_shape(&self) -> FeatureShape {
        self.shape
    }

    fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
        let ends = |(least, most): (T, T), &p: &T| (least.min(p), most.max(p));
        let first = self.embedding.first().copied().unwrap_or(T::ZERO);
        let (least, most) = self.embedding.iter().fold((first, first), ends);
        Interval::new(in_range.lower + least, in_range.upper + most)
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        map_columns(&Shift(&self.embedding), MapPass { first: input, second: input, out: output }, par);
        Ok(())
    }

    fn reverse(
        &self,
        pass: ReversePass<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        Ok(reverse_columns(&Shift(&self.embedding), pass, par))
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
