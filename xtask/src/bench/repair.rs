//! `cargo xtask bench repair`: repairs of given samples beside their rivals, for several choices of samples.

mod programme;
mod summary;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::study::{self, Training, training};
use super::{Arguments, target_folder};
use crate::command::Child;
use crate::error::TaskError;
use crate::fetch::write_whole;
use crate::workspace;

use summary::{Cell, Outcome, Rivals};

/// The study that runs `fbp repair` and compares records.
pub(super) const NAME: &str = "repair";

/// Seeds that are looked for.
const MOST_SEEDS: u64 = 100;
/// Loss of accuracy that is allowed, in percentage points.
const BOUND: &str = "1";
/// Share of the samples that is asked for.
const EFFICACY: f64 = 1.0;
/// Status of a repair that did not reach it, which is a result like any other.
const SHORT: i32 = 3;

/// A network, the samples that it gets wrong, and ways to make them right.
struct Subject {
    network: Network,
    training: Training,
    /// Options that choose the samples.
    samples: &'static [&'static str],
    ways: &'static [Way],
    /// Layers and norms of the linear programme.
    programmes: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum Network {
    /// By name.
    Zoo(&'static str),
    /// Hidden layers and their width.
    Mlp(usize, usize),
}

/// A way to repair: its name, the layers that may change, and further options.
struct Way {
    name: &'static str,
    stage: &'static str,
    options: &'static [&'static str],
}

const fn way(name: &'static str, stage: &'static str, options: &'static [&'static str]) -> Way {
    Way { name, stage, options }
}

/// The first way runs fine-tuning on the same samples besides.
const RIVALS: &[&str] = &["--rival"];
/// Fine-tuning with other training images mixed in has records of its own: the repair beside it is cut short and does not count.
const MIXING: &[&str] = &["--rival-mixed", "--time", "0.001s"];
const TRAINING: Training = training("10", "1e-3");
const FOG: &[&str] = &["--samples", "wrong:100", "--samples-corrupt", "fog:3"];

const SUBJECTS: [Subject; 3] = [
    Subject {
        network: Network::Mlp(3, 100),
        training: TRAINING,
        samples: FOG,
        ways: &[
            way("repair of fc1", "fc1", RIVALS),
            way("repair of fc1, 4 neighbours", "fc1", &["--neighbours", "4"]),
            way("repair of fc1, least loss", "fc1", &["--prefer", "accuracy"]),
            way("repair of fc3", "fc3", &[]),
            way("repair of the head", "out", &[]),
        ],
        programmes: &["fc3:l1", "out:l1"],
    },
    Subject {
        network: Network::Mlp(9, 200),
        training: TRAINING,
        samples: FOG,
        ways: &[
            way("repair of fc1, then fc2", "fc1,fc2", RIVALS),
            way("repair of fc2", "fc2", &[]),
            way("repair of the head", "out", &[]),
        ],
        programmes: &["out:l1"],
    },
    Subject {
        network: Network::Zoo("resnet20"),
        training: training("5", "3e-3"),
        samples: FOG,
        ways: &[way("repair of the head", "fc", RIVALS), way("repair of layer3.2.conv2", "layer3.2.conv2", &[])],
        programmes: &[],
    },
];
const QUICK: Subject = Subject {
    network: Network::Mlp(3, 100),
    training: TRAINING,
    samples: &["--samples", "wrong:50", "--samples-corrupt", "fog:3"],
    ways: &[way("repair of fc3", "fc3", RIVALS), way("repair of the head", "out", &[])],
    programmes: &["out:l1"],
};

struct Study {
    fbp: PathBuf,
    /// Where networks and single runs are kept; what is there is used again.
    work: PathBuf,
    results: PathBuf,
    data: &'static str,
    data_dir: Vec<String>,
    /// All there are: results are of all records, whoever made them.
    subjects: Vec<Subject>,
    /// Those that are run.
    chosen: Vec<String>,
    seeds: u64,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    let study = Study::new(arguments)?;
    for folder in [study.work.join("runs"), study.results.clone()] {
        fs::create_dir_all(&folder).map_err(TaskError::at(&folder))?;
    }
    for subject in study.chosen() {
        study.train(subject)?;
    }
    // A seed at a time: an interrupted study has all rows with fewer seeds.
    for seed in 0..study.seeds {
        for subject in study.chosen() {
            for way in subject.ways {
                let outcome = Outcome::of(&study.record(subject, way, seed)?)?;
                println!("{}, {}, seed {seed}: {outcome}", subject.network.name(), way.name);
            }
            study.record(subject, &mixing(subject), seed)?;
            for task in subject.programmes {
                study.solve(subject, task, seed)?;
            }
        }
        study.write()?;
    }
    study.write()?;
    println!("kept in {}", study.results.display());
    Ok(())
}

