//! `cargo xtask bench few-labels`: what few labels of changed data are worth, with everything chosen from them alone.

mod choice;
mod summary;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::study::{self, Training, made_of, program, read, seeds, training};
use super::{Arguments, target_folder};
use crate::command::Child;
use crate::error::TaskError;
use crate::fetch::write_whole;
use crate::workspace;

use choice::Run;

/// The benchmark that runs `fbp adapt` and compares records.
pub(super) const NAME: &str = "few-labels";

/// Test images that judge.
const TEST: &str = "1000";
/// Training images that labels are drawn from: enough that draws hardly overlap, and quickly corrupted.
const POOL: &str = "6000";

/// A network that was trained on clean data.
struct Subject {
    network: &'static str,
    data: &'static str,
    training: Training,
}

const SUBJECTS: [Subject; 4] = [
    Subject { network: "cnn-mnist-large", data: "fashion-mnist", training: training("10", "3e-3") },
    Subject { network: "simple-vit-v2", data: "fashion-mnist", training: training("10", "2e-3") },
    Subject { network: "resnet20", data: "fashion-mnist", training: training("5", "3e-3") },
    Subject { network: "resnet20", data: "shapes-mini", training: training("15", "3e-3") },
];
const QUICK: Subject =
    Subject { network: "cnn-mnist-large", data: "fashion-mnist-mini", training: training("10", "3e-3") };

/// Images are changed by one of these, at one of these strengths.
const CORRUPTIONS: [&str; 4] = ["noise", "blur", "fog", "contrast"];
const STRENGTHS: [u8; 2] = [4, 2];
const LABELS: [usize; 3] = [100, 50, 500];
const QUICK_CORRUPTIONS: [&str; 2] = ["noise:4", "contrast:4"];

/// All corruptions with their strengths, the strong ones first.
fn all_corruptions() -> Vec<String> {
    STRENGTHS.iter().flat_map(|strength| CORRUPTIONS.map(|corruption| format!("{corruption}:{strength}"))).collect()
}

/// A record that counts: of this network, and of one thread, since times of several would be others.
fn known(record: &Path, checkpoint: &Path) -> Result<Option<Value>, TaskError> {
    Ok(made_of(record, checkpoint)?.filter(|found| found["threads"] == 1))
}

/// What is run.
struct Study {
    fbp: PathBuf,
    /// Where networks and single runs are kept; what is there is used again.
    work: PathBuf,
    results: PathBuf,
    data_dir: Vec<String>,
    subjects: Vec<Subject>,
    cells: Vec<(usize, String)>,
    seeds: u64,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    let study = Study::new(arguments)?;
    for folder in [study.work.join("runs"), study.results.clone()] {
        fs::create_dir_all(&folder).map_err(TaskError::at(&folder))?;
    }
    for subject in &study.subjects {
        study.train(subject)?;
    }
    // A seed at a time: an interrupted study has all cells with fewer seeds.
    for seed in 0..study.seeds {
        for (labels, corruption) in &study.cells {
            for subject in &study.subjects {
                let record = study.record(subject, *labels, corruption, seed)?;
                println!(
                    "{} on {}, {corruption}, {labels} labels, seed {seed}: {:.1} to {:.1} % in {:.0} s",
                    subject.network,
                    subject.data,
                    100.0 * study::number(&record, "test_before")?,
                    100.0 * study::number(&record, "test_after")?,
                    study::number(&record, "adapt_seconds")?,
                );
            }
        }
        study.write()?;
    }
    study.write()?;
    println!("kept in {}", study.results.display());
    Ok(())
}

