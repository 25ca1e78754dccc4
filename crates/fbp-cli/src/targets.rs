use std::path::PathBuf;

use clap::Args;
use fbp_models::Checkpoint;
use fbp_train::TrainError;
use fbp_train::identity::file_sha256;
use fbp_train::progress::Progress;
use fbp_train::settings::{Effort, Embedding, Every, Metric, TargetMode};
use fbp_train::share::Share;
use fbp_train::store::{EXAMPLES_FILE, MANIFEST_FILE, Manifest, REPORT_FILE, StoreWriter, TIME_FILE, TargetStore};
use fbp_train::targets::{
    StageReport, TargetsOptions, TargetsReport, TargetsSource, compute_share, compute_targets, cut_at_every,
    merge_targets, wrong_examples,
};

use crate::choices::choice;
use crate::common::{CommonArgs, Out, ShardArgs, say};
use crate::data::TrainedDataArgs;
use crate::error::CliError;
use crate::signals;
use crate::table::print_table;

/// Wrongly classified images that are kept for the report.
const EXAMPLES: usize = 6;

/// Compute what the features of every transitional stage should have been
///
/// Writes shards of targets with a manifest. A run that was stopped or killed goes on where it was when it is started
/// again.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp targets --checkpoint c.safetensors --data fashion-mnist --margin 1 \
    --out t/ --json t.json")]
pub(crate) struct TargetsArgs {
    /// The pretrained network
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    data: TrainedDataArgs,
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
    /// In which metric targets are nearest; mahalanobis weighs changes by the covariance of the features
    #[arg(long, value_parser = choice::<Metric>(), default_value_t = Metric::Euclidean)]
    metric: Metric,
    /// How much is spent on nearer targets; quick is for deep networks
    #[arg(long, value_parser = choice::<Effort>(), default_value_t = Effort::Thorough)]
    effort: Effort,
    /// Which features: those between stages, or those between all blocks
    #[arg(long, value_parser = choice::<Every>(), default_value_t = Every::Stage)]
    every: Every,
    /// Samples per shard, which is what an interrupted run can lose [default: up to 5120]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    shard_size: Option<u32>,
    /// Folder to write to; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    shard: ShardArgs,
    /// Make them again and replace what is there: targets with these or other settings, and files of another origin
    #[arg(long, conflicts_with = "shard")]
    force: bool,
}

pub(crate) fn run(args: &TargetsArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let options = TargetsOptions {
        mode: args.targets,
        embedding: args.embedding,
        margin: args.margin,
        tolerance: args.tolerance,
        metric: args.metric,
        effort: args.effort,
        shard_samples: args.shard_size.map(|size| size as usize),
    };
    options.check()?;
    let checkpoint = Checkpoint::load(&args.checkpoint)?;
    let checkpoint_sha256 = file_sha256(&args.checkpoint)?;
    common.keep_json_apart(&args.out, [MANIFEST_FILE, REPORT_FILE, TIME_FILE, EXAMPLES_FILE])?;
    let input = args.data.load(&args.checkpoint, &checkpoint)?;
    let options = options.for_data(&input.bundle.train)?;
    let network = cut_at_every(checkpoint.network, args.every)?;
    let manifest = options.manifest(&network, checkpoint_sha256, input.identity)?;
    let source =
        TargetsSource { network: &network, data: &input.bundle.train, normalization: &input.bundle.normalization };
    signals::catch()?;
    let progress = common.progress();
    if common.team.size() > 1 {
        return run_by_team(args, common, (source, manifest), &progress, out);
    }
    if let Some(shard) = args.shard.shard {
        let writer = StoreWriter::open_share(&args.out, manifest, shard, &progress)?;
        let samples = compute_share(source, &writer, EXAMPLES, &progress)?;
        common.write_json(&serde_json::json!({ "shard": shard.to_string(), "samples": samples }))?;
        let folder = args.out.display();
        return say(
            out,
            format_args!("shard {shard} of {folder}: {samples} samples made; fbp merge {folder} closes it"),
        );
    }
    let writer = StoreWriter::open(&args.out, manifest, args.force)?;
    let report = compute_targets(source, &writer, &progress)?;
    let examples = wrong_examples(source, &TargetStore::open(&args.out)?, EXAMPLES)?;
    writer.write_json_beside(EXAMPLES_FILE, &examples)?;
    common.write_json(&report)?;
    print_report(&report, out)
}

/// Makes the share of one rank; the first one then closes the store.
fn run_by_team(
    args: &TargetsArgs,
    common: &CommonArgs,
    (source, manifest): (TargetsSource<'_>, Manifest),
    progress: &dyn Progress,
    out: Out<'_>,
) -> Result<(), CliError> {
    if let Some(shard) = args.shard.shard {
        let reason =
            "is for processes that know nothing of each other, and ranks share the work by themselves: leave it out";
        return Err(TrainError::Setting { name: "shard", value: shard.to_string(), reason: reason.into() }.into());
    }
    let team = &*common.team;
    if common.is_first() && args.force {
        drop(StoreWriter::open(&args.out, manifest.clone(), true)?);
    }
    team.barrier()?;
    let share = Share::new(team.rank() + 1, team.size())?;
    let made = StoreWriter::open_share(&args.out, manifest, share, progress)
        .and_then(|writer| compute_share(source, &writer, EXAMPLES, progress));
    let left = match made {
        Ok(_) => None,
        Err(TrainError::Stopped { left }) => Some(left),
        Err(error) => return Err(error.into()),
    };
    // All of them stop where one does.
    if team.any(left.is_some())? {
        let left =
            left.unwrap_or_else(|| "the shards that are done are kept; the same command makes the others".into());
        return Err(TrainError::Stopped { left }.into());
    }
    if !common.is_first() {
        return Ok(());
    }
    let report = merge_targets(&args.out)?;
    common.write_json(&report)?;
    print_report(&report, out)
}

pub(crate) fn print_report(report: &TargetsReport, out: Out<'_>) -> Result<(), CliError> {
    let TargetsReport { mode, margin, tolerance, metric, samples, seconds, images_per_second, .. } = report;
    let (what, wanted, right) = match tolerance {
        Some(tolerance) => ("samples", format!("tolerance {tolerance}"), "within tolerance"),
        None => ("images", format!("margin {margin}"), "right with targets"),
    };
    say(
        out,
        format_args!(
            "{samples} {what}, {mode} targets, {metric}, {wanted}: {seconds:.2} s, {images_per_second:.0} {what}/s"
        ),
    )?;
    let heading = [right, "moved by", "right already", "found at 2nd try", "not found", "largest miss"];
    let mut rows = vec![std::iter::once("stage").chain(heading).map(str::to_owned).collect::<Vec<_>>()];
    for stage in &report.stages {
        let StageReport { name, satisfied_before, corrected, unattained, .. } = stage;
        let cells = [
            format!("{:.3} %", 100.0 * stage.frozen_rest_accuracy),
            format!("{:.2} %", 100.0 * stage.distance_relative),
            satisfied_before.to_string(),
            corrected.to_string(),
            unattained.to_string(),
            format!("{:.2e}", stage.violation_max),
        ];
        rows.push(std::iter::once(name.clone()).chain(cells).collect());
    }
    print_table(&rows, out)
}
