//! Repairs and their rivals as a table and a plot.

mod group;
mod plot;
mod table;

use std::path::{Path, PathBuf};

use fbp_train::TrainError;
use fbp_train::atomic::{prepare_folder, write_atomic};
use fbp_train::json::read_json;
use fbp_train::outputs::refuse_foreign_files;
use fbp_train::repair::RepairPoint;

use crate::ReportError;

/// Name of the list of points; the table and the plot beside it have the same name with `.md` and `.svg`.
pub const CURVE_FILE: &str = "repair.json";
const FILES: [&str; 2] = ["repair.md", "repair.svg"];

/// The points in a folder; none if it has no list of them.
///
/// # Errors
/// [`TrainError::Read`], [`TrainError::Json`] for a file of that name that is no such list.
pub fn read_points(folder: &Path) -> Result<Vec<RepairPoint>, TrainError> {
    Ok(read_json(&folder.join(CURVE_FILE), "list of repairs")?.unwrap_or_default())
}

/// Finds out before the work whether its result may be written, and reads what is there already.
///
/// # Errors
/// [`TrainError::Foreign`] and [`TrainError::Json`] for files of other origin, unless `force`; [`TrainError::Write`].
pub fn check_folder(folder: &Path, force: bool) -> Result<Vec<RepairPoint>, ReportError> {
    let points = match read_points(folder) {
        Err(TrainError::Json { .. }) if force => Vec::new(),
        read => read?,
    };
    if points.is_empty() {
        refuse_foreign_files(folder, &FILES.map(str::to_owned), &[], ("analyse repair", force))?;
    }
    prepare_folder(folder)?;
    Ok(points)
}

/// Writes `repair.json`, a point on each line, and `repair.md` and `repair.svg`, and gives the paths of the last two.
///
/// # Errors
/// [`ReportError::Plot`], [`TrainError::Json`] for a measure that is no number, [`TrainError::Write`].
pub fn write_points(points: &[RepairPoint], folder: &Path) -> Result<[PathBuf; 2], ReportError> {
    let svg = plot::draw(points)?;
    let path = folder.join(CURVE_FILE);
    let lines: Result<Vec<String>, _> = points.iter().map(serde_json::to_string).collect();
    let lines = lines.map_err(|source| TrainError::Json { path: path.clone(), what: "JSON file", source })?;
    write_atomic(&path, format!("[\n{}\n]\n", lines.join(",\n")).as_bytes())?;
    let paths = FILES.map(|name| folder.join(name));
    write_atomic(&paths[0], table::markdown(points).as_bytes())?;
    write_atomic(&paths[1], svg.as_bytes())?;
    Ok(paths)
}