/// A record without pictures and all other states, which would be most of it.
fn line(mut record: Value) -> String {
    if let Some(record) = record.as_object_mut() {
        record.retain(|key, _| !matches!(key.as_str(), "examples" | "weights" | "candidates"));
    }
    format!("{record}\n")
}

/// Where fine-tuning with other training images mixed in is run.
fn mixing(subject: &Subject) -> Way {
    way("mixing", subject.ways[0].stage, MIXING)
}

impl Network {
    fn name(self) -> String {
        match self {
            Self::Zoo(name) => name.to_owned(),
            Self::Mlp(layers, width) => format!("mlp-{layers}x{width}"),
        }
    }

    /// The description of a network that has no name.
    fn description(self) -> Option<String> {
        let Self::Mlp(layers, width) = self else { return None };
        let mut text = format!("name = \"{}\"\ninput = [1, 28, 28]\nclasses = 10\n", self.name());
        for layer in 1..=layers {
            let flatten = if layer == 1 { "{ type = \"flatten\" }, " } else { "" };
            text.push_str(&format!(
                "\n[[stages]]\nname = \"fc{layer}\"\nlayers = [{flatten}{{ type = \"linear\", out_features = {width} }}, \
                 {{ type = \"relu\" }}]\n"
            ));
        }
        text.push_str("\n[[stages]]\nname = \"out\"\nlayers = [{ type = \"linear\", out_features = 10 }]\n");
        Some(text)
    }
}

impl Study {
    fn new(arguments: &Arguments) -> Result<Self, TaskError> {
        let chosen = |name: &str| arguments.networks.as_ref().is_none_or(|list| list.split(',').any(|one| one == name));
        let subjects: Vec<Subject> = if arguments.quick { vec![QUICK] } else { SUBJECTS.into() };
        let chosen: Vec<String> =
            subjects.iter().map(|subject| subject.network.name()).filter(|name| chosen(name)).collect();
        if chosen.is_empty() {
            return Err(TaskError::Refused("none of the networks of this study is called so".to_owned()));
        }
        let (fbp, target) = (study::program()?, target_folder()?);
        Ok(Self {
            fbp,
            work: target.join(if arguments.quick { "repair-quick" } else { "repair-study" }),
            results: match arguments.quick {
                true => target.join("bench-results").join(NAME),
                false => workspace::root().join("benches/results").join(NAME),
            },
            data: if arguments.quick { "fashion-mnist-mini" } else { "fashion-mnist" },
            data_dir: arguments.data_dir.iter().flat_map(|folder| ["--data-dir".to_owned(), folder.clone()]).collect(),
            subjects,
            chosen,
            seeds: study::seeds(arguments, if arguments.quick { 2 } else { 10 })?,
        })
    }

    fn chosen(&self) -> impl Iterator<Item = &Subject> {
        self.subjects.iter().filter(|subject| self.chosen.contains(&subject.network.name()))
    }

    fn child(&self, command: &str) -> Child {
        study::on_one_thread(&self.fbp, command).args(["--data", self.data]).args(&self.data_dir)
    }

    fn checkpoint(&self, subject: &Subject) -> PathBuf {
        self.work.join(format!("{}.safetensors", subject.network.name()))
    }

    /// Trains a network, unless it is there.
    fn train(&self, subject: &Subject) -> Result<(), TaskError> {
        let out = self.checkpoint(subject);
        if out.exists() {
            return Ok(());
        }
        let model = match subject.network.description() {
            Some(text) => {
                let path = out.with_extension("toml");
                write_whole(&path, text.as_bytes())?;
                path
            }
            None => PathBuf::from(subject.network.name()),
        };
        let child = self.child("pretrain").args([Path::new("--model"), &model]).args(subject.training);
        child.args([Path::new("--out"), &out]).run()
    }

    fn record_path(&self, subject: &Subject, way: &Way, seed: u64) -> PathBuf {
        let way: String = way.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        self.work.join("runs").join(format!("{}_{way}_{seed}.json", subject.network.name()))
    }

