use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{Call, values, with_values};

/// `exp(x) / Σ exp(x)` for every row of `x`, `[N, n]`, with the gradient.
///
/// # Errors
/// Of a tensor that is not of rank 2, contiguous, `f32` and on the CPU.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    softmax_call(x).run()
}

pub(crate) fn softmax_call(x: &Tensor) -> Call {
    Call::one(x, Softmax)
}

const NAME: &str = "softmax";

struct Softmax;

/// Writes the softmax of `x` and returns `ln Σ exp(x)`.
pub(super) fn softmax_row(x: &[f32], y: &mut [f32]) -> f32 {
    let top = x.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
    let mut sum = 0.0;
    for (y, &x) in y.iter_mut().zip(x) {
        *y = (x - top).exp();
        sum += *y;
    }
    for y in y.iter_mut() {
        *y /= sum;
    }
    top + sum.ln()
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let &[_, n] = layout.dims() else { bail!("{NAME}: expected [N, n], found {:?}", layout.dims()) };
        let x = values(NAME, storage, layout)?;
        let mut y = vec![0.0; x.len()];
        for (x, y) in x.chunks_exact(n.max(1)).zip(y.chunks_exact_mut(n.max(1))) {
            softmax_row(x, y);
        }
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let n = arg.dim(1)?.max(1);
        let mut out = vec![0.0; arg.elem_count()];
        with_values(NAME, res, |y| {
            with_values(NAME, &grad, |g| {
                for ((y, g), out) in y.chunks_exact(n).zip(g.chunks_exact(n)).zip(out.chunks_exact_mut(n)) {
                    let mean: f32 = y.iter().zip(g).map(|(y, g)| y * g).sum();
                    for ((y, g), out) in y.iter().zip(g).zip(out) {
                        *out = y * (g - mean);
                    }
                }
                Ok(())
            })
        })?;
        Tensor::from_vec(out, arg.shape(), arg.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, gradients, random, random_var};

    #[test]
    fn agrees_with_candle() {
        let x = random_var(&[9, 7], 1);
        let (ours, theirs) = (softmax(&x).unwrap(), candle_nn::ops::softmax(x.as_tensor(), 1).unwrap());
        let tol = 16.0 * f64::from(f32::EPSILON);
        assert_close("value", &ours, &theirs, tol);
        let weights = random(&[9, 7], 2);
        assert_close("gradient", &gradients(&ours, &weights, &[&x])[0], &gradients(&theirs, &weights, &[&x])[0], tol);
    }
}
