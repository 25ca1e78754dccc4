use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use fbp_report::Difference;
use fbp_report::sweep::{RateEdge, SweepRow, check_summary, summarise, summary_files};
use fbp_train::TrainError;
use fbp_train::sweep::{FORMAT, Sweep, SweepConfig, merge_sweep};

use crate::common::{CommonArgs, Out, ShardArgs, say};
use crate::error::CliError;
use crate::progress::Stderr;
use crate::signals;
use crate::table::print_table;

/// Run many post-trainings from one description and compare them
///
/// Does every combination of starts, modes, stages, weights, margins and seeds, several at a time, one record per run. A
/// sweep that was stopped or killed goes on where it was when it is started again. At the end, and with --summary at any time, the
/// runs are compared by seed with fine-tuning at the same learning rate (called plain in the tables) and at the best of those
/// tried (called tuned): summary.json, .csv and .md. `fbp help sweep` explains the description.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp sweep --config sweep.toml --out study/ --dry-run\n  \
    cargo fbp sweep --config sweep.toml --out study/\n  cargo fbp sweep --summary study/")]
#[command(after_long_help = format!("Example:\n  cargo fbp sweep --config sweep.toml --out study/ --dry-run\n  \
    cargo fbp sweep --config sweep.toml --out study/\n  cargo fbp sweep --summary study/\n\nThe description:\n\n{FORMAT}"))]
pub(crate) struct SweepArgs {
    /// The description, in TOML
    #[arg(long, value_name = "FILE.toml", required_unless_present = "summary", conflicts_with = "summary")]
    config: Option<PathBuf>,
    /// Folder for everything; made if it is not there
    #[arg(long, value_name = "DIR", required_unless_present = "summary", conflicts_with = "summary")]
    out: Option<PathBuf>,
    #[command(flatten)]
    shard: ShardArgs,
    /// List the runs, and which of them are done
    #[arg(long, conflicts_with_all = ["summary", "shard"])]
    dry_run: bool,
    /// Compare the runs in this folder, without running any
    #[arg(long, value_name = "DIR")]
    summary: Option<PathBuf>,
}

pub(crate) fn run(args: &SweepArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let folder = match (&args.config, &args.out, &args.summary) {
        (Some(config), Some(folder), _) => {
            let config = SweepConfig::read(config)?;
            let sweep = Sweep::new(&config, folder)?;
            if args.dry_run {
                return list(&sweep, common, out);
            }
            common.keep_json_apart(folder, summary_files())?;
            check_summary(folder)?;
            signals::catch()?;
            if let Some(shard) = args.shard.shard {
                sweep.run_share(shard, rayon::current_num_threads(), &Stderr::default())?;
                let folder = folder.display();
                common.write_json(&serde_json::json!({ "shard": shard.to_string() }))?;
                return say(
                    out,
                    format_args!("shard {shard} of {folder} is done; fbp merge {folder} compares all runs"),
                );
            }
            sweep.run(rayon::current_num_threads(), &Stderr::default()).map(|()| folder)
        }
        (_, _, Some(folder)) => {
            common.keep_json_apart(folder, summary_files())?;
            Ok(folder)
        }
        // The parser lets nothing else through.
        _ => return Ok(()),
    };
    // Runs that failed are no reason not to look at the others.
    let (folder, result) = match (folder, &args.out) {
        (Ok(folder), _) => (folder, Ok(())),
        (Err(error @ TrainError::SweepRuns { .. }), Some(folder)) => (folder, Err(error)),
        (Err(error), _) => return Err(error.into()),
    };
    match (summarise(folder), result) {
        (Err(_), Err(error)) => Err(error.into()),
        (rows, result) => {
            print_summary(&rows?, folder, common, out)?;
            Ok(result?)
        }
    }
}

/// Closes a sweep that several processes have done, and compares its runs.
pub(crate) fn merge(folder: &Path, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    common.keep_json_apart(folder, summary_files())?;
    check_summary(folder)?;
    merge_sweep(folder)?;
    print_summary(&summarise(folder)?, folder, common, out)
}

fn print_summary(rows: &[SweepRow], folder: &Path, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    print(rows, common, out)?;
    let (table, count) = (folder.join("summary.md"), rows.len());
    say(out, format_args!("{count} {}: {}", if count == 1 { "comparison" } else { "comparisons" }, table.display()))
}

fn print(rows: &[SweepRow], common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let line = |row: &SweepRow| {
        let SweepRow { start, mode, stage, against, .. } = row;
        let Difference { mean_pp, ci_low, ci_high, seeds, .. } = row.difference;
        let interval = match (ci_low, ci_high) {
            (Some(low), Some(high)) => format!("[{low:+.3}, {high:+.3}]"),
            _ => "–".into(),
        };
        let alpha = row.alpha.map(|alpha| format!(" alpha {alpha}")).unwrap_or_default();
        let margin = row.margin.map(|margin| format!(" margin {margin}")).unwrap_or_default();
        let tolerance = row.tolerance.map(|tolerance| format!(" tolerance {tolerance}")).unwrap_or_default();
        let what = format!("{start}: {mode} {stage}{alpha}{margin}{tolerance}");
        vec![what, yardstick(against).to_owned(), format!("{mean_pp:+.3}"), interval, seeds.to_string()]
    };
    let unit = rows.first().map_or("pp", |row| row.measure().unit());
    let gain = format!("gain over fine-tuning ({unit})");
    let heading = [gain.as_str(), "at its", "gain", "95 % interval", "seeds"].map(str::to_owned).to_vec();
    if !rows.is_empty() {
        print_table(&std::iter::once(heading).chain(rows.iter().map(line)).collect::<Vec<_>>(), out)?;
    }
    for line in untuned(rows) {
        say(out, format_args!("{line}"))?;
    }
    common.write_json(&rows)
}

/// At which rate a run was fine-tuned that others are compared with, for people who have not read the tables.
fn yardstick(name: &str) -> &str {
    match name {
        "plain" => "same rate",
        "tuned" => "best rate",
        "tuned-equal-time" => "best rate, equal time",
        other => other,
    }
}

/// A line for every way of training whose best learning rate is an end of those that were tried.
fn untuned(rows: &[SweepRow]) -> BTreeSet<String> {
    let line = |start: &str, what: &str, epochs: usize, edge: RateEdge| {
        format!("{start}: {what}, {epochs} epochs: the {} learning rate tried is the best: try more", edge.name())
    };
    let own = rows
        .iter()
        .filter_map(|row| Some(line(&row.start, &format!("{} {}", row.mode, row.stage), row.epochs?, row.rate_edge?)));
    let yardsticks = rows.iter().filter_map(|row| {
        Some(line(&row.start, "fine-tuning at its best rate", row.against_epochs, row.rate_edge_against?))
    });
    own.chain(yardsticks).collect()
}

fn list(sweep: &Sweep, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let runs = sweep.list()?;
    common.write_json(&runs)?;
    for run in &runs {
        say(out, format_args!("{run}"))?;
    }
    let done = runs.iter().filter(|run| run.done).count();
    let duplicates = match sweep.duplicates() {
        0 => String::new(),
        count => format!(" ({count} more were written down twice)"),
    };
    say(out, format_args!("{} runs{duplicates}: {done} done, {} to do", runs.len(), runs.len() - done))
}
