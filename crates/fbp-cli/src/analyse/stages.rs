use std::path::PathBuf;

use clap::Args;
use fbp_models::{Checkpoint, Network};
use fbp_report::analysis::{
    ANALYSIS_FILE, AnalysisSettings, CheckpointMeasures, StageAnalysis, TrainingSettings, check_folder, with_interval,
    write_analysis,
};
use fbp_train::TrainError;
use fbp_train::analysis::measure;
use fbp_train::atomic::FolderLock;
use fbp_train::data::{Normalization, SPLIT_SEED, Split, shuffle_indices};
use fbp_train::identity::file_sha256;
use fbp_train::input::{Input, network_for, network_spec};
use fbp_train::progress::Progress;
use fbp_train::settings::{Schedule, TargetMode, check};
use fbp_train::targets::{TargetsOptions, TargetsSource};
use fbp_train::train::{PretrainOptions, pretrain_watched};

use crate::choices::choice;
use crate::common::{CommonArgs, Out, say};
use crate::data::TrainedDataArgs;
use crate::error::CliError;
use crate::progress::Stderr;

/// Random stream for the choice among the held-back samples.
const STREAM: u64 = u64::MAX - 3;

/// Does the distance of a stage's features to their targets predict the loss?
///
/// Measures both on held-back training samples, for the checkpoints given, or for every epoch of a training of its own,
/// and correlates them over the checkpoints and over the samples. Writes stages.json, stages.md and stages.svg.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp analyse stages --checkpoint a.safetensors --checkpoint b.safetensors \
    --data fashion-mnist --out analysis/")]
pub(super) struct StagesArgs {
    /// A checkpoint, of one network in several states; may be given several times
    #[arg(long, value_name = "FILE", required_unless_present = "model", conflicts_with_all = ["model", "epochs", "batch", "learning_rate", "schedule"])]
    checkpoint: Vec<PathBuf>,
    /// Train this network and measure it after every epoch: a name, or a TOML file that describes one
    #[arg(long, value_name = "NAME|FILE.toml")]
    model: Option<String>,
    #[command(flatten)]
    data: TrainedDataArgs,
    /// Passes over the training data
    #[arg(long, default_value_t = 10)]
    epochs: usize,
    /// Samples per step
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Learning rate, at the start if it has a schedule
    #[arg(long, visible_alias = "lr", default_value_t = 1e-3, allow_negative_numbers = true)]
    learning_rate: f64,
    /// How the learning rate changes
    #[arg(long, value_parser = choice::<Schedule>(), default_value_t = Schedule::Constant)]
    schedule: Schedule,
    /// Share of the training data that is held back and measured on
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    validation: f64,
    /// Measure on at most so many of these samples
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    limit: usize,
    /// Lead that the right class should have over every other
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    margin: f64,
    /// How targets are found: jointly, layer by layer, or the published points
    #[arg(long, value_parser = choice::<TargetMode>(), default_value_t = TargetMode::Attainable)]
    targets: TargetMode,
    /// Folder to write to; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace an analysis with other settings, and files that are none
    #[arg(long)]
    force: bool,
}

/// A state of the network, with how it wants images normalised.
struct State {
    name: String,
    network: Network,
    normalization: Normalization,
}

/// What is measured, and on what.
struct Bench<'a> {
    input: &'a Input,
    samples: Vec<usize>,
    targets: TargetsOptions,
}

impl Bench<'_> {
    fn measure(
        &self,
        (network, normalization): (&Network, &Normalization),
        name: String,
    ) -> Result<CheckpointMeasures, TrainError> {
        let source = TargetsSource { network, data: &self.input.bundle.train, normalization };
        let samples = measure(source, &self.samples, &self.targets)?;
        Ok(CheckpointMeasures::of(name, network, &samples))
    }
}

