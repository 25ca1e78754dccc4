use std::ffi::OsStr;
use std::path::Path;

use super::record::{PostTrainRecord, PostTrainSettings};
use crate::TrainError;
use crate::json::read_json;

/// Record of the pretraining in a folder of runs.
pub const PRETRAIN_FILE: &str = "pretrain.json";
/// Statistics of the targets in a folder of runs.
pub const TARGETS_FILE: &str = "targets.json";
/// Feature examples in a folder of runs and in a target store.
pub const EXAMPLES_FILE: &str = "examples.json";
/// Start of the name of every record of a post-training run.
pub(crate) const RECORD_PREFIX: &str = "post-train_";

/// File name, without extension, of the record and checkpoint of a post-training run.
pub fn record_name(settings: &PostTrainSettings) -> String {
    // Stage names come from the network and may hold what file names may not.
    let stage: String = settings.stage.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '-' }).collect();
    let alpha = settings.alpha.map(|alpha| format!("_alpha{alpha}")).unwrap_or_default();
    format!("{RECORD_PREFIX}{}_{stage}{alpha}_seed{}", settings.mode, settings.seed)
}

/// Whether a file name is that of a record of a post-training run.
pub fn is_record_name(name: &str) -> bool {
    name.starts_with(RECORD_PREFIX) && name.ends_with(".json")
}

/// Checks that a new run belongs with those in a folder: same checkpoint, same targets.
///
/// # Errors
/// [`TrainError::Mismatch`] if it does not, [`TrainError::Json`] for a file that is no record, [`TrainError::Read`].
pub fn check_same_origin(folder: &Path, settings: &PostTrainSettings) -> Result<(), TrainError> {
    for other in post_train_records(folder)?.iter().map(|record| &record.settings) {
        let targets = [&other.targets, &settings.targets];
        let what = if other.checkpoint_sha256 != settings.checkpoint_sha256 {
            "another checkpoint"
        } else if let [Some(other), Some(own)] = targets
            && other != own
        {
            "other targets"
        } else {
            continue;
        };
        return Err(TrainError::Mismatch {
            left: "this run".into(),
            right: format!("those in {}", folder.display()),
            reason: format!("they belong to {what}; name another folder"),
        });
    }
    Ok(())
}

/// The records of all post-training runs in a folder, in any order.
pub fn post_train_records(folder: &Path) -> Result<Vec<PostTrainRecord>, TrainError> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(TrainError::reading(folder))? {
        let path = entry.map_err(TrainError::reading(folder))?.path();
        if path.file_name().map(OsStr::to_string_lossy).is_some_and(|name| is_record_name(&name)) {
            records.extend(read_json::<PostTrainRecord>(&path, "post-training record")?);
        }
    }
    Ok(records)
}
