use std::fmt;

use super::demand::ROUNDS;
use super::search::{CLOSE, GUARDS};
use super::trial::Trial;
use crate::affine::AffineLayer;

/// Looks at the validation part in a round, more or less: steps are halved where they lose too much.
const LOOKS: f64 = 1.5;
/// Share of the guards that there are in each round, more or less.
const GUARDED: [f64; ROUNDS] = [0.0, 0.75, 0.9, 0.9];

/// What a repair will take, as far as sizes tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Samples to repair.
    pub samples: usize,
    /// Conditions of a solve.
    pub conditions: usize,
    /// Memory of the largest solve, in bytes.
    pub bytes: f64,
    /// Conditions of each sample.
    rivals: usize,
    /// Watched samples that may become conditions.
    guards: usize,
}

/// How many images a search runs through the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passes {
    /// To be left alone.
    pub(super) watched: usize,
    /// To judge states.
    pub(super) validation: usize,
    /// To judge the result.
    pub(super) test: usize,
}

impl Effort {
    /// Of a repair of some samples with so many conditions each, where `others` samples are to be left alone.
    pub(super) fn of(layer: &AffineLayer, samples: usize, [rivals, others]: [usize; 2]) -> Self {
        let guards = GUARDS.min(others);
        let conditions = rivals * samples + 2 * guards;
        let (n, positions) = (conditions as f64, layer.positions() as f64);
        let (outputs, column) = (layer.outputs as f64, layer.inputs as f64 + 1.0);
        let subjects = (samples + guards) as f64;
        // The Gram matrix and the part of it that is factorised; columns, plain and white; derivatives; written-out rows
        // where a row has several columns.
        let rows = if layer.positions() == 1 { n * n + n * (outputs + column) } else { n * outputs * column };
        let numbers = 2.0 * n * n + 2.0 * subjects * column * positions + n * outputs * positions + rows;
        Self { samples, conditions, bytes: 8.0 * numbers, rivals, guards }
    }

    /// Time of `demands` searches on this machine, in seconds, without what comes before the first, refits and polish.
    pub(super) fn seconds(&self, trial: &Trial, passes: Passes, demands: usize) -> f64 {
        let samples = self.samples as f64;
        let round = |guarded: &f64| {
            let guards = guarded * self.guards as f64;
            let (subjects, n) = (samples + guards, self.rivals as f64 * samples + 2.0 * guards);
            let looks = LOOKS * (samples + passes.validation as f64) + samples + passes.watched.min(CLOSE) as f64;
            trial.solve(subjects, n) + looks * trial.look
        };
        demands as f64 * GUARDED.iter().map(round).sum::<f64>()
    }

    /// Time of what comes before the first search.
    pub(super) fn setup_seconds(&self, trial: &Trial, passes: Passes) -> f64 {
        let images = (self.samples + passes.watched + passes.validation) as f64;
        images * (trial.state + trial.look) + trial.moment(passes.watched)
    }

    /// Time of judging on the test set, before and after.
    pub(super) fn judge_seconds(trial: &Trial, passes: Passes) -> f64 {
        2.0 * passes.test as f64 * (trial.state + trial.look)
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, conditions, bytes, .. } = self;
        let memory = if *bytes < 1e8 { format!("{:.0} MB", bytes / 1e6) } else { format!("{:.1} GB", bytes / 1e9) };
        write!(f, "{samples} samples, up to {conditions} conditions, up to {memory} of memory")
    }
}

/// A time that is not known well, in words.
pub(super) fn about(low: f64, high: f64) -> String {
    let (unit, name, digits) = match high {
        s if s < 90.0 => (1.0, "s", 0),
        s if s < 5400.0 => (60.0, "min", usize::from(s < 600.0)),
        _ => (3600.0, "h", 1),
    };
    let text = |seconds: f64| format!("{:.digits$}", (seconds / unit).max(if digits == 0 { 1.0 } else { 0.1 }));
    match (text(low), text(high)) {
        (low, high) if low == high => format!("about {high} {name}"),
        (low, high) => format!("about {low} to {high} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use fbp_models::{Network, zoo};

    use super::*;

    #[test]
    fn more_samples_take_more_and_the_numbers_are_those_of_the_matrices() {
        let network = Network::new(&zoo::spec("cnn-mnist-large").unwrap(), 0).unwrap();
        let trial = Trial::example();
        let passes = Passes { watched: 10_000, validation: 6000, test: 10_000 };
        for stage in ["conv2", "fc1", "out"] {
            let layer = AffineLayer::of(&network, stage).unwrap();
            let [few, many] = [100, 1600].map(|samples| Effort::of(&layer, samples, [4, 50_000]));
            assert!(few.bytes < many.bytes, "{stage}");
            assert!(few.seconds(&trial, passes, 4) < many.seconds(&trial, passes, 4), "{stage}");
            assert!(few.seconds(&trial, passes, 4) < few.seconds(&trial, passes, 7), "{stage}");
            // Two matrices of 7,200 × 7,200 numbers at least.
            assert_eq!(many.conditions, 7200);
            assert!(many.bytes > 2.0 * 8.0 * 7200.0 * 7200.0 && many.bytes < 4e9, "{stage}: {many}");
        }
        assert_eq!(about(0.2, 0.3), "about 1 s");
        assert_eq!(about(11.0, 20.2), "about 11 to 20 s");
        assert_eq!(about(30.0, 120.0), "about 0.5 to 2.0 min");
        assert_eq!(about(600.0, 900.0), "about 10 to 15 min");
    }
}
