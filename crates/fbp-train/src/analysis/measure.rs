use fbp_inverse::Range;
use serde::{Deserialize, Serialize};

use super::BOOTSTRAP_SEED;
use crate::TrainError;
use crate::metrics::{all_finite, argmax};
use crate::statistics::{Correlation, Spread};
use crate::targets::{Reversed, TargetsOptions, TargetsSource, reverse_samples};

/// Groups of samples with similar distances, for the plot.
const GROUPS: usize = 20;

/// Loss and distances of one checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointMeasures {
    /// File of the checkpoint, or `epoch N`.
    pub name: String,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Share of the samples that are right, 0 to 1.
    pub accuracy: f64,
    /// Each stage, from the first one to the output.
    pub stages: Vec<StageMeasures>,
}

/// Distances of one stage's features to their targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageMeasures {
    /// Name of the stage.
    pub stage: String,
    /// Mean over the samples of `|ẑ - z|`.
    pub distance: f64,
    /// Mean over the samples of `|ẑ - z| / |z|`.
    pub distance_relative: f64,
    /// Share of the samples that need no change, 0 to 1.
    pub zero: f64,
    /// Distance and loss over the samples.
    pub over_samples: Correlation,
    /// Samples in groups of similar distance, ascending: mean distance and mean loss of each.
    pub groups: Vec<[f64; 2]>,
}

/// What one sample adds.
struct Sample {
    loss: f64,
    right: bool,
    /// Distance and relative distance at each boundary.
    distances: Vec<[f64; 2]>,
}

/// Measures a network on samples of `source.data`: its loss, and for every stage the distance to the targets.
///
/// # Errors
/// [`TrainError::UnknownStage`] for a network of one stage, [`TrainError::NonFiniteOutput`],
/// [`TrainError::Model`] or [`TrainError::Inverse`] if a layer cannot be reversed.
pub fn measure(
    source: TargetsSource<'_>,
    samples: &[usize],
    options: &TargetsOptions,
    name: String,
) -> Result<CheckpointMeasures, TrainError> {
    let stages = source.network.stages();
    if stages.len() < 2 {
        return Err(TrainError::UnknownStage { stage: String::new(), known: "none, as it has one stage".into() });
    }
    let labels = source.data.labels();
    let parts = reverse_samples(&source, options, (1, Range::EVERYTHING), samples, |reversed| part(&reversed, labels))?;
    let found = parts.into_iter().collect::<Option<Vec<_>>>().ok_or(TrainError::NonFiniteOutput)?;
    let found: Vec<Sample> = found.into_iter().flatten().collect();
    let loss: Vec<f64> = found.iter().map(|sample| sample.loss).collect();
    let measures = stages.iter().enumerate().map(|(index, stage)| {
        let of = |kind: usize| found.iter().map(|sample| sample.distances[index][kind]).collect::<Vec<_>>();
        let distance = of(0);
        let zero = distance.iter().filter(|distance| **distance == 0.0).count();
        StageMeasures {
            stage: stage.name().to_owned(),
            distance: mean(&distance),
            distance_relative: mean(&of(1)),
            zero: zero as f64 / found.len().max(1) as f64,
            over_samples: Correlation::of(&distance, &loss, BOOTSTRAP_SEED),
            groups: groups(&distance, &loss),
        }
    });
    let right = found.iter().filter(|sample| sample.right).count();
    Ok(CheckpointMeasures {
        name,
        loss: mean(&loss),
        accuracy: right as f64 / found.len().max(1) as f64,
        stages: measures.collect(),
    })
}

fn mean(values: &[f64]) -> f64 {
    Spread::of(values).map_or(0.0, |spread| spread.mean)
}

/// Boundary `b` of the chain is the output of stage `b`, the last one that of the network. None if an output is not finite.
fn part(reversed: &Reversed<'_>, labels: &[u8]) -> Option<Vec<Sample>> {
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
            let relative = if moved == 0.0 { 0.0 } else { moved.sqrt() / length.sqrt().max(f64::MIN_POSITIVE) };
            [moved.sqrt(), relative]
        });
        let right = argmax(&logits) == label;
        all_finite(&logits).then(|| Sample {
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
    sum.ln() + f64::from(largest - logits[label])
}

/// Mean distance and mean loss of samples in groups of similar distance.
fn groups(distance: &[f64], loss: &[f64]) -> Vec<[f64; 2]> {
    let mut order: Vec<usize> = (0..distance.len()).collect();
    order.sort_by(|&a, &b| distance[a].total_cmp(&distance[b]));
    let of = |part: &[usize], values: &[f64]| part.iter().map(|&i| values[i]).sum::<f64>() / part.len() as f64;
    // Samples that need no change cannot be ordered: they are one group.
    let zero = order.partition_point(|&index| distance[index] == 0.0);
    let rest = order[zero..].chunks((order.len() - zero).div_ceil(GROUPS).max(1));
    std::iter::once(&order[..zero])
        .chain(rest)
        .filter(|part| !part.is_empty())
        .map(|part| [of(part, distance), of(part, loss)])
        .collect()
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

    #[test]
    fn groups_keep_what_needs_no_change_together() {
        let distance = [0.0, 3.0, 0.0, 1.0, 2.0];
        let loss = [0.25, 3.0, 0.75, 1.0, 2.0];
        assert_eq!(groups(&distance, &loss), [[0.0, 0.5], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]);
        assert_eq!(groups(&[], &[]), Vec::<[f64; 2]>::new());
        let many: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(groups(&many, &many).len(), GROUPS);
    }
}
