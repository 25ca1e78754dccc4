use faer::Mat;
use fbp_models::Network;

use super::change::WeightChange;
use super::deadline::Deadline;
use super::demand::{Demand, GENERAL_GRID, GRID, OUTPUT_GRID, OUTPUT_ROUNDS, ROUNDS};
use super::effort::{Effort, Passes, about};
use super::options::RepairOptions;
use super::origin::{Given, SampleOrigin};
use super::record::{Candidate, RepairedLayer, StateMeasures};
use super::samples::{Asked, ChoiceRule};
use super::search::{Baseline, Rounds, Search, is_refitted, rivals, watched};
use super::trial::Trial;
use crate::TrainError;
use crate::affine::AffineLayer;
use crate::data::{DataBundle, SPLIT_SEED, Split};
use crate::evaluate::EvalSet;
use crate::metrics::relative;
use crate::processor::{Clock, Stopwatch};
use crate::progress::Progress;
use crate::settings::{Part, Preference};

/// Demands that are tried even if an earlier one has made enough samples right: another may cost less.
const ALWAYS: usize = 4;
/// The same for a layer with several positions, whose solves are dear: after a polish the others are hardly cheaper
/// (`cnn-mnist-large` at `conv2`: 0.50 points, then 0.48).
const ALWAYS_DEAR: usize = 2;

/// Slack of demands that may be missed.
const SOFT: f64 = 0.01;

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
    /// The layer that changed.
    pub layer: RepairedLayer,
    /// Those that were changed after it, because one did not suffice.
    pub further: Vec<RepairedLayer>,
    /// Whether the time was over before the search was.
    pub time_over: bool,
    /// Time of the estimate, of caching, solving and choosing among states.
    pub seconds: f64,
    /// The same as time of the processor on all threads, if the system tells.
    pub processor_seconds: Option<f64>,
}

/// Makes samples right in place, with the smallest change of the last linear or convolutional layer of a stage. Of several stages
/// each further one is changed only if enough samples are not yet right, from where the one before ended, with the loss counted
/// from the start.
///
/// ```text
/// min tr(ΔW C ΔWᵀ)   subject to   (J_i ΔW x̃_i)_y - (J_i ΔW x̃_i)_j >= m - (z_y - z_j)   for every sample i, strong rival j
/// ```
///
/// For data with outputs the conditions are those of a tolerance, `|z_j + (J_i ΔW x̃_i)_j - y_j| <= t - m`, on the side on which
/// output `j` errs; right is what is within the tolerance, and the loss on the validation part is the growth of the RMSE.
///
/// `C` is the second moment of the layer's inputs over training samples to be left alone, `J_i` the derivative of the
/// logits by the outputs of the layer. The conditions are linearised again at every new state, and watched samples that
/// a state broke become conditions of the next one. A step that loses too much on the validation part is halved,
/// and more is asked for samples that are still wrong. The best state of the rounds for a demand is polished if at least half of the
/// samples are right (see the module `polish`). Several margins, ridges and slacks are tried, further ones until enough samples are
/// repaired or the time is over: it ends a solve as well, between two steps of it. Of the states that lose no more than `max_drawdown`
/// on the validation part, the one with the most repaired samples is kept; of those with enough, the one that loses least. No change is
/// one of the states. Refits of the last layer take part where nothing follows it (see the module `refit`).
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
    stages: &[&str],
    asked: Asked<'_>,
    data: &DataBundle,
    options: &RepairOptions,
    progress: &dyn Progress,
) -> Result<Repaired, TrainError> {
    let Some((&first, rest)) = stages.split_first() else {
        let reason = "name at least one layer".to_owned();
        return Err(TrainError::Setting { name: "stage", value: String::new(), reason });
    };
    options.check()?;
    options.check_for(&data.train)?;
    let split = Split::stratified(&data.train, options.validation, SPLIT_SEED)?;
    // Of the training images those for validation are not chosen from: they judge.
    let candidates = match asked.origin {
        SampleOrigin::Part(Part::Train) | SampleOrigin::Corrupted(Part::Train, _) => split.train.clone(),
        other => (0..other.images(data).len()).collect(),
    };
    let rule = ChoiceRule { seed: options.seed, tolerance: options.tolerance };
    let samples = asked.choice.resolve_some(network, (asked.origin, data), &candidates, (rule, options.limit))?;
    let begun = Stopwatch::start();
    let deadline = Deadline::after(options.time).or_asked(progress);
    let given = Given { origin: asked.origin, samples: &samples };
    let layer = AffineLayer::of(network, first)?;
    announce(network, &layer, given, (data, &split), (options, deadline), progress).or_else(unless_over)?;
    let mut baseline = None;
    let mut step = |stage: &str, reached: Option<StateMeasures>| {
        repair_layer(network, stage, given, (data, &split), (options, &mut baseline, reached), (deadline, progress))
    };
    let (layer, mut measures, mut time_over) = step(first, None)?;
    let mut further = Vec::new();
    for stage in rest {
        if time_over || measures.efficacy >= options.efficacy {
            break;
        }
        let (layer, reached, is_over) = step(stage, Some(measures))?;
        further.push(layer);
        (measures, time_over) = (reached, is_over);
    }
    Ok(Repaired {
        measures,
        layer,
        further,
        time_over,
        seconds: begun.seconds(Clock::Wall),
        processor_seconds: begun.processor_seconds(),
        samples,
    })
}

