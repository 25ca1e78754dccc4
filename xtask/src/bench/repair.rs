//! `cargo xtask bench repair`: repairs of given samples beside their rivals, for several choices of samples.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::compress::interval;
use super::{Arguments, study, target_folder};
use crate::command::Child;
use crate::error::TaskError;
use crate::fetch::write_whole;
use crate::workspace;

/// The study that runs `fbp repair` and compares records.
pub(super) const NAME: &str = "repair";

/// Loss of accuracy that is allowed, in percentage points.
const BOUND: &str = "1";

/// A network, the samples that it gets wrong, and ways to make them right.
struct Subject {
    network: Network,
    training: &'static [&'static str],
    /// Options that choose the samples.
    samples: &'static [&'static str],
    ways: &'static [Way],
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

/// Fine-tuning on the same samples, which the first way runs besides.
const RIVAL: &str = "fine-tuning";
const TRAINING: &[&str] = &["--epochs", "10", "--batch", "128", "--learning-rate", "1e-3", "--schedule", "cosine"];
const FOG: &[&str] = &["--samples", "wrong:100", "--samples-corrupt", "fog:3"];

const SUBJECTS: [Subject; 3] = [
    Subject {
        network: Network::Mlp(3, 100),
        training: TRAINING,
        samples: FOG,
        ways: &[
            way("repair of fc1", "fc1", &["--rival"]),
            way("repair of fc1, 4 neighbours", "fc1", &["--neighbours", "4"]),
            way("repair of fc1, least loss", "fc1", &["--prefer", "accuracy"]),
            way("repair of fc3", "fc3", &[]),
            way("repair of the head", "out", &[]),
        ],
    },
    Subject {
        network: Network::Mlp(9, 200),
        training: TRAINING,
        samples: FOG,
        ways: &[
            way("repair of fc1, then fc2", "fc1,fc2", &["--rival"]),
            way("repair of fc2", "fc2", &[]),
            way("repair of the head", "out", &[]),
        ],
    },
    Subject {
        network: Network::Zoo("resnet20"),
        training: &["--epochs", "12", "--batch", "128", "--learning-rate", "3e-3", "--schedule", "cosine"],
        samples: &["--samples", "wrong:100"],
        ways: &[way("repair of layer3.2.conv2", "layer3.2.conv2", &["--rival"]), way("repair of the head", "fc", &[])],
    },
];
const QUICK: Subject = Subject {
    network: Network::Mlp(3, 100),
    training: TRAINING,
    samples: &["--samples", "wrong:50", "--samples-corrupt", "fog:3"],
    ways: &[way("repair of fc3", "fc3", &["--rival"]), way("repair of the head", "out", &[])],
};

/// What a way came to, in per cent and percentage points.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    efficacy: f64,
    generalisation: f64,
    drawdown: f64,
    seconds: f64,
}

/// Means of a way over the seeds, and what it is ahead of fine-tuning.
#[derive(Clone, Debug, Serialize)]
struct Row {
    network: String,
    data: String,
    samples: String,
    method: String,
    seeds: usize,
    efficacy_pct: f64,
    generalisation_pct: f64,
    drawdown_pp: f64,
    seconds: f64,
    /// Others of their kind that come right more than with fine-tuning, with the 95 % interval.
    generalisation_ahead_pp: f64,
    generalisation_ci: Option<[f64; 2]>,
    /// Accuracy on the test set that is kept over fine-tuning.
    kept_ahead_pp: f64,
    kept_ci: Option<[f64; 2]>,
}

