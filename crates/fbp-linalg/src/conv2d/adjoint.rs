use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};

use super::{Conv2d, ConvAdjoint};
use crate::Real;

pub(super) fn scratch<T: Real>(_conv: &Conv2d, _batch: usize, _par: Par) -> StackReq {
    StackReq::EMPTY
}

pub(super) fn run<T: Real>(conv: &Conv2d, args: ConvAdjoint<'_, T>, _par: Par, _stack: &mut MemStack) {
    let g = conv.geometry();
    let (ni, no) = (g.in_len(), g.out_len());
    args.input_grad.fill(T::ZERO);
    for (x, y) in args.input_grad.chunks_exact_mut(ni).zip(args.cotangent.chunks_exact(no)) {
        conv.for_each_row(|row| {
            let w = args.weight[row.weight];
            for j in row.cols.clone() {
                let at = row.input + j * g.stride()[1] - row.shift;
                x[at] += w * y[row.output + j];
            }
        });
    }
}
