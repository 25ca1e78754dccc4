use std::cmp::Ordering;
use std::ffi::OsStr;
use std::ops::Deref;
use std::path::Path;

use fbp_train::TrainError;
use fbp_train::json::read_json;
use fbp_train::targets::{Example, TargetsReport};
use fbp_train::train::{PostTrainRecord, PostTrainSettings, PretrainRecord};

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

/// Whether a file name is that of a record of a post-training run.
pub(super) fn is_record_name(name: &str) -> bool {
    name.starts_with(RECORD_PREFIX) && name.ends_with(".json")
}

/// A record with what else its file tells.
#[derive(Clone, Debug)]
pub struct Run {
    /// The record.
    pub record: PostTrainRecord,
    /// Kind of the targets, for example `attainable, margin 1`; empty if it is not known.
    pub kind: String,
    /// Decay of an average of the weights that was kept in their place, if there was one.
    pub ema: Option<f64>,
}

impl Deref for Run {
    type Target = PostTrainRecord;

    fn deref(&self) -> &PostTrainRecord {
        &self.record
    }
}

impl From<PostTrainRecord> for Run {
    fn from(record: PostTrainRecord) -> Self {
        Self { record, kind: String::new(), ema: None }
    }
}

impl Run {
    /// What its targets are called; empty if it used none.
    pub(super) fn targets_name(&self) -> String {
        let settings = &self.settings;
        if !settings.mode.may_use_targets() || settings.alpha == Some(0.0) {
            return String::new();
        }
        match (&self.kind[..], &settings.targets) {
            ("", Some(fingerprint)) => format!("targets {fingerprint:.8}"),
            (kind, _) => kind.to_owned(),
        }
    }
}

/// All records of one start: a checkpoint, or one for every seed.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// The pretraining, if its record is known; the first one of several.
    pub pretrain: Option<PretrainRecord>,
    /// The targets, if any run used them.
    pub targets: Option<TargetsReport>,
    /// The post-training runs, by stage in the order of the network, mode, α, learning rate and seed.
    pub post_train: Vec<Run>,
    /// A few wrongly classified images.
    pub examples: Vec<Example>,
    /// Name of the start, if the records give it one.
    pub(super) name: Option<String>,
}

impl Runs {
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

    /// Puts the runs in their order.
    pub(super) fn sort(&mut self) {
        self.post_train.sort_by(|a, b| a.settings.stage.cmp(&b.settings.stage));
        let stages = self.stages();
        let place = |stage: &str| stages.iter().position(|other| other == stage);
        self.post_train.sort_by(|a, b| {
            let (a, b) = (&a.settings, &b.settings);
            (place(&a.stage).cmp(&place(&b.stage)))
                .then((a.mode as u8).cmp(&(b.mode as u8)))
                .then(a.alpha.partial_cmp(&b.alpha).unwrap_or(Ordering::Equal))
                .then(a.learning_rate.total_cmp(&b.learning_rate))
                .then(a.seed.cmp(&b.seed))
        });
    }

    /// Name of the network and of the data, as far as any record tells.
    pub fn subject(&self) -> (&str, &str) {
        let pretrain = self.pretrain.iter().map(|run| (&run.settings.model, &run.settings.data));
        let post_train = self.post_train.iter().map(|run| (&run.settings.model, &run.settings.data));
        pretrain.chain(post_train).next().map_or(("unknown", "unknown"), |(model, data)| (model, &data.name))
    }

    /// Number of checkpoints that runs started from.
    pub(super) fn checkpoints(&self) -> usize {
        let mut all: Vec<&str> = self.post_train.iter().map(|run| run.settings.checkpoint_sha256.as_str()).collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    }

    /// What tells this start from others, as plain text.
    pub(super) fn start_name(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let hash = self.post_train.first().map(|run| &run.settings.checkpoint_sha256);
        let hash = hash.or(self.pretrain.as_ref().map(|record| &record.checkpoint_sha256));
        match (&self.pretrain, self.checkpoints(), hash) {
            (Some(record), 2.., _) => epochs_text(record.settings.epochs),
            (Some(record), _, Some(hash)) => format!("{}, checkpoint {hash:.8}", epochs_text(record.settings.epochs)),
            (None, _, Some(hash)) => format!("checkpoint {hash:.8}"),
            (Some(record), _, None) => epochs_text(record.settings.epochs),
            (None, _, None) => "unknown".into(),
        }
    }
}

fn epochs_text(epochs: usize) -> String {
    if epochs == 1 { "1 epoch of pretraining".into() } else { format!("{epochs} epochs of pretraining") }
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
