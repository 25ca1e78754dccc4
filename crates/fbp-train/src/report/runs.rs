use std::cmp::Ordering;
use std::ffi::OsStr;
use std::path::Path;

use crate::TrainError;
use crate::json::read_json;
use crate::record::{Example, PostTrainRecord, PostTrainSettings, PretrainRecord, TargetsReport};

/// Record of the pretraining in a folder of runs.
pub const PRETRAIN_FILE: &str = "pretrain.json";
/// Statistics of the targets in a folder of runs.
pub const TARGETS_FILE: &str = "targets.json";
/// Feature examples in a folder of runs and in a target store.
pub const EXAMPLES_FILE: &str = "examples.json";
/// Start of the name of every record of a post-training run.
const RECORD_PREFIX: &str = "post-train_";

/// File name, without extension, of the record and checkpoint of a post-training run.
pub fn record_name(settings: &PostTrainSettings) -> String {
    // Stage names come from the network and may hold what file names may not.
    let stage: String = settings.stage.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '-' }).collect();
    let alpha = settings.alpha.map(|alpha| format!("_alpha{alpha}")).unwrap_or_default();
    format!("{RECORD_PREFIX}{}_{stage}{alpha}_seed{}", settings.mode, settings.seed)
}

/// All records of one folder.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// The pretraining, if its record is known.
    pub pretrain: Option<PretrainRecord>,
    /// The targets, if any run used them.
    pub targets: Option<TargetsReport>,
    /// The post-training runs, by stage in the order of the network, mode, α and seed.
    pub post_train: Vec<PostTrainRecord>,
    /// A few wrongly classified images.
    pub examples: Vec<Example>,
}

impl Runs {
    /// Reads the records in `folder`.
    ///
    /// # Errors
    /// [`TrainError::NoRecords`] if there is none, [`TrainError::Mismatch`] if the runs do not start from one
    /// checkpoint, [`TrainError::Json`] for a file that is no record, [`TrainError::Read`].
    pub fn load(folder: &Path) -> Result<Self, TrainError> {
        let pretrain: Option<PretrainRecord> = read_json(&folder.join(PRETRAIN_FILE), "pretraining record")?;
        let targets: Option<TargetsReport> = read_json(&folder.join(TARGETS_FILE), "report of targets")?;
        let examples = read_json(&folder.join(EXAMPLES_FILE), "list of examples")?.unwrap_or_default();
        let post_train = post_train_records(folder)?;
        if post_train.is_empty() && pretrain.is_none() && targets.is_none() {
            let reason = "no records here: make some with `fbp post-train --out` and name that folder".into();
            return Err(TrainError::NoRecords { folder: folder.to_owned(), reason });
        }
        let mut runs = Self { pretrain, targets, post_train, examples };
        runs.check_one_start(folder)?;
        runs.sort();
        Ok(runs)
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
                reason: format!("they belong to {what}; name another folder with --out"),
            });
        }
        Ok(())
    }

    fn check_one_start(&self, folder: &Path) -> Result<(), TrainError> {
        let Some(first) = self.post_train.first() else { return Ok(()) };
        let start = &first.settings.checkpoint_sha256;
        let pretrained = self.pretrain.as_ref().map(|record| &record.checkpoint_sha256);
        let mut others = self.post_train.iter().map(|run| &run.settings.checkpoint_sha256).chain(pretrained);
        match others.find(|other| *other != start) {
            None => Ok(()),
            Some(other) => Err(TrainError::Mismatch {
                left: "one record".into(),
                right: format!("another in {}", folder.display()),
                reason: format!(
                    "they start from different checkpoints ({:.12} and {:.12}); keep one folder for each",
                    start, other
                ),
            }),
        }
    }

    /// The stages that have runs or targets, from the input to the output as far as that is known.
    pub fn stages(&self) -> Vec<String> {
        let targets = self.targets.iter().flat_map(|targets| targets.stages.iter().map(|stage| stage.name.clone()));
        let mut stages: Vec<String> = targets.collect();
        for run in &self.post_train {
            if !stages.contains(&run.settings.stage) {
                stages.push(run.settings.stage.clone());
            }
        }
        stages
    }

    fn sort(&mut self) {
        self.post_train.sort_by(|a, b| a.settings.stage.cmp(&b.settings.stage));
        let stages = self.stages();
        let place = |stage: &str| stages.iter().position(|other| other == stage);
        self.post_train.sort_by(|a, b| {
            let (a, b) = (&a.settings, &b.settings);
            (place(&a.stage).cmp(&place(&b.stage)))
                .then((a.mode as u8).cmp(&(b.mode as u8)))
                .then(a.alpha.partial_cmp(&b.alpha).unwrap_or(Ordering::Equal))
                .then(a.seed.cmp(&b.seed))
        });
    }

    /// Name of the network and of the data, as far as any record tells.
    pub fn subject(&self) -> (&str, &str) {
        let pretrain = self.pretrain.iter().map(|run| (&run.settings.model, &run.settings.data));
        let post_train = self.post_train.iter().map(|run| (&run.settings.model, &run.settings.data));
        pretrain.chain(post_train).next().map_or(("unknown", "unknown"), |(model, data)| (model, &data.name))
    }
}

/// The records of all post-training runs in a folder, in any order.
pub(crate) fn post_train_records(folder: &Path) -> Result<Vec<PostTrainRecord>, TrainError> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(TrainError::reading(folder))? {
        let path = entry.map_err(TrainError::reading(folder))?.path();
        let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
        if name.starts_with(RECORD_PREFIX) && name.ends_with(".json") {
            records.extend(read_json::<PostTrainRecord>(&path, "post-training record")?);
        }
    }
    Ok(records)
}
