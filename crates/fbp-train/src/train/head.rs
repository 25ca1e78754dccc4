use std::time::Instant;

use candle_core::Tensor;
use faer::{Accum, Mat, MatRef, Par};
use fbp_linalg::matmul;
use fbp_models::Network;

use super::curves::PostTrainCurves;
use super::session::{Session, add_time, check_stop, is_better};
use super::softmax_fit::{SoftmaxFit, linear_accuracy};
use crate::TrainError;
use crate::affine::AffineLayer;
use crate::cache::{FeatureCache, ridge_factor, second_moment};

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

/// Fits the last linear layer to the labels or outputs, with every damping, and keeps the best on the validation part.
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
    let mut fits = if train.entries() > 0 { Fits::squares(&train, &old)? } else { Fits::softmax(&train, &old)? };
    let mut curves = PostTrainCurves::default();
    curves.scores.measure = session.measure();
    let (mut best, mut best_score) = (None, score_of(&old, &validation));
    session.progress.begin("head", DAMPINGS.len(), "fits");
    for (index, damping) in DAMPINGS.into_iter().enumerate() {
        check_stop(session.progress)?;
        let (loss, weights) = fits.fit(&train, &old, damping);
        if !loss.is_finite() {
            return Err(TrainError::Diverged { epoch: index + 1 });
        }
        let score = score_of(&weights, &validation);
        curves.scores.loss.push(loss);
        curves.damping.push(damping);
        curves.scores.validation.extend(score);
        // Of equals the strongest damping, which is the smallest change.
        if is_better(session.measure(), score, best_score) {
            (best, best_score) = (Some((index + 1, weights)), score);
        }
        session.progress.advance(1);
    }
    session.progress.end();
    add_time(&mut curves, begun);
    curves.scores.before = session.test()?.score(network)?;
    let epoch = match &best {
        Some((epoch, weights)) => {
            head.set(network, weights)?;
            *epoch
        }
        None => 0,
    };
    session.conclude(&mut curves, network, (epoch, best_score))?;
    Ok(curves)
}

/// Share of the mean second moment that is added to it, so that features that never change are no trouble.
const RIDGE: f64 = 1e-8;
/// Samples whose outputs are computed at a time.
const TILE: usize = 4096;

/// The fits of one layer, with one damping after the other.
enum Fits {
    Softmax {
        fit: Box<SoftmaxFit>,
        start: Vec<f64>,
        v: Vec<f64>,
    },
    /// The weights of the least squared error.
    Squares(Mat<f64>),
}

impl Fits {
    fn softmax(train: &FeatureCache, old: &Mat<f64>) -> Result<Self, TrainError> {
        let fit = SoftmaxFit::new(train, old.nrows())?;
        let start = fit.to_white(old.as_ref());
        Ok(Self::Softmax { v: start.clone(), start, fit: Box::new(fit) })
    }

    /// `W = E y x̃ᵀ (E x̃ x̃ᵀ)⁻¹`.
    ///
    /// # Errors
    /// [`TrainError::Singular`] for features that are not finite.
    fn squares(train: &FeatureCache, old: &Mat<f64>) -> Result<Self, TrainError> {
        let (dim, outputs) = (train.len + 1, old.nrows());
        let moment = second_moment(train);
        let mut cross = Mat::zeros(outputs, dim);
        let scale = 1.0 / train.samples().max(1) as f64;
        for start in (0..train.samples()).step_by(TILE) {
            let (x, y) = columns(train, start);
            matmul(cross.as_mut(), Accum::Add, y.as_ref(), x.transpose(), scale, Par::Seq); // (O×T)(T×D)
        }
        let factor = ridge_factor(&moment, RIDGE, "the inputs of the layer")?;
        let solved = factor.solve(cross.transpose());
        Ok(Self::Squares(solved.transpose().to_owned()))
    }

