use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::{fill_pieces, values, with_values};

/// Mean and biased variance per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchStatistics {
    /// Mean of every channel.
    pub mean: Vec<f32>,
    /// Mean squared deviation of every channel.
    pub variance: Vec<f32>,
    /// Number of values per channel, `N·H·W`.
    pub count: usize,
}

/// `y = scale_c · x + shift_c` per channel, with the gradients: batch normalisation with known statistics.
///
/// # Shapes
/// `x`: `[N, C, H, W]` or `[N, C]`; `scale` and `shift`: `[C]`.
///
/// # Errors
/// Of other shapes, and of tensors that are not contiguous, not `f32`, or not on the CPU.
pub fn batch_norm_evaluation(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    x.apply_op3(scale, shift, ChannelAffine)
}

/// `y = (x - mean) / √(variance + eps) · weight + bias` with the statistics of the batch, and the gradients through them.
///
/// # Shapes
/// As [`batch_norm_evaluation`].
///
/// # Errors
/// As [`batch_norm_evaluation`], and of an empty batch.
pub fn batch_norm_training(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<(Tensor, BatchStatistics)> {
    let sizes = Sizes::of(x.dims(), weight.dims(), bias.dims())?;
    if sizes.batch == 0 {
        bail!("{NAME}: an empty batch has no statistics");
    }
    let statistics = with_values(NAME, x, |x| Ok(sizes.statistics(x)))?;
    let inverse_std = statistics.variance.iter().map(|&v| (1.0 / (f64::from(v) + eps).sqrt()) as f32).collect();
    let y = x.apply_op3(weight, bias, BatchNorm { mean: statistics.mean.clone(), inverse_std })?;
    Ok((y, statistics))
}

const NAME: &str = "batch_norm";

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    channels: usize,
    plane: usize,
}

impl Sizes {
    fn of(x: &[usize], first: &[usize], second: &[usize]) -> Result<Self> {
        match x {
            &[batch, channels, ..] if first == [channels] && second == [channels] => {
                Ok(Self { batch, channels, plane: x[2..].iter().product() })
            }
            _ => bail!("{NAME}: shapes {x:?}, {first:?} and {second:?} do not fit"),
        }
    }

    /// The planes of one channel, sample by sample.
    fn planes(self, x: &[f32], channel: usize) -> impl Iterator<Item = &[f32]> {
        (0..self.batch).map(move |n| &x[(n * self.channels + channel) * self.plane..][..self.plane])
    }

    /// Sum over a channel of `f(i, x_i)`, in double precision; `i` counts within the whole tensor.
    fn sum(self, x: &[f32], channel: usize, f: impl Fn(usize, f64) -> f64) -> f64 {
        let start = |n: usize| (n * self.channels + channel) * self.plane;
        let planes = self.planes(x, channel).enumerate();
        planes
            .flat_map(|(n, p)| p.iter().enumerate().map(move |(i, &v)| (start(n) + i, f64::from(v))))
            .map(|(i, v)| f(i, v))
            .sum()
    }

    fn statistics(self, x: &[f32]) -> BatchStatistics {
        let count = self.batch * self.plane;
        let per_channel = |channel| {
            let mean = self.sum(x, channel, |_, v| v) / count as f64;
            let variance = self.sum(x, channel, |_, v| (v - mean) * (v - mean)) / count as f64;
            (mean as f32, variance as f32)
        };
        let (mean, variance) = (0..self.channels).map(per_channel).unzip();
        BatchStatistics { mean, variance, count }
    }

    /// `out = a_c · x + b_c`, plane by plane.
    fn affine(self, x: &[f32], out: &mut [f32], coefficients: impl Fn(usize) -> (f32, f32) + Sync) {
        fill_pieces(out, self.plane, x.len(), |first, out| {
            let planes = x[first * self.plane..].chunks_exact(self.plane.max(1));
            for (i, (x, out)) in planes.zip(out.chunks_exact_mut(self.plane.max(1))).enumerate() {
                let (a, b) = coefficients((first + i) % self.channels);
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = a * x + b;
                }
            }
        });
    }
}

