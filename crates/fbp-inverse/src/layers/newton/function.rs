use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::Real;

use crate::layers::kernel::LayerKernel;
use crate::sequence::Sequence;
use crate::tape::{Tape, TapeMut};
use crate::{InverseError, JvpPass, VjpPass};

/// What is reversed: values and products at a point, with a tape.
pub(in crate::layers) trait Function<T: Real>: Sync {
    fn in_len(&self) -> usize;
    fn out_len(&self) -> usize;
    fn tape_lens(&self) -> &[usize];
    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq;
    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        tape: TapeMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError>;
    fn product_scratch(&self, batch: usize, par: Par) -> StackReq;
    fn jvp(&self, pass: JvpPass<'_, T>, tape: Tape<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError>;
    fn vjp(&self, pass: VjpPass<'_, T>, tape: Tape<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError>;
}

/// Consecutive operators of a block.
pub(in crate::layers) struct Part<'a, T> {
    pub(in crate::layers) name: &'a str,
    pub(in crate::layers) sequence: Sequence<'a, T>,
}

impl<T: Real> Function<T> for Part<'_, T> {
    fn in_len(&self) -> usize {
        self.sequence.in_len()
    }

    fn out_len(&self) -> usize {
        self.sequence.out_len()
    }

    fn tape_lens(&self) -> &[usize] {
        self.sequence.tape_lens()
    }

    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.sequence.forward_on_tape_scratch(batch, par)
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        tape: TapeMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        self.sequence.forward_on_tape(self.name, (input, output), tape, par, stack)
    }

    fn product_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.sequence.product_scratch(batch, par)
    }

    fn jvp(&self, pass: JvpPass<'_, T>, tape: Tape<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        self.sequence.jvp_on_tape(self.name, pass, tape, par, stack)
    }

    fn vjp(&self, pass: VjpPass<'_, T>, tape: Tape<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        self.sequence.vjp_on_tape(self.name, pass, tape, par, stack)
    }
}

/// A layer as a whole.
pub(in crate::layers) struct Whole<'a, T>(pub(in crate::layers) &'a dyn LayerKernel<T>);

impl<T: Real> Function<T> for Whole<'_, T> {
    fn in_len(&self) -> usize {
        self.0.in_shape().len()
    }

    fn out_len(&self) -> usize {
        self.0.out_shape().len()
    }

    fn tape_lens(&self) -> &[usize] {
        self.0.tape_lens()
    }

    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.0.forward_scratch(batch, par)
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        tape: TapeMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        self.0.forward_on_tape(input, output, tape, par, stack)
    }

    fn product_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.0.derivative_scratch(batch, par)
    }

    fn jvp(&self, pass: JvpPass<'_, T>, tape: Tape<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        self.0.jvp_on_tape(pass, tape, par, stack)
    }

    fn vjp(&self, pass: VjpPass<'_, T>, tape: Tape<'_, T>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        self.0.vjp_on_tape(pass, tape, par, stack)
    }
}
