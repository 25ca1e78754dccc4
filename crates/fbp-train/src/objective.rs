//! What post-training minimises: the distance to the targets, and its weight beside the cross-entropy.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::TrainError;

/// Mean over all entries of `(z - target)²`, with the gradient `2 (z - target) / len`: one pass over memory each way.
///
/// # Shapes
/// `z`: `[N, ..]`, contiguous; `target`: its values in the same row-major order.
///
/// # Errors
/// [`TrainError::Tensor`] if the numbers of values differ.
pub(crate) fn mean_squared_distance(z: &Tensor, target: Vec<f32>) -> std::result::Result<Tensor, TrainError> {
    Ok(z.contiguous()?.apply_op1(MeanSquaredDistance { target })?)
}

const NAME: &str = "mean squared distance";

struct MeanSquaredDistance {
    target: Vec<f32>,
}

/// The values of a contiguous tensor.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => Ok(&all[start..end]),
        _ => bail!("{NAME}: expected a contiguous f32 tensor"),
    }
}

impl CustomOp1 for MeanSquaredDistance {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let z = values(storage, layout)?;
        if z.len() != self.target.len() {
            bail!("{NAME}: {} values, but targets for {}", z.len(), self.target.len());
        }
        // Sums of short runs in f32, which vectorise; their sum in f64, which does not lose digits.
        let run = |(z, target): (&[f32], &[f32])| {
            let mut sums = [0.0_f32; 8];
            for (z, target) in z.chunks(8).zip(target.chunks(8)) {
                for (sum, (z, target)) in sums.iter_mut().zip(z.iter().zip(target)) {
                    *sum += (z - target) * (z - target);
                }
            }
            f64::from(sums.iter().sum::<f32>())
        };
        let sum: f64 = z.chunks(256).zip(self.target.chunks(256)).map(run).sum();
        Ok((CpuStorage::F32(vec![(sum / z.len().max(1) as f64) as f32]), Shape::from(())))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let scale = 2.0 * grad.to_scalar::<f32>()? / self.target.len().max(1) as f32;
        let (storage, layout) = arg.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { bail!("{NAME}: the tensor is not on the CPU") };
        let z = values(storage, layout)?;
        let gradient: Vec<f32> = z.iter().zip(&self.target).map(|(z, target)| scale * (z - target)).collect();
        Tensor::from_vec(gradient, arg.shape(), arg.device()).map(Some)
    }
}

/// Weight of the distance beside the cross-entropy,
/// `w = clamp(α · ema(CE) / (ema(MSE) + 1e-8), 1e-5, 10)`, both averages with decay 0.9 from the first value on.
///
/// # Source
/// arXiv:2506.07188 (joint objective).
#[derive(Clone, Copy, Debug)]
pub(crate) struct DistanceWeight {
    alpha: f64,
    averages: Option<[f64; 2]>,
}

impl DistanceWeight {
    pub(crate) fn new(alpha: f64) -> Self {
        Self { alpha, averages: None }
    }

    /// Takes the two losses of a batch into the averages and gives the weight for it.
    pub(crate) fn update(&mut self, cross_entropy: f64, distance: f64) -> f64 {
        const DECAY: f64 = 0.9;
        let new = [cross_entropy, distance];
        let averages = match self.averages {
            None => new,
            Some(old) => [0, 1].map(|k| DECAY * old[k] + (1.0 - DECAY) * new[k]),
        };
        self.averages = Some(averages);
        (self.alpha * averages[0] / (averages[1] + 1e-8)).clamp(1e-5, 10.0)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn distance_and_gradient_are_those_of_plain_tensor_operations() {
        let values =
            |seed: usize| -> Vec<f32> { (0..7 * 50).map(|k| ((k * seed) % 101) as f32 / 50.0 - 1.0).collect() };
        let z = Var::from_vec(values(37), (7, 50), &Device::Cpu).unwrap();
        let target = Tensor::from_vec(values(53), (7, 50), &Device::Cpu).unwrap();
        let ours = (mean_squared_distance(&z, values(53)).unwrap() * 3.0).unwrap();
        let theirs = ((z.as_tensor() - &target).unwrap().sqr().unwrap().mean_all().unwrap() * 3.0).unwrap();
        let scalar = |t: &Tensor| t.to_scalar::<f32>().unwrap();
        assert!((scalar(&ours) - scalar(&theirs)).abs() <= 64.0 * f32::EPSILON * scalar(&theirs));
        let gradient =
            |loss: &Tensor| loss.backward().unwrap().get(&z).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in gradient(&ours).iter().zip(gradient(&theirs)) {
            assert!((a - b).abs() <= 8.0 * f32::EPSILON * b.abs().max(1e-3), "{a} {b}");
        }
        assert!(mean_squared_distance(&z, vec![0.0; 3]).is_err());
    }

    #[test]
    fn weight_follows_the_published_formula() {
        let mut weight = DistanceWeight::new(0.3);
        assert!((weight.update(2.0, 0.5) - 0.3 * 2.0 / (0.5 + 1e-8)).abs() < 1e-12);
        let (ce, mse) = (0.9 * 2.0 + 0.1 * 1.0, 0.9 * 0.5 + 0.1 * 0.1);
        assert!((weight.update(1.0, 0.1) - 0.3 * ce / (mse + 1e-8)).abs() < 1e-12);
        assert_eq!(DistanceWeight::new(0.3).update(1.0, 0.0), 10.0);
        assert_eq!(DistanceWeight::new(0.3).update(0.0, 1.0), 1e-5);
    }
}
