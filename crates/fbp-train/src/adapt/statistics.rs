use candle_core::Tensor;
use fbp_models::Network;

use super::prepared::{Labelled, Prepared};
use crate::TrainError;
use crate::cache::FeatureCache;
use crate::data::{DataError, Normalization};

/// Weight of a new batch in running statistics, as batch normalisation has it.
const MOMENTUM: f64 = 0.1;
/// Most samples of a batch whose statistics are taken.
const BATCH: usize = 256;
/// Names of the statistics of a batch normalisation, and whether they are positive.
const RUNNING: [(&str, bool); 2] = [(".running_mean", false), (".running_var", true)];

/// Whether a network has statistics that can be estimated again.
pub(super) fn has_statistics(network: &Network) -> bool {
    network.state().any(|(name, _)| RUNNING.iter().any(|(end, _)| name.ends_with(end)))
}

/// Mean and deviation of the images, a share of the way from the old ones to those of the samples; none if a channel of these is
/// constant.
///
/// # Errors
/// [`TrainError::Data`] if a sample is not there.
pub(super) fn renormalised(
    old: &Normalization,
    labelled: Labelled<'_>,
    share: f64,
) -> Result<Option<Normalization>, TrainError> {
    let found = match Normalization::from_images(&labelled.data.subset(labelled.samples)?) {
        Err(DataError::Constant { .. }) => return Ok(None),
        found => found?,
    };
    let mix = |old: &[f64], new: &[f64]| old.iter().zip(new).map(|(old, new)| old + share * (new - old)).collect();
    Ok(Some(Normalization::new(mix(old.mean(), found.mean()), mix(old.std(), found.std()))?))
}

/// A copy whose batch normalisations have statistics a share of the way from the old ones to those of the samples, each layer given
/// what the layers below make of them with statistics of their own.
///
/// # Errors
/// [`TrainError::Model`] if the samples do not fit the network.
///
/// # Source
/// Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020.
pub(super) fn estimate_statistics(start: &Prepared, labelled: Labelled<'_>, share: f64) -> Result<Network, TrainError> {
    let Labelled { data, samples, .. } = labelled;
    let images = FeatureCache::new(data, &start.normalization, samples, |images| Ok(images.clone()))?;
    let mut network = start.network.duplicate()?;
    network.set_training(true);
    network.freeze(0..0)?;
    let statistics: Vec<_> = network
        .state()
        .filter_map(|(name, var)| {
            let (_, is_positive) = RUNNING.iter().find(|(end, _)| name.ends_with(end))?;
            Some((var, *is_positive))
        })
        .collect();
    let read = |at: usize| -> Result<Vec<f32>, TrainError> { Ok(statistics[at].0.to_vec1::<f32>()?) };
    let old: Vec<Vec<f32>> = (0..statistics.len()).map(read).collect::<Result<_, _>>()?;
    // Sums over the batches of what each moved the statistics by, which is the momentum times the way to its own.
    let mut ways: Vec<Vec<f64>> = old.iter().map(|values| vec![0.0; values.len()]).collect();
    let places: Vec<usize> = (0..samples.len()).collect();
    for places in places.chunks(samples.len().div_ceil(samples.len().div_ceil(BATCH).max(1)).max(1)) {
        network.forward(&images.batch(places)?.0)?;
        for (at, (var, _)) in statistics.iter().enumerate() {
            let weight = places.len() as f64 / (MOMENTUM * samples.len() as f64);
            for (way, (new, old)) in ways[at].iter_mut().zip(read(at)?.into_iter().zip(&old[at])) {
                *way += weight * (f64::from(new) - f64::from(*old));
            }
            var.set(&Tensor::from_slice(&old[at], var.shape(), var.device())?)?;
        }
    }
    for (at, (var, is_positive)) in statistics.iter().enumerate() {
        let of = |(old, way): (&f32, &f64)| {
            let value = (f64::from(*old) + share * way) as f32;
            if *is_positive { value.max(0.0) } else { value }
        };
        let values: Vec<f32> = old[at].iter().zip(&ways[at]).map(of).collect();
        var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
    }
    network.set_training(false);
    Ok(network)
}
