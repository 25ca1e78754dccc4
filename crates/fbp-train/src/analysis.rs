//! Losses of samples, and how far their features are from their targets.

use fbp_inverse::Interval;

use crate::TrainError;
use crate::evaluate::check_labelled;
use crate::metrics::{all_finite, argmax, relative};
use crate::targets::{Reversed, TargetsOptions, TargetsSource, reverse_samples};

/// Loss of one sample, and how far its features are from their targets.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredSample {
    /// Cross-entropy.
    pub loss: f64,
    /// Whether the network gives its label.
    pub right: bool,
    /// `|ẑ - z|` and `|ẑ - z| / |z|` at every stage, from the first one to the output.
    pub distances: Vec<[f64; 2]>,
}

/// Measures a network on samples of `source.data`: their losses, and for every stage the distances to the targets.
///
/// # Errors
/// [`TrainError::UnknownStage`] for a network of one stage, [`TrainError::NonFiniteOutput`],
/// [`TrainError::Model`] or [`TrainError::Inverse`] if a layer cannot be reversed.
pub fn measure(
    source: TargetsSource<'_>,
    samples: &[usize],
    options: &TargetsOptions,
) -> Result<Vec<MeasuredSample>, TrainError> {
    if source.network.stages().len() < 2 {
        return Err(TrainError::UnknownStage { stage: String::new(), known: "none, as it has one stage".into() });
    }
    check_labelled(source.data, "the analysis of losses and distances")?;
    let labels = source.data.labels();
    let input = Interval::EVERYTHING.into();
    let parts =
        reverse_samples(&source, options, (1, &input), (samples, usize::MAX), |reversed| part(&reversed, labels))?;
    let found = parts.into_iter().collect::<Option<Vec<_>>>().ok_or(TrainError::NonFiniteOutput)?;
    Ok(found.into_iter().flatten().collect())
}

/// Boundary `b` of the chain is the output of stage `b`, the last one that of the network. None if an output is not finite.
fn part(reversed: &Reversed<'_>, labels: &[u8]) -> Option<Vec<MeasuredSample>> {
    let Reversed { chain, work, samples, .. } = reversed;
    let boundaries = chain.boundaries();
    let sample = |(place, &sample): (usize, &usize)| {
        let logits: Vec<f32> = chain.observed(boundaries - 1, work).col(place).iter().copied().collect();
        let label = usize::from(labels[sample]);
        let distances = (0..boundaries).map(|boundary| {
            let (observed, target) =
                (chain.observed(boundary, work).col(place), chain.target(boundary, work).col(place));
            let moved: f64 = observed.iter().zip(target.iter()).map(|(z, t)| f64::from(t - z).powi(2)).sum();
            let length: f64 = observed.iter().map(|z| f64::from(*z).powi(2)).sum();
            [moved.sqrt(), relative(moved.sqrt(), length.sqrt())]
        });
        let right = argmax(&logits) == label;
        all_finite(&logits).then(|| MeasuredSample {
            loss: cross_entropy(&logits, label),
            right,
            distances: distances.collect(),
        })
    };
    samples.iter().enumerate().map(sample).collect()
}

/// `log Σ exp(z) - z_y`.
fn cross_entropy(logits: &[f32], label: usize) -> f64 {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, z| largest.max(*z));
    let sum: f64 = logits.iter().map(|z| f64::from(z - largest).exp()).sum();
    sum.ln() + f64::from(largest) - f64::from(logits[label])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_is_that_of_the_softmax() {
        // By hand: softmax of (0, ln 3) is (1/4, 3/4).
        let logits = [0.0, 3.0f32.ln()];
        assert!((cross_entropy(&logits, 0) - 4.0f64.ln()).abs() < 1e-6);
        assert!((cross_entropy(&logits, 1) - (4.0f64 / 3.0).ln()).abs() < 1e-6);
        assert!(cross_entropy(&[1000.0, -1000.0], 0).abs() < 1e-12);
    }
}
