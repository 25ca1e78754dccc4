//! Products of layers that have to run forwards for them: with a tape of their own where they are given none.

use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::Real;

use super::kernel::LayerKernel;
use crate::InverseError;
use crate::sequence::ALIGN;
use crate::tape::{Tape, TapeMut};

/// Workspace of [`with_tape`] for products that themselves need `products`.
pub(super) fn taped_scratch<T: Real>(
    layer: &dyn LayerKernel<T>,
    products: StackReq,
    batch: usize,
    par: Par,
) -> StackReq {
    let tape = StackReq::new_aligned::<T>(layer.tape_lens().iter().sum::<usize>() * batch, ALIGN);
    let output = StackReq::new_aligned::<T>(layer.out_shape().len() * batch, ALIGN);
    tape.and(output.and(layer.forward_scratch(batch, par)).or(products))
}

/// Runs the layer at `at` and then `products` with what that has left on its tape.
pub(super) fn with_tape<T: Real>(
    layer: &dyn LayerKernel<T>,
    at: MatRef<'_, T>,
    par: Par,
    stack: &mut MemStack,
    products: impl FnOnce(Tape<'_, T>, &mut MemStack) -> Result<(), InverseError>,
) -> Result<(), InverseError> {
    let (lens, batch, outputs) = (layer.tape_lens(), at.ncols(), layer.out_shape().len());
    let (mut values, stack) = stack.make_aligned_with(lens.iter().sum::<usize>() * batch, ALIGN, |_| T::ZERO);
    let mut tape = TapeMut::from_slice(&mut values, lens, batch);
    {
        let (mut output, stack) = stack.make_aligned_with(outputs * batch, ALIGN, |_| T::ZERO);
        let output = MatMut::from_column_major_slice_mut(&mut output, outputs, batch);
        layer.forward_on_tape(at, output, tape.rb_mut(), par, stack)?;
    }
    products(tape.rb(), stack)
}
