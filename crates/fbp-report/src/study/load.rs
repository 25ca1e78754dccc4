use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use fbp_train::TrainError;
use fbp_train::evaluate::EvalRecord;
use fbp_train::repair::RepairRecord;
use fbp_train::settings::Metric;
use fbp_train::store::MANIFEST_FILE;
use fbp_train::targets::{Example, TargetsReport};
use fbp_train::train::{EXAMPLES_FILE, PRETRAIN_FILE, PostTrainRecord, PretrainRecord, TARGETS_FILE, is_record_name};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Run, Runs};
use crate::ReportError;

/// Folders below the one given that are looked into.
const DEPTH: usize = 6;

/// Every record of some folders and the folders in them, by start.
#[derive(Clone, Debug, Default)]
pub struct Study {
    /// The runs of each start: by data, network, and the accuracy of the start.
    pub starts: Vec<Runs>,
    /// The repairs, in the order of their files.
    pub repairs: Vec<RepairRecord>,
    /// Accuracies of checkpoints, some under noise, in the order of their files.
    pub evaluations: Vec<EvalRecord>,
    /// What was found and could not be used, in words.
    pub notes: Vec<String>,
}

/// The records of one folder.
#[derive(Default)]
struct Folder {
    path: PathBuf,
    pretrain: Vec<PretrainRecord>,
    post_train: Vec<(Run, Extra)>,
    targets: Option<TargetsReport>,
    examples: Vec<Example>,
    /// The checkpoint that a target store in this folder was made from, and the hash of its data.
    store_of: Option<(String, String)>,
}

/// Settings that records of sweeps have beside those of every run; of other types, they are passed over.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Extra {
    /// Name of the start.
    start: Option<String>,
    /// Margin of the targets.
    margin: Option<f64>,
    /// Kind of the targets.
    target_mode: Option<String>,
    /// Metric in which they are nearest.
    metric: Option<String>,
    /// When they were computed.
    policy: Option<String>,
    /// Decay of the average of the weights.
    ema: Option<f64>,
}

impl Extra {
    /// What kind of targets it was, as far as it is told here; `folder` is what the folder tells.
    fn kind(&self, folder: Option<&TargetsReport>) -> String {
        let policy = self.policy.clone().filter(|policy| policy != "static");
        let metric = self.metric.clone().filter(|_| self.target_mode.is_some());
        let own = [self.target_mode.clone(), metric, self.margin.map(|margin| format!("margin {margin}"))];
        let kind = own.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let folder = folder.map(|report| match report.metric {
            Metric::Euclidean => format!("{}, margin {}", report.mode, report.margin),
            metric => format!("{}, {metric}, margin {}", report.mode, report.margin),
        });
        let folder = folder.unwrap_or_default();
        let kind = if kind.is_empty() { folder } else { kind };
        [policy.unwrap_or_default(), kind].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
    }
}

/// What has been read so far.
#[derive(Default)]
struct Reader {
    folders: Vec<Folder>,
    repairs: Vec<RepairRecord>,
    evaluations: Vec<EvalRecord>,
    /// Settings of records that were read: the same run may have been written twice.
    seen: HashSet<String>,
}

impl Study {
    /// Reads the records in `folders` and in the folders below them.
    ///
    /// Records are told by their fields, whatever their files are called; fields that are not known are passed over, and
    /// so are files that are no records.
    ///
    /// # Errors
    /// [`ReportError::NoRecords`] if there is none, [`TrainError::Json`] for a file that has the name or the fields of a
    /// record and is none, [`TrainError::Read`].
    pub fn load(folders: &[PathBuf]) -> Result<Self, ReportError> {
        let mut reader = Reader::default();
        for folder in folders {
            reader.visit(folder, DEPTH)?;
        }
        let mut study = Self { repairs: reader.repairs, evaluations: reader.evaluations, ..Self::default() };
        study.sort_into_starts(reader.folders);
        if study.starts.is_empty() && study.repairs.is_empty() && study.evaluations.is_empty() {
            let reason = "no records here: make some with `fbp post-train` and name their folder".into();
            return Err(ReportError::NoRecords { folder: folders.first().cloned().unwrap_or_default(), reason });
        }
        Ok(study)
    }

