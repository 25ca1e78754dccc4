//! `cargo xtask demo`: the main job on the images that ship with the repository; `demo planner` and `demo shapes`: a planner, and a
//! residual network on colours.

mod planner;
mod shapes;
mod story;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::bench;
use crate::command::Child;
use crate::error::TaskError;

const MODEL: &str = "simple-cnn-mnist-v2";
const DATA: &str = "fashion-mnist-mini";
const PRETRAINING: [&str; 10] =
    ["--epochs", "20", "--batch", "64", "--learning-rate", "3e-3", "--schedule", "cosine", "--seed", "0"];
const MARGIN: &str = "1";
// The published recipe has batches of 256 and a learning rate of 5e-5, for ten times as many images: on so few it would
// hardly move.
const POST_TRAINING: [&str; 6] = ["--epochs", "10", "--batch", "64", "--learning-rate", "5e-4"];
const ALPHAS: [&str; 2] = ["0", "0.3"];
// A method is compared with tuned fine-tuning, not just with fine-tuning at its own learning rate.
const RIVAL_RATES: [&str; 3] = ["5e-4", "1.5e-3", "5e-3"];
const SEEDS: [&str; 3] = ["0", "1", "2"];

/// Do the main job on the shipped images: pretrain, reconstruct targets, post-train, report
///
/// Writes DIR/report.html, which needs no other file, and DIR/summary.json. What an earlier, interrupted run finished
/// is used again. With planner: a planner for driving on 20,000 trajectories, what its layers should have said, and the repair of
/// its 50 worst paths. With shapes: resnet20 on the colour images that ship, from pretraining to repair.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask demo --out /tmp/demo\n  cargo xtask demo planner\n  cargo xtask demo shapes"
)]
pub(crate) struct Arguments {
    /// What to show
    #[arg(value_enum, default_value_t = Subject::Images)]
    subject: Subject,
    /// Folder to write to; made if it is not there [default: target/demo, target/demo-planner or target/demo-shapes]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What a demo is about.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Subject {
    /// The images that ship with the repository.
    Images,
    /// Trajectories of a vehicle.
    Planner,
    /// The colour images that ship with the repository, and a residual network.
    Shapes,
}

/// The folder to write to, made if it is not there.
fn out_folder(asked: Option<&PathBuf>, default: &str) -> Result<PathBuf, TaskError> {
    let out = match asked {
        // Child programs run in the folder of the workspace, this one where it was started.
        Some(out) => std::path::absolute(out).map_err(TaskError::at(out))?,
        None => bench::target_folder()?.join(default),
    };
    fs::create_dir_all(&out).map_err(TaskError::at(&out))?;
    Ok(out)
}

/// The program `fbp` of this workspace.
struct Fbp(PathBuf);

impl Fbp {
    fn build() -> Result<Self, TaskError> {
        println!("building fbp: some minutes the first time, nothing afterwards");
        Child::cargo().args(["build", "--workspace", "--bin", "fbp"]).run()?;
        Ok(Self(bench::target_folder()?.join("debug").join(format!("fbp{}", std::env::consts::EXE_SUFFIX))))
    }

    /// One command, shown as one would type it.
    fn run(&self, arguments: &[&str]) -> Result<(), TaskError> {
        let child = Child::new(&self.0).args(arguments);
        println!("\n{}", child.line());
        child.run()
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    match arguments.subject {
        Subject::Images => images(arguments.out.as_ref()),
        Subject::Planner => planner::run(arguments.out.as_ref()),
        Subject::Shapes => shapes::run(arguments.out.as_ref()),
    }
}

fn images(out: Option<&PathBuf>) -> Result<(), TaskError> {
    let out = out_folder(out, "demo")?;
    let fbp = Fbp::build()?;

    let begun = Instant::now();
    let demo = Demo { fbp, checkpoint: out.join("pretrained.safetensors"), targets: out.join("targets"), out };
    demo.pretrain()?;
    let stages = demo.reconstruct()?;
    demo.post_train(&stages)?;
    demo.fine_tune()?;
    demo.report()?;
    println!("\ndone in {:.0} s after the build", begun.elapsed().as_secs_f64());
    println!("{}\n{}", demo.out.join("report.html").display(), demo.out.join("summary.json").display());
    Ok(())
}

struct Demo {
    fbp: Fbp,
    checkpoint: PathBuf,
    targets: PathBuf,
    out: PathBuf,
}

impl Demo {
    fn pretrain(&self) -> Result<(), TaskError> {
        let checkpoint = text(&self.checkpoint)?;
        self.fbp.run(&[&["pretrain", "--model", MODEL, "--data", DATA, "--out", checkpoint][..], &PRETRAINING].concat())
    }

    /// Reconstructs the targets and gives the names of the stages that have some.
    fn reconstruct(&self) -> Result<Vec<String>, TaskError> {
        let (checkpoint, targets) = (text(&self.checkpoint)?, text(&self.targets)?);
        let report = fresh(self.out.join("targets.json"))?;
        let arguments = ["targets", "--checkpoint", checkpoint, "--data", DATA, "--margin", MARGIN, "--out", targets];
        self.fbp.run(&[&arguments[..], &["--json", text(&report)?]].concat())?;
        let value = read_json(&report)?;
        let stages = value.get("stages").and_then(Value::as_array).into_iter().flatten();
        let names: Vec<_> = stages.filter_map(|stage| Some(stage.get("name")?.as_str()?.to_owned())).collect();
        if names.is_empty() {
            return Err(TaskError::Malformed { path: report, reason: "it names no stage".to_owned() });
        }
        Ok(names)
    }