type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

struct ChannelAffine;

impl CustomOp3 for ChannelAffine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        scale: &CpuStorage,
        ls: &Layout,
        shift: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::of(lx.dims(), ls.dims(), lb.dims())?;
        let (x, scale, shift) = (values(NAME, x, lx)?, values(NAME, scale, ls)?, values(NAME, shift, lb)?);
        let mut y = vec![0.0; x.len()];
        sizes.affine(x, &mut y, |c| (scale[c], shift[c]));
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, scale: &Tensor, shift: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let sizes = Sizes::of(x.dims(), scale.dims(), shift.dims())?;
        let grad = grad.contiguous()?;
        let device = x.device();
        let (mut x_grad, mut scale_grad) = (None, None);
        let (values_of_scale, mut shift_grad) = (scale.to_vec1::<f32>()?, None);
        with_values(NAME, &grad, |g| {
            if x.track_op() {
                let mut out = vec![0.0; g.len()];
                sizes.affine(g, &mut out, |c| (values_of_scale[c], 0.0));
                x_grad = Some(Tensor::from_vec(out, x.shape(), device)?);
            }
            if scale.track_op() {
                let sums = |x: &[f32]| {
                    (0..sizes.channels).map(|c| sizes.sum(g, c, |i, g| g * f64::from(x[i])) as f32).collect()
                };
                let sums: Vec<f32> = with_values(NAME, x, |x| Ok(sums(x)))?;
                scale_grad = Some(Tensor::from_vec(sums, scale.shape(), device)?);
            }
            if shift.track_op() {
                let sums: Vec<f32> = (0..sizes.channels).map(|c| sizes.sum(g, c, |_, g| g) as f32).collect();
                shift_grad = Some(Tensor::from_vec(sums, shift.shape(), device)?);
            }
            Ok(())
        })?;
        Ok((x_grad, scale_grad, shift_grad))
    }
}

