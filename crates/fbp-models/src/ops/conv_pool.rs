use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Tensor, bail};
use faer::Par;
use faer::dyn_stack::StackReq;
use fbp_linalg::conv2d::{ConvAdjoint, ConvForward, ConvWeightGrad};
use fbp_linalg::{dispatch, zeros};
use rayon::prelude::*;

use super::conv2d::{Conv2dKernel, Shared};
use super::window::Planes;
use super::{Call, PARALLEL_WORK, Window, par_for, values, with_values};

impl Conv2dKernel {
    /// Convolution followed by max-pooling of disjoint windows, without ever storing the convolution's whole output.
    ///
    /// The same values and gradients as [`apply`](Self::apply) and then [`max_pool2d`](super::max_pool2d); the large
    /// feature between the two exists only a few samples at a time, in scratch memory that stays in the cache.
    /// `None` if the windows overlap, are padded, or have more than 256 sites.
    ///
    /// # Shapes
    /// As [`apply`](Self::apply), with the result `[N, out_channels, H', W']` of the pooling.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn apply_pooled(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        window: Window,
    ) -> Result<Option<Tensor>> {
        self.pooled_call(x, weight, bias, window)?.map(|call| call.run()).transpose()
    }

    pub(crate) fn pooled_call(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        window: Window,
    ) -> Result<Option<Call>> {
        if self.is_transposed() || window != Window::disjoint(window.kernel) || window.kernel.h * window.kernel.w > 256
        {
            return Ok(None);
        }
        let shape = self.geometry().out_shape();
        let batch = x.dims().first().copied().unwrap_or(0);
        let size = window.planes(NAME, &[batch, shape.channels, shape.height, shape.width])?;
        let op = ConvPool { conv: self.shared.clone(), window, size, winners: Mutex::default() };
        Ok(Some(Call::affine(x, weight, bias, op)))
    }
}

const NAME: &str = "conv2d + max_pool2d";

/// Groups of samples that run in parallel; fixed, so that sums over the batch do not depend on the number of threads.
const GROUPS: usize = 16;

/// Values of the convolution's output that are held at a time.
const BLOCK: usize = 1 << 15;

/// One call: it remembers which site of every window was largest.
struct ConvPool {
    conv: Arc<Shared>,
    window: Window,
    size: Planes,
    winners: Mutex<Vec<u8>>,
}

/// What the forward pass of one group of samples reads and writes.
struct ForwardPart<'a> {
    input: &'a [f32],
    pooled: &'a mut [f32],
    winners: &'a mut [u8],
}

/// What the backward pass of one group of samples reads and writes; the gradients of the parameters are its share.
struct BackwardPart<'a> {
    input: &'a [f32],
    cotangent: &'a [f32],
    winners: &'a [u8],
    input_grad: Option<&'a mut [f32]>,
    weight_grad: Vec<f32>,
    bias_grad: Vec<f32>,
}

impl ConvPool {
    fn batch(&self) -> usize {
        self.size.planes / self.conv.conv.geometry().out_shape().channels
    }

    /// Lengths of one sample: input, output of the convolution, output of the pooling.
    fn lens(&self) -> (usize, usize, usize) {
        let geometry = self.conv.conv.geometry();
        (geometry.in_len(), geometry.out_len(), geometry.out_shape().channels * self.size.out_len())
    }

    fn group(&self) -> usize {
        self.batch().div_ceil(GROUPS).max(1)
    }

    /// Samples per call of a kernel.
    fn block(&self) -> usize {
        (BLOCK / self.lens().1).clamp(1, self.group())
    }

    /// Runs `f` on every part, in parallel if there is enough to do.
    fn for_each<P: Send>(&self, parts: &mut [P], f: impl Fn(&mut P) -> Result<()> + Send + Sync) -> Result<()> {
        if self.conv.work(self.batch()) < PARALLEL_WORK || rayon::current_num_threads() < 2 {
            return parts.iter_mut().try_for_each(f);
        }
        parts.par_iter_mut().try_for_each(f)
    }

