use serde::{Deserialize, Serialize};

use crate::metrics::relative;

/// A feature before and after a change.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Shape `[C, H, W]`.
    pub shape: [usize; 3],
    /// Values before, channel by channel.
    pub before: &'a [f32],
    /// Values after.
    pub after: &'a [f32],
    /// Whether it is an image with brightness 0 to 1.
    pub image: bool,
}

/// How much one channel of a feature, or one entry of a vector, changes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChannelChange {
    /// Its number, from 0.
    pub channel: usize,
    /// Length of the change.
    pub change: f64,
    /// Its share of the squared length of the whole change, 0 to 1.
    pub share: f64,
    /// Mean value before.
    pub mean_before: f64,
    /// Mean value after.
    pub mean_after: f64,
}

impl Change<'_> {
    /// Values of one channel.
    pub fn plane(&self) -> usize {
        self.shape[1] * self.shape[2]
    }

    /// Difference, after minus before.
    pub fn difference(&self) -> Vec<f32> {
        self.after.iter().zip(self.before).map(|(after, before)| after - before).collect()
    }

    /// Length of the difference.
    pub fn distance(&self) -> f64 {
        length(&self.difference())
    }

    /// Length of the difference, relative to that of the feature before; of a feature that was zero 1, or 0 if it still is.
    pub fn distance_relative(&self) -> f64 {
        relative(self.distance(), length(self.before))
    }

    /// Every channel, the most changed one first.
    pub fn channels(&self) -> Vec<ChannelChange> {
        let (difference, plane) = (self.difference(), self.plane().max(1));
        let whole = length(&difference).powi(2).max(f64::MIN_POSITIVE);
        let mean = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>() / plane as f64;
        let mut channels: Vec<ChannelChange> = (0..self.shape[0])
            .map(|channel| {
                let part = channel * plane..(channel + 1) * plane;
                let change = length(&difference[part.clone()]);
                let (mean_before, mean_after) = (mean(&self.before[part.clone()]), mean(&self.after[part]));
                ChannelChange { channel, change, share: change * change / whole, mean_before, mean_after }
            })
            .collect();
        channels.sort_by(|a, b| b.change.total_cmp(&a.change));
        channels
    }
}

/// Euclidean length.
fn length(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change<'a>(shape: [usize; 3], before: &'a [f32], after: &'a [f32]) -> Change<'a> {
        Change { shape, before, after, image: false }
    }

    #[test]
    fn channels_are_ranked_by_their_change() {
        let (before, after) = ([0.0, 0.0, 1.0, 1.0, 2.0, 2.0], [0.0, 3.0, 1.0, 1.0, 2.0, 6.0]);
        let channels = change([3, 1, 2], &before, &after).channels();
        assert_eq!(channels.iter().map(|entry| entry.channel).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!((channels[0].change, channels[0].share), (4.0, 0.64));
        assert_eq!((channels[0].mean_before, channels[0].mean_after, channels[2].change), (2.0, 4.0, 0.0));
        let whole = change([3, 1, 2], &before, &after);
        assert!(
            (whole.distance() - 5.0).abs() < 1e-12 && (whole.distance_relative() - 5.0 / 10f64.sqrt()).abs() < 1e-12
        );
        assert_eq!(change([1, 1, 2], &[0.0; 2], &[0.0; 2]).distance_relative(), 0.0);
    }
}
