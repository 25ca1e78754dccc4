use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Tensor, bail};

use super::lane_sums::{Sums, lane_sums};
use super::{Call, Clip, fill_each, make_each, values, with_values};
use crate::BatchGroup;

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

/// `y = clip(scale_c · x + shift_c)` per channel, with the gradients: batch normalisation with known statistics, and the
/// activation behind it.
///
/// # Shapes
/// `x`: `[N, C, H, W]` or `[N, C]`; `scale` and `shift`: `[C]`.
///
/// # Errors
/// Of other shapes, and of tensors that are not contiguous, not `f32`, or not on the CPU.
pub fn batch_norm_evaluation(x: &Tensor, scale: &Tensor, shift: &Tensor, clip: Clip) -> Result<Tensor> {
    batch_norm_evaluation_call(x, scale, shift, clip).run()
}

pub(crate) fn batch_norm_evaluation_call(x: &Tensor, scale: &Tensor, shift: &Tensor, clip: Clip) -> Call {
    Call::three(x, scale, shift, ChannelAffine { clip })
}

/// `y = clip((x - mean) / √(variance + eps) · weight + bias)` with the statistics of the batch, and the gradients through them.
///
/// # Shapes
/// As [`batch_norm_evaluation`].
///
/// # Errors
/// As [`batch_norm_evaluation`], and of an empty batch.
pub fn batch_norm_training(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    clip: Clip,
) -> Result<(Tensor, BatchStatistics)> {
    let (call, statistics) = batch_norm_training_call(x, [weight, bias], eps, clip, None)?;
    Ok((call.run()?, statistics))
}

/// The same for a slice of a batch, whose statistics and gradients are those of the whole.
pub(crate) fn batch_norm_training_call(
    x: &Tensor,
    [weight, bias]: [&Tensor; 2],
    eps: f64,
    clip: Clip,
    group: Option<&Arc<dyn BatchGroup>>,
) -> Result<(Call, BatchStatistics)> {
    let sizes = Sizes::of(x.dims(), weight.dims(), bias.dims())?;
    if sizes.batch == 0 {
        bail!("{NAME}: an empty batch has no statistics");
    }
    // Batches that are not sliced are everybody's own.
    let group = group.filter(|group| group.slice().is_some()).cloned();
    let own = with_values(NAME, x, |x| Ok(sizes.moments(x)))?;
    let statistics = match &group {
        None => own.statistics(),
        Some(group) => Moments::of_all(&gathered(&**group, &own.to_list())?, sizes.channels).statistics(),
    };
    let inverse_std = statistics.variance.iter().map(|&v| (1.0 / (f64::from(v) + eps).sqrt()) as f32).collect();
    let call = Call::three(
        x,
        weight,
        bias,
        BatchNorm { mean: statistics.mean.clone(), inverse_std, count: statistics.count, group, clip },
    );
    Ok((call, statistics))
}

const NAME: &str = "batch_norm";

/// What all slices of a batch give.
fn gathered(group: &dyn BatchGroup, own: &[f64]) -> Result<Vec<f64>> {
    group.all_gather(own).map_err(Error::wrap)
}

/// Mean and sum of squared deviations of every channel.
#[derive(Debug)]
struct Moments {
    channels: Vec<[f64; 2]>,
    count: usize,
}

impl Moments {
    fn statistics(&self) -> BatchStatistics {
        let of = |[mean, squares]: &[f64; 2]| (*mean as f32, (squares / self.count as f64) as f32);
        let (mean, variance) = self.channels.iter().map(of).unzip();
        BatchStatistics { mean, variance, count: self.count }
    }

    /// As numbers for the others.
    fn to_list(&self) -> Vec<f64> {
        self.channels.iter().flatten().copied().chain([self.count as f64]).collect()
    }

    /// Puts together what [`to_list`](Self::to_list) gave of every slice, in their order, as planes are put together.
    fn of_all(lists: &[f64], channels: usize) -> Self {
        let mut all = Self { channels: vec![[0.0; 2]; channels], count: 0 };
        for list in lists.chunks_exact(2 * channels + 1) {
            let count = list[2 * channels];
            let before = all.count as f64;
            for ([mean, squares], own) in all.channels.iter_mut().zip(list.chunks_exact(2)) {
                let step = own[0] - *mean;
                *squares += own[1] + step * step * count * (before / (before + count));
                *mean += step * (count / (before + count));
            }
            all.count += count as usize;
        }
        all
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    channels: usize,
    plane: usize,
}

impl Sizes {
    fn of(x: &[usize], first: &[usize], second: &[usize]) -> Result<Self> {
        match x {
            &[batch, channels, ref plane @ ..]
                if first == [channels] && second == [channels] && !plane.contains(&0) =>
            {
                Ok(Self { batch, channels, plane: plane.iter().product() })
            }
            _ => bail!("{NAME}: shapes {x:?}, {first:?} and {second:?} do not fit"),
        }
    }