/// An estimate that the time was over for is none.
fn unless_over(error: TrainError) -> Result<(), TrainError> {
    if matches!(error, TrainError::TimeOver) { Ok(()) } else { Err(error) }
}

/// Repairs one layer of a network, with the measures after it and whether the time was over. `reached` are those before it, of a
/// network that an earlier layer has changed. The first layer sets the baseline.
fn repair_layer(
    network: &Network,
    stage: &str,
    given: Given<'_>,
    (data, split): (&DataBundle, &Split),
    (options, baseline, reached): (&RepairOptions, &mut Option<Baseline>, Option<StateMeasures>),
    (deadline, progress): (Deadline, &dyn Progress),
) -> Result<(RepairedLayer, StateMeasures, bool), TrainError> {
    let layer = AffineLayer::of(network, stage)?;
    let old = layer.weights(network)?;
    let most_solves = solves(options, is_refitted(network, &layer, options));
    let started = Search::new(network, stage, given, data, split, (options, baseline.as_ref()), deadline);
    let found = match started {
        Ok(search) => {
            let found = search_states(&search, options, deadline, progress)?;
            *baseline = Some(search.baseline);
            found
        }
        Err(TrainError::TimeOver) => Found {
            change: Mat::zeros(old.nrows(), old.ncols()),
            chosen: None,
            measures: match reached {
                Some(measures) => measures,
                None => start_measures(network, given, data, options.tolerance)?,
            },
            candidates: Vec::new(),
            time_over: true,
        },
        Err(error) => return Err(error),
    };
    if found.time_over && progress.stop_asked() {
        progress.end();
        let left =
            "nothing is kept of a search; the same command starts it again, and --time ends one with its best state";
        return Err(TrainError::Stopped { left: left.into() });
    }
    layer.set(network, &(&old + &found.change))?;
    let layer = RepairedLayer {
        layer: layer.name().to_owned(),
        change_relative: relative(found.change.norm_l2(), old.norm_l2()),
        chosen: found.chosen,
        candidates: found.candidates,
        most_solves: Some(most_solves),
        weights: Some(WeightChange::of(&old, &found.change)),
    };
    Ok((layer, found.measures, found.time_over))
}

/// What a search came to.
struct Found {
    change: Mat<f64>,
    chosen: Option<Candidate>,
    measures: StateMeasures,
    candidates: Vec<Candidate>,
    time_over: bool,
}

impl Found {
    /// Keeps the best of these states, if it is better than what there is.
    fn take(&mut self, rounds: Rounds, options: &RepairOptions) {
        if let Some((change, candidate)) = rounds.best
            && candidate.measures.rank(options.efficacy) > self.measures.rank(options.efficacy)
        {
            (self.change, self.chosen, self.measures) = (change, Some(candidate), candidate.measures);
        }
        self.candidates.extend(rounds.candidates);
        self.time_over = rounds.time_over;
    }
}

/// Tries the demands in turn until there is enough, or the time is over.
fn search_states(
    search: &Search<'_>,
    options: &RepairOptions,
    deadline: Deadline,
    progress: &dyn Progress,
) -> Result<Found, TrainError> {
    let mut found = Found {
        change: Mat::zeros(search.old.nrows(), search.old.ncols()),
        chosen: None,
        measures: search.start,
        candidates: Vec::new(),
        time_over: false,
    };
    let grid = demands(options, search.refitted.is_some());
    found.take(search.refits(options, deadline, progress)?, options);
    progress.begin("repair", solves(options, search.refitted.is_some()), "solves");
    for (index, &demand) in grid.iter().enumerate() {
        if found.time_over {
            break;
        }
        let always = match options.prefer {
            // Of outputs the first one that is enough will do: the next differs by little.
            _ if options.tolerance.is_some() => 1,
            // Refits that are enough are better than any.
            _ if search.refitted.is_some() => 0,
            Preference::Accuracy => always(&search.layer),
            Preference::Generalisation => GENERAL_GRID.len(),
        };
        if index >= always && found.measures.efficacy >= options.efficacy {
            break;
        }
        let rounds = search.run(demand, options, deadline, progress)?;
        let best = rounds.best.clone();
        found.take(rounds, options);
        if let Some((change, candidate)) = best.filter(|_| !found.time_over) {
            let rounds = search.polish((&change, candidate), options, deadline)?;
            found.take(rounds, options);
        }
    }
    progress.end();
    Ok(found)
}

