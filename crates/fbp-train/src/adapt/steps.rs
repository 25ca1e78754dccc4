use std::f64::consts::PI;
use std::ops::Range;

use candle_core::{Tensor, Var};
use fbp_models::ops::cross_entropy;
use fbp_models::{AdamW, AdamWParams, Network};

use super::candidate::Candidate;
use super::options::Method;
use super::prepared::{Labelled, Prepared};
use crate::TrainError;
use crate::cache::FeatureCache;
use crate::data::shuffle_indices;
use crate::objective::{BatchTargets, DistanceWeight, mean_squared_distance};
use crate::settings::Embedding;
use crate::targets::{OutputGoal, WantedOutputs};
use crate::train::head_of;

/// Samples of a step.
const BATCH: usize = 32;
/// Fewest steps, and fewest passes over the samples.
const STEPS: usize = 40;
const PASSES: usize = 6;
/// Lead of the label in target outputs.
const MARGIN: f64 = 1.0;

/// AdamW along a cosine, from the features before the first stage that changes, which are computed once.
pub(super) struct Steps {
    /// The stages that are run.
    stages: Range<usize>,
    /// Prefix of the names of the weights that change; all of these stages if there is none.
    only: Option<String>,
    rate: f64,
    anchor: Option<f64>,
    alpha: Option<f64>,
}

/// A weight with its values at the start.
type Anchored = (Var, Tensor);

impl Steps {
    /// What a candidate trains.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] for the last layer alone if it is not linear.
    pub(super) fn of(candidate: &Candidate, network: &Network) -> Result<Self, TrainError> {
        let count = network.stages().len();
        let (first, only) = match candidate.method {
            Method::HeadFineTune => (count - 1, Some(format!("{}.", head_of(network)?.name()))),
            Method::Tail => (count / 2, None),
            _ => (0, None),
        };
        let Candidate { anchor, alpha, .. } = *candidate;
        Ok(Self { stages: first..count, only, rate: candidate.rate.unwrap_or(0.0), anchor, alpha })
    }

    /// Trains; none if the loss is no number any more.
    ///
    /// # Errors
    /// [`TrainError::Model`] if the samples do not fit the network.
    pub(super) fn run(&self, start: &Prepared, labelled: Labelled<'_>) -> Result<Option<Network>, TrainError> {
        let Labelled { data, samples, seed } = labelled;
        let first = self.stages.start;
        let features = |images: &Tensor| Ok(start.network.infer_stages(0..first, images)?);
        let cache = FeatureCache::new(data, &start.normalization, samples, features)?;
        let targets = self.alpha.map(|alpha| Targets::new(start, labelled, alpha)).transpose()?;
        let mut network = start.network.duplicate()?;
        network.freeze(0..first)?;
        network.set_training(true);
        let vars = self.vars(&network)?;
        let anchored: Vec<Anchored> = match self.anchor {
            Some(_) => {
                vars.iter().map(|var| Ok((var.clone(), var.as_tensor().copy()?))).collect::<Result<_, TrainError>>()?
            }
            None => Vec::new(),
        };
        let params = AdamWParams { learning_rate: self.rate, weight_decay: 0.0, ..AdamWParams::default() };
        let mut optimiser = AdamW::new(vars, params)?;
        let mut targets = targets;
        let steps = STEPS.max((PASSES * samples.len()).div_ceil(BATCH));
        let (mut step, mut pass) = (0, 0);
        while step < steps {
            let mut order: Vec<usize> = (0..samples.len()).collect();
            shuffle_indices(&mut order, seed, pass);
            pass += 1;
            for places in order.chunks(BATCH) {
                // Statistics of a single image say nothing.
                if step == steps || (places.len() < 2 && samples.len() > BATCH) {
                    continue;
                }
                let rate = self.rate * 0.5 * (1.0 + (PI * step as f64 / steps as f64).cos());
                optimiser.set_learning_rate(rate)?;
                let (input, labels) = cache.batch(places)?;
                let output = network.forward_stages(self.stages.clone(), &input)?;
                let mut loss = cross_entropy(&output, &labels)?;
                if let Some(targets) = &mut targets {
                    loss = targets.beside(loss, &output, places)?;
                }
                if !loss.to_scalar::<f32>()?.is_finite() {
                    return Ok(None);
                }
                optimiser.backward_step(&loss)?;
                self.pull_back(&anchored, rate)?;
                step += 1;
            }
        }
        network.set_training(false);
        network.freeze(0..0)?;
        Ok(Some(network))
    }

    fn vars(&self, network: &Network) -> Result<Vec<Var>, TrainError> {
        let is_own = |name: &str| self.only.as_ref().is_none_or(|prefix| name.starts_with(prefix.as_str()));
        let named = network.named_vars_of(self.stages.clone())?;
        Ok(named.into_iter().filter(|(name, _)| is_own(name)).map(|(_, var)| var).collect())
    }

    /// The proximal step of `β/2 |w - w₀|²`, apart from the gradient as AdamW's decay is: whatever the strength, it ends between
    /// `w` and `w₀`.
    ///
    /// # Source
    /// Li, Grandvalet & Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML 2018 (L2-SP).
    fn pull_back(&self, anchored: &[Anchored], rate: f64) -> Result<(), TrainError> {
        let Some(anchor) = self.anchor else { return Ok(()) };
        let pull = rate * anchor;
        for (var, start) in anchored {
            let held = ((var.as_tensor() * (1.0 / (1.0 + pull)))? + (start * (pull / (1.0 + pull)))?)?;
            var.set(&held)?;
        }
        Ok(())
    }
}

/// Target outputs: the nearest to those of the start in which the label leads.
struct Targets {
    values: Vec<f32>,
    len: usize,
    weight: DistanceWeight,
}

impl Targets {
    fn new(start: &Prepared, labelled: Labelled<'_>, alpha: f64) -> Result<Self, TrainError> {
        let outputs = |images: &Tensor| Ok(start.network.infer(images)?);
        let cache = FeatureCache::new(labelled.data, &start.normalization, labelled.samples, outputs)?;
        let goal = OutputGoal { embedding: Embedding::Margin, margin: MARGIN, tolerance: 0.0 };
        let values = goal.embed(&cache.values, WantedOutputs { labels: &cache.labels, outputs: &[] })?;
        Ok(Self { values, len: cache.len, weight: DistanceWeight::new(alpha) })
    }

    /// The loss with the weighted distance beside it.
    fn beside(&mut self, loss: Tensor, output: &Tensor, places: &[usize]) -> Result<Tensor, TrainError> {
        let values = places.iter().flat_map(|&place| &self.values[place * self.len..][..self.len]).copied().collect();
        let distance = mean_squared_distance(output, BatchTargets { values, counted: None })?;
        let both = [&loss, &distance].map(|tensor| tensor.to_scalar::<f32>());
        let [loss_value, distance_value] = both;
        let weight = self.weight.update(f64::from(loss_value?), f64::from(distance_value?));
        Ok((loss + (distance * weight)?)?)
    }
}
