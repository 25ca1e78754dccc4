//! What training minimises: the loss of labels or outputs, the distance to targets, and its weight beside that loss.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use fbp_models::ops::cross_entropy;

use crate::TrainError;
use crate::data::Batch;
use crate::settings::LossKind;

/// Mean loss of a batch of outputs against the labels or outputs of its samples.
///
/// # Errors
/// [`TrainError::Tensor`] if the numbers of outputs differ.
pub(crate) fn supervised(loss: LossKind, output: &Tensor, batch: Batch<'_>) -> std::result::Result<Tensor, TrainError> {
    match loss {
        LossKind::CrossEntropy => Ok(cross_entropy(output, batch.labels)?),
        LossKind::Mse => mean_squared_distance(output, BatchTargets { values: batch.outputs.to_vec(), counted: None }),
        LossKind::SmoothL1 => Ok(output.contiguous()?.apply_op1(SmoothL1 { wanted: batch.outputs.to_vec() })?),
    }
}

/// Mean over all entries of `½ d²` where `|d| < 1` and `|d| - ½` elsewhere, `d = z - wanted`; its gradient is `d` cut to
/// `[-1, 1]`, over the number of entries.
///
/// # Source
/// Girshick, "Fast R-CNN", ICCV 2015, eq. 3.
struct SmoothL1 {
    wanted: Vec<f32>,
}

impl CustomOp1 for SmoothL1 {
    fn name(&self) -> &'static str {
        "smooth L1 distance"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let z = values(storage, layout)?;
        if z.len() != self.wanted.len() {
            bail!("{}: {} values, but {} are wanted", self.name(), z.len(), self.wanted.len());
        }
        let of = |(z, wanted): (&f32, &f32)| match f64::from((z - wanted).abs()) {
            d if d < 1.0 => 0.5 * d * d,
            d => d - 0.5,
        };
        let sum: f64 = z.iter().zip(&self.wanted).map(of).sum();
        Ok((CpuStorage::F32(vec![(sum / z.len().max(1) as f64) as f32]), Shape::from(())))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (storage, layout) = arg.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            bail!("{}: the tensor is not on the CPU", self.name())
        };
        let z = values(storage, layout)?;
        let scale = grad.to_scalar::<f32>()? / z.len().max(1) as f32;
        let of = |(z, wanted): (&f32, &f32)| scale * (z - wanted).clamp(-1.0, 1.0);
        let gradient = z.iter().zip(&self.wanted).map(of).collect();
        Tensor::from_vec(gradient, arg.shape(), arg.device()).map(Some)
    }
}

/// Targets of a batch.
#[derive(Clone, Debug)]
pub(crate) struct BatchTargets {
    /// Values in the row-major order of the features.
    pub(crate) values: Vec<f32>,
    /// Which samples count; all of them if there is no list.
    pub(crate) counted: Option<Vec<bool>>,
}

/// Mean over all entries of the samples that count of `(z - target)²`, with the gradient `2 (z - target) / entries`: one
/// pass over memory each way. It is 0 if no sample counts.
///
/// # Shapes
/// `z`: `[N, ..]`, contiguous; `N` samples in `targets`.
///
/// # Errors
/// [`TrainError::Tensor`] if the numbers of values differ.
pub(crate) fn mean_squared_distance(z: &Tensor, targets: BatchTargets) -> std::result::Result<Tensor, TrainError> {
    let samples = z.dims().first().copied().unwrap_or(1);
    let len = z.elem_count() / samples.max(1);
    let counted = targets.counted.filter(|counted| counted.contains(&false));
    let entries = counted.as_ref().map_or(samples, |counted| counted.iter().filter(|&&counts| counts).count()) * len;
    Ok(z.contiguous()?.apply_op1(MeanSquaredDistance { target: targets.values, counted, entries, len })?)
}

const NAME: &str = "mean squared distance";

struct MeanSquaredDistance {
    target: Vec<f32>,
    /// Which samples count; none if all do.
    counted: Option<Vec<bool>>,
    /// Entries of the samples that count.
    entries: usize,
    /// Entries of one sample.
    len: usize,
}

impl MeanSquaredDistance {
    fn sum(z: &[f32], target: &[f32]) -> f64 {
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
        z.chunks(256).zip(target.chunks(256)).map(run).sum()
    }
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
        let rows = self.counted.as_ref().map_or(z.len(), |counted| counted.len() * self.len);
        if z.len() != self.target.len() || z.len() != rows {
            bail!("{NAME}: {} values, but targets for {}", z.len(), self.target.len().min(rows));
        }
        let sum = match &self.counted {
            None => Self::sum(z, &self.target),
            Some(counted) => {
                let len = self.len.max(1);
                let rows = z.chunks(len).zip(self.target.chunks(len)).zip(counted);
                rows.filter(|(_, counts)| **counts).map(|((z, target), _)| Self::sum(z, target)).sum()
            }
        };
        Ok((CpuStorage::F32(vec![(sum / self.entries.max(1) as f64) as f32]), Shape::from(())))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let scale = 2.0 * grad.to_scalar::<f32>()? / self.entries.max(1) as f32;
        let (storage, layout) = arg.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { bail!("{NAME}: the tensor is not on the CPU") };
        let z = values(storage, layout)?;
        let mut gradient: Vec<f32> = z.iter().zip(&self.target).map(|(z, target)| scale * (z - target)).collect();
        let rows = gradient.chunks_mut(self.len.max(1)).zip(self.counted.iter().flatten());
        rows.filter(|(_, counts)| !**counts).for_each(|(row, _)| row.fill(0.0));
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