impl StagesArgs {
    pub(super) fn run(&self, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
        check("validation", self.validation, f64::MIN_POSITIVE..1.0, "(0, 1)")?;
        check("limit", self.limit, 3..=1_000_000, "3 to 1000000")?;
        let targets = TargetsOptions { mode: self.targets, margin: self.margin, ..TargetsOptions::default() };
        targets.check()?;
        let training = self.training(common.seed)?;
        self.model.as_deref().map(network_spec).transpose()?;
        let (input, states) = self.states()?;
        let spec = match &self.model {
            Some(name) => network_for(name, &input.bundle.train)?,
            None => states[0].network.spec().clone(),
        };
        common.keep_json_apart(&self.out, [ANALYSIS_FILE, "stages.md", "stages.svg"])?;
        input.check_fits(&spec)?;
        let settings = AnalysisSettings {
            model: spec.name.clone(),
            data: input.identity.clone(),
            checkpoints: self.checkpoint.iter().map(|path| file_sha256(path)).collect::<Result<_, _>>()?,
            training: self.model.is_some().then_some(TrainingSettings {
                epochs: training.epochs,
                batch: training.batch,
                learning_rate: training.learning_rate,
                schedule: training.schedule,
                seed: training.seed,
            }),
            validation: self.validation,
            limit: self.limit,
            seed: common.seed,
            mode: self.targets,
            margin: self.margin,
        };
        check_folder(&self.out, &settings, self.force)?;
        let _lock = FolderLock::acquire(&self.out)?;
        let mut samples = Split::stratified(&input.bundle.train, self.validation, SPLIT_SEED)?.validation;
        shuffle_indices(&mut samples, common.seed, STREAM);
        samples.truncate(self.limit);
        samples.sort_unstable();
        let bench = Bench { input: &input, samples, targets };
        let mut measures = Vec::new();
        for State { name, network, normalization } in &states {
            measures.push(bench.measure((network, normalization), name.clone())?);
        }
        if self.model.is_some() {
            let mut watch = |epoch: usize, network: &Network| {
                measures.push(bench.measure((network, &input.bundle.normalization), format!("epoch {epoch}"))?);
                Ok(())
            };
            let progress: &dyn Progress = &Stderr::default();
            pretrain_watched(&spec, &input.bundle, &training, progress, &mut watch)?;
        }
        let analysis = StageAnalysis::new(settings, bench.samples.len(), measures);
        let [table, plot] = write_analysis(&analysis, &self.out, self.force)?;
        common.write_json(&analysis)?;
        print(&analysis, out)?;
        say(out, format_args!("{} and {}", table.display(), plot.display()))
    }

    fn training(&self, seed: u64) -> Result<PretrainOptions, CliError> {
        let options = PretrainOptions {
            epochs: self.epochs,
            batch: self.batch,
            learning_rate: self.learning_rate,
            schedule: self.schedule,
            validation: self.validation,
            seed,
            ..PretrainOptions::default()
        };
        options.check()?;
        Ok(options)
    }

    /// The data, and the checkpoints given, which must be states of one network.
    fn states(&self) -> Result<(Input, Vec<State>), CliError> {
        let mut states: Vec<State> = Vec::new();
        let mut input = None;
        for path in &self.checkpoint {
            let checkpoint = Checkpoint::load(path)?;
            if let Some(first) = states.first()
                && first.network.spec() != checkpoint.network.spec()
            {
                return Err(TrainError::Mismatch {
                    left: path.display().to_string(),
                    right: first.name.clone(),
                    reason: "they hold different networks; name checkpoints of one".into(),
                }
                .into());
            }
            let loaded = self.data.load(path, &checkpoint)?;
            let normalization = loaded.bundle.normalization.clone();
            states.push(State { name: path.display().to_string(), network: checkpoint.network, normalization });
            input.get_or_insert(loaded);
        }
        match input {
            Some(input) => Ok((input, states)),
            None => Ok((self.data.load_untrained()?, states)),
        }
    }
}

fn print(analysis: &StageAnalysis, out: Out<'_>) -> Result<(), CliError> {
    let last = analysis.checkpoints.last();
    for (index, stage) in analysis.over_checkpoints.iter().enumerate() {
        let over = with_interval(stage.distance.pearson, stage.distance.pearson_interval);
        let samples = last.map(|last| last.stages[index].over_samples).unwrap_or_default();
        let within = with_interval(samples.pearson, samples.pearson_interval);
        say(out, format_args!("{}: Pearson {over} over checkpoints, {within} over samples", stage.stage))?;
    }
    Ok(())
}
