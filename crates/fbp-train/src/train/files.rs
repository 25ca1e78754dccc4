use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::options::PostTrainOptions;
use super::record::{PostTrainRecord, PostTrainSettings};
use crate::TrainError;
use crate::json::read_json;
use crate::outputs::{RunRecord, is_finished};
pub use crate::store::EXAMPLES_FILE;

/// Record of the pretraining in a folder of runs.
pub const PRETRAIN_FILE: &str = "pretrain.json";
/// Statistics of the targets in a folder of runs.
pub const TARGETS_FILE: &str = "targets.json";
/// Start of the name of every record of a post-training run.
pub(crate) const RECORD_PREFIX: &str = "post-train_";

/// File name, without extension, of the record and checkpoint of a post-training run: mode, stage, weight, every setting
/// that is not the default of the mode, and the seed.
pub fn record_name(settings: &PostTrainSettings) -> String {
    let usual = PostTrainOptions::of(settings.mode);
    // Stage names come from the network and may hold what file names may not.
    let stage: String = settings.stage.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '-' }).collect();
    let mut name = format!("{RECORD_PREFIX}{}_{stage}", settings.mode);
    let mut add = |part: Option<String>| {
        if let Some(part) = part {
            name.push('_');
            name.push_str(&part);
        }
    };
    add(settings.alpha.map(|alpha| format!("alpha{alpha}")));
    if settings.mode.takes_steps() {
        let other = |found: f64, usual: f64| (found != usual).then_some(found);
        add(other(settings.learning_rate, usual.learning_rate).map(|rate| format!("rate{rate:e}")));
        add((settings.schedule != usual.schedule).then(|| settings.schedule.to_string()));
        add((settings.epochs != usual.epochs).then(|| format!("epochs{}", settings.epochs)));
        add((settings.batch != usual.batch).then(|| format!("batch{}", settings.batch)));
        add(other(settings.weight_decay, usual.weight_decay).map(|decay| format!("decay{decay}")));
    }
    add((settings.keep != usual.keep).then(|| format!("keep-{}", settings.keep)));
    add((settings.policy != usual.policy).then(|| settings.policy.to_string()));
    add(settings.ema.map(|decay| format!("ema{decay}")));
    add((!settings.augment.is_none()).then(|| settings.augment.to_string().replace(',', "-")));
    add(settings.loss.map(|loss| loss.to_string()));
    add((settings.validation != usual.validation).then(|| format!("validation{}", settings.validation)));
    add(Some(format!("seed{}", settings.seed)));
    name
}

/// The record of a finished run with these settings in a folder, under whatever name, with its file.
///
/// # Errors
/// As [`check_same_origin`].
pub fn find_finished(
    folder: &Path,
    settings: &PostTrainSettings,
) -> Result<Option<(PathBuf, PostTrainRecord)>, TrainError> {
    let is_it = |(path, record): &(PathBuf, PostTrainRecord)| {
        let checkpoint = Path::new(&record.checkpoint);
        // Names that leave the folder are not from here.
        record.settings == *settings
            && checkpoint.file_name() == Some(checkpoint.as_os_str())
            && is_finished(record, &path.with_file_name(checkpoint))
    };
    Ok(named_records(folder)?.into_iter().find(is_it))
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
            reason: format!("they belong to {what}, and a folder holds the runs of one start; name another folder"),
        });
    }
    Ok(())
}

/// The records of all post-training runs in a folder, in any order.
///
/// # Errors
/// [`TrainError::Json`] for a file of such a name that is no record, [`TrainError::Read`].
pub fn post_train_records(folder: &Path) -> Result<Vec<PostTrainRecord>, TrainError> {
    Ok(named_records(folder)?.into_iter().map(|(_, record)| record).collect())
}

fn named_records(folder: &Path) -> Result<Vec<(PathBuf, PostTrainRecord)>, TrainError> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(TrainError::reading(folder))? {
        let path = entry.map_err(TrainError::reading(folder))?.path();
        if path.file_name().map(OsStr::to_string_lossy).is_some_and(|name| is_record_name(&name)) {
            let record = read_json::<PostTrainRecord>(&path, PostTrainRecord::WHAT)?;
            records.extend(record.map(|record| (path, record)));
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Augmentation;
    use crate::identity::DataIdentity;
    use crate::settings::{Keep, Objective, Schedule, TargetPolicy};

    fn name(options: PostTrainOptions) -> String {
        let data = DataIdentity { name: "toy".into(), sha256: String::new(), samples: 1 };
        record_name(&options.settings("net".into(), data, "conv1".into()))
    }

    #[test]
    fn names_tell_what_is_not_as_usual() {
        let full = PostTrainOptions::of(Objective::Full);
        assert_eq!(name(full), "post-train_full_conv1_seed0");
        assert_eq!(name(PostTrainOptions { learning_rate: 5e-5, ..full }), "post-train_full_conv1_rate5e-5_seed0");
        let joint = PostTrainOptions { seed: 3, ..PostTrainOptions::of(Objective::Joint) };
        assert_eq!(name(joint), "post-train_joint_conv1_alpha0.3_seed3");
        // Every setting alone gives a name of its own.
        let others = [
            joint,
            PostTrainOptions { alpha: 0.0, ..joint },
            PostTrainOptions { learning_rate: 1e-3, ..joint },
            PostTrainOptions { schedule: Schedule::Cosine, ..joint },
            PostTrainOptions { epochs: 3, ..joint },
            PostTrainOptions { batch: 32, ..joint },
            PostTrainOptions { weight_decay: 0.0, ..joint },
            PostTrainOptions { keep: Keep::Best, ..joint },
            PostTrainOptions { policy: TargetPolicy::Refresh, ..joint },
            PostTrainOptions { ema: Some(0.99), ..joint },
            PostTrainOptions { augment: Augmentation { crop: true, flip: true }, ..joint },
            PostTrainOptions { validation: 0.2, ..joint },
            PostTrainOptions { seed: 4, ..joint },
            PostTrainOptions { objective: Objective::Local, ..joint },
        ];
        let names: std::collections::HashSet<String> = others.into_iter().map(name).collect();
        assert_eq!(names.len(), others.len(), "{names:?}");
    }
}