impl Study {
    fn new(arguments: &Arguments) -> Result<Self, TaskError> {
        let (fbp, seeds) = (program()?, seeds(arguments, if arguments.quick { 2 } else { 10 })?);
        let target = target_folder()?;
        let chosen = |name: &str| arguments.networks.as_ref().is_none_or(|list| list.split(',').any(|one| one == name));
        let mut subjects: Vec<Subject> = if arguments.quick { vec![QUICK] } else { SUBJECTS.into() };
        subjects.retain(|subject| chosen(subject.network) || chosen(&subject.name()));
        if subjects.is_empty() {
            return Err(TaskError::Refused("none of the networks of this study is called so".to_owned()));
        }
        let (mut labels, mut corruptions) = (LABELS.to_vec(), all_corruptions());
        if arguments.quick {
            labels = vec![50];
            corruptions.retain(|corruption| QUICK_CORRUPTIONS.contains(&corruption.as_str()));
        }
        if let Some(list) = &arguments.images {
            labels = study::picked("images", list, &LABELS, usize::to_string)?;
        }
        if let Some(list) = &arguments.ways {
            corruptions = study::picked("ways", list, &all_corruptions(), String::clone)?;
        }
        let of =
            |labels: &usize| corruptions.iter().map(|corruption| (*labels, corruption.clone())).collect::<Vec<_>>();
        Ok(Self {
            fbp,
            work: target.join(if arguments.quick { "few-labels-quick" } else { NAME }),
            results: match arguments.quick {
                true => target.join("bench-results").join(NAME),
                false => workspace::root().join("benches/results").join(NAME),
            },
            data_dir: arguments.data_dir.iter().flat_map(|folder| ["--data-dir".to_owned(), folder.clone()]).collect(),
            subjects,
            cells: labels.iter().flat_map(of).collect(),
            seeds,
        })
    }

    fn child(&self, command: &str, subject: &Subject) -> Child {
        // The others ship with the repository.
        let folder = if subject.data == "fashion-mnist" { &self.data_dir[..] } else { &[] };
        study::on_one_thread(&self.fbp, command).args(["--data", subject.data]).args(folder)
    }

    fn checkpoint(&self, subject: &Subject) -> PathBuf {
        self.work.join(format!("{}.safetensors", subject.name()))
    }

    /// Trains a network on clean data, unless it is there.
    fn train(&self, subject: &Subject) -> Result<(), TaskError> {
        let out = self.checkpoint(subject);
        if out.exists() {
            return Ok(());
        }
        let child = self.child("pretrain", subject).args(["--model", subject.network]).args(subject.training);
        child.args([Path::new("--out"), &out]).run()
    }

    /// The record of an adaptation, made if it is not there.
    fn record(&self, subject: &Subject, labels: usize, corruption: &str, seed: u64) -> Result<Value, TaskError> {
        let name = format!("{}_{}_{labels}_{seed}", subject.name(), corruption.replace(':', "-"));
        let record = self.work.join("runs").join(format!("{name}.json"));
        let checkpoint = self.checkpoint(subject);
        if let Some(found) = known(&record, &checkpoint)? {
            return Ok(found);
        }
        let out = record.with_extension("safetensors");
        // Not all data have so many images.
        let pool: &[&str] = if subject.data == "fashion-mnist" { &["--train-size", POOL] } else { &[] };
        let numbers = [labels.to_string(), seed.to_string()];
        let child = self.child("adapt", subject).args([Path::new("--checkpoint"), &checkpoint]);
        let child = child.args(pool).args(["--corrupt", corruption, "--labels", &numbers[0], "--seed", &numbers[1]]);
        let child = child.args(["--judge-all", "--test-size", TEST, "--force"]);
        child.args([Path::new("--out"), &out]).output()?;
        // Only its figures are wanted.
        fs::remove_file(&out).map_err(TaskError::at(&out))?;
        read(&record)
    }

    /// Everything that was run so far, by this and earlier runs.
    fn write(&self) -> Result<(), TaskError> {
        let folder = self.work.join("runs");
        let mut names: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(&folder).map_err(TaskError::at(&folder))? {
            let path = entry.map_err(TaskError::at(&folder))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                names.push(path);
            }
        }
        names.sort();
        let (mut runs, mut lines) = (Vec::new(), String::new());
        for path in &names {
            // Runs of a network that was trained again are over.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let checkpoint = self.work.join(format!("{}.safetensors", name.split('_').next().unwrap_or_default()));
            let Some(record) = known(path, &checkpoint)? else { continue };
            let malformed = |reason: String| TaskError::Malformed { path: path.clone(), reason };
            runs.push(Run::of(&record).map_err(malformed)?);
            lines.push_str(&record.to_string());
            lines.push('\n');
        }
        let rows = summary::rows(&runs);
        let text = summary::json(&rows).map_err(|error| TaskError::Malformed {
            path: self.results.join("summary.json"),
            reason: error.to_string(),
        })?;
        write_whole(&self.results.join("records.jsonl"), lines.as_bytes())?;
        write_whole(&self.results.join("summary.json"), text.as_bytes())?;
        write_whole(&self.results.join("table.md"), summary::table(&rows).as_bytes())
    }
}

impl Subject {
    fn name(&self) -> String {
        format!("{}-{}", self.network, self.data)
    }
}
