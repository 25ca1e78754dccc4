use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use faer::reborrow::{Reborrow, ReborrowMut};
use faer::{MatMut, MatRef};
use fbp_linalg::Real;

use super::stages::ReverseChain;
use crate::joint::{FrozenRest, RestForward, RestVjp};
use crate::{DifferentiableOperator, Interval, InverseError, ReverseOperator, VjpPass, expect_batch};

/// Alignment of intermediate cotangents, in bytes: that of the widest vectors.
const ALIGN: usize = 64;

/// The layers of a chain from a boundary on, as a frozen rest; made by [`ReverseChain::rest`].
///
/// Its tape holds the inputs of all of its layers but the first, and what layers keep for themselves.
pub struct ChainRest<'a, T> {
    operators: &'a [Box<dyn ReverseOperator<T>>],
    /// Lengths of the features below each of the operators, and of the output.
    lens: &'a [usize],
    tape: &'a [usize],
    /// Places on the tape of what each operator keeps for itself, counted from that of the first one; and the end.
    tape_starts: &'a [usize],
    interval: Interval<T>,
}

impl<T: Real> ReverseChain<T> {
    /// The frozen rest above a boundary; `None` beyond the last one. That of the output is empty: it gives what it takes, and
    /// has no derivatives.
    pub fn rest(&self, boundary: usize) -> Option<ChainRest<'_, T>> {
        self.starts.get(boundary).map(|&first| self.rest_from(first))
    }

    pub(super) fn rest_from(&self, first: usize) -> ChainRest<'_, T> {
        ChainRest {
            operators: &self.operators[first..],
            lens: &self.lens[first..],
            tape: &self.tape[self.tape_starts[first]..],
            tape_starts: &self.tape_starts[first..],
            interval: self.ranges[first],
        }
    }
}

impl<T: Real> ChainRest<'_, T> {
    /// Length of the longest feature between two layers.
    fn longest(&self) -> usize {
        self.lens[1..].split_last().map_or(0, |(_, inner)| inner.iter().copied().max().unwrap_or(0))
    }

    /// Place on the tape of what operator `k` keeps for itself; its input is right before.
    fn tape_start(&self, k: usize) -> usize {
        self.tape_starts[k] - self.tape_starts[0]
    }

    /// Number of features that operator `k` keeps for itself.
    fn tape_count(&self, k: usize) -> usize {
        let output = usize::from(k + 1 < self.operators.len());
        self.tape_starts[k + 1] - self.tape_starts[k] - output
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

    fn interval(&self) -> Interval<T> {
        self.interval
    }

    fn tape_lens(&self) -> &[usize] {
        self.tape
    }

    fn has_derivatives(&self) -> bool {
        !self.operators.is_empty() && self.derivatives().all(|derivative| derivative.is_some())
    }

    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.operators.iter().fold(StackReq::EMPTY, |req, operator| req.or(operator.forward_scratch(batch, par)))
    }

    fn forward(&self, pass: RestForward<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        let RestForward { at, mut output, mut tape } = pass;
        if self.operators.is_empty() {
            expect_batch(self.name(), "output", output.rb(), at.shape())?;
            output.copy_from(at);
            return Ok(());
        }
        for (k, operator) in self.operators.iter().enumerate() {
            let (below, mut from) = tape.split_at_mut(self.tape_start(k));
            let (own, mut above) = from.split_at_mut(self.tape_count(k));
            let input = if k == 0 { at } else { below.rb().feature(self.tape_start(k) - 1) };
            let is_last = k + 1 == self.operators.len();
            let output = if is_last { output.rb_mut() } else { above.feature_mut(0) };
            match operator.differentiable() {
                Some(operator) => operator.forward_on_tape(input, output, own, par, stack)?,
                None => operator.forward(input, output, par, stack)?,
            }
        }
        Ok(())
    }

    fn vjp_scratch(&self, batch: usize, _count: usize, par: Par) -> StackReq {
        let products = self.derivatives().flatten();
        let products = products.fold(StackReq::EMPTY, |req, op| req.or(op.derivative_scratch(batch, par)));
        let cotangent = StackReq::new_aligned::<T>(self.longest() * batch, ALIGN);
        cotangent.and(cotangent).and(products)
    }

    fn vjp(&self, mut pass: RestVjp<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        let (at, tape, batch) = (pass.at, pass.tape, pass.at.ncols());
        let len = self.longest() * batch;
        let (mut above, stack) = stack.make_aligned_with(len, ALIGN, |_| T::ZERO);
        let (mut below, stack) = stack.make_aligned_with(len, ALIGN, |_| T::ZERO);
        let (mut above, mut below): (&mut [T], &mut [T]) = (&mut above, &mut below);
        for index in 0..pass.count() {
            let (given, mut product) = pass.cotangent(index);
            for (k, operator) in self.operators.iter().enumerate().rev() {
                let operator = operator.differentiable().expect("a rest without derivatives is not asked for products");
                let (rows_in, rows_out) = (self.lens[k], self.lens[k + 1]);
                let is_last = k + 1 == self.operators.len();
                let cotangent_out = if is_last { given } else { view(&above[..rows_out * batch], rows_out, batch) };
                let (below_k, from) = tape.split_at(self.tape_start(k));
                let (own, _) = from.split_at(self.tape_count(k));
                let (point, cotangent_in) = match k {
                    0 => (at, product.as_mut()),
                    _ => {
                        let point = below_k.feature(self.tape_start(k) - 1);
                        (point, view_mut(&mut below[..rows_in * batch], rows_in, batch))
                    }
                };
                operator.vjp_on_tape(VjpPass { at: point, cotangent_out, cotangent_in }, own, par, stack)?;
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
