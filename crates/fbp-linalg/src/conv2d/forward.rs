use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};

use super::{Conv2d, ConvForward};
use crate::Real;

pub(super) fn scratch<T: Real>(_conv: &Conv2d, _batch: usize, _par: Par) -> StackReq {
    StackReq::EMPTY
}

pub(super) fn run<T: Real>(conv: &Conv2d, args: ConvForward<'_, T>, _par: Par, _stack: &mut MemStack) {
    let g = conv.geometry();
    let (ni, no) = (g.in_len(), g.out_len());
    for (x, y) in args.input.chunks_exact(ni).zip(args.output.chunks_exact_mut(no)) {
        for (o, plane) in y.chunks_exact_mut(g.out_shape().plane()).enumerate() {
            plane.fill(args.bias.map_or(T::ZERO, |bias| bias[o]));
        }
        conv.for_each_row(|row| {
            let w = args.weight[row.weight];
            for j in row.cols.clone() {
                y[row.output + j] += w * x[row.input + j * g.stride()[1] - row.shift];
            }
        });
    }
}
