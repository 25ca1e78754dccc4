use std::cmp::Ordering;
use std::ops::Deref;

use fbp_train::settings::Measure;
use fbp_train::targets::{Example, TargetsReport};
use fbp_train::train::{PostTrainRecord, PretrainRecord};

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

    /// What was measured.
    pub(super) fn measure(&self) -> Measure {
        let pretrain = self.pretrain.as_ref().map(|record| record.scores.measure);
        pretrain.or(self.post_train.first().map(|run| run.measure())).unwrap_or_default()
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

    /// Name of the network and of the data that it was post-trained and judged on, as far as any record tells; without such
    /// runs those of its first training.
    pub fn subject(&self) -> (&str, &str) {
        let pretrain = self.pretrain.iter().map(|run| (&run.settings.model, &run.settings.data));
        let post_train = self.post_train.iter().map(|run| (&run.settings.model, &run.settings.data));
        post_train.chain(pretrain).next().map_or(("unknown", "unknown"), |(model, data)| (model, &data.name))
    }

    /// The data of the first training, if the runs were made on others.
    pub(super) fn pretrained_elsewhere(&self) -> Option<&str> {
        let data = &self.pretrain.as_ref()?.settings.data;
        let same = self.post_train.iter().all(|run| run.settings.data.sha256 == data.sha256);
        (!same).then_some(data.name.as_str())
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
        let epochs = |epochs: usize| match self.pretrained_elsewhere() {
            Some(data) => format!("{} on {data}", epochs_text(epochs)),
            None => epochs_text(epochs),
        };
        match (&self.pretrain, self.checkpoints(), hash) {
            (Some(record), 2.., _) => epochs(record.settings.epochs),
            (Some(record), _, Some(hash)) => format!("{}, checkpoint {hash:.8}", epochs(record.settings.epochs)),
            (None, _, Some(hash)) => format!("checkpoint {hash:.8}"),
            (Some(record), _, None) => epochs(record.settings.epochs),
            (None, _, None) => "unknown".into(),
        }
    }
}

fn epochs_text(epochs: usize) -> String {
    if epochs == 1 { "1 epoch of pretraining".into() } else { format!("{epochs} epochs of pretraining") }
}
