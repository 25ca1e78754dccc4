use candle_core::Tensor;
use fbp_models::LayerSpec;
use fbp_models::spec::LayerPlan;

use super::constraint::Tensors;
use crate::TrainError;

/// A feature of the calibration images in two networks, a chunk of the images after the other.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) original: Vec<Tensor>,
    pub(super) compressed: Vec<Tensor>,
}

/// Mean and variance of every channel, over all samples and places.
#[derive(Clone, Debug, PartialEq)]
struct Moments {
    mean: Vec<f64>,
    variance: Vec<f64>,
}

/// Those of some batches `[N, C, ..]`.
fn moments(batches: &[Tensor]) -> Result<Moments, TrainError> {
    let (mut count, mut sums, mut squares) = (0, Vec::new(), Vec::new());
    for batch in batches {
        let (samples, channels) = (batch.dim(0)?, batch.dim(1)?);
        let values = batch.flatten_all()?.to_vec1::<f32>()?;
        let places = values.len() / (samples * channels).max(1);
        sums.resize(channels, 0.0);
        squares.resize(channels, 0.0);
        count += samples * places;
        for (k, plane) in values.chunks_exact(places.max(1)).enumerate() {
            let channel = k % channels;
            let (sum, square) = plane.iter().fold((0.0, 0.0), |(sum, square), &value| {
                let value = f64::from(value);
                (sum + value, square + value * value)
            });
            sums[channel] += sum;
            squares[channel] += square;
        }
    }
    let scale = 1.0 / count.max(1) as f64;
    let mean: Vec<f64> = sums.iter().map(|sum| sum * scale).collect();
    let variance = squares.iter().zip(&mean).map(|(square, mean)| (square * scale - mean * mean).max(0.0)).collect();
    Ok(Moments { mean, variance })
}

/// Estimates the statistics of a batch normalisation again: such that every channel of its output has the mean and the
/// deviation that it has in the original network on the same images.
///
/// With `m`, `v` the moments of the input in the original network, `μ`, `σ²` its statistics, and `m̃`, `ṽ` the moments now:
/// `σ'² + ε = (σ² + ε) ṽ / v` and `μ' = m̃ - (m - μ) √(ṽ / v)`. Statistics of the images alone would add the difference between
/// these images and all training images to every channel; where nothing has changed, nothing changes here.
///
/// # Errors
/// [`TrainError::Tensor`] if a tensor cannot be read or written.
pub(super) fn match_moments(
    plan: &LayerPlan,
    tensors: &Tensors,
    (original, kept): (&Tensors, Option<&[usize]>),
    pair: &Pair,
) -> Result<(), TrainError> {
    let LayerSpec::BatchNorm { eps } = plan.spec else { return Ok(()) };
    let [mean, variance] = ["running_mean", "running_var"].map(|name| format!("{}.{name}", plan.path));
    let (before, now) = (moments(&pair.original)?, moments(&pair.compressed)?);
    let (means, variances) = (original.read(&mean)?, original.read(&variance)?);
    let channels: Vec<usize> = kept.map_or_else(|| (0..means.len()).collect(), <[usize]>::to_vec);
    let (mut new_means, mut new_variances) = (Vec::new(), Vec::new());
    for (place, &channel) in channels.iter().enumerate() {
        let (m, v, m_now, v_now) =
            (before.mean[channel], before.variance[channel], now.mean[place], now.variance[place]);
        let (own_mean, own_variance) = (means[channel], variances[channel]);
        // A channel that is constant, before or now, keeps its scale.
        let ratio = if v > 0.0 && v_now > 0.0 { v_now / v } else { 1.0 };
        if ratio == 1.0 && m == m_now {
            new_means.push(own_mean);
            new_variances.push(own_variance);
            continue;
        }
        let shifted = m_now - (m - f64::from(own_mean)) * ratio.sqrt();
        new_means.push(shifted as f32);
        new_variances.push(((f64::from(own_variance) + eps) * ratio - eps).max(0.0) as f32);
    }
    tensors.write(&mean, &new_means)?;
    tensors.write(&variance, &new_variances)
}