struct Study {
    fbp: PathBuf,
    /// Where networks and single runs are kept; what is there is used again.
    work: PathBuf,
    results: PathBuf,
    data: &'static str,
    data_dir: Vec<String>,
    subjects: Vec<Subject>,
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
    // A seed at a time: an interrupted study has all rows with fewer seeds.
    for seed in 0..study.seeds {
        for subject in &study.subjects {
            for way in subject.ways {
                let outcome = outcome(&study.record(subject, way, seed)?)?;
                println!(
                    "{}, {}, seed {seed}: {:.1} % right, {:.1} % of the others, {:+.2} pp, {:.1} s",
                    subject.network.name(),
                    way.name,
                    outcome.efficacy,
                    outcome.generalisation,
                    -outcome.drawdown,
                    outcome.seconds
                );
            }
        }
        study.write(seed + 1)?;
    }
    println!("kept in {}", study.results.display());
    Ok(())
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
        let mut subjects: Vec<Subject> = if arguments.quick { vec![QUICK] } else { SUBJECTS.into() };
        subjects.retain(|subject| chosen(&subject.network.name()));
        if subjects.is_empty() {
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
            seeds: study::seeds(arguments, if arguments.quick { 2 } else { 10 })?,
        })
    }

    fn child(&self, command: &str) -> Child {
        Child::new(&self.fbp).args([command, "--data", self.data]).args(&self.data_dir)
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
        let record = self.record_path(subject, way, seed);
        if !record.exists() {
            let out = record.with_extension("safetensors");
            let child = self.child("repair").args([Path::new("--checkpoint"), &self.checkpoint(subject)]);
            let child = child.args(subject.samples).args(["--stage", way.stage, "--max-drawdown", BOUND]);
            let child = child.args(way.options).args(["--seed", &seed.to_string(), "--force"]);
            child.args([Path::new("--out"), &out]).output()?;
            // Only its figures are wanted.
            fs::remove_file(&out).map_err(TaskError::at(&out))?;
        }
        study::read(&record)
    }

    /// All rows over the first seeds.
    fn write(&self, seeds: u64) -> Result<(), TaskError> {
        let (mut rows, mut lines) = (Vec::new(), String::new());
        for subject in &self.subjects {
            let mut rivals = Vec::new();
            let mut own = Vec::new();
            for (place, way) in subject.ways.iter().enumerate() {
                let mut outcomes = Vec::new();
                for seed in 0..seeds {
                    let mut record = self.record(subject, way, seed)?;
                    outcomes.push(outcome(&record)?);
                    if place == 0 {
                        rivals.push(rival_outcome(&record)?);
                    }
                    // Pictures and all other states would be most of it.
                    if let Some(record) = record.as_object_mut() {
                        record.retain(|key, _| !matches!(key.as_str(), "examples" | "weights" | "candidates"));
                    }
                    lines.push_str(&format!("{record}\n"));
                }
                own.push((way.name, outcomes));
            }
            own.push((RIVAL, rivals.clone()));
            let samples = subject.samples.join(" ").replace("--samples ", "").replace("--samples-corrupt ", "");
            let cell = [subject.network.name(), self.data.to_owned(), samples];
            rows.extend(own.iter().map(|(method, outcomes)| row(&cell, method, outcomes, &rivals)));
        }
        let text = serde_json::to_string_pretty(&rows).map_err(|error| TaskError::Malformed {
            path: self.results.join("summary.json"),
            reason: error.to_string(),
        })?;
        write_whole(&self.results.join("records.jsonl"), lines.as_bytes())?;
        write_whole(&self.results.join("summary.json"), format!("{text}\n").as_bytes())?;
        write_whole(&self.results.join("table.md"), table(&rows).as_bytes())
    }
}

fn outcome_of(record: &Value, seconds: &str) -> Result<Outcome, TaskError> {
    let number = |name: &str| {
        let missing = || TaskError::Refused(format!("a record of a repair has no {name}"));
        record.get(name).and_then(Value::as_f64).ok_or_else(missing)
    };
    Ok(Outcome {
        efficacy: 100.0 * number("efficacy")?,
        generalisation: 100.0 * number("generalisation")?,
        drawdown: 100.0 * number("drawdown_test")?,
        seconds: number(seconds)?,
    })
}

fn outcome(record: &Value) -> Result<Outcome, TaskError> {
    outcome_of(record, "repair_seconds")
}

fn rival_outcome(record: &Value) -> Result<Outcome, TaskError> {
    outcome_of(&record["rival"], "seconds")
}

