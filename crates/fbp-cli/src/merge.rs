use std::path::PathBuf;

use clap::Args;
use fbp_train::TrainError;
use fbp_train::evaluate::eval_shards;
use fbp_train::explain::explain_shards;
use fbp_train::store::{EXAMPLES_FILE, MANIFEST_FILE, REPORT_FILE};
use fbp_train::sweep::LIST_FILE;
use fbp_train::targets::merge_targets;
use fbp_train::train::SumFiles;

use crate::common::{CommonArgs, Out};
use crate::error::CliError;
use crate::{eval, explain, sweep, targets};

/// Check that all shards of some work are there, and make one result of them
///
/// Several processes, on one machine or many, share the work of `fbp targets`, `eval`, `explain` and `sweep` with --shard I/N
/// in one folder. The result is that of one process; what is summed is summed in the order of the shards.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp merge t/")]
pub(crate) struct MergeArgs {
    /// The folder with the shards
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(crate) fn run(args: &MergeArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    let folder = &args.folder;
    let mut kinds = Vec::new();
    if folder.join(MANIFEST_FILE).exists() {
        kinds.push("targets");
    }
    if eval_shards(folder).has_shards()? {
        kinds.push("evaluations");
    }
    if explain_shards(folder).has_shards()? {
        kinds.push("explanations");
    }
    if folder.join(LIST_FILE).exists() {
        kinds.push("sweeps");
    }
    let wrong = |reason: String| TrainError::Shards { folder: folder.clone(), reason };
    if kinds.is_empty() && SumFiles::are_in(folder)? {
        let reason = "the sums of `fbp post-train --mode closed-form` are added by the same command without --shard";
        return Err(wrong(reason.into()).into());
    }
    match kinds[..] {
        ["targets"] => {
            common.keep_json_apart(folder, [MANIFEST_FILE, REPORT_FILE, EXAMPLES_FILE])?;
            let report = merge_targets(folder)?;
            common.write_json(&report)?;
            targets::print_report(&report, out)
        }
        ["evaluations"] => eval::merge(folder, common, out),
        ["explanations"] => explain::merge(folder, common, out),
        ["sweeps"] => sweep::merge(folder, common, out),
        [] => Err(wrong("there are none of `fbp targets`, `eval`, `explain` or `sweep`".into()).into()),
        _ => Err(wrong(format!("they are of several kinds, {}: give each a folder", kinds.join(" and "))).into()),
    }
}
