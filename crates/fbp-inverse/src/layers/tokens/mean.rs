use std::marker::PhantomData;

use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::{FeatureShape, Real};

use super::tokens;
use crate::layers::columns::{
    MapPass, Outcome, Sample, SampleBox, SampleMap, SampleReverse, check_forward, check_jvp, check_vjp, distance_to,
    map_columns, reverse_columns,
};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::layers::shift::clipped_shift;
use crate::{Interval, InverseError, JvpPass, ReversePass, ReverseReport, VjpPass};

/// The mean of the tokens from some token on, `[T, 1, D]` to a vector of `D`.
///
/// # Reverse
/// Exact: for every entry, all tokens move by the same amount, clipped to the input range, until their mean lies in its
/// interval; tokens before the first one are free and keep their values.
///
/// # Source
/// Own derivation: projection on a half-space within bounds.
#[derive(Clone, Debug)]
pub struct MeanTokens<T> {
    name: String,
    mean: Mean,
    scalar: PhantomData<T>,
}

#[derive(Clone, Copy, Debug)]
struct Mean {
    count: usize,
    width: usize,
    first: usize,
}

impl<T: Real> MeanTokens<T> {
    /// The mean of tokens `first .. count`, each with `width` entries.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if there is no such token.
    pub fn new(name: impl Into<String>, (count, width): (usize, usize), first: usize) -> Result<Self, InverseError> {
        let name = name.into();
        if first >= count {
            return Err(InverseError::Layer { layer: name, reason: format!("tokens from {first} on, of {count}") });
        }
        Ok(Self { name, mean: Mean { count, width, first }, scalar: PhantomData })
    }
}

impl Mean {
    #[inline(always)]
    fn summands(self) -> usize {
        self.count - self.first
    }

    #[inline(always)]
    fn used<T>(self, tokens: &[T]) -> std::slice::ChunksExact<'_, T> {
        tokens[self.first * self.width..].chunks_exact(self.width.max(1))
    }
}

impl<T: Real> SampleMap<T> for Mean {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        out.fill(T::ZERO);
        for token in self.used(input) {
            out.iter_mut().zip(token).for_each(|(out, &x)| *out += x);
        }
        let share = T::ONE / T::from_f64(self.summands() as f64);
        out.iter_mut().for_each(|out| *out *= share);
    }
}

/// Spreads weights of the means over the tokens.
struct Adjoint(Mean);

impl<T: Real> SampleMap<T> for Adjoint {
    #[inline(always)]
    fn map_sample(&self, weights: &[T], _second: &[T], out: &mut [T]) {
        let Mean { width, first, .. } = self.0;
        let share = T::ONE / T::from_f64(self.0.summands() as f64);
        let (free, used) = out.split_at_mut(first * width);
        free.fill(T::ZERO);
        for token in used.chunks_exact_mut(width.max(1)) {
            token.iter_mut().zip(weights).for_each(|(out, &w)| *out = w * share);
        }
    }
}

impl<T: Real> SampleReverse<T> for Mean {
    #[inline(always)]
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome {
        let (range, summands, mut outcome) = (sample.in_range, self.summands() as f64, Outcome::MET);
        let start = self.first * self.width;
        for (point, &x0) in target.point.iter_mut().zip(sample.observed_in) {
            *point = range.clip(x0);
        }
        target.lower[..start].fill(range.lower);
        target.upper[..start].fill(range.upper);
        for i in 0..self.width {
            let (lower, upper) = (sample.lower[i], sample.upper[i]);
            let places = || (self.first..self.count).map(|token| token * self.width + i);
            let sum = |point: &[T]| places().fold(T::ZERO, |sum, at| sum + point[at]);
            let mean = sum(target.point).to_f64() / summands;
            if mean < lower.to_f64() || mean > upper.to_f64() {
                let total = summands * mean.clip(lower.to_f64(), upper.to_f64());
                let entries = || places().map(|at| (sample.observed_in[at], range.lower, range.upper));
                let shift = clipped_shift(entries, total);
                for at in places() {
                    let moved = T::from_f64(sample.observed_in[at].to_f64() + shift);
                    target.point[at] = range.finite().clip(moved);
                }
            }
            let y = sum(target.point) * (T::ONE / T::from_f64(summands));
            outcome.note(distance_to(y, lower, upper), || {
                let size: f64 = places().map(|at| target.point[at].to_f64().abs()).sum();
                attained_slack::<T>(self.summands(), size / summands)
            });
        }
        target.lower[start..].copy_from_slice(&target.point[start..]);
        target.upper[start..].copy_from_slice(&target.point[start..]);
        outcome
    }
}

operator_once!(MeanTokens);

impl<T: Real> LayerKernel<T> for MeanTokens<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        tokens(self.mean.count, self.mean.width)
    }

    fn out_shape(&self) -> FeatureShape {
        FeatureShape::vector(self.mean.width)
    }

    fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
        in_range
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        map_columns(&self.mean, MapPass { first: input, second: input, out: output }, par);
        Ok(())
    }

    fn reverse(
        &self,
        pass: ReversePass<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        Ok(reverse_columns(&self.mean, pass, par))
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let JvpPass { tangent_in, tangent_out, .. } = pass;
        map_columns(&self.mean, MapPass { first: tangent_in, second: tangent_in, out: tangent_out }, par);
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let VjpPass { cotangent_out, cotangent_in, .. } = pass;
        let pass = MapPass { first: cotangent_out, second: cotangent_out, out: cotangent_in };
        map_columns(&Adjoint(self.mean), pass, par);
        Ok(())
    }
}
