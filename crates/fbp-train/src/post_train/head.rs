use std::time::Instant;

use candle_core::Tensor;
use faer::Mat;
use fbp_models::Network;

use super::cache::FeatureCache;
use super::run::{PostTrainCurves, Session, add_time};
use super::softmax_fit::{SoftmaxFit, linear_accuracy};
use crate::TrainError;

/// Dampings tried, strongest first: each fit starts where the one before ended.
const DAMPINGS: [f64; 6] = [1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5];

/// Where the last linear layer is.
struct Head {
    stage: usize,
    layer: usize,
    name: String,
}

impl Head {
    /// The last layer of the network, which has to be linear.
    fn of(network: &Network) -> Result<Self, TrainError> {
        let stage = network.stages().len() - 1;
        let last = &network.stages()[stage];
        let layer = last.layers().len() - 1;
        let kind = last.layers()[layer].kind();
        if kind != "linear" {
            return Err(TrainError::Mismatch {
                left: "--mode head".into(),
                right: format!("the network {}", network.spec().name),
                reason: format!("its last layer is {kind}, and a head that can be fitted is linear"),
            });
        }
        Ok(Self { stage, layer, name: format!("{}.{layer}", last.name()) })
    }

    /// Weight and bias, `classes × (F + 1)`; a bias that is not there is zero.
    fn weights(&self, network: &Network) -> Result<Mat<f64>, TrainError> {
        let mut weights = Mat::zeros(0, 0);
        for (name, var) in network.named_vars_of(self.stage..self.stage + 1)? {
            if name == format!("{}.weight", self.name) {
                let rows = var.to_vec2::<f32>()?;
                let len = rows.first().map_or(0, Vec::len);
                weights = Mat::from_fn(rows.len(), len + 1, |i, j| rows[i].get(j).copied().map_or(0.0, f64::from));
            }
        }
        for (name, var) in network.named_vars_of(self.stage..self.stage + 1)? {
            if name == format!("{}.bias", self.name) {
                for (i, value) in var.to_vec1::<f32>()?.into_iter().enumerate() {
                    let last = weights.ncols() - 1;
                    weights[(i, last)] = f64::from(value);
                }
            }
        }
        Ok(weights)
    }

    /// Writes weight and bias.
    fn set(&self, network: &Network, weights: &Mat<f64>) -> Result<(), TrainError> {
        let (classes, len) = (weights.nrows(), weights.ncols() - 1);
        for (name, var) in network.named_vars_of(self.stage..self.stage + 1)? {
            if name == format!("{}.weight", self.name) {
                let values = (0..classes).flat_map(|i| (0..len).map(move |j| weights[(i, j)] as f32)).collect();
                var.set(&Tensor::from_vec(values, (classes, len), var.device())?)?;
            } else if name == format!("{}.bias", self.name) {
                let values = (0..classes).map(|i| weights[(i, len)] as f32).collect();
                var.set(&Tensor::from_vec(values, classes, var.device())?)?;
            }
        }
        Ok(())
    }

    fn has_bias(&self, network: &Network) -> Result<bool, TrainError> {
        let vars = network.named_vars_of(self.stage..self.stage + 1)?;
        Ok(vars.iter().any(|(name, _)| *name == format!("{}.bias", self.name)))
    }
}

/// Fits the last linear layer to the labels, with every damping, and keeps the best on the validation part.
///
/// # Errors
/// As [`post_train`](super::post_train).
pub(super) fn run(network: &mut Network, session: Session<'_>) -> Result<PostTrainCurves, TrainError> {
    let head = Head::of(network)?;
    let begun = Instant::now();
    let features = |images: &Tensor| Ok(network.infer_before(head.stage, head.layer, images)?);
    let constant = if head.has_bias(network)? { 1.0 } else { 0.0 };
    let cached = |samples: &[usize]| -> Result<FeatureCache, TrainError> {
        let cache = FeatureCache::new(&session.data.train, &session.data.normalization, samples, features)?;
        Ok(FeatureCache { constant, ..cache })
    };
    let (train, validation) = (cached(&session.split.train)?, cached(&session.split.validation)?);
    tracing::info!(seconds = begun.elapsed().as_secs_f64(), samples = train.samples(), "features are cached");
    let old = head.weights(network)?;
    let fit = SoftmaxFit::new(&train, old.nrows())?;
    let start = fit.to_white(old.as_ref());
    let mut curves = PostTrainCurves::default();
    let (mut best, mut best_accuracy) = (None, linear_accuracy(old.as_ref(), &validation));
    let mut v = start.clone();
    session.progress.begin("head", DAMPINGS.len(), "fits");
    for (index, damping) in DAMPINGS.into_iter().enumerate() {
        let entropy = fit.fit(&mut v, &start, damping);
        if !entropy.is_finite() {
            return Err(TrainError::Diverged { epoch: index + 1 });
        }
        let weights = fit.unwhitened(&v);
        let accuracy = linear_accuracy(weights.as_ref(), &validation);
        curves.cross_entropy.push(entropy);
        curves.damping.push(damping);
        curves.validation_accuracy.extend(accuracy);
        // Of equals the strongest damping, which is the smallest change.
        if accuracy > best_accuracy {
            (best, best_accuracy) = (Some((index + 1, weights)), accuracy);
        }
        session.progress.advance(1);
    }
    session.progress.end();
    add_time(&mut curves, begun);
    curves.test_accuracy_before = session.test()?.accuracy(network)?;
    let epoch = match &best {
        Some((epoch, weights)) => {
            head.set(network, weights)?;
            *epoch
        }
        None => 0,
    };
    session.conclude(&mut curves, network, (epoch, best_accuracy))?;
    Ok(curves)
}
