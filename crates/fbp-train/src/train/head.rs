use std::time::Instant;

use candle_core::Tensor;
use fbp_models::Network;

use super::curves::PostTrainCurves;
use super::session::{Session, add_time};
use super::softmax_fit::{SoftmaxFit, linear_accuracy};
use crate::TrainError;
use crate::affine::AffineLayer;
use crate::cache::FeatureCache;

/// Dampings tried, strongest first: each fit starts where the one before ended.
const DAMPINGS: [f64; 6] = [1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5];

/// The last layer of the network.
///
/// # Errors
/// [`TrainError::Mismatch`] if it is not linear.
pub(crate) fn head_of(network: &Network) -> Result<AffineLayer, TrainError> {
    let plan = network.spec().plan()?;
    let last = plan.stages.last().and_then(|stage| stage.layers.last());
    match last.map(|layer| (layer.spec.kind(), layer.path.as_str())) {
        Some(("linear", path)) => AffineLayer::of(network, path),
        other => Err(TrainError::Mismatch {
            left: "the mode head".into(),
            right: format!("the network {}", network.spec().name),
            reason: format!(
                "its last layer is {}, and a head that can be fitted is linear",
                other.map_or("missing", |(kind, _)| kind)
            ),
        }),
    }
}

/// Fits the last linear layer to the labels, with every damping, and keeps the best on the validation part.
///
/// # Errors
/// As [`post_train`](super::post_train).
pub(super) fn run(network: &mut Network, session: Session<'_>) -> Result<PostTrainCurves, TrainError> {
    let head = head_of(network)?;
    let begun = Instant::now();
    let features = |images: &Tensor| head.states(network, images);
    let cached = |samples: &[usize]| -> Result<FeatureCache, TrainError> {
        let cache = FeatureCache::new(&session.data.train, &session.data.normalization, samples, features)?;
        Ok(FeatureCache { constant: head.constant, ..cache })
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
