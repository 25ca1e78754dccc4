use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use fbp_models::{Checkpoint, Network};
use serde::Serialize;

use super::config::{RunTable, StartTable, SweepConfig};
use super::list::List;
use crate::TrainError;
use crate::data::Dataset;
use crate::hash::bytes_sha256;
use crate::identity::{DataIdentity, file_sha256};
use crate::input::{Input, network_for};
use crate::settings::{Embedding, Keep, LossKind, Objective, TargetPolicy};
use crate::targets::TargetsOptions;
use crate::train::{PostTrainOptions, PretrainOptions, PretrainSettings, RECORD_PREFIX, check_policy, stage_of_mode};

/// Most runs of a sweep, duplicates counted: far more than a machine can do, and few enough to list.
const MAX_RUNS: u128 = 100_000;
/// Raised when the same settings would give other results.
const FORMAT: u32 = 1;

/// What a start is made from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum StartOrigin {
    /// A file, with its SHA-256.
    Checkpoint(String),
    /// A training of its own.
    Pretraining(Box<PretrainSettings>),
}

/// One network that runs start from.
#[derive(Clone, Debug)]
pub(super) struct StartPlan {
    pub(super) name: String,
    pub(super) origin: StartOrigin,
    /// Its checkpoint: the file given, or the one to write.
    pub(super) file: PathBuf,
}

/// One run.
#[derive(Clone, Debug)]
pub(super) struct RunPlan {
    /// Index of its start.
    pub(super) start: usize,
    pub(super) stage: String,
    pub(super) options: PostTrainOptions,
    /// Its targets, if it uses any.
    pub(super) targets: Option<TargetsOptions>,
    /// Whether they are those of the output, which need no store.
    pub(super) of_output: bool,
    /// Name of its record, without extension.
    pub(super) name: String,
}

/// All runs of a sweep, none of them twice, ordered by start and seed.
#[derive(Clone, Debug, Default)]
pub(super) struct Grid {
    pub(super) starts: Vec<StartPlan>,
    pub(super) runs: Vec<RunPlan>,
    /// Runs that were written down more than once.
    pub(super) duplicates: usize,
}

/// A start of the description with its network, whose weights do not matter here.
struct Start<'a> {
    table: &'a StartTable,
    network: Network,
    /// SHA-256 of the checkpoint, if it is one.
    sha256: Option<String>,
}

/// Takes a number apart, one list at a time: every number below the product of the lengths gives another combination.
struct Pick(usize);

impl Pick {
    fn from<V: Clone>(&mut self, values: &[V]) -> Option<V> {
        let value = values.get(self.0 % values.len().max(1)).cloned();
        self.0 /= values.len().max(1);
        value
    }

    /// One of the values given, or the default.
    fn one<V: Copy>(&mut self, list: Option<&List<V>>, default: V) -> V {
        list.and_then(|list| self.from(&list.0)).unwrap_or(default)
    }
}

fn len<V>(list: &Option<List<V>>) -> u128 {
    list.as_ref().map_or(1, |list| list.0.len() as u128)
}

impl Grid {
    /// Lists the runs of a description.
    ///
    /// # Errors
    /// [`TrainError::Sweep`] for what cannot be run, with the table.
    pub(super) fn new(
        config: &SweepConfig,
        data: &DataIdentity,
        start_input: &Input,
        out: &Path,
    ) -> Result<Self, TrainError> {
        check_size(config)?;
        let starts = starts(config, start_input)?;
        let seeds = |table: &RunTable| table.seeds.as_ref().unwrap_or(&config.seeds).list();
        let lists: Vec<Vec<u64>> = config.runs.iter().map(seeds).collect();
        let mut builder = Builder {
            config,
            data,
            start_data: &start_input.identity,
            samples: &start_input.bundle.train,
            out,
            repeats: lists.iter().map(|list| repeats(list)).collect(),
            grid: Self::default(),
            places: HashMap::new(),
            seen: HashSet::new(),
        };
        for start in &starts {
            let mut known = HashSet::new();
            for &seed in lists.iter().flatten().filter(|&&seed| known.insert(seed)) {
                builder.add_runs(start, seed)?;
            }
        }
        if builder.grid.runs.is_empty() {
            return Err(config.error("the grid is empty: give every list at least one value"));
        }
        Ok(builder.grid)
    }
}

