use fbp_models::Network;
use fbp_train::analysis::MeasuredSample;
use serde::{Deserialize, Serialize};

use crate::statistics::{BOOTSTRAP_SEED, Correlation, Spread};

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

impl CheckpointMeasures {
    /// Sums up what was measured on samples with a network.
    pub fn of(name: String, network: &Network, samples: &[MeasuredSample]) -> Self {
        let loss: Vec<f64> = samples.iter().map(|sample| sample.loss).collect();
        let measures = network.stages().iter().enumerate().map(|(index, stage)| {
            let of = |kind: usize| samples.iter().map(|sample| sample.distances[index][kind]).collect::<Vec<_>>();
            let distance = of(0);
            let zero = distance.iter().filter(|distance| **distance == 0.0).count();
            StageMeasures {
                stage: stage.name().to_owned(),
                distance: mean(&distance),
                distance_relative: mean(&of(1)),
                zero: zero as f64 / samples.len().max(1) as f64,
                over_samples: Correlation::of(&distance, &loss, BOOTSTRAP_SEED),
                groups: groups(&distance, &loss),
            }
        });
        let right = samples.iter().filter(|sample| sample.right).count();
        Self {
            name,
            loss: mean(&loss),
            accuracy: right as f64 / samples.len().max(1) as f64,
            stages: measures.collect(),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    Spread::of(values).map_or(0.0, |spread| spread.mean)
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
    fn groups_keep_what_needs_no_change_together() {
        let distance = [0.0, 3.0, 0.0, 1.0, 2.0];
        let loss = [0.25, 3.0, 0.75, 1.0, 2.0];
        assert_eq!(groups(&distance, &loss), [[0.0, 0.5], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]);
        assert_eq!(groups(&[], &[]), Vec::<[f64; 2]>::new());
        let many: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(groups(&many, &many).len(), GROUPS);
    }
}