    fn post_train(&self, stages: &[String]) -> Result<(), TaskError> {
        let (checkpoint, targets) = (text(&self.checkpoint)?, text(&self.targets)?);
        let runs = self.out.join("runs");
        let start = ["post-train", "--checkpoint", checkpoint, "--data", DATA, "--targets", targets, "--mode", "joint"];
        let to = ["--out", text(&runs)?];
        for stage in stages {
            for alpha in ALPHAS {
                for seed in SEEDS {
                    let run = ["--stage", stage, "--alpha", alpha, "--seed", seed];
                    self.fbp.run(&[&start[..], &run, &POST_TRAINING, &to].concat())?;
                }
            }
        }
        Ok(())
    }

    /// The rival: fine-tuning of the whole network at several learning rates, each in a folder of its own.
    fn fine_tune(&self) -> Result<(), TaskError> {
        let start = ["post-train", "--checkpoint", text(&self.checkpoint)?, "--data", DATA, "--mode", "full"];
        let [epochs, batch] = [&POST_TRAINING[..2], &POST_TRAINING[2..4]];
        for rate in RIVAL_RATES {
            let runs = self.out.join("runs").join(format!("full-{rate}"));
            let to = ["--learning-rate", rate, "--schedule", "cosine", "--out", text(&runs)?];
            for seed in SEEDS {
                self.fbp.run(&[&start[..], epochs, batch, &to, &["--seed", seed]].concat())?;
            }
        }
        Ok(())
    }

    /// Writes the report and checks that it is complete.
    fn report(&self) -> Result<(), TaskError> {
        let runs = self.out.join("runs");
        self.fbp.run(&["report", "--runs", text(&runs)?, "--out", text(&self.out)?])?;
        let summary = self.out.join("summary.json");
        let value = read_json(&summary)?;
        let wanted = ["data", "model", "pretrain", "targets", "post_train"];
        if let Some(absent) = wanted.iter().find(|key| value.get(**key).is_none_or(Value::is_null)) {
            return Err(TaskError::Malformed { path: summary, reason: format!("it has no {absent:?}") });
        }
        let page = self.out.join("report.html");
        fs::metadata(&page).map_err(TaskError::at(&page))?;
        println!("\n{}", table(&value));
        Ok(())
    }
}

/// Mean test accuracy after the last epoch, for every stage and weight, or mode without one.
fn table(summary: &Value) -> String {
    let mut means: Vec<(String, f64, usize)> = Vec::new();
    for run in summary["post_train"].as_array().into_iter().flatten() {
        let last = run["test_accuracy"].as_array().and_then(|epochs| epochs.last()?.as_f64());
        let (Some(stage), Some(last)) = (run["stage"].as_str(), last) else { continue };
        // The mode joint alone has a weight, and its name is left out.
        let name = match run["alpha"].as_f64() {
            Some(alpha) => format!("{stage}, alpha {alpha}"),
            None => format!("{stage}, {}", run["mode"].as_str().unwrap_or("joint")),
        };
        match means.iter_mut().find(|(other, ..)| *other == name) {
            Some((_, sum, runs)) => (*sum, *runs) = (*sum + last, *runs + 1),
            None => means.push((name, last, 1)),
        }
    }
    let before = summary["pretrain"]["test_accuracy"].as_f64().unwrap_or(f64::NAN);
    let mut lines = vec![format!("test accuracy before post-training: {:.2} %", 100.0 * before)];
    lines.extend(
        means.into_iter().map(|(name, sum, runs)| {
            format!("after, {name}: {:.2} %, mean of {runs} seeds", 100.0 * sum / runs as f64)
        }),
    );
    lines.join("\n")
}

/// A path as an argument.
fn text(path: &Path) -> Result<&str, TaskError> {
    let reason = || TaskError::Refused(format!("{}: the path is not valid Unicode", path.display()));
    path.to_str().ok_or_else(reason)
}

/// The place of a record that is made anew: one of an earlier demo may be of a version that did not mark its results, and
/// commands replace marked ones alone.
fn fresh(path: PathBuf) -> Result<PathBuf, TaskError> {
    if path.exists() {
        fs::remove_file(&path).map_err(TaskError::at(&path))?;
    }
    Ok(path)
}

fn read_json(path: &Path) -> Result<Value, TaskError> {
    let text = fs::read_to_string(path).map_err(TaskError::at(path))?;
    let value = serde_json::from_str(&text);
    value.map_err(|error| TaskError::Malformed { path: path.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_holds_means_over_seeds() {
        let run =
            |stage: &str, alpha: f64, last: f64| json!({"stage": stage, "alpha": alpha, "test_accuracy": [0.1, last]});
        let local = json!({"stage": "conv1", "alpha": null, "mode": "local", "test_accuracy": [0.625]});
        let summary = json!({
            "pretrain": { "test_accuracy": 0.5 },
            "post_train": [run("conv1", 0.0, 0.25), run("conv1", 0.0, 0.75), run("conv1", 0.3, 0.875), local],
        });
        let wanted = [
            "test accuracy before post-training: 50.00 %",
            "after, conv1, alpha 0: 50.00 %, mean of 2 seeds",
            "after, conv1, alpha 0.3: 87.50 %, mean of 1 seeds",
            "after, conv1, local: 62.50 %, mean of 1 seeds",
        ];
        assert_eq!(table(&summary), wanted.join("\n"));
    }

    #[test]
    fn reports_that_are_not_there_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        assert!(matches!(read_json(&path), Err(TaskError::Io { .. })));
        fs::write(&path, "{").unwrap();
        assert!(matches!(read_json(&path), Err(TaskError::Malformed { .. })));
    }
}
