use faer::dyn_stack::{MemStack, StackReq};
use faer::reborrow::ReborrowMut;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real, batch_slice, batch_slice_mut};

use super::tokens;
use crate::layers::columns::{check_forward, check_jvp, check_vjp};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::tape::{Tape, TapeMut};
use crate::{
    DifferentiableOperator, Interval, InverseError, JvpPass, ReverseOperator, ReversePass, ReverseReport, TargetBox,
    TargetBoxMut, VjpPass,
};

/// An operator on vectors, applied to every token: `[T, 1, D]` to `[T, 1, D']`.
///
/// A batch of `N` features of `T` tokens is, in memory, a batch of `T·N` vectors, so this is the operator itself on a larger
/// batch; batches with gaps between their columns go sample by sample.
///
/// # Reverse
/// As exact as that of the operator: tokens do not depend on each other. A sample is attained if all of its tokens are.
pub struct PerToken<T> {
    name: String,
    count: usize,
    inner: Box<dyn ReverseOperator<T>>,
    tape: Vec<usize>,
}

impl<T: Real> PerToken<T> {
    /// Applies `inner` to each of `count` tokens.
    ///
    /// # Errors
    /// [`InverseError::Layer`] without a token.
    pub fn new(
        name: impl Into<String>,
        count: usize,
        inner: Box<dyn ReverseOperator<T>>,
    ) -> Result<Self, InverseError> {
        let name = name.into();
        if count == 0 {
            return Err(InverseError::Layer { layer: name, reason: "no tokens".into() });
        }
        let kept = inner.differentiable().map_or(&[][..], |inner| inner.tape_lens());
        let tape = kept.iter().map(|len| len * count).collect();
        Ok(Self { name, count, inner, tape })
    }

    /// The operator on one token.
    pub fn inner(&self) -> &dyn ReverseOperator<T> {
        &*self.inner
    }

    fn derivative(&self) -> &dyn DifferentiableOperator<T> {
        self.inner.differentiable().expect("a layer without derivatives is not asked for products")
    }

    /// The samples that run together: all of them, if none of the views has gaps.
    fn groups(&self, batch: usize, dense: bool) -> impl Iterator<Item = (usize, usize)> + use<T> {
        let size = if dense { batch } else { 1 };
        (0..batch).step_by(size.max(1)).map(move |start| (start, size))
    }

    fn tokens<'a>(&self, view: MatRef<'a, T>) -> MatRef<'a, T> {
        let (rows, cols) = (view.nrows() / self.count, view.ncols() * self.count);
        let values = batch_slice(view).expect("columns without gaps, or a single one");
        MatRef::from_column_major_slice(values, rows, cols)
    }

    fn tokens_mut<'a>(&self, view: MatMut<'a, T>) -> MatMut<'a, T> {
        let (rows, cols) = (view.nrows() / self.count, view.ncols() * self.count);
        let values = batch_slice_mut(view).expect("columns without gaps, or a single one");
        MatMut::from_column_major_slice_mut(values, rows, cols)
    }

    /// The tokens of one sample as a pass of their own.
    fn sample<'a>(&self, pass: &'a mut ReversePass<'_, T>, index: usize) -> ReversePass<'a, T> {
        let read = |view: MatRef<'a, T>| self.tokens(view.subcols(index, 1));
        let TargetBoxMut { point, lower, upper } = pass.target_in.rb_mut();
        let write = |view: MatMut<'a, T>| self.tokens_mut(view.subcols_mut(index, 1));
        ReversePass {
            observed_in: read(pass.observed_in),
            observed_out: read(pass.observed_out),
            target_out: TargetBox {
                point: read(pass.target_out.point),
                lower: read(pass.target_out.lower),
                upper: read(pass.target_out.upper),
            },
            in_range: pass.in_range,
            target_in: TargetBoxMut { point: write(point), lower: write(lower), upper: write(upper) },
        }
    }
}

fn is_dense<T: Real>(view: MatRef<'_, T>) -> bool {
    batch_slice(view).is_some()
}

operator_once!(PerToken);

