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
    /// Outputs wanted of them, one sample after the other; none where there are labels.
    outputs: Vec<f32>,
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
        Ok(Self { states, labels, outputs: cache.outputs_of(samples), columns })
    }

    /// Subjects of which only the columns are known.
    #[cfg(test)]
    pub(super) fn of_columns(columns: Vec<Mat<f64>>) -> Self {
        let states = Tensor::zeros((0, 0), candle_core::DType::F32, &Device::Cpu);
        Self { states: states.expect("an empty tensor"), labels: Vec::new(), outputs: Vec::new(), columns }
    }

    /// The conditions that every sample leads by its margin, linearised at the present weights, which differ from the old ones by
    /// `change`: a label over its rivals, of which the `rivals` strongest count; every output over the tolerance, on the side on
    /// which it errs, of which the `rivals` with the largest errors count.
    ///
    /// # Errors
    /// [`TrainError::Model`] or [`TrainError::Tensor`] if the network cannot be run on the samples,
    /// [`TrainError::TimeOver`].
    pub(super) fn rows(
        &self,
        network: &Network,
        layer: &AffineLayer,
        change: &Mat<f64>,
        leads: Leads<'_>,
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
        let of_sample = |sample: usize| {
            let own = &logits[sample * classes..][..classes];
            let moved = product(change, self.columns[sample].as_ref());
            let row = |Condition { signs, lead }: Condition| {
                let entry = |o: usize, p: usize| {
                    let k = sample * len + layer.output_index(o, p);
                    signs.iter().map(|&(class, sign)| sign * f64::from(jacobian[class][k])).sum::<f64>()
                };
                let g = Mat::from_fn(layer.outputs, positions, entry);
                let along: f64 =
                    (0..positions).map(|p| (0..layer.outputs).map(|o| g[(o, p)] * moved[(o, p)]).sum::<f64>()).sum();
                Row { sample, g, demand: leads.margins[sample] - lead + along }
            };
            self.conditions(sample, own, leads).into_iter().map(row).collect::<Vec<_>>()
        };
        let rows: Vec<Vec<Row>> = (0..self.labels.len()).into_par_iter().map(of_sample).collect();
        Ok(rows.into_iter().flatten().collect())
    }

    /// The conditions of one sample, the tightest first.
    fn conditions(&self, sample: usize, found: &[f32], leads: Leads<'_>) -> Vec<Condition> {
        let mut conditions: Vec<Condition> = match leads.tolerance {
            None => {
                let label = self.labels[sample] as usize;
                let rival = |class: usize| Condition {
                    signs: vec![(label, 1.0), (class, -1.0)],
                    lead: f64::from(found[label] - found[class]),
                };
                (0..found.len()).filter(|&class| class != label).map(rival).collect()
            }
            Some(tolerance) => {
                let wanted = &self.outputs[sample * found.len()..][..found.len()];
                let side = |(entry, (found, wanted)): (usize, (&f32, &f32))| {
                    let error = f64::from(found - wanted);
                    Condition { signs: vec![(entry, -error.signum())], lead: tolerance - error.abs() }
                };
                found.iter().zip(wanted).enumerate().map(side).collect()
            }
        };
        conditions.sort_by(|a, b| a.lead.total_cmp(&b.lead));
        conditions.truncate(leads.rivals);
        conditions
    }
}

/// What conditions ask for.
#[derive(Clone, Copy)]
pub(super) struct Leads<'a> {
    /// By how much each sample should lead.
    pub(super) margins: &'a [f64],
    /// Most conditions of a sample.
    pub(super) rivals: usize,
    /// How far an output may be from the wanted one; none for labels.
    pub(super) tolerance: Option<f64>,
}

/// A sum of outputs with signs, which has a lead.
struct Condition {
    signs: Vec<(usize, f64)>,
    lead: f64,
}