    /// Loss on the training part, and weights. A damping `μ` asks `min E |W x̃ - y|² + μ E |(W - W₀) x̃|²`: of squares it is a step
    /// of `1 / (1 + μ)` from the old weights to those of the least error.
    fn fit(&mut self, train: &FeatureCache, old: &Mat<f64>, damping: f64) -> (f64, Mat<f64>) {
        match self {
            Self::Softmax { fit, start, v } => {
                let loss = fit.fit(v, start, damping);
                (loss, fit.unwhitened(v))
            }
            Self::Squares(best) => {
                let weights = old + faer::Scale(1.0 / (1.0 + damping)) * (&*best - old);
                (error_of(&weights, train).unwrap_or(0.0).powi(2), weights)
            }
        }
    }
}

/// Inputs with their constant, and outputs, of the samples of a tile as columns.
fn columns(cache: &FeatureCache, start: usize) -> (Mat<f64>, Mat<f64>) {
    let (count, entries) = (TILE.min(cache.samples() - start), cache.entries());
    let features =
        MatRef::from_column_major_slice(&cache.values[start * cache.len..][..count * cache.len], cache.len, count);
    let entry = |i: usize, j: usize| f64::from(if i < cache.len { features[(i, j)] } else { cache.constant });
    let wanted = &cache.outputs[start * entries..][..count * entries];
    (Mat::from_fn(cache.len + 1, count, entry), Mat::from_fn(entries, count, |i, j| f64::from(wanted[j * entries + i])))
}

/// RMSE of a linear layer on cached features; none without samples.
fn error_of(weights: &Mat<f64>, cache: &FeatureCache) -> Option<f64> {
    let entries = cache.entries();
    let mut squares = 0.0;
    for start in (0..cache.samples()).step_by(TILE) {
        let (x, y) = columns(cache, start);
        let found = weights * &x;
        squares += (found - y).norm_l2().powi(2);
    }
    (cache.samples() > 0).then(|| (squares / (cache.samples() * entries.max(1)) as f64).sqrt())
}

/// Accuracy of a linear layer on cached features, or RMSE of its outputs; none without samples.
fn score_of(weights: &Mat<f64>, cache: &FeatureCache) -> Option<f64> {
    if cache.entries() > 0 { error_of(weights, cache) } else { linear_accuracy(weights.as_ref(), cache) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_squares_find_the_layer_that_made_the_outputs_and_dampings_go_there() {
        // y = (2 x₀ - x₁ + 3, x₁), exact in single precision.
        let inputs: Vec<f32> = (0..40).map(|k| ((k * 37) % 19) as f32 - 9.0).collect();
        let outputs = inputs.chunks(2).flat_map(|x| [2.0 * x[0] - x[1] + 3.0, x[1]]).collect();
        let cache = FeatureCache { values: inputs, labels: vec![0; 20], outputs, len: 2, ..Default::default() };
        let old = Mat::zeros(2, 3);
        let mut fits = Fits::squares(&cache, &old).unwrap();
        let wanted = [[2.0, -1.0, 3.0], [0.0, 1.0, 0.0]];
        let (loss, weights) = fits.fit(&cache, &old, 0.0);
        // The ridge is a share of 1e-8 of moments of size 30, with a condition number of about 30.
        let close = |found: f64, wanted: f64| (found - wanted).abs() <= 1e3 * RIDGE;
        assert!((0..2).all(|i| (0..3).all(|j| close(weights[(i, j)], wanted[i][j]))), "{weights:?}");
        assert!(loss <= (1e4 * RIDGE).powi(2), "{loss}");
        let (larger, half) = fits.fit(&cache, &old, 1.0);
        assert!((0..2).all(|i| (0..3).all(|j| close(half[(i, j)], 0.5 * wanted[i][j]))) && larger > loss);
        assert_eq!(score_of(&weights, &FeatureCache { outputs: vec![0.0; 0], ..Default::default() }), None);
    }
}
