use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use faer::{Accum, MatMut, MatRef, Par};
use fbp_linalg::{filled, matmul, zeros};
use rayon::prelude::*;

use super::{Call, fill_each, par_for, values, with_values};

/// `y = xWᵀ + b` for every row of `x`, with the gradients.
///
/// # Shapes
/// `x`: `[N, in]`, `weight`: `[out, in]`, `bias`: `[out]`; the result is `[N, out]`.
///
/// # Errors
/// Of other shapes, and of tensors that are not contiguous, not `f32`, or not on the CPU.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    linear_call(x, weight, bias).run()
}

pub(crate) fn linear_call(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Call {
    Call::affine(x, weight, bias, Linear)
}

const NAME: &str = "linear";

/// Samples of a thread below which the weights are shared out instead: each thread reads all of them once more.
const THREAD_SAMPLES: usize = 32;

/// Outputs whose gradients are summed at a time.
const OUTPUTS: usize = 64;

struct Linear;

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    inputs: usize,
    outputs: usize,
}

impl Sizes {
    fn of(x: &[usize], weight: &[usize]) -> Result<Self> {
        match (x, weight) {
            (&[batch, inputs], &[outputs, same]) if inputs == same => Ok(Self { batch, inputs, outputs }),
            _ => bail!("{NAME}: shapes {x:?} and {weight:?} do not fit"),
        }
    }

    fn work(self) -> usize {
        self.batch * self.inputs * self.outputs
    }

    // A row-major [N, n] tensor is a column-major n × N matrix: one column per sample.
    fn x<'a>(&self, x: &'a [f32]) -> MatRef<'a, f32> {
        MatRef::from_column_major_slice(x, self.inputs, self.batch)
    }

    fn y<'a>(&self, y: &'a [f32]) -> MatRef<'a, f32> {
        MatRef::from_column_major_slice(y, self.outputs, self.batch)
    }

    fn weight<'a>(&self, w: &'a [f32]) -> MatRef<'a, f32> {
        MatRef::from_row_major_slice(w, self.outputs, self.inputs)
    }

    fn forward(self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let mut y = filled(self.outputs * self.batch, self.outputs, par_for(self.work()), |_, y| {
            if let Some(bias) = bias {
                y.chunks_exact_mut(bias.len().max(1)).for_each(|y| y.copy_from_slice(bias));
            }
        });
        let beta = if bias.is_some() { Accum::Add } else { Accum::Replace };
        self.for_samples(x, self.inputs, &mut y, self.outputs, |part, x, y, par| {
            let out = MatMut::from_column_major_slice_mut(y, part.outputs, part.batch);
            matmul(out, beta, part.weight(weight), part.x(x), 1.0, par); // (out×in)(in×N)
        });
        y
    }

    /// Runs `f` on the samples of every thread, `from` values of each in `source` and `to` in `target`: unlike the pieces of one
    /// product, which wait for each other, products that share nothing wait for nobody.
    fn for_samples(
        self,
        source: &[f32],
        from: usize,
        target: &mut [f32],
        to: usize,
        f: impl Fn(Self, &[f32], &mut [f32], Par) + Sync,
    ) {
        let par = par_for(self.work());
        let size = self.batch.div_ceil(par.degree().max(1));
        if par == Par::Seq || size < THREAD_SAMPLES || from == 0 || to == 0 {
            return f(self, source, target, par);
        }
        let parts = source.par_chunks(size * from).zip(target.par_chunks_mut(size * to));
        parts.for_each(|(source, target)| f(Self { batch: source.len() / from, ..self }, source, target, Par::Seq));
    }
}

