use candle_core::Tensor;
use faer::Mat;
use fbp_inverse::{FeatureMetric, ReverseChain};
use fbp_linalg::LinalgError;

use super::TargetsSource;
use crate::TrainError;
use crate::cache::{FeatureCache, second_moment};
use crate::settings::Metric;

/// Share of the mean variance that is added to every variance: features that never change would else be fixed for ever,
/// and the fewer the samples, the less is known of small variances.
const RIDGE: f64 = 0.01;
/// Samples whose features are in memory at a time.
const PART: usize = 8192;

/// Gives every boundary of a chain below the output the metric asked for; `first` is the stage whose input is boundary 0.
///
/// # Errors
/// [`TrainError::Singular`] for features that are the same for every sample, [`TrainError::NonFiniteOutput`] if the network
/// has diverged, [`TrainError::Model`].
pub(super) fn set_metrics(
    chain: &mut ReverseChain<f32>,
    metric: Metric,
    source: &TargetsSource<'_>,
    first: usize,
) -> Result<(), TrainError> {
    if metric == Metric::Euclidean {
        return Ok(());
    }
    for boundary in 0..chain.boundaries() - 1 {
        let covariance = covariance(source, first + boundary)?;
        let found = FeatureMetric::mahalanobis(covariance.as_ref(), RIDGE).map_err(|error| match error {
            LinalgError::NonFinite { .. } => TrainError::NonFiniteOutput,
            _ => TrainError::Singular { what: "the features" },
        })?;
        chain.set_metric(boundary, found)?;
    }
    Ok(())
}

/// Covariance over all samples of the input of stage `first`.
fn covariance(source: &TargetsSource<'_>, first: usize) -> Result<Mat<f64>, TrainError> {
    let TargetsSource { network, data, normalization } = *source;
    let features = |images: &Tensor| Ok(network.infer_stages(0..first, images)?);
    let samples: Vec<usize> = (0..data.len()).collect();
    let mut moment = Mat::<f64>::zeros(0, 0);
    for part in samples.chunks(PART) {
        let share = part.len() as f64 / samples.len() as f64;
        let of_part = faer::Scale(share) * second_moment(&FeatureCache::new(data, normalization, part, features)?);
        moment = if moment.nrows() == 0 { of_part } else { moment + of_part };
    }
    // The last entry of a feature is the constant 1, so the last row is the mean.
    let len = moment.nrows().saturating_sub(1);
    Ok(Mat::from_fn(len, len, |i, j| moment[(i, j)] - moment[(len, i)] * moment[(len, j)]))
}
