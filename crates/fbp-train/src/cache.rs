//! Features computed once, and their second moment.

use candle_core::{Device, Tensor};
use faer::{Accum, Mat, MatRef, Par};
use fbp_linalg::{Cholesky, matmul};
use fbp_models::{Network, bridge};
use rayon::prelude::*;

use crate::TrainError;
use crate::data::{Batcher, Dataset, Normalization};
use crate::evaluate::{pool_par, rmse};
use crate::metrics::{argmax, count_right};

/// Samples that are pushed through the frozen layers at a time: the features between the layers of a convolutional network should fit a
/// cache, and not be asked of the system again and again. On one thread 12,000 images of 28×28 take `resnet20` 6 s of the system with
/// 1000 at a time, and none with 100 or 32; the computation itself is as fast, and slower again with 32.
const BATCH: usize = 100;
/// Samples of one task: the sums of the tasks are added in their order, so the number of threads changes nothing.
const TILE: usize = 1024;

/// Features of some samples at one place of a network, computed once, with their labels.
///
/// # Shapes
/// One feature after the other: a row-major `[N, F]` tensor, which is a column-major `F × N` matrix.
#[derive(Clone, Debug)]
pub(crate) struct FeatureCache {
    pub(crate) values: Vec<f32>,
    pub(crate) labels: Vec<u32>,
    /// What the samples should give, one after the other; none where there are labels.
    pub(crate) outputs: Vec<f32>,
    pub(crate) len: usize,
    /// Value of the constant feature that stands for a bias: 1, or 0 if there is no bias.
    pub(crate) constant: f32,
}

impl Default for FeatureCache {
    fn default() -> Self {
        Self { values: Vec::new(), labels: Vec::new(), outputs: Vec::new(), len: 0, constant: 1.0 }
    }
}

impl FeatureCache {
    /// Runs `features` on the given samples.
    ///
    /// # Errors
    /// [`TrainError::Data`] if a sample is not there, and those of `features`.
    pub(crate) fn new(
        data: &Dataset,
        normalization: &Normalization,
        samples: &[usize],
        features: impl Fn(&Tensor) -> Result<Tensor, TrainError>,
    ) -> Result<Self, TrainError> {
        let mut cache = Self { labels: Vec::with_capacity(samples.len()), ..Self::default() };
        if samples.is_empty() {
            return Ok(cache);
        }
        let mut batcher = Batcher::new(data, samples.to_vec(), normalization, BATCH)?;
        while let Some(batch) = batcher.next_batch(pool_par()) {
            let images = Tensor::from_slice(batch.images, (batch.len(), data.shape().len()), &Device::Cpu)?;
            bridge::with_matrix(&features(&images)?, |matrix| {
                if cache.len == 0 {
                    cache.len = matrix.nrows();
                    cache.values.reserve_exact(cache.len * samples.len());
                }
                for column in matrix.col_iter() {
                    cache.values.extend(column.iter());
                }
            })?;
            cache.labels.extend_from_slice(batch.labels);
            cache.outputs.extend_from_slice(batch.outputs);
        }
        Ok(cache)
    }

    /// Some of the samples.
    pub(crate) fn picked(&self, samples: &[usize]) -> Self {
        let values = samples.iter().flat_map(|&sample| &self.values[sample * self.len..][..self.len]).copied();
        Self {
            values: values.collect(),
            labels: samples.iter().map(|&sample| self.labels[sample]).collect(),
            outputs: self.outputs_of(samples),
            ..*self
        }
    }

    /// Number of samples.
    pub(crate) fn samples(&self) -> usize {
        self.labels.len()
    }

    /// Outputs that a sample should give; none where there are labels.
    pub(crate) fn entries(&self) -> usize {
        self.outputs.len() / self.samples().max(1)
    }

    /// The outputs that some samples should give, one after the other.
    pub(crate) fn outputs_of(&self, samples: &[usize]) -> Vec<f32> {
        let entries = self.entries();
        samples.iter().flat_map(|&sample| &self.outputs[sample * entries..][..entries]).copied().collect()
    }

