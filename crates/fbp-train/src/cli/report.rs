use std::path::PathBuf;

use clap::Args;

use super::{CommonArgs, Out, say};
use crate::TrainError;
use crate::report::{Runs, Summary, write_report};

/// Turn a folder of run records into one page with plots and pictures
///
/// Writes report.html, which needs no other file, and summary.json.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp report --runs runs/ --out runs/")]
pub(super) struct ReportArgs {
    /// Folder that `post-train --out` wrote to
    #[arg(long, value_name = "DIR")]
    runs: PathBuf,
    /// Folder to write to; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(args: &ReportArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), TrainError> {
    let runs = Runs::load(&args.runs)?;
    let [page, summary] = write_report(&runs, &args.out)?;
    common.write_json(&Summary::of(&runs))?;
    say(out, format_args!("{} post-training runs: {} and {}", runs.post_train.len(), page.display(), summary.display()))
}