    fn len(self) -> usize {
        self.batch * self.channels * self.plane
    }

    /// The values of a plane.
    fn plane(self, x: &[f32], plane: usize) -> &[f32] {
        &x[plane * self.plane..][..self.plane]
    }

    /// Two sums over every plane, in the order of the planes.
    fn plane_sums(self, sums: impl Fn(usize) -> Sums + Sync) -> Vec<Sums> {
        let mut result = vec![[0.0; 2]; self.batch * self.channels];
        fill_each(
            &mut result,
            1,
            self.len(),
            #[inline(always)]
            |plane, result| result.fill(sums(plane)),
        );
        result
    }

    /// Mean and sum of squared deviations of every channel.
    ///
    /// Planes give their sums and their squared deviations from their own mean while they are in the cache; channels put them
    /// together by the pairwise update of Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983).
    fn moments(self, x: &[f32]) -> Moments {
        let len = self.plane as f64;
        let planes = self.plane_sums(
            #[inline(always)]
            |plane| {
                let x = self.plane(x, plane);
                let centre = (lane_sums(x, x, |x, _| [x, 0.0])[0] / len) as f32;
                // From a centre that is only nearly the mean, which the first sum corrects.
                let [sum, squares] = lane_sums(x, x, |x, _| [x - centre, (x - centre) * (x - centre)]);
                [f64::from(centre) + sum / len, squares - sum * sum / len]
            },
        );
        let channel = |channel: usize| {
            let (mut mean, mut squares) = (0.0, 0.0);
            for (n, [plane_mean, plane_squares]) in planes.iter().skip(channel).step_by(self.channels).enumerate() {
                let (before, step) = (n as f64, plane_mean - mean);
                squares += plane_squares + step * step * len * before / (before + 1.0);
                mean += step / (before + 1.0);
            }
            [mean, squares]
        };
        Moments { channels: (0..self.channels).map(channel).collect(), count: self.batch * self.plane }
    }
}

/// `y = clip(scale_c · x + shift_c)` per channel.
#[derive(Clone, Copy)]
struct ClippedAffine<'a> {
    sizes: Sizes,
    scale: &'a [f32],
    shift: &'a [f32],
    clip: Clip,
}

/// Gradient with respect to the input: `cotangent · g + deviation · (x - centre) + constant`, of every channel, where `g` is
/// what the clip lets through of the gradient of the output.
#[derive(Clone, Copy, Default)]
struct InputGradient {
    cotangent: f32,
    deviation: f32,
    centre: f32,
    constant: f32,
}

impl ClippedAffine<'_> {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let (sizes, clip) = (self.sizes, self.clip);
        make_each(
            x.len(),
            sizes.plane,
            x.len(),
            #[inline(always)]
            |plane, y| {
                let c = plane % sizes.channels;
                let (a, b) = (self.scale[c], self.shift[c]);
                for (y, &x) in y.iter_mut().zip(sizes.plane(x, plane)) {
                    *y = clip.value(a * x + b);
                }
            },
        )
    }

    /// `Σ g` and `Σ g (x - centre)` per channel.
    fn sums(&self, x: &[f32], g: &[f32], centre: &[f32]) -> Vec<Sums> {
        let (sizes, clip) = (self.sizes, self.clip);
        let planes = sizes.plane_sums(
            #[inline(always)]
            |plane| {
                let c = plane % sizes.channels;
                let (a, b, centre) = (self.scale[c], self.shift[c], centre[c]);
                let (x, g) = (sizes.plane(x, plane), sizes.plane(g, plane));
                lane_sums(x, g, |x, g| {
                    let g = clip.gradient(a * x + b, g);
                    [g, g * (x - centre)]
                })
            },
        );
        let channel = |channel: usize| {
            let planes = planes.iter().skip(channel).step_by(sizes.channels);
            planes.fold([0.0; 2], |[a, b], [plane_a, plane_b]| [a + plane_a, b + plane_b])
        };
        (0..sizes.channels).map(channel).collect()
    }

    fn input_gradient(&self, x: &[f32], g: &[f32], channel: impl Fn(usize) -> InputGradient + Sync) -> Vec<f32> {
        let (sizes, clip) = (self.sizes, self.clip);
        make_each(
            g.len(),
            sizes.plane,
            x.len(),
            #[inline(always)]
            |plane, out| {
                let c = plane % sizes.channels;
                let (a, b, k) = (self.scale[c], self.shift[c], channel(c));
                let (x, g) = (sizes.plane(x, plane), sizes.plane(g, plane));
                for ((out, &x), &g) in out.iter_mut().zip(x).zip(g) {
                    let g = clip.gradient(a * x + b, g);
                    *out = k.cotangent * g + k.deviation * (x - k.centre) + k.constant;
                }
            },
        )
    }
}