    /// The features of some samples as a batch, and their labels.
    ///
    /// # Errors
    /// [`TrainError::Tensor`] if the batch cannot be made.
    pub(crate) fn batch(&self, samples: &[usize]) -> Result<(Tensor, Vec<u32>), TrainError> {
        let mut values = Vec::with_capacity(samples.len() * self.len);
        for &sample in samples {
            values.extend_from_slice(&self.values[sample * self.len..][..self.len]);
        }
        let labels = samples.iter().map(|&sample| self.labels[sample]).collect();
        Ok((Tensor::from_vec(values, (samples.len(), self.len), &Device::Cpu)?, labels))
    }

    /// Accuracy of the stages from `first` on, or RMSE of their outputs; none without samples.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the features are not inputs of stage `first`.
    pub(crate) fn score(&self, network: &Network, first: usize) -> Result<Option<f64>, TrainError> {
        self.score_of(|features| Ok(network.infer_stages(first..network.stages().len(), features)?))
    }

    /// Of which samples what `outputs` gives for the features is largest at the label.
    ///
    /// # Errors
    /// Those of `outputs`.
    pub(crate) fn right(
        &self,
        outputs: impl Fn(&Tensor) -> Result<Tensor, TrainError>,
    ) -> Result<Vec<bool>, TrainError> {
        let mut right = Vec::with_capacity(self.samples());
        for (values, labels) in self.values.chunks((BATCH * self.len).max(1)).zip(self.labels.chunks(BATCH)) {
            let found = outputs(&Tensor::from_slice(values, (labels.len(), self.len), &Device::Cpu)?)?;
            let (len, found) = (found.dim(1)?, found.flatten_all()?.to_vec1::<f32>()?);
            right.extend(found.chunks_exact(len).zip(labels).map(|(row, &label)| argmax(row) == label as usize));
        }
        Ok(right)
    }

    /// Accuracy of what `outputs` gives for the features, or its RMSE; none without samples.
    ///
    /// # Errors
    /// Those of `outputs`.
    pub(crate) fn score_of(
        &self,
        outputs: impl Fn(&Tensor) -> Result<Tensor, TrainError>,
    ) -> Result<Option<f64>, TrainError> {
        let (mut right, mut squares) = (0, 0.0);
        let entries = self.entries();
        for (part, (values, labels)) in
            self.values.chunks((BATCH * self.len).max(1)).zip(self.labels.chunks(BATCH)).enumerate()
        {
            let found = outputs(&Tensor::from_slice(values, (labels.len(), self.len), &Device::Cpu)?)?;
            let (len, found) = (found.dim(1)?, found.flatten_all()?.to_vec1::<f32>()?);
            if entries == 0 {
                right += count_right(&found, len, labels);
            } else {
                let wanted = &self.outputs[part * BATCH * entries..][..labels.len() * entries];
                squares += rmse(&found, wanted).powi(2) * wanted.len() as f64;
            }
        }
        let samples = self.samples() as f64;
        let score = if entries == 0 { right as f64 / samples } else { (squares / (samples * entries as f64)).sqrt() };
        Ok((self.samples() > 0).then_some(score))
    }
}

/// What is added at least to a moment that is not positive definite without it, as shares of its mean: sums in single precision
/// are rounded by about the first.
const REPAIRS: [f64; 3] = [1e-7, 1e-6, 1e-5];

/// The Cholesky factors of a second moment to whose diagonal `ridge` times its mean is added, and more where its roundings need it;
/// of features that are all zero, `ridge` itself. `what` is what it is the moment of.
///
/// # Errors
/// [`TrainError::Singular`] for a moment that is not finite.
pub(crate) fn ridge_factor(moment: &Mat<f64>, ridge: f64, what: &'static str) -> Result<Cholesky, TrainError> {
    let dim = moment.nrows();
    let mean = match (0..dim).map(|k| moment[(k, k)]).sum::<f64>() / dim.max(1) as f64 {
        0.0 => 1.0,
        mean => mean,
    };
    let factor = |share: f64| {
        let shifted = Mat::from_fn(dim, dim, |i, j| moment[(i, j)] + if i == j { share * mean } else { 0.0 });
        Cholesky::new(shifted.as_ref())
    };
    let more = REPAIRS.into_iter().filter(|share| *share > ridge);
    std::iter::once(ridge).chain(more).find_map(factor).ok_or(TrainError::Singular { what })
}