    /// The record of a repair, made if it is not there.
    fn record(&self, subject: &Subject, way: &Way, seed: u64) -> Result<Value, TaskError> {
        if let Some(found) = self.known(subject, way, seed)? {
            return Ok(found);
        }
        let (record, checkpoint) = (self.record_path(subject, way, seed), self.checkpoint(subject));
        let out = record.with_extension("safetensors");
        let child = self.child("repair").args([Path::new("--checkpoint"), &checkpoint]);
        let child = child.args(subject.samples).args(["--stage", way.stage]);
        let child = child.args(["--efficacy", &EFFICACY.to_string(), "--max-drawdown", BOUND]);
        let child = child.args(way.options).args(["--seed", &seed.to_string(), "--force"]);
        child.args([Path::new("--out"), &out]).output_of(&[0, SHORT])?;
        // Only its figures are wanted.
        fs::remove_file(&out).map_err(TaskError::at(&out))?;
        // Programmes have the samples of another record.
        for task in subject.programmes {
            let answer = self.answer_path(subject, task, seed);
            if way.name == subject.ways[0].name && answer.exists() {
                fs::remove_file(&answer).map_err(TaskError::at(&answer))?;
            }
        }
        study::read(&record)
    }

    /// The record of a repair, if it is there and of this network.
    fn known(&self, subject: &Subject, way: &Way, seed: u64) -> Result<Option<Value>, TaskError> {
        let record = self.record_path(subject, way, seed);
        // Others were asked for less.
        let is_enough = |found: &Value| found.pointer("/settings/efficacy").and_then(Value::as_f64) == Some(EFFICACY);
        Ok(study::made_of(&record, &self.checkpoint(subject))?.filter(is_enough))
    }

    /// Everything that was run so far, by this and earlier runs.
    fn write(&self) -> Result<(), TaskError> {
        let (mut rows, mut lines) = (Vec::new(), String::new());
        for subject in &self.subjects {
            let is_there = |seed: &u64| self.record_path(subject, &subject.ways[0], *seed).exists();
            let seeds: Vec<u64> = (0..MOST_SEEDS).filter(is_there).collect();
            if seeds.is_empty() {
                continue;
            }
            let mut rivals = Rivals::default();
            let mut own: Vec<(String, Vec<Option<Outcome>>)> = Vec::new();
            for (place, way) in subject.ways.iter().enumerate() {
                let mut outcomes = Vec::new();
                for &seed in &seeds {
                    let record = self.known(subject, way, seed)?;
                    outcomes.push(record.as_ref().map(Outcome::of).transpose()?);
                    if place == 0 {
                        let mixed = self.known(subject, &mixing(subject), seed)?;
                        rivals.push(record.as_ref(), mixed.as_ref())?;
                        lines.extend(mixed.map(line));
                    }
                    lines.extend(record.map(line));
                }
                own.push((way.name.to_owned(), outcomes));
            }
            for task in subject.programmes {
                for &seed in seeds.iter().filter(|&&seed| self.answer_path(subject, task, seed).exists()) {
                    let answer = study::read(&self.answer_path(subject, task, seed))?;
                    let name = subject.network.name();
                    lines.extend([line(
                        serde_json::json!({ "programme": task, "network": name, "seed": seed, "answers": answer }),
                    )]);
                }
                let answers: Vec<_> =
                    seeds.iter().map(|&seed| self.answers(subject, task, seed)).collect::<Result<_, TaskError>>()?;
                // Of the last layer both networks are one.
                let is_one = answers.iter().all(|[decoupled, coupled]| decoupled == coupled);
                for (place, name) in programme::NAMES[..if is_one { 1 } else { 2 }].iter().enumerate() {
                    let outcomes = answers.iter().map(|answers| answers[place]).collect();
                    own.push((programme::method(task, name), outcomes));
                }
            }
            let samples = subject.samples.join(" ").replace("--samples ", "").replace("--samples-corrupt ", "");
            let cell = Cell { network: subject.network.name(), data: self.data.to_owned(), samples };
            rows.extend(summary::rows(&cell, &own, &rivals));
        }
        let text = serde_json::to_string_pretty(&rows).map_err(|error| TaskError::Malformed {
            path: self.results.join("summary.json"),
            reason: error.to_string(),
        })?;
        write_whole(&self.results.join("records.jsonl"), lines.as_bytes())?;
        write_whole(&self.results.join("summary.json"), format!("{text}\n").as_bytes())?;
        write_whole(&self.results.join("table.md"), summary::table(&rows).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_have_as_many_layers_as_their_names_say() {
        let text = Network::Mlp(3, 100).description().unwrap();
        assert_eq!(text.matches("out_features = 100").count(), 3);
        assert!(text.starts_with("name = \"mlp-3x100\"") && Network::Zoo("resnet20").description().is_none());
    }
}
