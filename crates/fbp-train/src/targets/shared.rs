//! Targets that several processes make in one folder, each its share of the shards.

use std::path::Path;
use std::time::Instant;

use super::examples::{draft_examples, fill_examples};
use super::record::Example;
use super::stats::TargetStats;
use super::{TargetsReport, TargetsSource, make_missing};
use crate::TrainError;
use crate::json::read_json;
use crate::progress::Progress;
use crate::store::{DRAFT_FILE, EXAMPLES_FILE, StoreWriter, TargetStore};

/// Computes the missing shards of the share of a writer, and gives the number of their samples. [`merge_targets`] closes the
/// store when all shares are there.
///
/// # Errors
/// As [`compute_targets`](super::compute_targets).
pub fn compute_share(
    source: TargetsSource<'_>,
    writer: &StoreWriter,
    examples: usize,
    progress: &dyn Progress,
) -> Result<usize, TrainError> {
    let begun = Instant::now();
    let missing = writer.missing()?;
    if missing.is_empty() && writer.finished::<TargetsReport>()?.is_some() {
        return Ok(0);
    }
    if writer.share().is_none_or(|share| share.index() == 1) {
        // Which ones they are does not depend on targets, and only this command has the data.
        let draft = draft_examples(source, &writer.manifest().params.stages, examples)?;
        writer.write_json_beside(DRAFT_FILE, &draft)?;
    }
    let samples = missing.iter().map(|shard| shard.samples).sum();
    make_missing(source, writer, missing, (begun, writer.earlier_seconds()?), progress)?;
    Ok(samples)
}

/// Checks that a store is whole which several processes have made, and closes it: it is then as one process would have made it,
/// but for the times. Of a store that is closed already it gives the report.
///
/// # Errors
/// [`TrainError::Shards`] if shards are missing, damaged or not its own, [`TrainError::Store`] if there is no store,
/// [`TrainError::Busy`] if they are still made, [`TrainError::Write`].
pub fn merge_targets(folder: &Path) -> Result<TargetsReport, TrainError> {
    let writer = StoreWriter::open_made(folder)?;
    if let Some(report) = writer.finished::<TargetsReport>()? {
        return Ok(report);
    }
    let draft = read_json::<Vec<Example>>(&folder.join(DRAFT_FILE), "list of examples")?;
    let mut examples = draft.ok_or_else(|| TrainError::Shards {
        folder: folder.to_owned(),
        reason: "the examples that shard 1 leaves are missing: run `fbp targets` with --shard 1/N again".into(),
    })?;
    fill_examples(&mut examples, &TargetStore::open(folder)?)?;
    let params = &writer.manifest().params;
    let mut stats = TargetStats::empty(params.stages.len());
    for shard in writer.shard_stats::<TargetStats>()? {
        stats.add(&shard);
    }
    let report = stats.report(params, writer.shared_seconds()?);
    writer.write_json_beside(EXAMPLES_FILE, &examples)?;
    writer.finish(&report)?;
    Ok(report)
}
