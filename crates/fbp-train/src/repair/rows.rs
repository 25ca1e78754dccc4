use candle_core::{Device, Tensor, Var};
use faer::Mat;
use fbp_models::Network;

use super::deadline::Deadline;
use super::product::product;
use crate::TrainError;
use crate::affine::{AffineLayer, flat};
use crate::cache::FeatureCache;
use rayon::prelude::*;

/// Samples whose inputs of the layer are known, as batch and as columns.
pub(super) struct Subjects {
    states: Tensor,
    pub(super) labels: Vec<u32>,
    pub(super) columns: Vec<Mat<f64>>,
}

/// A linearised condition on the total change: `⟨g x̃ᵀ, ΔW⟩ >= demand`, with `x̃` the columns of the sample.
pub(super) struct Row {
    /// Place of the sample among the subjects.
    pub(super) sample: usize,
    /// Derivative of the lead by the outputs of the layer, `outputs × positions`.
    pub(super) g: Mat<f64>,
    pub(super) demand: f64,
}

impl Subjects {
    /// Some samples of a cache.
    ///
    /// # Errors
    /// [`TrainError::Tensor`] if the batch cannot be made.
    pub(super) fn new(layer: &AffineLayer, cache: &FeatureCache, samples: &[usize]) -> Result<Self, TrainError> {
        let (states, labels) = match samples {
            [] => (Tensor::zeros((0, cache.len), candle_core::DType::F32, &Device::Cpu)?, Vec::new()),
            _ => cache.batch(samples)?,
        };
        let columns = samples.par_iter().map(|&k| layer.columns(&cache.values[k * cache.len..][..cache.len])).collect();
        Ok(Self { states, labels, columns })
    }

    /// Subjects of which only the columns are known.
    #[cfg(test)]
    pub(super) fn of_columns(columns: Vec<Mat<f64>>) -> Self {
        let states = Tensor::zeros((0, 0), candle_core::DType::F32, &Device::Cpu);
        Self { states: states.expect("an empty tensor"), labels: Vec::new(), columns }
    }

    /// The conditions that every label leads by the margin of its sample, linearised at the present weights, which differ from the old
    /// ones by `change`. With `rivals`, only so many of the strongest rivals of every sample.
    ///
    /// # Errors
    /// [`TrainError::Model`] or [`TrainError::Tensor`] if the network cannot be run on the samples,
    /// [`TrainError::TimeOver`].
    pub(super) fn rows(
        &self,
        network: &Network,
        layer: &AffineLayer,
        change: &Mat<f64>,
        margins: &[f64],
        rivals: usize,
        deadline: Deadline,
    ) -> Result<Vec<Row>, TrainError> {
        if self.labels.is_empty() {
            return Ok(Vec::new());
        }
        let output = Var::from_tensor(&layer.output(network, &self.states)?)?;
        let logits = layer.logits(network, &self.states, &output)?;
        let classes = logits.dim(1)?;
        let mut jacobian = Vec::with_capacity(classes);
        for class in 0..classes {
            deadline.check()?;
            let store = logits.narrow(1, class, 1)?.sum_all()?.backward()?;
            let gradient = store.get(&output).map_or_else(|| output.zeros_like(), |gradient| Ok(gradient.clone()))?;
            jacobian.push(flat(&gradient)?);
        }
        let (logits, positions) = (flat(&logits)?, layer.positions());
        let len = layer.outputs * positions;
        let of_sample = |(sample, &label): (usize, &u32)| {
            let label = label as usize;
            let own = &logits[sample * classes..][..classes];
            let moved = product(change, self.columns[sample].as_ref());
            let mut order: Vec<usize> = (0..classes).filter(|&class| class != label).collect();
            order.sort_by(|&a, &b| own[b].total_cmp(&own[a]));
            let row = |rival: usize| {
                let at = |class: usize, k: usize| f64::from(jacobian[class][sample * len + k]);
                let entry = |o: usize, p: usize| {
                    let k = layer.output_index(o, p);
                    at(label, k) - at(rival, k)
                };
                let g = Mat::from_fn(layer.outputs, positions, entry);
                let along: f64 =
                    (0..positions).map(|p| (0..layer.outputs).map(|o| g[(o, p)] * moved[(o, p)]).sum::<f64>()).sum();
                let lead = f64::from(own[label] - own[rival]);
                Row { sample, g, demand: margins[sample] - lead + along }
            };
            order.into_iter().take(rivals).map(row).collect::<Vec<_>>()
        };
        let rows: Vec<Vec<Row>> = self.labels.par_iter().enumerate().map(of_sample).collect();
        Ok(rows.into_iter().flatten().collect())
    }
}
