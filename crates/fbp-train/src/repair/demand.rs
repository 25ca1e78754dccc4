use serde::{Deserialize, Serialize};

/// Demands in the order in which they are tried.
pub(super) const GRID: [Demand; 7] = [
    Demand { margin: 1.0, ridge: 0.003, slack: 0.1 },
    Demand { margin: 0.5, ridge: 0.003, slack: 0.01 },
    Demand { margin: 0.3, ridge: 0.003, slack: 1e-5 },
    Demand { margin: 1.0, ridge: 0.003, slack: 1e-5 },
    Demand { margin: 1.0, ridge: 0.3, slack: 1e-5 },
    Demand { margin: 0.3, ridge: 0.3, slack: 1e-5 },
    Demand { margin: 0.05, ridge: 0.01, slack: 1e-5 },
];
/// Those that are tried first where others of the kind should come right as well: larger margins, of which some may be missed.
pub(super) const GENERAL_GRID: [Demand; 4] = [
    Demand { margin: 1.0, ridge: 0.03, slack: 0.1 },
    Demand { margin: 3.0, ridge: 0.03, slack: 0.1 },
    Demand { margin: 3.0, ridge: 0.3, slack: 0.1 },
    Demand { margin: 10.0, ridge: 0.3, slack: 1.0 },
];
/// Those for data with outputs: a small cost of missed conditions trades the errors of the samples to repair against all others.
pub(super) const OUTPUT_GRID: [Demand; 2] =
    [Demand { margin: 0.5, ridge: 3e-4, slack: 0.01 }, Demand { margin: 0.5, ridge: 3e-5, slack: 0.01 }];
/// Linearisations for each of these: whole steps overshoot where units switch, so that many short ones are taken.
pub(super) const OUTPUT_ROUNDS: usize = MOST_SOLVES / OUTPUT_GRID.len();
/// Linearisations for each demand.
pub(super) const ROUNDS: usize = 4;
/// Solves of a search that tries everything.
pub(super) const MOST_SOLVES: usize = GRID.len() * ROUNDS;

/// What a change of a layer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    /// Demanded lead of the label.
    pub margin: f64,
    /// Share of the mean variance that was added to the second moment of the data to be left alone.
    pub ridge: f64,
    /// Share of the mean squared length of the conditions that slack costs: the larger, the more conditions may be missed.
    #[serde(default = "firm")]
    pub slack: f64,
}

/// The slack of records that do not tell theirs.
fn firm() -> f64 {
    1e-5
}
