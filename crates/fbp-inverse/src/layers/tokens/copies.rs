//! Layers that copy runs of entries to other places and fill the rest with constants.

use std::ops::Range;

use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::{FeatureShape, Real};

use crate::layers::columns::{
    MapPass, Outcome, Sample, SampleBox, SampleMap, SampleReverse, check_forward, check_jvp, check_vjp, distance_to,
    map_columns, reverse_columns,
};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::{Interval, InverseError, JvpPass, ReversePass, ReverseReport, VjpPass};

/// `len` entries from place `from` of the input at place `to` of the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) len: usize,
}

/// A layer of copies: outputs without a copy are constants, inputs without one are free.
#[derive(Clone, Debug)]
pub(super) struct Copies<T> {
    name: String,
    in_shape: FeatureShape,
    out_shape: FeatureShape,
    runs: Vec<Run>,
    /// Outputs that are no copies.
    gaps: Vec<Range<usize>>,
    /// Outputs where nothing is copied to; the others are of no meaning.
    background: Vec<T>,
}

impl<T: Real> Copies<T> {
    /// `runs` in the order of the output, without overlaps.
    pub(super) fn new(
        name: String,
        (in_shape, out_shape): (FeatureShape, FeatureShape),
        runs: Vec<Run>,
        background: Vec<T>,
    ) -> Self {
        let ends = std::iter::once(0).chain(runs.iter().map(|run| run.to + run.len));
        let starts = runs.iter().map(|run| run.to).chain([out_shape.len()]);
        let gaps = ends.zip(starts).map(|(end, start)| end..start).filter(|gap| !gap.is_empty()).collect();
        Self { name, in_shape, out_shape, runs, gaps, background }
    }
}

struct Forward<'a, T>(&'a Copies<T>);

impl<T: Real> SampleMap<T> for Forward<'_, T> {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        out.copy_from_slice(&self.0.background);
        for &Run { from, to, len } in &self.0.runs {
            out[to..to + len].copy_from_slice(&input[from..from + len]);
        }
    }
}

struct Jacobian<'a> {
    runs: &'a [Run],
    adjoint: bool,
}

impl<T: Real> SampleMap<T> for Jacobian<'_> {
    #[inline(always)]
    fn map_sample(&self, direction: &[T], _second: &[T], out: &mut [T]) {
        out.fill(T::ZERO);
        for &Run { from, to, len } in self.runs {
            let (from, to) = if self.adjoint { (to, from) } else { (from, to) };
            out[to..to + len].copy_from_slice(&direction[from..from + len]);
        }
    }
}

impl<T: Real> SampleReverse<T> for Copies<T> {
    #[inline(always)]
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome {
        let range = sample.in_range;
        target.lower.fill(range.lower);
        target.upper.fill(range.upper);
        for &Run { from, to, len } in &self.runs {
            for i in 0..len {
                target.lower[from + i] = range.clip(sample.lower[to + i]);
                target.upper[from + i] = range.clip(sample.upper[to + i]);
            }
        }
        let ends = target.lower.iter().zip(&*target.upper);
        for ((point, (&lower, &upper)), &x0) in target.point.iter_mut().zip(ends).zip(sample.observed_in) {
            *point = x0.clip(lower, upper);
        }
        let mut outcome = Outcome::MET;
        let mut note = |i: usize, y: T| {
            let distance = distance_to(y, sample.lower[i], sample.upper[i]);
            outcome.note(distance, || attained_slack::<T>(1, y.to_f64().abs()));
        };
        for &Run { from, to, len } in &self.runs {
            (0..len).for_each(|i| note(to + i, target.point[from + i]));
        }
        self.gaps.iter().flat_map(Range::clone).for_each(|i| note(i, self.background[i]));
        outcome
    }
}

operator_once!(Copies);

impl<T: Real> LayerKernel<T> for Copies<T> {
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
        let constants = self.gaps.iter().flat_map(|gap| &self.background[gap.clone()]);
        constants.fold(in_range, |range, &y| Interval::new(range.lower.min(y), range.upper.max(y)))
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        map_columns(&Forward(self), MapPass { first: input, second: input, out: output }, par);
        Ok(())
    }

    fn reverse(
        &self,
        pass: ReversePass<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        Ok(reverse_columns(self, pass, par))
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let JvpPass { tangent_in, tangent_out, .. } = pass;
        let kernel = Jacobian { runs: &self.runs, adjoint: false };
        map_columns(&kernel, MapPass { first: tangent_in, second: tangent_in, out: tangent_out }, par);
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let VjpPass { cotangent_out, cotangent_in, .. } = pass;
        let kernel = Jacobian { runs: &self.runs, adjoint: true };
        map_columns(&kernel, MapPass { first: cotangent_out, second: cotangent_out, out: cotangent_in }, par);
        Ok(())
    }
}
