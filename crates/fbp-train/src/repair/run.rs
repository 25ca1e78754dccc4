use std::time::Instant;

use faer::Mat;
use fbp_models::Network;

use super::change::WeightChange;
use super::deadline::Deadline;
use super::effort::{Effort, about};
use super::origin::{Given, SampleOrigin};
use super::record::{Candidate, Demand, StateMeasures};
use super::samples::Asked;
use super::search::{ROUNDS, Search};
use crate::TrainError;
use crate::affine::AffineLayer;
use crate::data::{DataBundle, SPLIT_SEED, Split};
use crate::progress::Progress;
use crate::settings::{Part, check};

/// Demands in the order in which they are tried.
const GRID: [Demand; 7] = [
    Demand { margin: 1.0, ridge: 0.003, slack: 0.1 },
    Demand { margin: 0.5, ridge: 0.003, slack: 0.01 },
    Demand { margin: 0.3, ridge: 0.003, slack: 1e-5 },
    Demand { margin: 1.0, ridge: 0.003, slack: 1e-5 },
    Demand { margin: 1.0, ridge: 0.3, slack: 1e-5 },
    Demand { margin: 0.3, ridge: 0.3, slack: 1e-5 },
    Demand { margin: 0.05, ridge: 0.01, slack: 1e-5 },
];
/// Demands that are tried even if an earlier one has made enough samples right: another may cost less.
const ALWAYS: usize = 4;

/// How to repair.
///
/// | field          | default | range    |
/// |----------------|---------|----------|
/// | `max_drawdown` | 0.013   | `[0, 1]` |
/// | `efficacy`     | 0.99    | `[0, 1]` |
/// | `validation`   | 0.1     | `(0, 1)` |
/// | `seed`         | 0       |          |
/// | `limit`        | none    | 1 or more |
/// | `time`         | none    | `(0, ∞)`, in seconds |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RepairOptions {
    /// Largest loss of accuracy on the validation part.
    pub max_drawdown: f64,
    /// Share of repaired samples that is enough: among states with so many, the loss alone counts.
    pub efficacy: f64,
    /// Share of the training data held back for validation.
    pub validation: f64,
    /// Seed of the choice of samples.
    pub seed: u64,
    /// Most samples that are repaired, drawn at random among those chosen; all of them by default.
    pub limit: Option<usize>,
    /// Time after which the search ends with the best state so far, in seconds. The result then depends on the machine.
    pub time: Option<f64>,
}

impl Default for RepairOptions {
    fn default() -> Self {
        Self { max_drawdown: 0.013, efficacy: 0.99, validation: 0.1, seed: 0, limit: None, time: None }
    }
}

impl RepairOptions {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] with the first field that is outside.
    pub fn check(&self) -> Result<(), TrainError> {
        check("max_drawdown", self.max_drawdown, 0.0..=1.0, "[0, 1]")?;
        check("efficacy", self.efficacy, 0.0..=1.0, "[0, 1]")?;
        check("validation", self.validation, f64::MIN_POSITIVE..1.0, "(0, 1)")?;
        check("limit", self.limit.unwrap_or(1), 1.., "1 or more samples")?;
        check("time", self.time.unwrap_or(1.0), f64::MIN_POSITIVE..f64::INFINITY, "(0, ∞)")
    }
}

/// Time from which on a search says before it starts how long it will take, in seconds.
const LONG: f64 = 10.0;

/// Checks that a stage has a layer that can be repaired, or that there is such a layer of this path; needs no data.
///
/// # Errors
/// [`TrainError::Model`] for an unknown stage or layer, [`TrainError::Setting`] for a stage without such a layer or a layer of
/// another kind.
pub fn check_repairable(network: &Network, stage: &str) -> Result<(), TrainError> {
    AffineLayer::of(network, stage).map(|_| ())
}

/// What a repair did.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// Positions of the samples among the images that they were chosen from.
    pub samples: Vec<usize>,
    /// Measures of the result.
    pub measures: StateMeasures,
    /// The state that was chosen; none if the network is unchanged.
    pub chosen: Option<Candidate>,
    /// Every state looked at.
    pub candidates: Vec<Candidate>,
    /// Name of the layer.
    pub layer: String,
    /// Length of the change relative to the weights of the layer.
    pub change_relative: f64,
    /// Which weights changed.
    pub weights: WeightChange,
    /// Time of caching, solving and choosing among states.
    pub seconds: f64,
}

