use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};

use super::{Conv2d, ConvWeightGrad};
use crate::Real;

pub(super) fn scratch<T: Real>(_conv: &Conv2d, _batch: usize, _par: Par) -> StackReq {
    StackReq::EMPTY
}

pub(super) fn run<T: Real>(conv: &Conv2d, args: ConvWeightGrad<'_, T>, _par: Par, _stack: &mut MemStack) {
    let g = conv.geometry();
    let (ni, no) = (g.in_len(), g.out_len());
    let grad = args.weight_grad;
    grad.fill(T::ZERO);
    for (x, y) in args.input.chunks_exact(ni).zip(args.cotangent.chunks_exact(no)) {
        conv.for_each_row(|row| {
            let dot = |j: usize| x[row.input + j * g.stride()[1] - row.shift] * y[row.output + j];
            grad[row.weight] += row.cols.clone().map(dot).sum::<T>();
        });
    }
    if let Some(bias_grad) = args.bias_grad {
        bias_grad.fill(T::ZERO);
        for y in args.cotangent.chunks_exact(no) {
            for (sum, plane) in bias_grad.iter_mut().zip(y.chunks_exact(g.out_shape().plane())) {
                *sum += plane.iter().copied().sum::<T>();
            }
        }
    }
}
