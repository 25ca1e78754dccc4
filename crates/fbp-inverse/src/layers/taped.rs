//! Products of layers that have to run forwards for them: with a tape of their own where they are given none.

use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{Real, zeroed_scratch};

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
    let (values, stack) = zeroed_scratch(lens.iter().sum::<usize>() * batch, par, stack);
    let mut tape = TapeMut::from_slice(values, lens, batch);
    {
        let (output, stack) = zeroed_scratch(outputs * batch, par, stack);
        let output = MatMut::from_column_major_slice_mut(output, outputs, batch);
        layer.forward_on_tape(at, output, tape.rb_mut(), par, stack)?;
    }
    products(tape.rb(), stack)
}