/// How often each seed is in a list.
fn repeats(seeds: &[u64]) -> HashMap<u64, usize> {
    let mut repeats = HashMap::new();
    seeds.iter().for_each(|&seed| *repeats.entry(seed).or_default() += 1);
    repeats
}

/// Refuses grids that are empty or too large, before anything of their size is made.
fn check_size(config: &SweepConfig) -> Result<(), TrainError> {
    let mut total = 0_u128;
    for (index, table) in config.runs.iter().enumerate() {
        let wrong = |reason: &str| config.error(format!("[[runs]] table {}: {reason}", index + 1));
        if let Some(key) = table.idle_key() {
            return Err(wrong(&format!("{key} has no meaning for its modes; leave it out")));
        }
        let starts = table.starts.as_ref().map_or(config.starts.len(), |list| list.0.len()) as u128;
        let seeds = table.seeds.as_ref().unwrap_or(&config.seeds).count();
        let runs = combinations(table).saturating_mul(starts).saturating_mul(seeds);
        if runs == 0 {
            return Err(wrong("it has no runs: give every list at least one value"));
        }
        total = total.saturating_add(runs);
    }
    if total == 0 {
        return Err(config.error("it has no [[runs]] table"));
    }
    if total > MAX_RUNS {
        return Err(config.error(format!("{total} runs are more than {MAX_RUNS}: shorten some lists")));
    }
    Ok(())
}

/// Number of combinations of the values of one table, without starts and seeds.
fn combinations(table: &RunTable) -> u128 {
    [
        table.mode.0.len() as u128,
        len(&table.stage),
        len(&table.alpha),
        len(&table.margin),
        len(&table.tolerance),
        len(&table.targets),
        len(&table.embedding),
        len(&table.metric),
        len(&table.policy),
        len(&table.epochs),
        len(&table.batch),
        len(&table.learning_rate),
        len(&table.schedule),
        len(&table.weight_decay),
        len(&table.keep),
        len(&table.ema),
    ]
    .into_iter()
    .fold(1, u128::saturating_mul)
}

/// Checks the starts and looks at their networks.
fn starts<'c>(config: &'c SweepConfig, data: &Input) -> Result<Vec<Start<'c>>, TrainError> {
    let mut names = HashSet::new();
    let mut starts = Vec::new();
    for table in &config.starts {
        let wrong = |reason: String| config.error(format!("start {:?}: {reason}", table.name));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if table.name.is_empty() || table.name.len() > 64 || !table.name.chars().all(is_plain) {
            return Err(wrong("a name has 1 to 64 letters, digits, hyphens and underscores".into()));
        }
        if !names.insert(&table.name) {
            return Err(wrong("there are two of this name".into()));
        }
        let (network, sha256) = match &table.checkpoint {
            Some(file) => {
                if let Some(key) = table.pretraining_key() {
                    return Err(wrong(format!("{key} has no meaning beside a checkpoint; leave it out")));
                }
                let checkpoint = Checkpoint::load(file)?;
                if checkpoint.preprocessing.is_none() {
                    tracing::warn!(
                        start = table.name,
                        "its checkpoint tells no normalisation: that of the data is used"
                    );
                }
                (checkpoint.network, Some(file_sha256(file)?))
            }
            None => {
                let model = table.model.as_ref().or(config.model.as_ref());
                let missing = || wrong("name a model, here or at the top, or a checkpoint".into());
                pretraining(config, table, 0).check().map_err(|error| wrong(error.one_line()))?;
                let spec = network_for(model.ok_or_else(missing)?, &data.bundle.train)?;
                (Network::new(&spec, 0)?, None)
            }
        };
        starts.push(Start { table, network, sha256 });
    }
    let listed = config.runs.iter().flat_map(|table| table.starts.iter().flat_map(|list| &list.0));
    match listed.into_iter().find(|name| !names.contains(name)) {
        Some(name) => {
            let known = config.starts.iter().map(|start| start.name.as_str()).collect::<Vec<_>>().join(", ");
            Err(config.error(format!("there is no start {name:?}; it has {known}")))
        }
        None => Ok(starts),
    }
}