impl<T: Real> LayerKernel<T> for PerToken<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        tokens(self.count, self.inner.in_shape().len())
    }

    fn out_shape(&self) -> FeatureShape {
        tokens(self.count, self.inner.out_shape().len())
    }

    fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
        self.inner.out_range(in_range)
    }

    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.inner.forward_scratch(batch * self.count, par).or(self.inner.forward_scratch(self.count, par))
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        mut output: MatMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        for (start, count) in self.groups(input.ncols(), is_dense(input) && is_dense(output.as_ref())) {
            let output = self.tokens_mut(output.rb_mut().subcols_mut(start, count));
            self.inner.forward(self.tokens(input.subcols(start, count)), output, par, stack)?;
        }
        Ok(())
    }

    fn reverse_scratch(&self, _batch: usize, par: Par) -> StackReq {
        self.inner.reverse_scratch(self.count, par)
    }

    fn reverse(
        &self,
        mut pass: ReversePass<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        // Sample by sample, because the report counts samples and not tokens.
        let mut report = ReverseReport::default();
        for index in 0..pass.batch() {
            let tokens = self.inner.reverse(self.sample(&mut pass, index), par, stack)?;
            report = report.merge(ReverseReport {
                samples: 1,
                satisfied_before: usize::from(tokens.satisfied_before == self.count),
                unattained: tokens.unattained.min(1),
                violation_sum: tokens.violation_max,
                ..tokens
            });
        }
        Ok(report)
    }

    fn has_derivatives(&self) -> bool {
        self.inner.differentiable().is_some()
    }

    fn derivative_scratch(&self, batch: usize, par: Par) -> StackReq {
        let inner = self.derivative();
        inner.derivative_scratch(batch * self.count, par).or(inner.derivative_scratch(self.count, par))
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let JvpPass { at, tangent_in, mut tangent_out } = pass;
        let dense = is_dense(at) && is_dense(tangent_in) && is_dense(tangent_out.as_ref());
        for (start, count) in self.groups(at.ncols(), dense) {
            let pass = JvpPass {
                at: self.tokens(at.subcols(start, count)),
                tangent_in: self.tokens(tangent_in.subcols(start, count)),
                tangent_out: self.tokens_mut(tangent_out.rb_mut().subcols_mut(start, count)),
            };
            self.derivative().jvp(pass, par, stack)?;
        }
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let VjpPass { at, cotangent_out, mut cotangent_in } = pass;
        let dense = is_dense(at) && is_dense(cotangent_out) && is_dense(cotangent_in.as_ref());
        for (start, count) in self.groups(at.ncols(), dense) {
            let pass = VjpPass {
                at: self.tokens(at.subcols(start, count)),
                cotangent_out: self.tokens(cotangent_out.subcols(start, count)),
                cotangent_in: self.tokens_mut(cotangent_in.rb_mut().subcols_mut(start, count)),
            };
            self.derivative().vjp(pass, par, stack)?;
        }
        Ok(())
    }

    fn tape_lens(&self) -> &[usize] {
        &self.tape
    }

    fn forward_on_tape(
        &self,
        input: MatRef<'_, T>,
        mut output: MatMut<'_, T>,
        mut tape: TapeMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        let inner = self.derivative();
        for (start, count) in self.groups(input.ncols(), is_dense(input) && is_dense(output.as_ref())) {
            let output = self.tokens_mut(output.rb_mut().subcols_mut(start, count));
            let tape = tape.rb_mut().samples(start, count).in_pieces(self.count, inner.tape_lens());
            inner.forward_on_tape(self.tokens(input.subcols(start, count)), output, tape, par, stack)?;
        }
        Ok(())
    }

    fn jvp_on_tape(
        &self,
        pass: JvpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let JvpPass { at, tangent_in, mut tangent_out } = pass;
        let inner = self.derivative();
        let dense = is_dense(at) && is_dense(tangent_in) && is_dense(tangent_out.as_ref());
        for (start, count) in self.groups(at.ncols(), dense) {
            let pass = JvpPass {
                at: self.tokens(at.subcols(start, count)),
                tangent_in: self.tokens(tangent_in.subcols(start, count)),
                tangent_out: self.tokens_mut(tangent_out.rb_mut().subcols_mut(start, count)),
            };
            let tape = tape.samples(start, count).in_pieces(self.count, inner.tape_lens());
            inner.jvp_on_tape(pass, tape, par, stack)?;
        }
        Ok(())
    }

    fn vjp_on_tape(
        &self,
        pass: VjpPass<'_, T>,
        tape: Tape<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let VjpPass { at, cotangent_out, mut cotangent_in } = pass;
        let inner = self.derivative();
        let dense = is_dense(at) && is_dense(cotangent_out) && is_dense(cotangent_in.as_ref());
        for (start, count) in self.groups(at.ncols(), dense) {
            let pass = VjpPass {
                at: self.tokens(at.subcols(start, count)),
                cotangent_out: self.tokens(cotangent_out.subcols(start, count)),
                cotangent_in: self.tokens_mut(cotangent_in.rb_mut().subcols_mut(start, count)),
            };
            let tape = tape.samples(start, count).in_pieces(self.count, inner.tape_lens());
            inner.vjp_on_tape(pass, tape, par, stack)?;
        }
        Ok(())
    }
}
