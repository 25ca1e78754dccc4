use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use fbp_linalg::{Bounds, Real, compile_once};

use super::stages::ReverseChain;
use crate::channel_ranges::EntryBounds;
use crate::joint::{FrozenRest, RestForward, RestVjp};
use crate::sequence::Sequence;
use crate::{Interval, InverseError, VjpPass};

/// The layers of a chain from a boundary on, as a frozen rest; made by [`ReverseChain::rest`].
///
/// Its tape holds the inputs of all of its layers but the first, and what layers keep for themselves.
///
/// # Dead outputs
/// A ReLU whose outputs are the logits (or whose averages are) gives 0 to classes that are far away, with a Jacobian of 0:
/// no step would ever leave from there. Products let through what asks such a zero for more, as if its input were the smallest
/// that gives more. A label leads by a margin only where its logit is positive, and the Jacobian is the true one there.
pub struct ChainRest<'a, T> {
    layers: Sequence<'a, T>,
    ranges: &'a EntryBounds<T>,
    /// The activation of the logits.
    lifted: Option<usize>,
    /// Asked before every pass whether the work shall end.
    stop: Option<Stop<'a>>,
}

/// Tells whether work shall end before it is done.
pub(super) type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

impl<T: Real> ReverseChain<T> {
    /// The frozen rest above a boundary; `None` beyond the last one. That of the output is empty: it gives what it takes, and
    /// has no derivatives.
    pub fn rest(&self, boundary: usize) -> Option<ChainRest<'_, T>> {
        self.starts.get(boundary).map(|&first| self.rest_from(first))
    }

    pub(super) fn rest_from(&self, first: usize) -> ChainRest<'_, T> {
        let layers = self.list.from(first);
        ChainRest { layers, ranges: &self.ranges[first], lifted: layers.output_relu(), stop: None }
    }
}

impl<T: Real> FrozenRest<T> for ChainRest<'_, T> {
    fn name(&self) -> &str {
        "chain"
    }

    fn in_len(&self) -> usize {
        self.layers.in_len()
    }

    fn out_len(&self) -> usize {
        self.layers.out_len()
    }

    fn interval(&self) -> Interval<T> {
        self.ranges.hull()
    }

    fn bounds(&self) -> Bounds<'_, T> {
        self.ranges.bounds()
    }

    fn tape_lens(&self) -> &[usize] {
        self.layers.tape_lens()
    }

    fn has_derivatives(&self) -> bool {
        !self.layers.operators.is_empty() && self.layers.has_derivatives()
    }

    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.layers.forward_on_tape_scratch(batch, par)
    }

    fn forward(&self, pass: RestForward<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        forward(self, pass, par, stack)
    }

    fn vjp_scratch(&self, batch: usize, _count: usize, par: Par) -> StackReq {
        self.layers.product_scratch(batch, par)
    }

    fn vjp(&self, pass: RestVjp<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        products(self, pass, par, stack)
    }
}

compile_once! {
    fn forward<'a, T>(rest: &'a ChainRest<'a, T>, pass: RestForward<'a, T>, par: Par, stack: &'a mut MemStack)
        -> Result<(), InverseError> = ChainRest::<T>::run_forward;
    fn products<'a, T>(rest: &'a ChainRest<'a, T>, pass: RestVjp<'a, T>, par: Par, stack: &'a mut MemStack)
        -> Result<(), InverseError> = ChainRest::<T>::run_vjp;
}

impl<'a, T> ChainRest<'a, T> {
    /// The same, whose passes end with [`InverseError::Stopped`] once `stop` says so: every search on it then ends with its step.
    pub(super) fn stopped_by(self, stop: Option<Stop<'a>>) -> Self {
        Self { stop, ..self }
    }
}

impl<T: Real> ChainRest<'_, T> {
    fn run_forward(&self, pass: RestForward<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        check(self.stop)?;
        let RestForward { at, output, tape } = pass;
        self.layers.forward_on_tape(self.name(), (at, output), tape, par, stack)
    }

    fn run_vjp(&self, mut pass: RestVjp<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        check(self.stop)?;
        let (at, tape) = (pass.at, pass.tape);
        for index in 0..pass.count() {
            let (cotangent_out, cotangent_in) = pass.cotangent(index);
            let pass = VjpPass { at, cotangent_out, cotangent_in };
            self.layers.lifted_vjp_on_tape((self.name(), self.lifted), pass, tape, par, stack)?;
        }
        Ok(())
    }
}

/// # Errors
/// [`InverseError::Stopped`] if the work shall end.
pub(super) fn check(stop: Option<Stop<'_>>) -> Result<(), InverseError> {
    if stop.is_some_and(|stop| stop()) { Err(InverseError::Stopped) } else { Ok(()) }
}