fn pretraining(config: &SweepConfig, table: &StartTable, seed: u64) -> PretrainOptions {
    let default = PretrainOptions::default();
    PretrainOptions {
        epochs: table.epochs.unwrap_or(default.epochs),
        batch: table.batch.unwrap_or(default.batch),
        learning_rate: table.learning_rate.unwrap_or(default.learning_rate),
        schedule: table.schedule.unwrap_or(default.schedule),
        weight_decay: table.weight_decay.unwrap_or(default.weight_decay),
        validation: config.validation,
        augment: table.augment.unwrap_or_default(),
        loss: config.loss,
        seed: table.seed.unwrap_or(seed),
        ..default
    }
}

struct Builder<'a> {
    config: &'a SweepConfig,
    data: &'a DataIdentity,
    /// Of the data that starts are trained on.
    start_data: &'a DataIdentity,
    /// Those data, of whose kind all are.
    samples: &'a Dataset,
    out: &'a Path,
    /// For each table, how often it has each seed.
    repeats: Vec<HashMap<u64, usize>>,
    grid: Grid,
    /// Index of each start, by name and file.
    places: HashMap<(String, PathBuf), usize>,
    seen: HashSet<String>,
}

/// What makes a run: equal identities give equal results.
#[derive(Serialize)]
struct Identity<'a> {
    format: u32,
    start: &'a StartOrigin,
    data: &'a DataIdentity,
    stage: &'a str,
    options: &'a PostTrainOptions,
    targets: &'a Option<TargetsOptions>,
}

/// The first digits of the SHA-256 of a value as JSON.
pub(super) fn digest<V: Serialize>(value: &V) -> String {
    // An empty text in its place would give all runs one name.
    let json = serde_json::to_vec(value).expect("structs of strings and numbers have a JSON form");
    let mut text = bytes_sha256(&json);
    text.truncate(16);
    text
}

/// Whether a text is such a digest.
pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Builder<'_> {
    /// Adds the runs of one start and seed.
    fn add_runs(&mut self, start: &Start<'_>, seed: u64) -> Result<(), TrainError> {
        let mut plan = None;
        for (index, table) in self.config.runs.iter().enumerate() {
            let is_asked = table.starts.as_ref().is_none_or(|list| list.0.contains(&start.table.name));
            let Some(&repeats) = self.repeats[index].get(&seed).filter(|_| is_asked) else { continue };
            let wrong =
                |error: TrainError| self.config.error(format!("[[runs]] table {}: {}", index + 1, error.one_line()));
            // At most MAX_RUNS.
            for number in 0..combinations(table) as usize {
                let run = run((self.config, table), (start, self.samples), number, seed).map_err(wrong)?;
                let start_plan = match &plan {
                    Some(plan) => *plan,
                    None => *plan.insert(self.start(start, seed)),
                };
                self.add(RunPlan { start: start_plan, ..run }, repeats);
            }
        }
        Ok(())
    }

    /// Index of the start for a seed.
    fn start(&mut self, start: &Start<'_>, seed: u64) -> usize {
        let Start { table, network, sha256 } = start;
        let (origin, file) = match (&table.checkpoint, sha256) {
            (Some(file), Some(sha256)) => (StartOrigin::Checkpoint(sha256.clone()), file.clone()),
            _ => {
                let options = pretraining(self.config, table, seed);
                let settings = options.settings(network.spec().clone(), self.start_data.clone());
                let file = format!("{}_seed{}_{}.safetensors", table.name, options.seed, digest(&settings));
                (StartOrigin::Pretraining(Box::new(settings)), self.out.join("starts").join(file))
            }
        };
        *self.places.entry((table.name.clone(), file.clone())).or_insert_with(|| {
            self.grid.starts.push(StartPlan { name: table.name.clone(), origin, file });
            self.grid.starts.len() - 1
        })
    }

    fn add(&mut self, run: RunPlan, repeats: usize) {
        let start = &self.grid.starts[run.start];
        let identity = Identity {
            format: FORMAT,
            start: &start.origin,
            data: self.data,
            stage: &run.stage,
            options: &run.options,
            targets: &run.targets,
        };
        let name = format!("{RECORD_PREFIX}{}", digest(&identity));
        self.grid.duplicates += repeats - 1;
        if self.seen.insert(format!("{}/{name}", start.name)) {
            self.grid.runs.push(RunPlan { name, ..run });
        } else {
            self.grid.duplicates += 1;
        }
    }
}

