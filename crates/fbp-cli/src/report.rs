use std::path::PathBuf;

use clap::Args;
use fbp_report::study::{Study, Summary, check_folder, report_files, write_report};
use fbp_train::atomic::FolderLock;

use crate::common::{CommonArgs, Out, say};
use crate::error::CliError;

/// Turn a folder of run records into one page with plots and pictures
///
/// Writes report.html, which needs no other file, and summary.json.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp report --runs runs/ --out runs/")]
pub(crate) struct ReportArgs {
    /// Folder with records of post-training runs and repairs, also in folders below it; may be given several times
    #[arg(long, value_name = "DIR", required = true)]
    runs: Vec<PathBuf>,
    /// Folder to write to; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace files that no report wrote
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &ReportArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    common.keep_json_apart(&args.out, report_files())?;
    let study = Study::load(&args.runs)?;
    check_folder(&args.out, args.force)?;
    let _lock = FolderLock::acquire(&args.out)?;
    let [page, summary] = write_report(&study, &args.out, args.force)?;
    common.write_json(&Summary::of(&study))?;
    for note in &study.notes {
        say(out, format_args!("note: {note}"))?;
    }
    let runs: usize = study.starts.iter().map(|start| start.post_train.len()).sum();
    let repairs = match study.repairs.len() {
        0 => String::new(),
        count => format!(", {count} repairs"),
    };
    say(out, format_args!("{runs} post-training runs{repairs}: {} and {}", page.display(), summary.display()))
}
