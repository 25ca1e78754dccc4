use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use faer::reborrow::Reborrow;
use faer::{MatMut, MatRef};
use fbp_linalg::Real;

use super::stages::ReverseChain;
use crate::joint::{FrozenRest, RestForward, RestVjp};
use crate::{DifferentiableOperator, InverseError, Range, ReverseOperator, VjpPass, expect_batch};

/// Alignment of intermediate cotangents, in bytes: that of the widest vectors.
const ALIGN: usize = 64;

/// The layers of a chain from a boundary on, as a frozen rest; made by [`ReverseChain::rest`].
///
/// Its tape holds the inputs of all of its layers but the first.
pub struct ChainRest<'a, T> {
    operators: &'a [Box<dyn ReverseOperator<T>>],
    /// Lengths of the features below each of the operators, and of the output.
    lens: &'a [usize],
    interval: Range<T>,
}

impl<T: Real> ReverseChain<T> {
    /// The frozen rest above a boundary; `None` beyond the last one. That of the output is empty: it gives what it takes, and
    /// has no derivatives.
    pub fn rest(&self, boundary: usize) -> Option<ChainRest<'_, T>> {
        self.starts.get(boundary).map(|&first| self.rest_from(first))
    }

    pub(super) fn rest_from(&self, first: usize) -> ChainRest<'_, T> {
        ChainRest { operators: &self.operators[first..], lens: &self.lens[first..], interval: self.ranges[first] }
    }
}

impl<T: Real> ChainRest<'_, T> {
    /// A feature for a batch of this size, in memory of the stack.
    fn feature_scratch(&self, batch: usize) -> StackReq {
        StackReq::new_aligned::<T>(self.tape_lens().iter().copied().max().unwrap_or(0) * batch, ALIGN)
    }

    fn derivatives(&self) -> impl Iterator<Item = Option<&dyn DifferentiableOperator<T>>> {
        self.operators.iter().map(|operator| operator.differentiable())
    }
}

impl<T: Real> FrozenRest<T> for ChainRest<'_, T> {
    fn name(&self) -> &str {
        "chain"
    }

    fn in_len(&self) -> usize {
        self.lens[0]
    }

    fn out_len(&self) -> usize {
        self.lens[self.operators.len()]
    }

    fn interval(&self) -> Range<T> {
        self.interval
    }

    fn tape_lens(&self) -> &[usize] {
        if self.operators.is_empty() { &[] } else { &self.lens[1..self.operators.len()] }
    }

    fn has_derivatives(&self) -> bool {
        !self.operators.is_empty() && self.derivatives().all(|derivative| derivative.is_some())
    }

    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.operators.iter().fold(StackReq::EMPTY, |req, operator| req.or(operator.forward_scratch(batch, par)))
    }

    fn forward(&self, pass: RestForward<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        let RestForward { at, mut output, mut tape } = pass;
        let Some((last, below)) = self.operators.split_last() else {
            expect_batch(self.name(), "output", output.rb(), at.shape())?;
            output.copy_from(at);
            return Ok(());
        };
        for (k, operator) in below.iter().enumerate() {
            let (written, mut rest) = tape.split_at_mut(k);
            let input = if k == 0 { at } else { written.rb().feature(k - 1) };
            operator.forward(input, rest.feature_mut(0), par, stack)?;
        }
        let input = if below.is_empty() { at } else { tape.rb().feature(below.len() - 1) };
        last.forward(input, output, par, stack)
    }

    fn vjp_scratch(&self, batch: usize, _count: usize, par: Par) -> StackReq {
        let products = self.derivatives().flatten();
        let products = products.fold(StackReq::EMPTY, |req, op| req.or(op.derivative_scratch(batch, par)));
        self.feature_scratch(batch).and(self.feature_scratch(batch)).and(products)
    }

    fn vjp(&self, mut pass: RestVjp<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        let (at, tape, batch) = (pass.at, pass.tape, pass.at.ncols());
        let len = self.tape_lens().iter().copied().max().unwrap_or(0) * batch;
        let (mut above, stack) = stack.make_aligned_with(len, ALIGN, |_| T::ZERO);
        let (mut below, stack) = stack.make_aligned_with(len, ALIGN, |_| T::ZERO);
        let (mut above, mut below): (&mut [T], &mut [T]) = (&mut above, &mut below);
        for index in 0..pass.count() {
            let (given, mut product) = pass.cotangent(index);
            for (k, operator) in self.operators.iter().enumerate().rev() {
                let operator = operator.differentiable().expect("a rest without derivatives is not asked for products");
                let is_last = k + 1 == self.operators.len();
                let cotangent_out =
                    if is_last { given } else { view(&above[..self.lens[k + 1] * batch], self.lens[k + 1], batch) };
                let (point, cotangent_in) = match k.checked_sub(1) {
                    None => (at, product.as_mut()),
                    Some(inner) => {
                        (tape.feature(inner), view_mut(&mut below[..self.lens[k] * batch], self.lens[k], batch))
                    }
                };
                operator.vjp(VjpPass { at: point, cotangent_out, cotangent_in }, par, stack)?;
                std::mem::swap(&mut above, &mut below);
            }
        }
        Ok(())
    }
}

fn view<T: Real>(values: &[T], rows: usize, cols: usize) -> MatRef<'_, T> {
    MatRef::from_column_major_slice(values, rows, cols)
}

fn view_mut<T: Real>(values: &mut [T], rows: usize, cols: usize) -> MatMut<'_, T> {
    MatMut::from_column_major_slice_mut(values, rows, cols)
}
