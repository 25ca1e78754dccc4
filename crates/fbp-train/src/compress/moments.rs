use candle_core::Tensor;
use fbp_models::LayerSpec;
use fbp_models::spec::LayerPlan;

use super::constraint::Tensors;
use super::layers::Order;
use crate::TrainError;

/// A feature of the calibration images in two networks, a chunk of the images after the other.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) original: Vec<Tensor>,
    pub(super) compressed: Vec<Tensor>,
}

/// Number, sums and sums of squares of the values of every channel, over all samples and places.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Totals {
    count: usize,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Totals {
    /// Those of some batches with so many channels.
    ///
    /// # Errors
    /// [`TrainError::Tensor`] if a tensor cannot be read.
    pub(super) fn of(batches: &[Tensor], channels: usize, order: Order) -> Result<Self, TrainError> {
        let mut totals = Self { count: 0, sums: vec![0.0; channels], squares: vec![0.0; channels] };
        for batch in batches {
            let values = batch.flatten_all()?.to_vec1::<f32>()?;
            match order {
                Order::ChannelsFirst => totals.add_planes(&values, batch.dim(0)?),
                Order::ChannelsLast => totals.add_rows(&values),
            }
        }
        Ok(totals)
    }

    fn add_planes(&mut self, values: &[f32], samples: usize) {
        let channels = self.sums.len();
        let places = values.len() / (samples * channels).max(1);
        self.count += samples * places;
        for (k, plane) in values.chunks_exact(places.max(1)).enumerate() {
            let (sum, square) = plane.iter().fold((0.0, 0.0), |(sum, square), &value| {
                let value = f64::from(value);
                (sum + value, square + value * value)
            });
            self.sums[k % channels] += sum;
            self.squares[k % channels] += square;
        }
    }

    fn add_rows(&mut self, values: &[f32]) {
        let rows = values.chunks_exact(self.sums.len().max(1));
        self.count += rows.len();
        for row in rows {
            for ((sum, square), &value) in self.sums.iter_mut().zip(&mut self.squares).zip(row) {
                let value = f64::from(value);
                *sum += value;
                *square += value * value;
            }
        }
    }

    /// Mean of every channel.
    pub(super) fn means(&self) -> Vec<f64> {
        let scale = 1.0 / self.count.max(1) as f64;
        self.sums.iter().map(|sum| sum * scale).collect()
    }

    /// `Σ (value - mean)²` of every channel.
    pub(super) fn spreads(&self) -> Vec<f64> {
        let of = |(sum, square): (&f64, &f64)| (square - sum * sum / self.count.max(1) as f64).max(0.0);
        self.sums.iter().zip(&self.squares).map(of).collect()
    }

    fn variances(&self) -> Vec<f64> {
        let scale = 1.0 / self.count.max(1) as f64;
        self.spreads().iter().map(|spread| spread * scale).collect()
    }
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
    let totals = |batches: &[Tensor]| {
        let channels = batches.first().map_or(Ok(0), |batch| batch.dim(1))?;
        Totals::of(batches, channels, Order::ChannelsFirst)
    };
    let (before, now) = (totals(&pair.original)?, totals(&pair.compressed)?);
    let [m_before, m_now] = [&before, &now].map(Totals::means);
    let [v_before, v_now] = [&before, &now].map(Totals::variances);
    let (means, variances) = (original.read(&mean)?, original.read(&variance)?);
    let channels: Vec<usize> = kept.map_or_else(|| (0..means.len()).collect(), <[usize]>::to_vec);
    let (mut new_means, mut new_variances) = (Vec::new(), Vec::new());
    for (place, &channel) in channels.iter().enumerate() {
        let (m, v, m_now, v_now) = (m_before[channel], v_before[channel], m_now[place], v_now[place]);
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