/// Mean of `x̃ x̃ᵀ`; the last entry of `x̃` is the cache's constant.
pub(crate) fn second_moment(cache: &FeatureCache) -> Mat<f64> {
    let (n, len) = (cache.samples(), cache.len);
    let features = MatRef::from_column_major_slice(&cache.values, len, n);
    let tile = |index: usize| {
        let start = index * TILE;
        let part = features.subcols(start, TILE.min(n - start));
        let mut gram = Mat::<f32>::zeros(len, len);
        matmul(gram.as_mut(), Accum::Replace, part, part.transpose(), 1.0, Par::Seq); // (F×T)(T×F)
        let mut sums = vec![0.0_f32; len];
        for column in part.col_iter() {
            for (sum, value) in sums.iter_mut().zip(column.iter()) {
                *sum += value;
            }
        }
        (gram, sums)
    };
    let parts: Vec<_> = (0..n.div_ceil(TILE)).into_par_iter().map(tile).collect();
    let scale = 1.0 / n.max(1) as f64;
    let mut moment = Mat::zeros(len + 1, len + 1);
    for (gram, sums) in &parts {
        for j in 0..len {
            for i in 0..len {
                moment[(i, j)] += f64::from(gram[(i, j)]) * scale;
            }
            moment[(len, j)] += f64::from(sums[j] * cache.constant) * scale;
        }
    }
    for j in 0..len {
        moment[(j, len)] = moment[(len, j)];
    }
    moment[(len, len)] = f64::from(cache.constant * cache.constant);
    moment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(value: impl Fn(usize) -> f32, constant: f32) -> FeatureCache {
        let values = (0..50 * 7).map(value).collect();
        FeatureCache { values, labels: vec![0; 50], len: 7, constant, ..FeatureCache::default() }
    }

    /// What a moment had added to its diagonal, as the largest and the smallest part of its mean, or of 1 if that is zero.
    fn added(cache: &FeatureCache, ridge: f64) -> [f64; 2] {
        let moment = second_moment(cache);
        let factor = ridge_factor(&moment, ridge, "it").unwrap();
        let product = factor.lower() * factor.lower().transpose();
        let mean = (0..8).map(|k| moment[(k, k)]).sum::<f64>() / 8.0;
        let shares = (0..8).map(|k| (product[(k, k)] - moment[(k, k)]) / if mean == 0.0 { 1.0 } else { mean });
        let shares: Vec<f64> = shares.collect();
        [shares.iter().copied().fold(f64::MIN, f64::max), shares.iter().copied().fold(f64::MAX, f64::min)]
    }

    #[test]
    fn moments_of_features_that_never_change_are_factorised() {
        let close = |found: [f64; 2], share: f64| found.iter().all(|found| (found / share - 1.0).abs() <= 1e-3);
        // One feature again and again: its moment has rank 1, and the roundings of the moment have not.
        let constant = added(&cache(|k| 0.1 + (k % 7) as f32 / 3.0, 1.0), 1e-12);
        assert!([1e-12, 1e-7, 1e-6, 1e-5].iter().any(|share| close(constant, *share)), "{constant:?}");
        for constant in [0.0, 1.0] {
            assert!(close(added(&cache(|_| 0.0, constant), 1e-8), 1e-8));
            // Squares of such numbers vanish.
            assert!(close(added(&cache(|_| 1e-40, constant), 1e-8), 1e-8));
        }
        // A moment that is fine gets what was asked for, and no more.
        assert!(close(added(&cache(|k| ((k * 37) % 101) as f32 / 50.0, 1.0), 0.1), 0.1));
        let nothing = second_moment(&cache(|_| f32::NAN, 1.0));
        assert!(matches!(ridge_factor(&nothing, 1e-3, "it"), Err(TrainError::Singular { what: "it" })));
    }
}
