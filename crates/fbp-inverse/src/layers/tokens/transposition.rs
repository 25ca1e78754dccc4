use std::marker::PhantomData;

use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::{FeatureShape, Real};

use super::tokens;
use crate::layers::columns::{
    MapPass, Outcome, Sample, SampleBox, SampleMap, SampleReverse, check_forward, check_jvp, check_vjp, judge,
    map_columns, reverse_columns,
};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::{Interval, InverseError, JvpPass, ReversePass, ReverseReport, VjpPass};

/// Reads the pixels of an image as tokens, `[C, H, W]` to `[H·W, 1, C]`, as `flatten(2).transpose(1, 2)` does in PyTorch; or the
/// way back.
///
/// # Reverse
/// Exact: entries move into their boxes.
#[derive(Clone, Debug)]
pub struct ImageToTokens<T> {
    name: String,
    in_shape: FeatureShape,
    out_shape: FeatureShape,
    transposition: Transposition,
    scalar: PhantomData<T>,
}

impl<T: Real> ImageToTokens<T> {
    /// Reads images of this shape as tokens.
    pub fn new(name: impl Into<String>, image: FeatureShape) -> Self {
        let transposition = Transposition { rows: image.channels, cols: image.plane() };
        let out_shape = tokens(image.plane(), image.channels);
        Self { name: name.into(), in_shape: image, out_shape, transposition, scalar: PhantomData }
    }

    /// Reads tokens as images of this shape.
    pub fn back(name: impl Into<String>, image: FeatureShape) -> Self {
        let there = Self::new(name, image);
        let transposition = there.transposition.back();
        Self { in_shape: there.out_shape, out_shape: image, transposition, ..there }
    }
}

/// Output `j · rows + i` is input `i · cols + j`.
#[derive(Clone, Copy, Debug)]
struct Transposition {
    rows: usize,
    cols: usize,
}

/// Rows and columns of a tile that stays in the first cache.
const TILE: usize = 16;

impl Transposition {
    const fn back(self) -> Self {
        Self { rows: self.cols, cols: self.rows }
    }

    #[inline(always)]
    fn write<T: Copy>(self, input: &[T], out: &mut [T]) {
        let Self { rows, cols } = self;
        for top in (0..rows).step_by(TILE) {
            for left in (0..cols).step_by(TILE) {
                for j in left..(left + TILE).min(cols) {
                    let out = &mut out[j * rows + top..j * rows + (top + TILE).min(rows)];
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = input[(top + i) * cols + j];
                    }
                }
            }
        }
    }
}

impl<T: Real> SampleMap<T> for Transposition {
    #[inline(always)]
    fn map_sample(&self, first: &[T], _second: &[T], out: &mut [T]) {
        self.write(first, out);
    }
}

impl<T: Real> SampleReverse<T> for Transposition {
    #[inline(always)]
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome {
        let (back, range) = (self.back(), sample.in_range);
        back.write(sample.lower, target.lower);
        back.write(sample.upper, target.upper);
        let mut outcome = Outcome::MET;
        let ends = target.lower.iter_mut().zip(target.upper.iter_mut());
        for ((point, (lower, upper)), &x0) in target.point.iter_mut().zip(ends).zip(sample.observed_in) {
            let (wanted_lower, wanted_upper) = (*lower, *upper);
            (*lower, *upper) = (range.clip(wanted_lower), range.clip(wanted_upper));
            *point = x0.clip(*lower, *upper);
            let point = *point;
            let entry =
                judge(&[point], &[wanted_lower], &[wanted_upper], |_| attained_slack::<T>(1, point.to_f64().abs()));
            outcome.violation = outcome.violation.max(entry.violation);
            outcome.missed |= entry.missed;
        }
        outcome
    }
}

operator_once!(ImageToTokens);

impl<T: Real> LayerKernel<T> for ImageToTokens<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        self.in_shape
    }

    fn out_shape(&self) -> FeatureShape {
        self.out_shape
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
        map_columns(&self.transposition, MapPass { first: input, second: input, out: output }, par);
        Ok(())
    }

    fn reverse(
        &self,
        pass: ReversePass<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        Ok(reverse_columns(&self.transposition, pass, par))
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let JvpPass { tangent_in, tangent_out, .. } = pass;
        map_columns(&self.transposition, MapPass { first: tangent_in, second: tangent_in, out: tangent_out }, par);
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let VjpPass { cotangent_out, cotangent_in, .. } = pass;
        let pass = MapPass { first: cotangent_out, second: cotangent_out, out: cotangent_in };
        map_columns(&self.transposition.back(), pass, par);
        Ok(())
    }
}
