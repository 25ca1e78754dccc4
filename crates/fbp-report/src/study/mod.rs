//! From records of runs to `report.html`, `summary.json` and the tables of comparisons.

mod chart;
mod classes;
mod comparison;
mod groups;
mod load;
mod noise;
mod origin;
mod page;
mod paths;
mod repairs;
mod rows;
mod runs;

mod summary;
mod targets;
mod time_chart;
mod training;
mod verdict;

pub use comparison::Comparison;
pub use load::Study;
pub use runs::{Run, Runs};
pub use summary::Summary;

use std::path::{Path, PathBuf};

use fbp_train::atomic::{prepare_folder, write_atomic};
use fbp_train::json::{read_json, write_json};
use fbp_train::outputs::{is_result, refuse_foreign_files};

use crate::ReportError;

/// Name of the page.
pub const PAGE_FILE: &str = "report.html";
/// Name of the machine-readable summary.
pub const SUMMARY_FILE: &str = "summary.json";

/// Names of all files of a report.
pub fn report_files() -> Vec<String> {
    let pages = [PAGE_FILE, SUMMARY_FILE].map(str::to_owned);
    comparison::files().into_iter().chain(pages).collect()
}

/// Finds out before the work whether a report may be written.
///
/// # Errors
/// [`TrainError::Foreign`] for files of its names that no report wrote, unless `force`; [`TrainError::Write`].
///
/// [`TrainError::Foreign`]: fbp_train::TrainError::Foreign
/// [`TrainError::Write`]: fbp_train::TrainError::Write
pub fn check_folder(folder: &Path, force: bool) -> Result<(), ReportError> {
    prepare_folder(folder)?;
    let (names, summary) = (report_files(), folder.join(SUMMARY_FILE));
    let is_own = matches!(read_json::<Summary>(&summary, "summary of a report"), Ok(Some(_))) && !is_result(&summary);
    Ok(refuse_foreign_files(folder, &names, if is_own { &names } else { &[] }, ("report", force))?)
}

/// Writes `report.html` (one file that needs nothing else) and `summary.json`, and returns their paths; beside them the
/// comparisons as `comparisons.json`, `.csv`, `.md` and `.tex`.
///
/// # Errors
/// [`TrainError::Foreign`] for files of these names that no report wrote, unless `force`; [`TrainError::Write`],
/// [`ReportError::Plot`].
///
/// [`TrainError::Foreign`]: fbp_train::TrainError::Foreign
/// [`TrainError::Write`]: fbp_train::TrainError::Write
pub fn write_report(study: &Study, folder: &Path, force: bool) -> Result<[PathBuf; 2], ReportError> {
    let (page, summary) = (folder.join(PAGE_FILE), folder.join(SUMMARY_FILE));
    let comparisons = Comparison::all(study);
    let html = page::render(study, &comparisons)?;
    check_folder(folder, force)?;
    // The summary first: after a kill it tells that the next run may replace the others.
    write_json(&summary, &Summary::of(study))?;
    write_atomic(&page, html.as_bytes())?;
    comparison::write_tables(&comparisons, folder)?;
    Ok([page, summary])
}

#[cfg(test)]
mod tests;
