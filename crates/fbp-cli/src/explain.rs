use std::path::{Path, PathBuf};

use clap::Args;
use fbp_models::Checkpoint;
use fbp_report::explain::{check_folder, write_explanation};
use fbp_train::TrainError;
use fbp_train::atomic::FolderLock;
use fbp_train::data::Normalization;
use fbp_train::explain::{
    EXPLAIN_FILE, EXPLAIN_PAGE, ExplainOptions, ExplainRecord, ExplainSettings, ExplainShardSettings, Explanation,
    check_stages, explain, explain_shards, merge_explain,
};
use fbp_train::identity::file_sha256;
use fbp_train::outputs::OutputLock;
use fbp_train::repair::{ChoiceRule, SampleChoice};
use fbp_train::settings::{Effort, Embedding, Every, Part, TargetMode, check};
use fbp_train::share::{ShardFile, Share};
use fbp_train::targets::{TargetsOptions, TargetsSource, cut_at_every};
use fbp_train::train::ALL_STAGES;

use crate::choices::choice;
use crate::common::{CommonArgs, Out, ShardArgs, say};
use crate::data::{ImageArgs, TrainedDataArgs};
use crate::error::CliError;
use crate::table::{class_name, print_table};

/// Most samples of one page.
const MOST: usize = 200;

/// Show what the features of given samples are, what they should have been, and where they differ
///
/// Writes explain.html, which needs no other file, the pictures as PNG files, and explain.json.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo fbp explain --checkpoint c.safetensors --data fashion-mnist --samples wrong:6 \
    --out explained/\n  \
    cargo fbp explain --checkpoint c.safetensors --data fashion-mnist --part test --samples 3,17 --out explained-test/\n  \
    cargo fbp explain --checkpoint c.safetensors --image shoe.png --label 9 --out shoe/",
    // Images of one's own need no other data: the checkpoint tells how they are normalised.
    mut_arg("data", |data| data.required(false).required_unless_present("image"))
)]
pub(crate) struct ExplainArgs {
    /// The network
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    data: TrainedDataArgs,
    /// Which of the images: positions such as 3,17, a file with one per line, N wrong ones at random, the N with the
    /// largest loss, all wrong ones of class K, or all [default for --image: all]
    #[arg(long, value_name = "LIST|FILE|wrong:N|worst:N|class:K|all", required_unless_present = "image")]
    samples: Option<SampleChoice>,
    #[command(flatten)]
    images: ImageArgs,
    /// Explain at most so many of them, up to 200
    #[arg(long, value_name = "N", default_value_t = 12)]
    limit: usize,
    /// A transitional stage, input, or all; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    stage: Vec<String>,
    /// Lead that the right class should have over every other
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    margin: f64,
    /// How far an output may be from the wanted one, in the units of the outputs; for data with outputs, which need it
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    tolerance: Option<f64>,
    /// How the label becomes a target output
    #[arg(long, value_parser = choice::<Embedding>(), default_value_t = Embedding::Margin)]
    embedding: Embedding,
    /// How targets are found: jointly, layer by layer, or the published points
    #[arg(long, value_parser = choice::<TargetMode>(), default_value_t = TargetMode::Attainable)]
    targets: TargetMode,
    /// How much is spent on nearer targets; quick is for deep networks
    #[arg(long, value_parser = choice::<Effort>(), default_value_t = Effort::Thorough)]
    effort: Effort,
    /// Which features: those between stages, or those between all blocks
    #[arg(long, value_parser = choice::<Every>(), default_value_t = Every::Stage)]
    every: Every,
    /// Folder to write to; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    shard: ShardArgs,
    /// Replace an explanation with other settings, and files that are none
    #[arg(long, conflicts_with = "shard")]
    force: bool,
}

pub(crate) fn run(args: &ExplainArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    check("limit", args.limit, 1..=MOST, "1 to 200")?;
    let targets = TargetsOptions {
        mode: args.targets,
        embedding: args.embedding,
        margin: args.margin,
        tolerance: args.tolerance,
        effort: args.effort,
        ..TargetsOptions::default()
    };
    targets.check()?;
    let mut checkpoint = Checkpoint::load(&args.checkpoint)?;
    checkpoint.network = cut_at_every(checkpoint.network, args.every)?;
    let stages: Vec<String> = match &args.stage[..] {
        [all] if all == ALL_STAGES && checkpoint.network.stage_index(all).is_err() => Vec::new(),
        named => named.to_vec(),
    };
    check_stages(&checkpoint.network, &stages)?;
    common.keep_json_apart(&args.out, [EXPLAIN_FILE, EXPLAIN_PAGE])?;
    let own = args.images.own(&checkpoint)?;
    let choice = args.samples.clone().unwrap_or(SampleChoice::All);
    let input = if args.data.is_named() { Some(args.data.load(&args.checkpoint, &checkpoint)?) } else { None };
    let (normalization, data) = match (&input, &own) {
        (Some(input), own) => {
            (input.bundle.normalization.clone(), own.as_ref().map_or(&input.identity, |own| &own.identity))
        }
        (None, Some(own)) => (normalization_of(&args.checkpoint, &checkpoint)?, &own.identity),
        // The parser lets nothing else through.
        (None, None) => return Ok(()),
    };
    let (images, name) = match (&own, &input) {
        (Some(own), _) => (&own.images, "images given"),
        (None, Some(input)) if args.images.part == Part::Test => (&input.bundle.test, "test images"),
        (None, Some(input)) => (&input.bundle.train, "training samples"),
        (None, None) => return Ok(()),
    };
    let targets = targets.for_data(images)?;
    let network = &checkpoint.network;
    let told = checkpoint.preprocessing.as_ref().map_or(&[][..], |found| found.classes());
    let of_data = input.as_ref().map_or(&[][..], |input| &input.bundle.class_names);
    let settings = ExplainSettings {
        checkpoint_sha256: file_sha256(&args.checkpoint)?,
        model: network.spec().name.clone(),
        data: data.clone(),
        part: args.images.part,
        own: own.is_some(),
        class_names: if told.is_empty() { of_data } else { told }.to_vec(),
        samples: choice.to_string(),
        limit: args.limit,
        seed: common.seed,
        stages: stages.clone(),
        mode: args.targets,
        embedding: targets.embedding,
        margin: targets.margin,
        tolerance: targets.tolerance,
        effort: args.effort,
        every: args.every,
    };
    let rule = ChoiceRule { seed: common.seed, tolerance: args.tolerance };
    let all: Vec<usize> = (0..images.len()).collect();
    let mut samples = choice.choose(network, (images, name), &normalization, &all, rule)?;
    let chosen = samples.len();
    samples.truncate(args.limit);
    let source = TargetsSource { network, data: images, normalization: &normalization };
    if let Some(shard) = args.shard.shard {
        let own = &samples[shard.range(samples.len())];
        let settings = ExplainShardSettings { settings, chosen };
        return run_shard(
            (shard, &args.out),
            settings,
            |options| explain(source, own, options),
            (targets, stages),
            out,
        );
    }
    check_folder(&args.out, &settings, args.force)?;
    let _lock = FolderLock::acquire(&args.out)?;
    let explanation = explain(source, &samples, &ExplainOptions { targets, stages })?;
    let record = write_explanation(&explanation, settings, chosen, &args.out, args.force)?;
    common.write_json(&record)?;
    print(&record, out)?;
    say(out, format_args!("{}", args.out.join(EXPLAIN_PAGE).display()))
}