type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// Sums as a tensor like `like`, if its gradient is wanted.
fn wanted(like: &Tensor, sums: impl Iterator<Item = f64>) -> Result<Option<Tensor>> {
    let tensor = || Tensor::from_vec(sums.map(|sum| sum as f32).collect(), like.shape(), like.device());
    like.track_op().then(tensor).transpose()
}

struct ChannelAffine {
    clip: Clip,
}

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
        let y = ClippedAffine { sizes, scale, shift, clip: self.clip }.apply(x);
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    /// `dx = scale · g`, `dscale = Σ g x`, `dshift = Σ g`.
    fn bwd(&self, x: &Tensor, scale: &Tensor, shift: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let sizes = Sizes::of(x.dims(), scale.dims(), shift.dims())?;
        let grad = grad.contiguous()?;
        let (scales, shifts) = (scale.to_vec1::<f32>()?, shift.to_vec1::<f32>()?);
        let map = ClippedAffine { sizes, scale: &scales, shift: &shifts, clip: self.clip };
        let (wants_input, mut out, mut sums) = (x.track_op(), None, Vec::new());
        with_values(NAME, x, |x| {
            with_values(NAME, &grad, |g| {
                let channel = |c: usize| InputGradient { cotangent: scales[c], ..InputGradient::default() };
                if scale.track_op() || shift.track_op() {
                    sums = map.sums(x, g, &vec![0.0; sizes.channels]);
                }
                out = wants_input.then(|| map.input_gradient(x, g, channel));
                Ok(())
            })
        })?;
        let out = out.map(|out| Tensor::from_vec(out, x.shape(), x.device())).transpose()?;
        Ok((out, wanted(scale, sums.iter().map(|sums| sums[1]))?, wanted(shift, sums.iter().map(|sums| sums[0]))?))
    }
}

struct BatchNorm {
    mean: Vec<f32>,
    inverse_std: Vec<f32>,
    /// Number of values per channel, of the whole batch.
    count: usize,
    /// With whom the batch is shared, if it is.
    group: Option<Arc<dyn BatchGroup>>,
    clip: Clip,
}

impl BatchNorm {
    /// Sums over the batch, from those over the slice at hand.
    fn of_batch(&self, own: &[Sums]) -> Result<Vec<Sums>> {
        let Some(group) = &self.group else { return Ok(own.to_vec()) };
        let list: Vec<f64> = own.iter().flatten().copied().collect();
        let mut all = vec![[0.0; 2]; own.len()];
        for slice in gathered(&**group, &list)?.chunks_exact(list.len()) {
            for (sums, slice) in all.iter_mut().zip(slice.chunks_exact(2)) {
                (sums[0], sums[1]) = (sums[0] + slice[0], sums[1] + slice[1]);
            }
        }
        Ok(all)
    }