    fn forward(&self, input: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let (in_len, out_len, pooled_len) = self.lens();
        let (batch, group, block) = (self.batch(), self.group(), self.block());
        let mut pooled = zeros(batch * pooled_len, par_for(batch * pooled_len));
        let mut winners = vec![0; batch * pooled_len];
        let chunks = pooled.chunks_mut(group * pooled_len).zip(winners.chunks_mut(group * pooled_len));
        let inputs = input.chunks(group * in_len);
        let mut parts: Vec<_> =
            inputs.zip(chunks).map(|(input, (pooled, winners))| ForwardPart { input, pooled, winners }).collect();
        let req = self.conv.conv.forward_scratch::<f32>(block, Par::Seq).and(StackReq::new::<f32>(block * out_len));
        self.for_each(&mut parts, |part| {
            self.conv.scratch.with(req, |stack| {
                let (mut output, stack) = stack.make_with::<f32>(block * out_len, |_| 0.0);
                let pooled = part.pooled.chunks_mut(block * pooled_len);
                let winners = part.winners.chunks_mut(block * pooled_len);
                for ((input, pooled), winners) in part.input.chunks(block * in_len).zip(pooled).zip(winners) {
                    let output = &mut output[..input.len() / in_len * out_len];
                    let args = ConvForward { input, weight, bias, output: &mut *output };
                    self.conv.conv.forward(args, Par::Seq, stack).map_err(Error::wrap)?;
                    self.pool(output, pooled, winners);
                }
                Ok(())
            })
        })?;
        *self.winners.lock().unwrap_or_else(PoisonError::into_inner) = winners;
        let channels = self.conv.conv.geometry().out_shape().channels;
        Ok((CpuStorage::F32(pooled), Shape::from((batch, channels, self.size.out_h, self.size.out_w))))
    }

    /// Largest value of every window, and which site it is at.
    fn pool(&self, x: &[f32], y: &mut [f32], winners: &mut [u8]) {
        let size = self.size;
        dispatch(
            #[inline(always)]
            || {
                let planes = y.chunks_exact_mut(size.out_len()).zip(winners.chunks_exact_mut(size.out_len()));
                for (x, (y, winners)) in x.chunks_exact(size.in_len()).zip(planes) {
                    let rows = y.chunks_exact_mut(size.out_w).zip(winners.chunks_exact_mut(size.out_w));
                    for (oy, (y, winners)) in rows.enumerate() {
                        self.pool_row(&x[oy * self.window.kernel.h * size.w..], y, winners);
                    }
                }
            },
        );
    }