/// Explains the samples of a shard, and leaves what was found in the folder.
fn run_shard(
    (shard, folder): (Share, &Path),
    settings: ExplainShardSettings,
    explain: impl Fn(&ExplainOptions) -> Result<Explanation, TrainError>,
    (targets, stages): (TargetsOptions, Vec<String>),
    out: Out<'_>,
) -> Result<(), CliError> {
    std::fs::create_dir_all(folder).map_err(TrainError::writing(folder))?;
    let shards = explain_shards(folder);
    let _shared = FolderLock::share(folder)?;
    let _lock = OutputLock::acquire(&shards.path(shard))?;
    let is_there = shards.finished::<_, Explanation>(shard, &settings)?.is_some();
    if !is_there {
        let content = explain(&ExplainOptions { targets, stages })?;
        shards.write(&ShardFile { shard, settings, content })?;
    }
    let (folder, what) = (folder.display(), if is_there { "is there already" } else { "is done" });
    say(out, format_args!("shard {shard} of {folder} {what}; fbp merge {folder} makes the page"))
}

/// Makes the page of all shards.
pub(crate) fn merge(folder: &Path, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let (ExplainShardSettings { settings, chosen }, explanation) = merge_explain(folder)?;
    common.keep_json_apart(folder, [EXPLAIN_FILE, EXPLAIN_PAGE])?;
    check_folder(folder, &settings, false)?;
    let _lock = FolderLock::acquire(folder)?;
    let record = write_explanation(&explanation, settings, chosen, folder, false)?;
    explain_shards(folder).remove()?;
    common.write_json(&record)?;
    print(&record, out)?;
    say(out, format_args!("{}", folder.join(EXPLAIN_PAGE).display()))
}

/// What a checkpoint tells about its images.
fn normalization_of(file: &Path, checkpoint: &Checkpoint) -> Result<Normalization, CliError> {
    match &checkpoint.preprocessing {
        Some(preprocessing) => Ok(Normalization::of(preprocessing)?),
        None => Err(TrainError::Mismatch {
            left: file.display().to_string(),
            right: "images of your own alone".into(),
            reason: "it does not tell how its images were normalised; name the data that it was trained on with --data"
                .into(),
        }
        .into()),
    }
}

fn print(record: &ExplainRecord, out: Out<'_>) -> Result<(), CliError> {
    if let Some(note) = &record.input_note {
        say(out, format_args!("without the input: {note}"))?;
    }
    let of_outputs = record.settings.tolerance.is_some();
    let told = if of_outputs { ["sample", "largest error", "attained"] } else { ["sample", "class", "said"] };
    let heading = told.map(str::to_owned).into_iter();
    let stages = record.samples.iter().flat_map(|sample| &sample.stages).map(|stage| stage.stage.clone());
    let count = record.samples.first().map_or(0, |sample| sample.stages.len());
    let mut rows = vec![heading.chain(stages.take(count).map(|stage| format!("{stage} moved by"))).collect::<Vec<_>>()];
    for sample in &record.samples {
        let class = |label: u32| class_name(label as usize, &record.settings.class_names);
        let numbers = if of_outputs {
            let errors = sample.logits.iter().zip(&sample.wanted).map(|(found, wanted)| (found - wanted).abs());
            let attained = sample.stages.iter().filter(|stage| stage.attained).count();
            let largest = format!("{:.3}", errors.fold(0.0, f32::max));
            [sample.sample.to_string(), largest, format!("{attained} of {} stages", sample.stages.len())]
        } else {
            [sample.sample.to_string(), class(sample.label), class(sample.predicted)]
        };
        let moved = sample.stages.iter().map(|stage| format!("{:.2} %", 100.0 * stage.distance_relative));
        rows.push(numbers.into_iter().chain(moved).collect());
    }
    print_table(&rows, out)?;
    let places: Vec<String> = record.samples.iter().map(|sample| sample.sample.to_string()).collect();
    say(out, format_args!("the same ones, for fbp repair: --samples {}", places.join(",")))
}