    /// The records of one folder that belong to one start.
    pub fn of(runs: Runs) -> Self {
        Self { starts: vec![runs], ..Self::default() }
    }

    fn sort_into_starts(&mut self, folders: Vec<Folder>) {
        // Runs on other data are judged by other images: they are not compared.
        let mut starts: BTreeMap<(String, String), Runs> = BTreeMap::new();
        let records: Vec<PretrainRecord> = folders.iter().flat_map(|folder| folder.pretrain.clone()).collect();
        // Runs that name their start belong to the start of that name.
        let runs = folders.iter().flat_map(|folder| &folder.post_train);
        let named: HashMap<String, String> = runs.filter_map(start_key).collect();
        let key_of = |checkpoint: &str| {
            let record = records.iter().find(|record| record.checkpoint_sha256 == checkpoint);
            match (named.get(checkpoint), record.map(pretraining_without_seed)) {
                (Some(name), pretraining) => format!("{name} {}", pretraining.unwrap_or_default()),
                (None, Some(pretraining)) => pretraining,
                (None, None) => checkpoint.to_owned(),
            }
        };
        for folder in &folders {
            for (run, extra) in &folder.post_train {
                let key = (key_of(&run.settings.checkpoint_sha256), run.settings.data.sha256.clone());
                let start = starts.entry(key).or_default();
                let kind = extra.kind(folder.targets.as_ref());
                start.name = start.name.take().or(extra.start.clone());
                start.post_train.push(Run { kind, ema: extra.ema, ..run.clone() });
            }
        }
        for record in &records {
            let key = key_of(&record.checkpoint_sha256);
            if !starts.keys().any(|(other, _)| *other == key) {
                starts.insert((key.clone(), record.settings.data.sha256.clone()), Runs::default());
            }
            for (_, start) in starts.iter_mut().filter(|((other, _), _)| *other == key) {
                start.pretrain.get_or_insert_with(|| record.clone());
            }
        }
        for folder in folders {
            self.attach(folder, &mut starts, &key_of);
        }
        self.starts = starts.into_values().collect();
        self.starts.iter_mut().for_each(Runs::sort);
        let order = |runs: &Runs| {
            let (model, data) = runs.subject();
            let epochs = runs.pretrain.as_ref().map(|record| record.settings.epochs);
            (data.to_owned(), model.to_owned(), epochs, runs.start_name())
        };
        self.starts.sort_by_key(order);
    }

    /// Gives targets and examples of a folder to the start that they belong to.
    fn attach(
        &mut self,
        folder: Folder,
        starts: &mut BTreeMap<(String, String), Runs>,
        key_of: &dyn Fn(&str) -> String,
    ) {
        if folder.targets.is_none() && folder.examples.is_empty() {
            return;
        }
        let runs = folder.post_train.iter().map(|(run, _)| &run.settings.checkpoint_sha256);
        let all = runs.chain(folder.pretrain.iter().map(|record| &record.checkpoint_sha256));
        let mut own: Vec<String> = all.map(|checkpoint| key_of(checkpoint)).collect();
        own.extend(folder.store_of.as_ref().map(|(checkpoint, _)| key_of(checkpoint)));
        own.sort();
        own.dedup();
        if own.is_empty() && starts.len() < 2 {
            own.push(starts.keys().next().map(|(key, _)| key.clone()).unwrap_or_default());
        }
        let [key] = &own[..] else {
            let path = folder.path.display();
            self.notes.push(format!("the targets in {path} are left out: their start is not known"));
            return;
        };
        // Of one start on several data: the data of the store, or else those of the runs that used targets.
        let with_targets = folder.post_train.iter().find(|(run, _)| run.settings.targets.is_some());
        let of_runs = with_targets.or(folder.post_train.first()).map(|(run, _)| run.settings.data.sha256.clone());
        let of_any = || starts.keys().find(|(other, _)| other == key).map(|(_, data)| data.clone());
        let of_store = folder.store_of.as_ref().map(|(_, data)| data.clone());
        let data =
            of_store.filter(|data| starts.contains_key(&(key.clone(), data.clone()))).or(of_runs).or_else(of_any);
        let start = starts.entry((key.clone(), data.unwrap_or_default())).or_default();
        if let Some(targets) = folder.targets {
            start.targets.get_or_insert(targets);
        }
        if start.examples.is_empty() {
            start.examples = folder.examples;
        }
    }
}