fn row([network, data, samples]: &[String; 3], method: &str, own: &[Outcome], rivals: &[Outcome]) -> Row {
    let mean = |of: fn(&Outcome) -> f64| own.iter().map(of).sum::<f64>() / own.len().max(1) as f64;
    let ahead = |of: fn(&Outcome) -> f64| {
        let differences: Vec<f64> = own.iter().zip(rivals).map(|(own, rival)| of(own) - of(rival)).collect();
        let (mean, half) = interval(&differences);
        (mean, half.map(|half| [mean - half, mean + half]))
    };
    let (generalisation_ahead_pp, generalisation_ci) = ahead(|outcome| outcome.generalisation);
    let (kept_ahead_pp, kept_ci) = ahead(|outcome| -outcome.drawdown);
    Row {
        network: network.clone(),
        data: data.clone(),
        samples: samples.clone(),
        method: method.to_owned(),
        seeds: own.len(),
        efficacy_pct: mean(|outcome| outcome.efficacy),
        generalisation_pct: mean(|outcome| outcome.generalisation),
        drawdown_pp: mean(|outcome| outcome.drawdown),
        seconds: mean(|outcome| outcome.seconds),
        generalisation_ahead_pp,
        generalisation_ci,
        kept_ahead_pp,
        kept_ci,
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| network | samples | method | seeds | right, % | others right, % | loss, pp | s | others ahead of fine-tuning, pp | \
         accuracy kept ahead of it, pp |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let with = |mean: f64, ci: &Option<[f64; 2]>| match ci {
        Some([low, high]) => format!("{mean:+.2} ({low:.2} to {high:.2})"),
        None => format!("{mean:+.2}"),
    };
    for row in rows {
        let (ahead, kept) = match row.method.as_str() {
            RIVAL => ("–".to_owned(), "–".to_owned()),
            _ => (with(row.generalisation_ahead_pp, &row.generalisation_ci), with(row.kept_ahead_pp, &row.kept_ci)),
        };
        text.push_str(&format!(
            "| {} | {} | {} | {} | {:.1} | {:.1} | {:.2} | {:.1} | {ahead} | {kept} |\n",
            row.network,
            row.samples,
            row.method,
            row.seeds,
            row.efficacy_pct,
            row.generalisation_pct,
            row.drawdown_pp,
            row.seconds
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_compare_seed_by_seed() {
        let record = |generalisation: f64, drawdown: f64, seconds: f64| {
            let rival = json!({ "efficacy": 0.5, "generalisation": 0.25, "drawdown_test": 0.125, "seconds": 2.0 });
            json!({
                "efficacy": 1.0, "generalisation": generalisation, "drawdown_test": drawdown, "repair_seconds": seconds,
                "rival": rival,
            })
        };
        let records = [record(0.5, 0.0, 1.0), record(0.75, 0.0625, 3.0)];
        let own: Vec<Outcome> = records.iter().map(|record| outcome(record).unwrap()).collect();
        let rivals: Vec<Outcome> = records.iter().map(|record| rival_outcome(record).unwrap()).collect();
        let cell = ["n", "d", "s"].map(str::to_owned);
        let found = row(&cell, "repair", &own, &rivals);
        assert_eq!((found.efficacy_pct, found.generalisation_pct, found.drawdown_pp), (100.0, 62.5, 3.125));
        assert_eq!((found.generalisation_ahead_pp, found.kept_ahead_pp, found.seconds), (37.5, 9.375, 2.0));
        // Two differences, 25 and 50: 12.706 · 12.5 to both sides.
        let [low, high] = found.generalisation_ci.unwrap();
        assert!((low + 121.325).abs() < 1e-9 && (high - 196.325).abs() < 1e-9);
        assert!(table(&[found]).contains("| n | s | repair | 2 | 100.0 | 62.5 | 3.12 | 2.0 | +37.50"));
        assert!(outcome(&json!({})).is_err());
    }

    #[test]
    fn descriptions_have_as_many_layers_as_their_names_say() {
        let text = Network::Mlp(3, 100).description().unwrap();
        assert_eq!(text.matches("out_features = 100").count(), 3);
        assert!(text.starts_with("name = \"mlp-3x100\"") && Network::Zoo("resnet20").description().is_none());
    }
}
