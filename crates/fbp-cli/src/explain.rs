use std::path::PathBuf;

use clap::Args;
use fbp_models::Checkpoint;
use fbp_report::explain::{check_folder, write_explanation};
use fbp_train::atomic::FolderLock;
use fbp_train::explain::{
    EXPLAIN_FILE, EXPLAIN_PAGE, ExplainOptions, ExplainRecord, ExplainSettings, check_stages, explain,
};
use fbp_train::identity::file_sha256;
use fbp_train::repair::SampleChoice;
use fbp_train::settings::{Embedding, TargetMode, check};
use fbp_train::targets::{TargetsOptions, TargetsSource};
use fbp_train::train::ALL_STAGES;

use crate::choices::choice;
use crate::common::{CommonArgs, Out, say};
use crate::data::DataArgs;
use crate::error::CliError;

/// Most samples of one page.
const MOST: usize = 200;

/// Show what the features of given samples are, what they should have been, and where they differ
///
/// Writes explain.html, which needs no other file, the pictures as PNG files, and explain.json.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Example:\n  cargo fbp explain --checkpoint c.safetensors --data fashion-mnist --samples wrong:6 \
    --out explained/"
)]
pub(crate) struct ExplainArgs {
    /// The network
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Training samples: positions such as 3,17, a file with one per line, N wrong ones at random, or all wrong ones of class K
    #[arg(long, value_name = "LIST|FILE|wrong:N|class:K")]
    samples: SampleChoice,
    /// Explain at most so many of them, up to 200
    #[arg(long, value_name = "N", default_value_t = 12)]
    limit: usize,
    /// A transitional stage, input, or all; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    stage: Vec<String>,
    /// Lead that the right class should have over every other
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    margin: f64,
    /// How the label becomes a target output
    #[arg(long, value_parser = choice::<Embedding>(), default_value_t = Embedding::Margin)]
    embedding: Embedding,
    /// How targets are found: jointly, layer by layer, or the published points
    #[arg(long, value_parser = choice::<TargetMode>(), default_value_t = TargetMode::Attainable)]
    targets: TargetMode,
    /// Folder to write to; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace an explanation with other settings, and files that are none
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &ExplainArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    check("limit", args.limit, 1..=MOST, "1 to 200")?;
    let targets = TargetsOptions {
        mode: args.targets,
        embedding: args.embedding,
        margin: args.margin,
        ..TargetsOptions::default()
    };
    targets.check()?;
    let network = Checkpoint::load(&args.checkpoint)?.network;
    let stages: Vec<String> = match &args.stage[..] {
        [all] if all == ALL_STAGES && network.stage_index(all).is_err() => Vec::new(),
        named => named.to_vec(),
    };
    check_stages(&network, &stages)?;
    common.keep_json_apart(&args.out, [EXPLAIN_FILE, EXPLAIN_PAGE])?;
    let input = args.data.load()?;
    input.check_fits(network.spec())?;
    let settings = ExplainSettings {
        checkpoint_sha256: file_sha256(&args.checkpoint)?,
        model: network.spec().name.clone(),
        data: input.identity,
        samples: args.samples.to_string(),
        limit: args.limit,
        seed: common.seed,
        stages: stages.clone(),
        mode: args.targets,
        embedding: args.embedding,
        margin: args.margin,
    };
    let bundle = &input.bundle;
    let all: Vec<usize> = (0..bundle.train.len()).collect();
    let mut samples = args.samples.resolve(&network, bundle, &all, common.seed)?;
    let chosen = samples.len();
    samples.truncate(args.limit);
    check_folder(&args.out, &settings, args.force)?;
    let _lock = FolderLock::acquire(&args.out)?;
    let source = TargetsSource { network: &network, data: &bundle.train, normalization: &bundle.normalization };
    let explanation = explain(source, &samples, &ExplainOptions { targets, stages })?;
    let record = write_explanation(&explanation, settings, chosen, &args.out, args.force)?;
    common.write_json(&record)?;
    print(&record, out)?;
    say(out, format_args!("{}", args.out.join(EXPLAIN_PAGE).display()))
}

fn print(record: &ExplainRecord, out: Out<'_>) -> Result<(), CliError> {
    if let Some(note) = &record.input_note {
        say(out, format_args!("without the input: {note}"))?;
    }
    for sample in &record.samples {
        let moved: Vec<String> = sample
            .stages
            .iter()
            .map(|stage| format!("{} moved by {:.2} %", stage.stage, 100.0 * stage.distance_relative))
            .collect();
        let said = sample.predicted;
        say(out, format_args!("sample {}: class {}, said {said}; {}", sample.sample, sample.label, moved.join(", ")))?;
    }
    Ok(())
}
