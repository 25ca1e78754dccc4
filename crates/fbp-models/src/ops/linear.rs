use std::array;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use faer::{Accum, MatMut, MatRef, Par};
use fbp_linalg::{dispatch, matmul, matmul_by_columns, product, repeated, zeros};
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

/// Samples whose gradients are turned at a time.
const TURNED: usize = 256;

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
        let par = par_for(self.work());
        let Some(bias) = bias else {
            return product(self.weight(weight), self.x(x), par); // (out×in)(in×N)
        };
        let mut y = repeated(bias, self.batch, par);
        let out = MatMut::from_column_major_slice_mut(&mut y, self.outputs, self.batch);
        matmul_by_columns(out, Accum::Add, self.weight(weight), self.x(x), par); // (out×in)(in×N)
        y
    }

    /// The gradients of the weights of some outputs, `G Xᵀ`.
    fn weight_gradient(self, x: &[f32], grad: &[f32], outputs: Range<usize>, out: &mut [f32]) {
        let (count, x, grad) = (outputs.len(), self.x(x), self.y(grad).subrows(outputs.start, outputs.len()));
        let mut out = MatMut::from_row_major_slice_mut(out, count, self.inputs);
        if self.inputs < self.outputs {
            return matmul(out, Accum::Replace, grad, x.transpose(), 1.0, Par::Seq); // (out×N)(N×in)
        }
        // Products read their right side along the samples: it is turned first, as the smaller of the two.
        let mut turned = vec![0.0_f32; TURNED.min(self.batch) * count];
        for start in (0..self.batch).step_by(TURNED) {
            let samples = TURNED.min(self.batch - start);
            let turned = &mut turned[..samples * count];
            turn(grad.subcols(start, samples), turned);
            let accum = if start == 0 { Accum::Replace } else { Accum::Add };
            let grad = MatRef::from_row_major_slice(turned, count, samples);
            matmul(out.as_mut(), accum, grad, x.subcols(start, samples).transpose(), 1.0, Par::Seq); // (out×K)(K×in)
        }
    }
}

/// Writes a matrix row by row, in squares that stay in registers.
fn turn(matrix: MatRef<'_, f32>, rows: &mut [f32]) {
    const SIDE: usize = 8;
    let columns = matrix.ncols();
    let whole = (matrix.nrows() / SIDE * SIDE, columns / SIDE * SIDE);
    let column = |j: usize| matrix.col(j).try_as_col_major().map_or(&[][..], |column| column.as_slice());
    dispatch(
        #[inline(always)]
        || {
            for j in (0..whole.1).step_by(SIDE) {
                let from: [&[f32]; SIDE] = array::from_fn(|k| &column(j + k)[..whole.0]);
                for i in (0..whole.0).step_by(SIDE) {
                    let square = from.map(|column| {
                        let mut values = [0.0; SIDE];
                        values.copy_from_slice(&column[i..i + SIDE]);
                        values
                    });
                    for k in 0..SIDE {
                        rows[(i + k) * columns + j..][..SIDE].copy_from_slice(&square.map(|column| column[k]));
                    }
                }
            }
        },
    );
    for j in 0..columns {
        let done = if j < whole.1 { whole.0 } else { 0 };
        for (i, &value) in column(j).iter().enumerate().skip(done) {
            rows[i * columns + j] = value;
        }
    }
}

fn backward(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let sizes = Sizes::of(x.dims(), weight.dims())?;
    let par = par_for(sizes.work());
    let mut x_grad = None;
    let mut weight_grad = weight.track_op().then(|| zeros(sizes.inputs * sizes.outputs, par));
    with_values(NAME, grad, |g| {
        if x.track_op() {
            // (in×out)(out×N)
            let product = |w: &[f32]| Ok(product(sizes.weight(w).transpose(), sizes.y(g), par));
            x_grad = Some(with_values(NAME, weight, product)?);
        }
        if let Some(out) = &mut weight_grad {
            with_values(NAME, x, |x| {
                // Outputs instead of samples: every thread has its own rows.
                let rows = sizes.outputs.div_ceil(par_for(sizes.work()).degree().max(1)).max(1);
                out.par_chunks_mut((rows * sizes.inputs).max(1)).enumerate().for_each(|(part, out)| {
                    let first = part * rows;
                    sizes.weight_gradient(x, g, first..first + out.len() / sizes.inputs, out);
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
        // Narrow and wide layers, and batches that are divided among threads and into runs.
        let sizes = [(1, 1, 1), (7, 5, 3), (9, 3, 8), (64, 48, 10), (33, 200, 70), (130, 40, 90), (300, 80, 12)];
        for (n, inputs, outputs) in sizes {
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