fn backward(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let sizes = Sizes::of(x.dims(), weight.dims())?;
    let par = par_for(sizes.work());
    let mut x_grad = x.track_op().then(|| zeros(sizes.inputs * sizes.batch, par));
    let mut weight_grad = weight.track_op().then(|| zeros(sizes.inputs * sizes.outputs, par));
    with_values(NAME, grad, |g| {
        if let Some(out) = &mut x_grad {
            with_values(NAME, weight, |w| {
                sizes.for_samples(g, sizes.outputs, out, sizes.inputs, |part, g, out, par| {
                    let out = MatMut::from_column_major_slice_mut(out, part.inputs, part.batch);
                    matmul(out, Accum::Replace, part.weight(w).transpose(), part.y(g), 1.0, par); // (in×out)(out×N)
                });
                Ok(())
            })?;
        }
        if let Some(out) = &mut weight_grad {
            with_values(NAME, x, |x| {
                // Outputs instead of samples: every thread has its own rows.
                let rows = sizes.outputs.div_ceil(par_for(sizes.work()).degree().max(1)).max(1);
                out.par_chunks_mut((rows * sizes.inputs).max(1)).enumerate().for_each(|(part, out)| {
                    let count = out.len() / sizes.inputs;
                    let g = sizes.y(g).subrows(part * rows, count);
                    let out = MatMut::from_row_major_slice_mut(out, count, sizes.inputs);
                    matmul(out, Accum::Replace, g, sizes.x(x).transpose(), 1.0, Par::Seq); // (out×N)(N×in)
                });
                Ok(())
            })?;
        }
        Ok(())
    })?;
    let tensor = |data: Option<Vec<f32>>, like: &Tensor| {
        data.map(|data| Tensor::from_vec(data, like.shape(), like.device())).transpose()
    };
    Ok((tensor(x_grad, x)?, tensor(weight_grad, weight)?))
}

fn bias_gradient(bias: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
    if !bias.track_op() {
        return Ok(None);
    }
    let outputs = bias.elem_count();
    let mut sum = vec![0.0_f32; outputs];
    with_values(NAME, grad, |g| {
        fill_each(
            &mut sum,
            OUTPUTS,
            g.len(),
            #[inline(always)]
            |part, sum| {
                for column in g.chunks_exact(outputs.max(1)) {
                    sum.iter_mut().zip(&column[part * OUTPUTS..]).for_each(|(sum, g)| *sum += g);
                }
            },
        );
        Ok(())
    })?;
    Tensor::from_vec(sum, bias.shape(), bias.device()).map(Some)
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::of(lx.dims(), lw.dims())?;
        let y = sizes.forward(values(NAME, x, lx)?, values(NAME, w, lw)?, None);
        Ok((CpuStorage::F32(y), Shape::from((sizes.batch, sizes.outputs))))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        backward(x, w, &grad.contiguous()?)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::of(lx.dims(), lw.dims())?;
        if lb.dims() != [sizes.outputs] {
            bail!("{NAME}: a bias of shape {:?} does not fit {} outputs", lb.dims(), sizes.outputs);
        }
        let y = sizes.forward(values(NAME, x, lx)?, values(NAME, w, lw)?, Some(values(NAME, b, lb)?));
        Ok((CpuStorage::F32(y), Shape::from((sizes.batch, sizes.outputs))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x_grad, w_grad) = backward(x, w, &grad)?;
        Ok((x_grad, w_grad, bias_gradient(b, &grad)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, gradients, random, random_var};

    #[test]
    fn agrees_with_candle() {
        for (n, inputs, outputs) in [(1, 1, 1), (7, 5, 3), (64, 48, 10), (33, 200, 70)] {
            let (x, w) = (random_var(&[n, inputs], 1), random_var(&[outputs, inputs], 2));
            let b = random_var(&[outputs], 3);
            let weights = random(&[n, outputs], 4);
            let tol = 4.0 * f64::from(f32::EPSILON) * (n.max(inputs).max(outputs) as f64).sqrt();
            let plain = x.matmul(&w.t().unwrap()).unwrap();
            for (bias, expected) in [(None, plain.clone()), (Some(&b), plain.broadcast_add(&b).unwrap())] {
                let ours = linear(&x, &w, bias.map(|b| b.as_tensor())).unwrap();
                assert_close("value", &ours, &expected, tol);
                let vars: Vec<_> = [&x, &w].into_iter().chain(bias).collect();
                let (a, b) = (gradients(&ours, &weights, &vars), gradients(&expected, &weights, &vars));
                for (a, b) in a.iter().zip(&b) {
                    assert_close("gradient", a, b, tol);
                }
            }
        }
    }

    #[test]
    fn frozen_arguments_get_no_gradient_and_shapes_are_checked() {
        let (x, w, b) = (random(&[4, 3], 1), random_var(&[2, 3], 2), random(&[2], 3));
        let grads = linear(&x, &w, Some(&b)).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&w).is_some() && grads.get(&x).is_none() && grads.get(&b).is_none());
        assert!(linear(&x, &random(&[2, 4], 1), None).is_err());
        assert!(linear(&x, &w, Some(&random(&[3], 1))).is_err());
    }
}
