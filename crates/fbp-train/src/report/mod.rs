//! From a folder of run records to `report.html` and `summary.json`.

mod chart;
mod html;
mod page;
mod picture;
mod runs;
mod statistics;
mod summary;

pub use runs::{EXAMPLES_FILE, PRETRAIN_FILE, Runs, TARGETS_FILE, record_name};
pub use summary::Summary;

use std::path::{Path, PathBuf};

use crate::TrainError;
use crate::atomic::{prepare_folder, write_atomic};

/// Name of the page.
pub const PAGE_FILE: &str = "report.html";
/// Name of the machine-readable summary.
pub const SUMMARY_FILE: &str = "summary.json";

/// Writes `report.html` (one file that needs nothing else) and `summary.json`, and returns their paths.
///
/// # Errors
/// [`TrainError::Write`], [`TrainError::Plot`].
pub fn write_report(runs: &Runs, folder: &Path) -> Result<[PathBuf; 2], TrainError> {
    prepare_folder(folder)?;
    let (page, summary) = (folder.join(PAGE_FILE), folder.join(SUMMARY_FILE));
    write_atomic(&page, page::render(runs)?.as_bytes())?;
    crate::json::write_json(&summary, &Summary::of(runs))?;
    Ok([page, summary])
}

#[cfg(test)]
mod tests;