    /// One row of windows; `x` starts with their first row.
    #[inline(always)]
    fn pool_row(&self, x: &[f32], y: &mut [f32], winners: &mut [u8]) {
        let (kernel, w) = (self.window.kernel, self.size.w);
        if (kernel.h, kernel.w) == (2, 2) {
            let upper = x[..2 * y.len()].chunks_exact(2);
            let lower = x[w..w + 2 * y.len()].chunks_exact(2);
            for ((y, winner), (upper, lower)) in y.iter_mut().zip(winners).zip(upper.zip(lower)) {
                let first = larger((upper[0], 0), (upper[1], 1));
                (*y, *winner) = larger(larger(first, (lower[0], 2)), (lower[1], 3));
            }
            return;
        }
        for (ox, (y, winner)) in y.iter_mut().zip(winners).enumerate() {
            let mut best = (x[ox * kernel.w], 0);
            for site in 1..kernel.h * kernel.w {
                let value = x[site / kernel.w * w + ox * kernel.w + site % kernel.w];
                best = larger(best, (value, site as u8));
            }
            (*y, *winner) = best;
        }
    }

    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (in_len, _, pooled_len) = self.lens();
        let group = self.group();
        let grad = grad.contiguous()?;
        let bias = bias.filter(|bias| bias.track_op());
        let wants_weights = weight.track_op() || bias.is_some();
        let input_len = if x.track_op() { x.elem_count() } else { 0 };
        let mut input_grad = zeros(input_len, par_for(input_len));
        let winners = self.winners.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums = [vec![0.0; weight.elem_count()], vec![0.0; bias.map_or(0, |bias| bias.elem_count())]];
        with_values(NAME, x, |x| {
            let mut input_grads = input_grad.chunks_mut(group * in_len);
            with_values(NAME, &grad, |grad| {
                let chunks = grad.chunks(group * pooled_len).zip(winners.chunks(group * pooled_len));
                let part = |(input, (cotangent, winners))| BackwardPart {
                    input,
                    cotangent,
                    winners,
                    input_grad: input_grads.next(),
                    weight_grad: if wants_weights { sums[0].clone() } else { Vec::new() },
                    bias_grad: sums[1].clone(),
                };
                let mut parts: Vec<_> = x.chunks(group * in_len).zip(chunks).map(part).collect();
                with_values(NAME, weight, |weight| self.for_each(&mut parts, |part| self.backward_part(part, weight)))?;
                for part in &parts {
                    add(&mut sums[0], &part.weight_grad);
                    add(&mut sums[1], &part.bias_grad);
                }
                Ok(())
            })
        })?;
        let [weight_sum, bias_sum] = sums;
        let tensor = |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok([
            x.track_op().then(|| tensor(input_grad, x)).transpose()?,
            weight.track_op().then(|| tensor(weight_sum, weight)).transpose()?,
            bias.map(|bias| tensor(bias_sum, bias)).transpose()?,
        ])
    }

    fn backward_part(&self, part: &mut BackwardPart<'_>, weight: &[f32]) -> Result<()> {
        let (in_len, out_len, pooled_len) = self.lens();
        let (block, conv) = (self.block(), &self.conv.conv);
        let (weights, biases) = (part.weight_grad.len(), part.bias_grad.len());
        let kernels = conv.adjoint_scratch::<f32>(block, Par::Seq).or(conv.weight_grad_scratch::<f32>(block, Par::Seq));
        let req = kernels.and(StackReq::all_of(&[
            StackReq::new::<f32>(block * out_len),
            StackReq::new::<f32>(weights),
            StackReq::new::<f32>(biases),
        ]));
        self.conv.scratch.with(req, |stack| {
            let (mut spread, stack) = stack.make_with::<f32>(block * out_len, |_| 0.0);
            let (mut weight_grad, stack) = stack.make_with::<f32>(weights, |_| 0.0);
            let (mut bias_grad, stack) = stack.make_with::<f32>(biases, |_| 0.0);
            let samples = part.input.len() / in_len;
            for start in (0..samples).step_by(block) {
                let range = start..(start + block).min(samples);
                let cotangent = &mut spread[..range.len() * out_len];
                let at = scaled(&range, pooled_len);
                self.unpool(&part.cotangent[at.clone()], &part.winners[at], cotangent);
                if let Some(input_grad) = &mut part.input_grad {
                    let input_grad = &mut input_grad[scaled(&range, in_len)];
                    let args = ConvAdjoint { cotangent: &*cotangent, weight, input_grad };
                    conv.adjoint(args, Par::Seq, stack).map_err(Error::wrap)?;
                }
                if weights > 0 {
                    let input = &part.input[scaled(&range, in_len)];
                    let bias_grad = (biases > 0).then_some(&mut bias_grad[..]);
                    let args =
                        ConvWeightGrad { input, cotangent: &*cotangent, weight_grad: &mut weight_grad, bias_grad };
                    conv.weight_grad(args, Par::Seq, stack).map_err(Error::wrap)?;
                    add(&mut part.weight_grad, &weight_grad);
                }
                add(&mut part.bias_grad, &bias_grad);
            }
            Ok(())
        })
    }

    /// Gradient of the pooling: every value goes to the site that was largest.
    fn unpool(&self, grad: &[f32], winners: &[u8], out: &mut [f32]) {
        let (size, kernel) = (self.size, self.window.kernel);
        out.fill(0.0);
        let mut offsets = [0; 256];
        for (site, offset) in offsets[..kernel.h * kernel.w].iter_mut().enumerate() {
            *offset = site / kernel.w * size.w + site % kernel.w;
        }
        let planes = grad.chunks_exact(size.out_len()).zip(winners.chunks_exact(size.out_len()));
        for (out, (grad, winners)) in out.chunks_exact_mut(size.in_len()).zip(planes) {
            let rows = grad.chunks_exact(size.out_w).zip(winners.chunks_exact(size.out_w));
            for (oy, (grad, winners)) in rows.enumerate() {
                let out = &mut out[oy * kernel.h * size.w..];
                for (ox, (&grad, &winner)) in grad.iter().zip(winners).enumerate() {
                    out[ox * kernel.w + offsets[winner as usize]] = grad;
                }
            }
        }
    }
}

/// The larger value with its site; the first one if they are equal, NaN if one is NaN.
#[inline(always)]
fn larger(a: (f32, u8), b: (f32, u8)) -> (f32, u8) {
    if b.0 > a.0 || b.0.is_nan() { b } else { a }
}

fn scaled(range: &Range<usize>, len: usize) -> Range<usize> {
    range.start * len..range.end * len
}

fn add(sum: &mut [f32], part: &[f32]) {
    sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
}

