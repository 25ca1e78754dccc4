//! Explanations of samples as a page with pictures.

mod outputs;
mod page;

use std::path::Path;

use fbp_train::TrainError;
use fbp_train::atomic::{prepare_folder, write_atomic};
use fbp_train::explain::{EXPLAIN_FILE, EXPLAIN_PAGE, ExplainRecord, ExplainSettings, Explanation};
use fbp_train::json::{differences, read_json, write_json};
use fbp_train::outputs::refuse_foreign_files;

use crate::ReportError;
use crate::page::picture_files;

/// The command whose files these are.
const COMMAND: &str = "explain";

/// Checks that `folder` may be written to and gives the files there that an earlier explanation left.
///
/// # Errors
/// [`TrainError::OtherSettings`] for an explanation with other settings, unless `force`.
fn earlier_files(folder: &Path, settings: &ExplainSettings, force: bool) -> Result<Vec<String>, ReportError> {
    let path = folder.join(EXPLAIN_FILE);
    let found: Option<ExplainRecord> = match read_json(&path, "record of an explanation") {
        Err(TrainError::Json { .. }) if force => None,
        read => read?,
    };
    let Some(found) = found else { return Ok(Vec::new()) };
    if found.settings != *settings && !force {
        let differences = differences(&found.settings, settings);
        return Err(TrainError::OtherSettings { path, differences }.into());
    }
    // Names that leave the folder are not from here.
    Ok(found.files.into_iter().filter(|name| Path::new(name).file_name() == Some(name.as_ref())).collect())
}

/// Finds out before the work whether its result may be written.
///
/// # Errors
/// As [`write_explanation`]; pictures are looked at there, when their names are known.
pub fn check_folder(folder: &Path, settings: &ExplainSettings, force: bool) -> Result<(), ReportError> {
    prepare_folder(folder)?;
    let earlier = earlier_files(folder, settings, force)?;
    Ok(refuse_foreign_files(folder, &[EXPLAIN_PAGE.to_owned()], &earlier, (COMMAND, force))?)
}

/// Writes the page, the pictures and the summary, and gives the summary.
///
/// Files of an earlier explanation are replaced, or removed where they have no successor; others are not touched.
///
/// # Errors
/// [`TrainError::OtherSettings`] for an explanation with other settings and [`TrainError::Foreign`] for a file that no
/// explanation wrote, unless `force`; [`ReportError::Plot`], [`TrainError::Write`].
pub fn write_explanation(
    explanation: &Explanation,
    settings: ExplainSettings,
    chosen: usize,
    folder: &Path,
    force: bool,
) -> Result<ExplainRecord, ReportError> {
    let record = ExplainRecord::new(settings, chosen, explanation);
    let page = match record.settings.tolerance {
        Some(_) => outputs::render(&record, explanation)?,
        None => page::render(&record, explanation)?,
    };
    let mut files = vec![page.into_bytes()];
    for stage in explanation.samples.iter().flat_map(|sample| &sample.stages) {
        files.extend(picture_files(&stage.change())?);
    }
    prepare_folder(folder)?;
    let earlier = earlier_files(folder, &record.settings, force)?;
    refuse_foreign_files(folder, &record.files, &earlier, (COMMAND, force))?;
    // The summary first: after a kill it tells that the next run may replace the others. Until then it also names the
    // files of the earlier explanation, so that they are still known.
    let gone: Vec<&String> = earlier.iter().filter(|name| !record.files.contains(name)).collect();
    let mut all = record.clone();
    all.files.extend(gone.iter().copied().cloned());
    write_json(&folder.join(EXPLAIN_FILE), &all)?;
    debug_assert_eq!(record.files.first().map(String::as_str), Some(EXPLAIN_PAGE));
    for (name, bytes) in record.files.iter().zip(&files) {
        write_atomic(&folder.join(name), bytes)?;
    }
    for name in &gone {
        let path = folder.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(TrainError::writing(path)(error).into());
            }
            _ => {}
        }
    }
    if !gone.is_empty() {
        write_json(&folder.join(EXPLAIN_FILE), &record)?;
    }
    Ok(record)
}