    /// Scale and shift of every channel.
    fn affine(&self, weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let scale: Vec<f32> = self.inverse_std.iter().zip(weight).map(|(inverse, weight)| inverse * weight).collect();
        let shift = scale.iter().zip(bias).zip(&self.mean).map(|((scale, bias), mean)| bias - scale * mean).collect();
        (scale, shift)
    }
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
        let (scale, shift) = self.affine(weight, bias);
        let y = ClippedAffine { sizes, scale: &scale, shift: &shift, clip: self.clip }.apply(x);
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    /// With `u = (x - mean)/std` and `m` values per channel: `dx = w/std · (g - Σg/m - u Σ(gu)/m)`, `dw = Σ gu`, `db = Σ g`.
    fn bwd(&self, x: &Tensor, weight: &Tensor, bias: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let sizes = Sizes::of(x.dims(), weight.dims(), bias.dims())?;
        let grad = grad.contiguous()?;
        let (scale, shift) = self.affine(&weight.to_vec1::<f32>()?, &bias.to_vec1::<f32>()?);
        let map = ClippedAffine { sizes, scale: &scale, shift: &shift, clip: self.clip };
        let count = self.count as f64;
        let inverse = |c: usize| f64::from(self.inverse_std[c]);
        let (wants_input, mut out, mut sums) = (x.track_op(), None, Vec::new());
        with_values(NAME, x, |x| {
            with_values(NAME, &grad, |g| {
                sums = map.sums(x, g, &self.mean);
                let all = self.of_batch(&sums)?;
                let channel = |c: usize| {
                    let ([sum, product], scale) = (all[c], f64::from(scale[c]));
                    InputGradient {
                        cotangent: scale as f32,
                        deviation: (-scale * inverse(c) * inverse(c) * product / count) as f32,
                        centre: self.mean[c],
                        constant: (-scale * sum / count) as f32,
                    }
                };
                out = wants_input.then(|| map.input_gradient(x, g, channel));
                Ok(())
            })
        })?;
        let out = out.map(|out| Tensor::from_vec(out, x.shape(), x.device())).transpose()?;
        Ok((
            out,
            wanted(weight, sums.iter().enumerate().map(|(c, sums)| sums[1] * inverse(c)))?,
            wanted(bias, sums.iter().map(|sums| sums[0]))?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::lane_sums::LANES;
    use crate::ops::testing::{assert_close, assert_near, gradients, random, random_var};

    const CLIPS: [Clip; 3] = [Clip::NONE, Clip { lower: 0.0, upper: f32::INFINITY }, Clip { lower: -0.5, upper: 0.75 }];

    fn clipped(x: &Tensor, clip: Clip) -> Tensor {
        // Infinite ends would make the gradient of candle's product with them NaN.
        x.clamp(clip.lower.max(f32::MIN), clip.upper.min(f32::MAX)).unwrap()
    }

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
        for (dims, clip) in [(vec![6, 3, 4, 5], CLIPS[0]), (vec![6, 3, 14, 5], CLIPS[1]), (vec![32, 7], CLIPS[2])] {
            let x = random_var(&dims, 1);
            let (w, b) = (random_var(&dims[1..2], 2), random_var(&dims[1..2], 3));
            let (y, statistics) = batch_norm_training(&x, &w, &b, 1e-3, clip).unwrap();
            let expected = clipped(&composed(&x, &w, &b, 1e-3), clip);
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
        for clip in CLIPS {
            let y = batch_norm_evaluation(&x, &scale, &shift, clip).unwrap();
            let wide = |t: &Tensor| t.reshape((1, 3, 1, 1)).unwrap();
            let expected = x.broadcast_mul(&wide(&scale)).unwrap().broadcast_add(&wide(&shift)).unwrap();
            let expected = clipped(&expected, clip);
            assert_close("value", &y, &expected, 1e-6);
            let weights = random(y.dims(), 4);
            let vars = [&x, &scale, &shift];
            for (a, b) in gradients(&y, &weights, &vars).iter().zip(&gradients(&expected, &weights, &vars)) {
                assert_close("gradient", a, b, 1e-3);
            }
        }
    }

    #[test]
    fn statistics_of_far_means_are_those_of_double_precision() {
        // The variance is 1e-8 of the squared mean: a sum of squares in single precision would know nothing of it.
        let (batch, channels, plane) = (12, 3, 35);
        let noise = random(&[batch, channels, plane], 5).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let x: Vec<f32> = noise.iter().map(|noise| 1e3 + 0.1 * noise).collect();
        let found = Sizes { batch, channels, plane }.moments(&x).statistics();
        for c in 0..channels {
            let values = || (0..batch).flat_map(|n| &x[(n * channels + c) * plane..][..plane]).map(|&x| f64::from(x));
            let count = (batch * plane) as f64;
            let mean = values().sum::<f64>() / count;
            let variance = values().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
            let eps = f64::from(f32::EPSILON);
            assert_near("mean", found.mean[c], mean, eps * mean);
            assert_near("variance", found.variance[c], variance, (plane as f64 / LANES as f64 + 4.0) * eps * variance);
        }
    }

    #[test]
    fn faulty_calls_give_errors() {
        let (x, w) = (random(&[2, 3, 4, 4], 1), random(&[4], 2));
        assert!(batch_norm_evaluation(&x, &w, &w, Clip::NONE).is_err());
        let (empty, w) = (random(&[0, 3], 1), random(&[3], 2));
        assert!(batch_norm_training(&empty, &w, &w, 1e-5, Clip::NONE).is_err());
    }
}