struct BatchNorm {
    mean: Vec<f32>,
    inverse_std: Vec<f32>,
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::of(lx.dims(), lw.dims(), lb.dims())?;
        let (x, weight, bias) = (values(NAME, x, lx)?, values(NAME, weight, lw)?, values(NAME, bias, lb)?);
        let mut y = vec![0.0; x.len()];
        sizes.affine(x, &mut y, |c| {
            let a = self.inverse_std[c] * weight[c];
            (a, bias[c] - a * self.mean[c])
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    /// With `u = (x - mean)/std` and `m` values per channel: `dx = w/std · (g - Σg/m - u Σ(gu)/m)`, `dw = Σ gu`, `db = Σ g`.
    fn bwd(&self, x: &Tensor, weight: &Tensor, bias: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let sizes = Sizes::of(x.dims(), weight.dims(), bias.dims())?;
        let grad = grad.contiguous()?;
        let (weights, device) = (weight.to_vec1::<f32>()?, x.device());
        let count = (sizes.batch * sizes.plane) as f64;
        let mut out = vec![0.0; if x.track_op() { x.elem_count() } else { 0 }];
        let mut sums = (Vec::new(), Vec::new());
        with_values(NAME, x, |x| {
            with_values(NAME, &grad, |g| {
                sums = (0..sizes.channels)
                    .map(|c| {
                        let (mean, inverse) = (f64::from(self.mean[c]), f64::from(self.inverse_std[c]));
                        let product = sizes.sum(g, c, |i, g| g * (f64::from(x[i]) - mean) * inverse);
                        (product, sizes.sum(g, c, |_, g| g))
                    })
                    .unzip();
                if !out.is_empty() {
                    sizes.affine(g, &mut out, |c| {
                        let scale = weights[c] * self.inverse_std[c];
                        (scale, -scale * (sums.1[c] / count) as f32)
                    });
                    for (i, (out, &x)) in out.iter_mut().zip(x).enumerate() {
                        let c = i / sizes.plane % sizes.channels;
                        let scale = weights[c] * self.inverse_std[c] * self.inverse_std[c];
                        *out -= scale * (sums.0[c] / count) as f32 * (x - self.mean[c]);
                    }
                }
                Ok(())
            })
        })?;
        let tensor =
            |sums: Vec<f64>| Tensor::from_vec(sums.iter().map(|&v| v as f32).collect(), weight.shape(), device);
        let x_grad = x.track_op().then(|| Tensor::from_vec(out, x.shape(), device)).transpose()?;
        let weight_grad = weight.track_op().then(|| tensor(sums.0)).transpose()?;
        let bias_grad = bias.track_op().then(|| tensor(sums.1)).transpose()?;
        Ok((x_grad, weight_grad, bias_grad))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, gradients, random, random_var};

    /// The same from elementary tensor operations, whose gradients are candle's own.
    fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Tensor {
        let dims = x.dims().to_vec();
        let x = x.reshape((dims[0], dims[1], ())).unwrap();
        let mean = |t: &Tensor| t.mean_keepdim(0).unwrap().mean_keepdim(2).unwrap();
        let centred = x.broadcast_sub(&mean(&x)).unwrap();
        let std = (mean(&centred.sqr().unwrap()) + eps).unwrap().sqrt().unwrap();
        let shape = (1, dims[1], 1);
        let scaled = centred.broadcast_div(&std).unwrap().broadcast_mul(&weight.reshape(shape).unwrap()).unwrap();
        scaled.broadcast_add(&bias.reshape(shape).unwrap()).unwrap().reshape(dims).unwrap()
    }

    #[test]
    fn training_agrees_with_elementary_operations() {
        for dims in [vec![6, 3, 4, 5], vec![32, 7]] {
            let x = random_var(&dims, 1);
            let (w, b) = (random_var(&dims[1..2], 2), random_var(&dims[1..2], 3));
            let (y, statistics) = batch_norm_training(&x, &w, &b, 1e-3).unwrap();
            let expected = composed(&x, &w, &b, 1e-3);
            assert_close("value", &y, &expected, 1e-5);
            let weights = random(&dims, 4);
            let vars = [&x, &w, &b];
            for (a, b) in gradients(&y, &weights, &vars).iter().zip(&gradients(&expected, &weights, &vars)) {
                assert_close("gradient", a, b, 2e-5);
            }
            assert_eq!(statistics.count, dims.iter().product::<usize>() / dims[1]);
        }
    }

    #[test]
    fn evaluation_is_one_affine_map_per_channel() {
        let x = random_var(&[40, 3, 24, 25], 1);
        let (scale, shift) = (random_var(&[3], 2), random_var(&[3], 3));
        let y = batch_norm_evaluation(&x, &scale, &shift).unwrap();
        let wide = |t: &Tensor| t.reshape((1, 3, 1, 1)).unwrap();
        let expected = x.broadcast_mul(&wide(&scale)).unwrap().broadcast_add(&wide(&shift)).unwrap();
        assert_close("value", &y, &expected, 1e-6);
        let weights = random(y.dims(), 4);
        let vars = [&x, &scale, &shift];
        for (a, b) in gradients(&y, &weights, &vars).iter().zip(&gradients(&expected, &weights, &vars)) {
            assert_close("gradient", a, b, 1e-3);
        }
    }

    #[test]
    fn faulty_calls_give_errors() {
        let (x, w) = (random(&[2, 3, 4, 4], 1), random(&[4], 2));
        assert!(batch_norm_evaluation(&x, &w, &w).is_err());
        let (empty, w) = (random(&[0, 3], 1), random(&[3], 2));
        assert!(batch_norm_training(&empty, &w, &w, 1e-5).is_err());
    }
}