    /// The two averages so far.
    pub(crate) fn averages(&self) -> Option<[f64; 2]> {
        self.averages
    }

    /// Goes on from such averages.
    pub(crate) fn set_averages(&mut self, averages: [f64; 2]) {
        self.averages = Some(averages);
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

    fn all(values: Vec<f32>) -> BatchTargets {
        BatchTargets { values, counted: None }
    }

    #[test]
    fn samples_that_do_not_count_are_as_if_they_were_not_there() {
        let features = |samples: &[f32]| {
            let values: Vec<f32> = samples.iter().flat_map(|&v| [v, v + 1.0, -v]).collect();
            Var::from_vec(values, (samples.len(), 3), &Device::Cpu).unwrap()
        };
        let (some, every) = (features(&[1.0, 3.0]), features(&[1.0, 2.0, 3.0, 5.0]));
        let counted = Some(vec![true, false, true, false]);
        let masked = mean_squared_distance(&every, BatchTargets { values: vec![0.5; 12], counted }).unwrap();
        let plain = mean_squared_distance(&some, all(vec![0.5; 6])).unwrap();
        assert_eq!(masked.to_scalar::<f32>().unwrap(), plain.to_scalar::<f32>().unwrap());
        let gradient = |loss: &Tensor, of: &Var| loss.backward().unwrap().get(of).unwrap().to_vec2::<f32>().unwrap();
        let (masked, plain) = (gradient(&masked, &every), gradient(&plain, &some));
        assert_eq!(masked, [plain[0].clone(), vec![0.0; 3], plain[1].clone(), vec![0.0; 3]]);
        let none = BatchTargets { values: vec![0.5; 6], counted: Some(vec![false; 2]) };
        assert_eq!(mean_squared_distance(&some, none).unwrap().to_scalar::<f32>().unwrap(), 0.0);
        let short = BatchTargets { values: vec![0.5; 6], counted: Some(vec![true, false, true]) };
        assert!(mean_squared_distance(&some, short).is_err());
    }

    #[test]
    fn distance_and_gradient_are_those_of_plain_tensor_operations() {
        let values =
            |seed: usize| -> Vec<f32> { (0..7 * 50).map(|k| ((k * seed) % 101) as f32 / 50.0 - 1.0).collect() };
        let z = Var::from_vec(values(37), (7, 50), &Device::Cpu).unwrap();
        let target = Tensor::from_vec(values(53), (7, 50), &Device::Cpu).unwrap();
        let ours = (mean_squared_distance(&z, all(values(53))).unwrap() * 3.0).unwrap();
        let theirs = ((z.as_tensor() - &target).unwrap().sqr().unwrap().mean_all().unwrap() * 3.0).unwrap();
        let scalar = |t: &Tensor| t.to_scalar::<f32>().unwrap();
        assert!((scalar(&ours) - scalar(&theirs)).abs() <= 64.0 * f32::EPSILON * scalar(&theirs));
        let gradient =
            |loss: &Tensor| loss.backward().unwrap().get(&z).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in gradient(&ours).iter().zip(gradient(&theirs)) {
            assert!((a - b).abs() <= 8.0 * f32::EPSILON * b.abs().max(1e-3), "{a} {b}");
        }
        assert!(mean_squared_distance(&z, all(vec![0.0; 3])).is_err());
    }

    #[test]
    fn smooth_l1_and_its_gradient_are_those_of_the_definition() {
        let z = Var::from_vec(vec![0.0_f32, 0.5, 3.0, -4.0], (2, 2), &Device::Cpu).unwrap();
        let batch = |outputs| Batch { indices: &[], images: &[], labels: &[], outputs };
        let loss = supervised(LossKind::SmoothL1, &z, batch(&[0.0, 0.0, 1.0, 0.0])).unwrap();
        // 0, ½ · ¼, 2 - ½ and 4 - ½, over four entries; every number is exact.
        assert_eq!(loss.to_scalar::<f32>().unwrap(), (0.125 + 1.5 + 3.5) / 4.0);
        let gradient = loss.backward().unwrap().get(&z).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(gradient, [[0.0, 0.125], [0.25, -0.25]]);
        assert!(supervised(LossKind::SmoothL1, &z, batch(&[0.0])).is_err());
        let squared = supervised(LossKind::Mse, &z, batch(&[0.0, 0.0, 1.0, 0.0])).unwrap();
        assert_eq!(squared.to_scalar::<f32>().unwrap(), (0.25 + 4.0 + 16.0) / 4.0);
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