/// Makes samples right in place, with the smallest change of the last linear or convolutional layer of a stage.
///
/// ```text
/// min tr(ΔW C ΔWᵀ)   subject to   (J_i ΔW x̃_i)_y - (J_i ΔW x̃_i)_j >= m - (z_y - z_j)   for every sample i, strong rival j
/// ```
///
/// `C` is the second moment of the layer's inputs over training samples to be left alone, `J_i` the derivative of the
/// logits by the outputs of the layer. The conditions are linearised again at every new state, and watched samples that
/// a state broke become conditions of the next one. A step that loses too much on the validation part is halved,
/// and more is asked for samples that are still wrong. Several margins, ridges and slacks are tried, further ones until
/// enough samples are repaired or the time is over. Of the states that lose no more than `max_drawdown` on the validation part, the one with
/// the most repaired samples is kept; of those with enough, the one that loses least. No change is one of the states.
///
/// # Errors
/// [`TrainError::Parameter`], [`TrainError::Samples`], [`TrainError::Setting`] for a stage without such a layer,
/// [`TrainError::Singular`] for data that are not finite.
///
/// # Source
/// Own derivation; smallest changes of a layer that satisfy linear conditions: Sotoudeh & Thakur, "Provable repair of
/// deep neural networks", PLDI 2021.
pub fn repair(
    network: &Network,
    stage: &str,
    asked: Asked<'_>,
    data: &DataBundle,
    options: &RepairOptions,
    progress: &dyn Progress,
) -> Result<Repaired, TrainError> {
    options.check()?;
    let split = Split::stratified(&data.train, options.validation, SPLIT_SEED)?;
    // Of the training images those for validation are not chosen from: they judge.
    let candidates = match asked.origin {
        SampleOrigin::Part(Part::Train) => split.train.clone(),
        other => (0..other.images(data).len()).collect(),
    };
    let limit = (options.seed, options.limit);
    let samples = asked.choice.resolve_some(network, (asked.origin, data), &candidates, limit)?;
    let counts = [data.train.classes().max(2), split.train.len()];
    let effort = Effort::of(&AffineLayer::of(network, stage)?, samples.len(), GRID.len(), counts);
    let seconds = effort.seconds();
    if seconds > options.time.unwrap_or(f64::INFINITY).min(LONG) {
        let bound = match options.time {
            Some(time) => format!("--time ends it after {time:.0} s"),
            None => "--limit takes fewer samples, --time ends it earlier with the best state so far".into(),
        };
        progress.note(&format!("repair of {effort}: {} for a whole search; {bound}", about(seconds)));
    }
    let begun = Instant::now();
    let deadline = Deadline::after(options.time);
    let given = Given { origin: asked.origin, samples: &samples };
    let search = Search::new(network, stage, given, data, &split, options.seed)?;
    let (mut best, mut candidates) = ((Mat::zeros(search.old.nrows(), search.old.ncols()), None), Vec::new());
    let mut measures = search.start;
    progress.begin("repair", GRID.len() * ROUNDS, "solves");
    for (index, demand) in GRID.into_iter().enumerate() {
        let enough = index >= ALWAYS && measures.efficacy >= options.efficacy;
        if enough || deadline.is_over() {
            break;
        }
        for (change, candidate) in search.run(demand, options.max_drawdown, deadline, progress)? {
            candidates.push(candidate);
            let allowed = candidate.measures.drawdown_validation <= options.max_drawdown;
            if allowed && candidate.measures.rank(options.efficacy) > measures.rank(options.efficacy) {
                (best, measures) = ((change, Some(candidate)), candidate.measures);
            }
        }
    }
    progress.end();
    let (change, chosen) = best;
    search.layer.set(network, &(&search.old + &change))?;
    let change_relative = change.norm_l2() / search.old.norm_l2().max(f64::MIN_POSITIVE);
    let weights = WeightChange::of(&search.old, &change);
    let layer = search.layer.name().to_owned();
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Repaired { samples, measures, chosen, candidates, layer, change_relative, weights, seconds })
}