/// Checkpoint and start of a run that names its start.
fn start_key((run, extra): &(Run, Extra)) -> Option<(String, String)> {
    let settings = &run.settings;
    let key = format!("{} {} {}", settings.data.sha256, settings.model, extra.start.as_ref()?);
    Some((settings.checkpoint_sha256.clone(), key))
}

/// What tells kinds of starts apart: how they were pretrained, but for the seed.
fn pretraining_without_seed(record: &PretrainRecord) -> String {
    let mut settings = record.settings.clone();
    settings.seed = 0;
    // Settings are plain values, which always have a JSON form.
    serde_json::to_string(&settings).unwrap_or_default()
}

impl Reader {
    fn visit(&mut self, folder: &Path, depth: usize) -> Result<(), ReportError> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(TrainError::reading(folder))? {
            let entry = entry.map_err(TrainError::reading(folder))?;
            entries.push((entry.path(), entry.file_type().map_err(TrainError::reading(folder))?));
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let mut found = Folder { path: folder.to_owned(), ..Folder::default() };
        for (path, kind) in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            } else if kind.is_dir() && depth > 0 {
                self.visit(&path, depth - 1)?;
            } else if name.ends_with(".json") && path.is_file() {
                self.read(&path, &name, &mut found)?;
            }
        }
        self.folders.push(found);
        Ok(())
    }

    /// Takes what a file holds, if it is a record.
    fn read(&mut self, path: &Path, name: &str, folder: &mut Folder) -> Result<(), ReportError> {
        let bytes = std::fs::read(path).map_err(TrainError::reading(path))?;
        let value = serde_json::from_slice::<Value>(&bytes).unwrap_or(Value::Null);
        let has = |keys: &[&str]| keys.iter().all(|key| value.pointer(key).is_some());
        if is_record_name(name)
            || has(&["/settings/mode", "/settings/alpha", "/test_accuracy_before"])
            || has(&["/settings/mode", "/settings/alpha", "/test_rmse_before"])
        {
            if let Some(record) = self.fresh::<PostTrainRecord>(path, &bytes, &value, "post-training record")? {
                let extra = serde_json::from_value(value["settings"].clone()).unwrap_or_default();
                folder.post_train.push((record.into(), extra));
            }
        } else if name == PRETRAIN_FILE || has(&["/settings/network", "/train_loss", "/checkpoint_sha256"]) {
            folder.pretrain.extend(self.fresh(path, &bytes, &value, "pretraining record")?);
        } else if has(&["/settings/max_drawdown", "/efficacy", "/layer"]) {
            let record = self.fresh(path, &bytes, &value, "repair record")?;
            self.repairs.extend(record);
        } else if has(&["/noise", "/checkpoint_sha256", "/test_accuracy"])
            || has(&["/noise", "/checkpoint_sha256", "/test_rmse"])
        {
            self.evaluations.push(parse(path, &bytes, "evaluation")?);
        } else if name == TARGETS_FILE || has(&["/images_per_second", "/embedding", "/stages"]) {
            folder.targets = Some(parse(path, &bytes, "report of targets")?);
        } else if name == EXAMPLES_FILE {
            folder.examples = parse(path, &bytes, "list of examples")?;
        } else if name == MANIFEST_FILE {
            let text = |key: &str| value.pointer(key).and_then(Value::as_str).map(str::to_owned);
            folder.store_of = text("/params/checkpoint_sha256").zip(text("/params/data/sha256"));
        }
        Ok(())
    }

    /// A record, unless one with the same settings was read before.
    fn fresh<R: DeserializeOwned>(
        &mut self,
        path: &Path,
        bytes: &[u8],
        value: &Value,
        what: &'static str,
    ) -> Result<Option<R>, ReportError> {
        let record = parse(path, bytes, what)?;
        let settings = format!("{what} {}", value["settings"]);
        Ok(self.seen.insert(settings).then_some(record))
    }
}

fn parse<R: DeserializeOwned>(path: &Path, bytes: &[u8], what: &'static str) -> Result<R, TrainError> {
    serde_json::from_slice(bytes).map_err(|source| TrainError::Json { path: path.to_owned(), what, source })
}
