use serde::{Deserialize, Serialize};

use crate::data::Outputs;

/// How far the outputs of a network are from those wanted, on some samples.
///
/// # Units
/// Those of the outputs; of trajectories `ade` and `fde` are distances in the plane of the first two entries of a pose.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorMeasures {
    /// Number of samples.
    pub samples: usize,
    /// Mean absolute error of an output.
    pub mae: f64,
    /// Root of the mean squared error of an output.
    pub rmse: f64,
    /// Mean distance of a pose from the wanted one (average displacement error); for trajectories only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ade: Option<f64>,
    /// Mean distance of the last pose from the wanted one (final displacement error); for trajectories only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fde: Option<f64>,
}

impl ErrorMeasures {
    /// Those of two sets of samples together.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let samples = self.samples + other.samples;
        let share = self.samples as f64 / samples.max(1) as f64;
        let mean = |own: f64, other: f64| share * own + (1.0 - share) * other;
        let both = |own: Option<f64>, other: Option<f64>| own.zip(other).map(|(own, other)| mean(own, other));
        Self {
            samples,
            mae: mean(self.mae, other.mae),
            rmse: mean(self.rmse * self.rmse, other.rmse * other.rmse).sqrt(),
            ade: both(self.ade, other.ade),
            fde: both(self.fde, other.fde),
        }
    }
}

/// Sums over samples, from which [`ErrorMeasures`] follow.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ErrorTally {
    pose: Option<usize>,
    entries: usize,
    samples: usize,
    absolute: f64,
    squared: f64,
    average: f64,
    last: f64,
}

impl ErrorTally {
    /// For outputs of this kind.
    pub(crate) fn new(outputs: &Outputs) -> Self {
        Self { pose: outputs.pose(), entries: outputs.entries(), ..Self::default() }
    }

    /// Adds one sample.
    pub(crate) fn add(&mut self, found: &[f32], wanted: &[f32]) {
        self.samples += 1;
        let errors = || found.iter().zip(wanted).map(|(&found, &wanted)| f64::from(found) - f64::from(wanted));
        self.absolute += errors().map(f64::abs).sum::<f64>();
        self.squared += errors().map(|error| error * error).sum::<f64>();
        if let Some(pose) = self.pose {
            let distances = displacements(found, wanted, pose);
            let (sum, count, last) =
                distances.fold((0.0, 0, 0.0), |(sum, count, _), distance| (sum + distance, count + 1, distance));
            self.average += sum / f64::from(count.max(1));
            self.last += last;
        }
    }

    /// Adds the sums over other samples.
    pub(super) fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.absolute += other.absolute;
        self.squared += other.squared;
        self.average += other.average;
        self.last += other.last;
    }

    /// Whether the sums are of the same kind.
    pub(super) fn fits(&self, other: &Self) -> bool {
        (self.pose, self.entries) == (other.pose, other.entries)
    }

    pub(crate) fn measures(self) -> ErrorMeasures {
        let samples = self.samples.max(1) as f64;
        let entries = samples * self.entries.max(1) as f64;
        let of_pose = |sum: f64| self.pose.map(|_| sum / samples);
        ErrorMeasures {
            samples: self.samples,
            mae: self.absolute / entries,
            rmse: (self.squared / entries).sqrt(),
            ade: of_pose(self.average),
            fde: of_pose(self.last),
        }
    }
}

/// Distance of every pose from the wanted one, in the plane of their first two entries.
fn displacements<'a>(found: &'a [f32], wanted: &'a [f32], pose: usize) -> impl Iterator<Item = f64> + 'a {
    let pairs = found.chunks_exact(pose).zip(wanted.chunks_exact(pose));
    pairs.map(|(found, wanted)| f64::from(found[0] - wanted[0]).hypot(f64::from(found[1] - wanted[1])))
}

/// Largest error of an output.
pub(crate) fn largest_error(found: &[f32], wanted: &[f32]) -> f64 {
    found.iter().zip(wanted).map(|(found, wanted)| f64::from((found - wanted).abs())).fold(0.0, f64::max)
}

/// Root of the mean squared error of rows of outputs; 0 without any.
pub(crate) fn rmse(found: &[f32], wanted: &[f32]) -> f64 {
    let squares = found.iter().zip(wanted).map(|(found, wanted)| f64::from(found - wanted).powi(2));
    (squares.sum::<f64>() / found.len().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_the_definitions() {
        let outputs = Outputs::new(vec![0.0; 8], 4, Some(2)).unwrap();
        let mut tally = ErrorTally::new(&outputs);
        // Poses miss by (3, 4) and (0, 1), then by nothing and (6, 8).
        tally.add(&[3.0, 4.0, 5.0, 6.0], &[0.0, 0.0, 5.0, 5.0]);
        tally.add(&[1.0, 1.0, 6.0, 8.0], &[1.0, 1.0, 0.0, 0.0]);
        let found = tally.measures();
        assert_eq!((found.samples, found.mae), (2, 22.0 / 8.0));
        assert_eq!(found.rmse, (126.0_f64 / 8.0).sqrt());
        assert_eq!((found.ade, found.fde), (Some((3.0 + 5.0) / 2.0), Some((1.0 + 10.0) / 2.0)));
        let [mut first, mut second] = [0, 1].map(|_| ErrorTally::new(&outputs));
        first.add(&[3.0, 4.0, 5.0, 6.0], &[0.0, 0.0, 5.0, 5.0]);
        second.add(&[1.0, 1.0, 6.0, 8.0], &[1.0, 1.0, 0.0, 0.0]);
        let merged = first.measures().merge(second.measures());
        assert!((merged.rmse - found.rmse).abs() <= 8.0 * f64::EPSILON * found.rmse);
        assert_eq!((merged.samples, merged.mae, merged.ade), (2, found.mae, found.ade));
        let plain = Outputs::new(vec![0.0; 8], 4, None).unwrap();
        assert_eq!((ErrorTally::new(&plain).measures().ade, ErrorTally::new(&plain).measures().rmse), (None, 0.0));
        // The heading of a pose of three entries is no distance.
        let poses = Outputs::new(vec![0.0; 3], 3, Some(3)).unwrap();
        let mut tally = ErrorTally::new(&poses);
        tally.add(&[0.0, 2.0, 9.0], &[0.0, 0.0, 0.0]);
        assert_eq!((tally.measures().ade, tally.measures().mae), (Some(2.0), 11.0 / 3.0));
        assert_eq!(largest_error(&[1.0, -2.0], &[0.0, 1.0]), 3.0);
    }
}
