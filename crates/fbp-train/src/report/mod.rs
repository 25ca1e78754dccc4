//! From a folder of run records to `report.html`, `summary.json` and the tables of comparisons.

mod chart;
mod comparison;
mod groups;
mod html;
mod page;
mod picture;
mod runs;
mod summary;
mod training;

pub use comparison::Comparison;
pub(crate) use runs::post_train_records;
pub use runs::{EXAMPLES_FILE, PRETRAIN_FILE, Runs, TARGETS_FILE, record_name};
pub use summary::Summary;

use std::path::{Path, PathBuf};

use crate::TrainError;
use crate::atomic::{prepare_folder, write_atomic};

/// Name of the page.
pub const PAGE_FILE: &str = "report.html";
/// Name of the machine-readable summary.
pub const SUMMARY_FILE: &str = "summary.json";

/// Writes `report.html` (one file that needs nothing else) and `summary.json`, and returns their paths; beside them the
/// comparisons as `comparisons.json`, `.csv`, `.md` and `.tex`.
///
/// # Errors
/// [`TrainError::Write`], [`TrainError::Plot`].
pub fn write_report(runs: &Runs, folder: &Path) -> Result<[PathBuf; 2], TrainError> {
    prepare_folder(folder)?;
    let (page, summary) = (folder.join(PAGE_FILE), folder.join(SUMMARY_FILE));
    let comparisons = Comparison::all(runs);
    write_atomic(&page, page::render(runs, &comparisons)?.as_bytes())?;
    comparison::write_tables(&comparisons, folder)?;
    crate::json::write_json(&summary, &Summary::of(runs))?;
    Ok([page, summary])
}

#[cfg(test)]
mod tests;