/// Combination `number` of a table. What has no meaning for its mode gets the default, so that runs that do the same
/// are the same.
fn run(
    (config, table): (&SweepConfig, &RunTable),
    (start, data): (&Start<'_>, &Dataset),
    number: usize,
    seed: u64,
) -> Result<RunPlan, TrainError> {
    let mut pick = Pick(number);
    let objective = pick.from(&table.mode.0).unwrap_or(PostTrainOptions::default().objective);
    let default = PostTrainOptions::of(objective);
    let stage = table.stage.as_ref().and_then(|list| pick.from(&list.0));
    let is_free = !matches!(objective, Objective::Full | Objective::Head);
    let stage = stage_of_mode(&start.network, objective, stage.as_deref().filter(|_| is_free))?;
    // Without its sign: -0 is the same run as 0.
    let alpha = pick.one(table.alpha.as_ref(), default.alpha) + 0.0;
    let targets = TargetsOptions::default();
    let mut targets = TargetsOptions {
        margin: pick.one(table.margin.as_ref(), targets.margin) + 0.0,
        mode: pick.one(table.targets.as_ref(), targets.mode),
        embedding: pick.one(table.embedding.as_ref(), targets.embedding),
        metric: pick.one(table.metric.as_ref(), targets.metric),
        tolerance: table.tolerance.as_ref().and_then(|list| pick.from(&list.0)),
        ..targets
    };
    let mut options = PostTrainOptions {
        objective,
        alpha: if objective == Objective::Joint { alpha } else { 0.0 },
        policy: pick.one(table.policy.as_ref(), default.policy),
        epochs: pick.one(table.epochs.as_ref(), default.epochs),
        batch: pick.one(table.batch.as_ref(), default.batch),
        learning_rate: pick.one(table.learning_rate.as_ref(), default.learning_rate),
        schedule: pick.one(table.schedule.as_ref(), default.schedule),
        weight_decay: pick.one(table.weight_decay.as_ref(), default.weight_decay) + 0.0,
        keep: pick.one(table.keep.as_ref(), default.keep),
        ema: table.ema.as_ref().and_then(|list| pick.from(&list.0)),
        augment: default.augment,
        validation: config.validation,
        loss: config.loss,
        seed,
    };
    if !objective.takes_steps() {
        let PostTrainOptions { epochs, batch, learning_rate, schedule, weight_decay, .. } = default;
        options = PostTrainOptions {
            epochs,
            batch,
            learning_rate,
            schedule,
            weight_decay,
            keep: Keep::Best,
            ema: None,
            policy: TargetPolicy::Static,
            ..options
        };
    }
    options.check()?;
    objective.check_loss(LossKind::of(options.loss, data)?)?;
    let of_output = stage == start.network.stages().last().map_or("", |stage| stage.name());
    if options.uses_targets() {
        targets = targets.for_data(data)?;
        check_policy(&start.network, &stage, &options)?;
        if targets.embedding != Embedding::Margin {
            targets.margin = 0.0;
        }
        if of_output {
            // Nothing is reversed.
            TargetsOptions { mode: targets.mode, metric: targets.metric, .. } = TargetsOptions::default();
        }
    } else {
        options.policy = TargetPolicy::Static;
    }
    let targets = options.uses_targets().then_some(targets);
    Ok(RunPlan { start: 0, stage, options, targets, of_output, name: String::new() })
}
