//! A sweep whose runs several processes do in one folder.

use std::fs;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::grid::is_digest;
use crate::TrainError;
use crate::atomic::{FolderLock, prepare_folder};
use crate::identity::file_sha256;
use crate::json::{differences, read_json, write_json};
use crate::train::PostTrainRecord;

/// All runs of a sweep that is done in shares, so that it can be closed without its description.
pub const LIST_FILE: &str = "sweep-runs.json";

/// Contents of [`LIST_FILE`].
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RunList {
    /// Their records, from the folder of the sweep.
    pub(super) runs: Vec<String>,
    pub(super) keep_checkpoints: bool,
    pub(super) keep_targets: bool,
}

impl RunList {
    /// Leaves the list, unless it is there.
    ///
    /// # Errors
    /// [`TrainError::OtherSettings`] if another one is there, [`TrainError::Write`].
    pub(super) fn leave_in(&self, folder: &Path) -> Result<(), TrainError> {
        let path = folder.join(LIST_FILE);
        match read_json::<Self>(&path, "list of the runs of a sweep")? {
            None => write_json(&path, self),
            Some(found) if found == *self => Ok(()),
            Some(found) => Err(TrainError::OtherSettings { path, differences: differences(&found, self) }),
        }
    }
}

/// Makes a folder, and leaves what is in it.
///
/// # Errors
/// [`TrainError::Write`].
pub(super) fn make(folder: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(folder).map_err(TrainError::writing(folder))
}

/// Whether the record of a run is there, and its checkpoint if it is to be kept.
///
/// # Errors
/// [`TrainError::Json`] for a file that is no record, [`TrainError::Read`].
pub(super) fn is_run_done(path: &Path, keep_checkpoints: bool) -> Result<bool, TrainError> {
    let Some(record) = read_json::<PostTrainRecord>(path, "post-training record")? else { return Ok(false) };
    let has_weights = || {
        let file = path.with_file_name(&record.checkpoint);
        !record.checkpoint.is_empty() && file_sha256(&file).is_ok_and(|found| found == record.checkpoint_sha256_after)
    };
    Ok(!keep_checkpoints || has_weights())
}

/// Removes targets that are not to be kept, and what a kill in the middle of a removal left of them. Folders whose names are
/// no digests are not from here.
///
/// # Errors
/// [`TrainError::Read`] or [`TrainError::Write`].
pub(super) fn remove_targets(out: &Path) -> Result<(), TrainError> {
    let folder = out.join("targets");
    if !folder.exists() {
        return Ok(());
    }
    let mut is_empty = true;
    for entry in fs::read_dir(&folder).map_err(TrainError::reading(&folder))? {
        let path = entry.map_err(TrainError::reading(&folder))?.path();
        match path.is_dir() && path.file_name().is_some_and(|name| is_digest(&name.to_string_lossy())) {
            true => fs::remove_dir_all(&path).map_err(TrainError::writing(&path))?,
            false => is_empty = false,
        }
    }
    if is_empty { fs::remove_dir(&folder).map_err(TrainError::writing(folder)) } else { Ok(()) }
}

/// Checks that all runs of a sweep are there that several processes have done, and closes it: the folder is then as one process
/// would have left it, but for the times. Gives the number of runs.
///
/// # Errors
/// [`TrainError::Shards`] if runs are missing, [`TrainError::Busy`] if they are still done, [`TrainError::Write`].
pub fn merge_sweep(folder: &Path) -> Result<usize, TrainError> {
    let _lock = FolderLock::acquire(folder)?;
    prepare_folder(folder)?;
    let wrong = |reason: String| TrainError::Shards { folder: folder.to_owned(), reason };
    let list = read_json::<RunList>(&folder.join(LIST_FILE), "list of the runs of a sweep")?;
    let list = list.ok_or_else(|| wrong("there is no list of runs".into()))?;
    let mut missing = Vec::new();
    for run in &list.runs {
        // Names that leave the folder are not from here.
        let stays = Path::new(run).components().all(|part| matches!(part, Component::Normal(_)));
        if !stays || !is_run_done(&folder.join(run), list.keep_checkpoints)? {
            missing.push(run);
        }
    }
    if let Some(first) = missing.first() {
        return Err(wrong(format!(
            "{} of {} runs are not there, {first} is the first: run `fbp sweep` with every --shard again, which does them",
            missing.len(),
            list.runs.len()
        )));
    }
    if !list.keep_targets {
        remove_targets(folder)?;
    }
    let path = folder.join(LIST_FILE);
    fs::remove_file(&path).map_err(TrainError::writing(path))?;
    Ok(list.runs.len())
}