/// Demands that are tried in any case.
fn always(layer: &AffineLayer) -> usize {
    if layer.positions() > 1 { ALWAYS_DEAR } else { ALWAYS }
}

/// The demands in turn. Of a layer that is refitted too only those that may be missed: of the others no state came within the loss that
/// is allowed with as many samples right (`resnet20` at `fc`: ten solves out of twenty lose more than 50 points).
fn demands(options: &RepairOptions, is_refitted: bool) -> Vec<Demand> {
    let mut demands = all_demands(options);
    demands.retain(|demand| !is_refitted || demand.slack >= SOFT);
    demands
}

/// Linearisations for all of them.
fn solves(options: &RepairOptions, is_refitted: bool) -> usize {
    demands(options, is_refitted).len() * if options.tolerance.is_some() { OUTPUT_ROUNDS } else { ROUNDS }
}

fn all_demands(options: &RepairOptions) -> Vec<Demand> {
    match options.prefer {
        _ if options.tolerance.is_some() => OUTPUT_GRID.to_vec(),
        Preference::Accuracy => GRID.to_vec(),
        Preference::Generalisation => GENERAL_GRID.iter().chain(&GRID[2..]).copied().collect(),
    }
}

/// Measures of a network that stays as it is.
fn start_measures(
    network: &Network,
    given: Given<'_>,
    data: &DataBundle,
    tolerance: Option<f64>,
) -> Result<StateMeasures, TrainError> {
    let own = EvalSet::new(given.origin.images(data), &data.normalization, Some(given.samples))?.within(tolerance);
    let error = own.errors(network)?.map(|errors| errors.rmse);
    Ok(StateMeasures {
        efficacy: own.accuracy(network)?,
        drawdown_validation: 0.0,
        generalisation_validation: None,
        error,
    })
}

/// Says how long a search will take, if it is long.
///
/// # Errors
/// As [`Trial::run`].
fn announce(
    network: &Network,
    layer: &AffineLayer,
    given: Given<'_>,
    (data, split): (&DataBundle, &Split),
    (options, deadline): (&RepairOptions, Deadline),
    progress: &dyn Progress,
) -> Result<(), TrainError> {
    let rivals = rivals(&data.train, network.spec().classes);
    let trial = Trial::run(network, layer, given, data, (rivals, options.tolerance), deadline)?;
    let counts = [rivals, split.train.len()];
    let effort = Effort::of(layer, given.samples.len() * (1 + options.neighbours), counts);
    let watched = watched(layer, options.prefer, split.train.len() - given.in_training().len());
    let passes = Passes { watched, validation: split.validation.len(), test: data.test.len() };
    let setup = effort.setup_seconds(&trial, passes);
    let is_refitted = is_refitted(network, layer, options);
    let most = demands(options, is_refitted).len();
    // Refits may be enough.
    let fewest = if is_refitted { 0 } else { always(layer).min(most) };
    let [low, high] = [fewest, most].map(|demands| setup + effort.seconds(&trial, passes, demands));
    tracing::info!(?effort, ?trial, low, high, "estimate");
    if high > options.time.unwrap_or(f64::INFINITY).min(LONG) {
        let bound = match options.time {
            Some(time) => format!("--time ends it after {time} s"),
            None => "--limit takes fewer samples, --time ends it earlier with the best state so far".into(),
        };
        let judge = match Effort::judge_seconds(&trial, passes) {
            seconds if seconds < LONG => String::new(),
            seconds => format!(", {} for the test set after it", about(seconds, seconds)),
        };
        let beside = match (options.tolerance, options.neighbours) {
            (None, 0) if is_refitted => ", refits of the layer on top of it",
            (None, 0) => ", further steps from its best states on top of it",
            _ => "",
        };
        let time = about(low, high);
        progress.note(&format!("repair of {effort}: {time} for a whole search{beside}{judge}; {bound}"));
    }
    Ok(())
}