impl CustomOp2 for ConvPool {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        self.conv.batch(lx.dims(), lw.dims())?;
        self.forward(values(NAME, x, lx)?, values(NAME, w, lw)?, None)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, w, _] = self.backward(x, w, None, grad)?;
        Ok((x, w))
    }
}

impl CustomOp3 for ConvPool {
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
        self.conv.batch(lx.dims(), lw.dims())?;
        if lb.dims() != [self.conv.conv.geometry().out_shape().channels] {
            bail!("{NAME}: a bias of shape {:?} does not fit", lb.dims());
        }
        self.forward(values(NAME, x, lx)?, values(NAME, w, lw)?, Some(values(NAME, b, lb)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, w, b] = self.backward(x, w, Some(b), grad)?;
        Ok((x, w, b))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use fbp_linalg::FeatureShape;
    use fbp_linalg::conv2d::Conv2dParams;

    use super::*;
    use crate::ops::max_pool2d;
    use crate::ops::testing::{assert_close, gradients, random, random_var};
    use crate::pair::Pair;

    fn arguments(kernel: &Conv2dKernel, n: usize) -> (Var, Var, Var) {
        let geometry = kernel.geometry();
        let FeatureShape { channels, height, width } = geometry.in_shape();
        let x = random_var(&[n, channels, height, width], 1);
        (x, random_var(&geometry.weight_shape(), 2), random_var(&[geometry.out_shape().channels], 3))
    }

    #[test]
    fn is_convolution_then_pooling() {
        let params = |c, h, w, co, k| Conv2dParams::new(FeatureShape::image(c, h, w), co, k);
        let cases = [
            (100, params(1, 28, 28, 3, [5, 5]), Pair::both(2)),
            (1, params(2, 9, 11, 4, [3, 2]).padding([1, 0]), Pair::both(2)),
            (17, params(4, 12, 13, 6, [3, 3]).groups(2).stride([1, 2]), Pair { h: 3, w: 2 }),
            (33, params(3, 20, 20, 32, [3, 3]), Pair { h: 1, w: 4 }),
            (0, params(1, 8, 8, 2, [3, 3]), Pair::both(2)),
        ];
        for (n, params, pool) in cases {
            let kernel = Conv2dKernel::new(params.check().unwrap());
            let (x, w, b) = arguments(&kernel, n);
            let window = Window::disjoint(pool);
            for bias in [None, Some(b.as_tensor())] {
                let fused = kernel.apply_pooled(&x, &w, bias, window).unwrap().unwrap();
                let plain = max_pool2d(&kernel.apply(&x, &w, bias).unwrap(), window).unwrap();
                assert_close("value", &fused, &plain, 1e-6);
                let weights = random(fused.dims(), 4);
                let vars: Vec<_> = [&x, &w].into_iter().chain(bias.map(|_| &b)).collect();
                let (a, b) = (gradients(&fused, &weights, &vars), gradients(&plain, &weights, &vars));
                // Sums over the batch in another order.
                let tol = f64::from(f32::EPSILON) * (plain.elem_count() as f64).sqrt().max(8.0);
                for (a, b) in a.iter().zip(&b) {
                    assert_close("gradient", a, b, tol);
                }
            }
        }
    }

    #[test]
    fn only_wanted_gradients_and_only_disjoint_windows() {
        let kernel = Conv2dKernel::new(Conv2dParams::new(FeatureShape::image(1, 8, 8), 2, [3, 3]).check().unwrap());
        let (x, w, b) = arguments(&kernel, 3);
        let window = Window::disjoint(2);
        let data = x.as_detached_tensor();
        let y = kernel.apply_pooled(&data, &w, Some(&b), window).unwrap().unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&data).is_none() && grads.get(&w).is_some() && grads.get(&b).is_some());
        let frozen = w.as_detached_tensor();
        let y = kernel.apply_pooled(&x, &frozen, None, window).unwrap().unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&x).is_some() && grads.get(&frozen).is_none());
        for window in [Window { stride: Pair::both(1), ..window }, Window { padding: Pair::both(1), ..window }] {
            assert!(kernel.apply_pooled(&x, &w, None, window).unwrap().is_none());
        }
        assert!(kernel.apply_pooled(&x, &w, None, Window::disjoint(7)).is_err());
        let wide = Tensor::zeros((3, 1, 8, 9), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(kernel.apply_pooled(&wide, &w, None, window).is_err());
        assert!(kernel.apply_pooled(&x, &w, Some(&random(&[3], 1)), window).is_err());
    }
}
