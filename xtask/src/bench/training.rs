//! `cargo xtask bench training`: whether networks trained with layers run as one are as good as those trained layer by layer.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::statistics::interval;
use super::study::{number, program, read, seeds};
use super::{Arguments, target_folder};
use crate::command::Child;
use crate::error::TaskError;
use crate::fetch::write_whole;
use crate::workspace;

/// The benchmark that runs `fbp pretrain` and compares records.
pub(super) const NAME: &str = "training";

/// What is trained, and how.
#[derive(Clone, Debug, Serialize)]
struct Setting {
    network: String,
    data: String,
    /// The first training images; all if none.
    images: Option<String>,
    epochs: &'static str,
}

/// The same in every run.
const OPTIONS: [&str; 6] = ["--batch", "128", "--learning-rate", "3e-3", "--schedule", "cosine"];

/// What is run.
struct Study {
    fbp: PathBuf,
    /// Where single runs are kept; what is there is used again.
    work: PathBuf,
    results: PathBuf,
    data_dir: Vec<String>,
    setting: Setting,
    seeds: u64,
}

/// What a training came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Outcome {
    /// On the test set, in per cent.
    accuracy_pct: f64,
    /// Mean training loss of the last epoch.
    last_loss: f64,
    /// With the evaluation on the test set.
    processor_seconds: f64,
    checkpoint_sha256: String,
}

/// Both ways from one seed.
#[derive(Clone, Debug, Serialize)]
struct Pair {
    seed: u64,
    fused: Outcome,
    separate: Outcome,
}

/// The first seed of one way once more.
#[derive(Clone, Debug, Serialize)]
struct Repeat {
    fused: bool,
    threads: u32,
    same_bits: bool,
    #[serde(flatten)]
    outcome: Outcome,
}

/// A quantity of both ways over the seeds.
#[derive(Clone, Debug, Serialize)]
struct Comparison {
    fused_mean: f64,
    separate_mean: f64,
    /// Standard deviations over the seeds; none of a single one.
    fused_spread: Option<f64>,
    separate_spread: Option<f64>,
    /// Of fused less separate, paired by seed, with Student's 95 % interval.
    difference: f64,
    ci_low: Option<f64>,
    ci_high: Option<f64>,
}

#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    setting: &'a Setting,
    options: String,
    seeds: usize,
    accuracy_pct: Comparison,
    last_loss: Comparison,
    processor_seconds: Comparison,
    runs: &'a [Pair],
    repeats: &'a [Repeat],
}

/// A number of an outcome.
type Of = fn(&Outcome) -> f64;

const ACCURACY: Of = |outcome| outcome.accuracy_pct;
const LOSS: Of = |outcome| outcome.last_loss;
const SECONDS: Of = |outcome| outcome.processor_seconds;

pub(super) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    if arguments.has_flags_of_compress() || arguments.ways.is_some() || arguments.networks.is_some() {
        return Err(TaskError::Refused(format!(
            "`bench {NAME}` takes --network, --images, --seeds, --data-dir and --quick, and none of --ways, --data, --equal-time, \
             --labels, --networks"
        )));
    }
    let study = Study::new(arguments)?;
    for folder in [&study.work, &study.results] {
        fs::create_dir_all(folder).map_err(TaskError::at(folder))?;
    }
    let (mut runs, mut repeats) = (Vec::new(), Vec::new());
    // A seed at a time: an interrupted study has fewer seeds of both ways.
    for seed in 0..study.seeds {
        let (fused, separate) = (study.outcome(seed, true, (1, ""))?, study.outcome(seed, false, (1, ""))?);
        println!("seed {seed}: {:.2} % fused, {:.2} % layer by layer", fused.accuracy_pct, separate.accuracy_pct);
        runs.push(Pair { seed, fused, separate });
        study.write(&runs, &repeats)?;
    }
    let first = runs.first().cloned();
    for (threads, fused) in [(1, true), (2, true), (1, false)] {
        let Some(Pair { seed, fused: own, separate }) = &first else { continue };
        let outcome = study.outcome(*seed, fused, (threads, "again"))?;
        let same_bits = outcome.checkpoint_sha256 == if fused { own } else { separate }.checkpoint_sha256;
        repeats.push(Repeat { fused, threads, same_bits, outcome });
        study.write(&runs, &repeats)?;
    }
    println!("kept in {}", study.results.display());
    Ok(())
}

impl Study {
    fn new(arguments: &Arguments) -> Result<Self, TaskError> {
        let (fbp, seeds) = (program()?, seeds(arguments, if arguments.quick { 2 } else { 5 })?);
        let target = target_folder()?;
        let network = arguments.network.clone().unwrap_or_else(|| "resnet20".to_owned());
        let (data, epochs) = if arguments.quick { ("fashion-mnist-mini", "1") } else { ("fashion-mnist", "3") };
        let images = arguments.images.clone().or_else(|| arguments.quick.then(|| "1000".to_owned()));
        Ok(Self {
            fbp,
            work: target.join(if arguments.quick { "training-quick" } else { NAME }),
            // What is kept is of one network.
            results: match arguments.quick || arguments.network.is_some() {
                true => target.join("bench-results").join(NAME),
                false => workspace::root().join("benches/results").join(NAME),
            },
            data_dir: arguments.data_dir.iter().flat_map(|folder| ["--data-dir".to_owned(), folder.clone()]).collect(),
            setting: Setting { network, data: data.to_owned(), images, epochs },
            seeds,
        })
    }

    /// What a training came to, run if its record is not there.
    fn outcome(&self, seed: u64, fused: bool, (threads, suffix): (u32, &str)) -> Result<Outcome, TaskError> {
        let Setting { network, data, images, epochs } = &self.setting;
        let way = if fused { "fused" } else { "separate" };
        let (seed, threads) = (seed.to_string(), threads.to_string());
        let shown = images.as_deref().unwrap_or("all");
        let name = [network, shown, epochs, &seed, way, &threads, suffix].join("_");
        let record = self.work.join(format!("{name}.json"));
        if !record.exists() {
            let out = record.with_extension("safetensors");
            let child = Child::new(&self.fbp).env("RAYON_NUM_THREADS", &threads);
            let child =
                child.args(["pretrain", "--model", network, "--data", data, "--seed", &seed, "--epochs", epochs]);
            let child = child.args(OPTIONS).args(&self.data_dir).args((!fused).then_some("--no-fusion"));
            let child = child.args(images.iter().flat_map(|images| ["--train-size", images]));
            child.args([Path::new("--out"), &out]).output()?;
            // Only its figures are wanted.
            fs::remove_file(&out).map_err(TaskError::at(&out))?;
        }
        Outcome::of(&read(&record)?)
    }

    fn write(&self, runs: &[Pair], repeats: &[Repeat]) -> Result<(), TaskError> {
        let path = self.results.join("summary.json");
        let summary = Summary {
            setting: &self.setting,
            options: OPTIONS.join(" "),
            seeds: runs.len(),
            accuracy_pct: Comparison::of(runs, ACCURACY),
            last_loss: Comparison::of(runs, LOSS),
            processor_seconds: Comparison::of(runs, SECONDS),
            runs,
            repeats,
        };
        let text = serde_json::to_string_pretty(&summary)
            .map_err(|error| TaskError::Malformed { path: path.clone(), reason: error.to_string() })?;
        write_whole(&path, format!("{text}\n").as_bytes())?;
        write_whole(&self.results.join("table.md"), table(runs, repeats).as_bytes())
    }
}

impl Outcome {
    fn of(record: &Value) -> Result<Self, TaskError> {
        let missing = |name: &str| TaskError::Refused(format!("a record of fbp pretrain has no {name}"));
        let last = record.get("train_loss").and_then(Value::as_array).and_then(|losses| losses.last()?.as_f64());
        let digest = record.get("checkpoint_sha256").and_then(Value::as_str);
        Ok(Self {
            accuracy_pct: 100.0 * number(record, "test_accuracy")?,
            last_loss: last.ok_or_else(|| missing("train_loss"))?,
            processor_seconds: number(record, "processor_seconds")?,
            checkpoint_sha256: digest.ok_or_else(|| missing("checkpoint_sha256"))?.to_owned(),
        })
    }
}

impl Comparison {
    fn of(runs: &[Pair], of: Of) -> Self {
        let values = |side: fn(&Pair) -> &Outcome| runs.iter().map(|pair| of(side(pair))).collect::<Vec<f64>>();
        let (fused, separate) = (values(|pair| &pair.fused), values(|pair| &pair.separate));
        let differences: Vec<f64> = fused.iter().zip(&separate).map(|(fused, separate)| fused - separate).collect();
        let (difference, half) = interval(&differences);
        let ([fused_mean, separate_mean], [fused_spread, separate_spread]) =
            ([mean(&fused), mean(&separate)], [spread(&fused), spread(&separate)]);
        let (ci_low, ci_high) = (half.map(|half| difference - half), half.map(|half| difference + half));
        Self { fused_mean, separate_mean, fused_spread, separate_spread, difference, ci_low, ci_high }
    }

    /// A row of a table, with so many decimals.
    fn row(&self, what: &str, decimals: usize) -> String {
        let value = |mean: f64, spread: Option<f64>| {
            let spread = spread.map_or_else(String::new, |spread| format!(" ± {spread:.decimals$}"));
            format!("{mean:.decimals$}{spread}")
        };
        let interval = match (self.ci_low, self.ci_high) {
            (Some(low), Some(high)) => format!(" ({low:.decimals$} to {high:.decimals$})"),
            _ => String::new(),
        };
        format!(
            "| {what} | {} | {} | {:+.decimals$}{interval} |\n",
            value(self.fused_mean, self.fused_spread),
            value(self.separate_mean, self.separate_spread),
            self.difference,
        )
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Standard deviation of a sample.
fn spread(values: &[f64]) -> Option<f64> {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// All means, then every seed, then the first seed once more.
fn table(runs: &[Pair], repeats: &[Repeat]) -> String {
    let mut text = format!(
        "| mean ± deviation over {} seeds | fused | layer by layer | difference, paired by seed (95 %) |\n|---|---|---|---|\n",
        runs.len()
    );
    for (what, of, decimals) in [
        ("test accuracy, %", ACCURACY, 2),
        ("training loss of the last epoch", LOSS, 4),
        ("time of the processor, s", SECONDS, 0),
    ] {
        text.push_str(&Comparison::of(runs, of).row(what, decimals));
    }
    text.push_str("\n| seed | test accuracy, %: fused, layer by layer | last loss | time, s |\n|---|---|---|---|\n");
    for Pair { seed, fused, separate } in runs {
        text.push_str(&format!(
            "| {seed} | {:.2}, {:.2} | {:.4}, {:.4} | {:.0}, {:.0} |\n",
            fused.accuracy_pct,
            separate.accuracy_pct,
            fused.last_loss,
            separate.last_loss,
            fused.processor_seconds,
            separate.processor_seconds,
        ));
    }
    if !repeats.is_empty() {
        text.push_str("\n| first seed again | threads | bits | test accuracy, % |\n|---|---|---|---|\n");
    }
    for Repeat { fused, threads, same_bits, outcome } in repeats {
        let way = if *fused { "fused" } else { "layer by layer" };
        let bits = if *same_bits { "the same" } else { "others" };
        text.push_str(&format!("| {way} | {threads} | {bits} | {:.2} |\n", outcome.accuracy_pct));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(accuracy_pct: f64, seconds: f64) -> Outcome {
        let record = json!({"test_accuracy": accuracy_pct / 100.0, "train_loss": [1.0, 0.25], "processor_seconds": seconds,
            "checkpoint_sha256": "ab"});
        Outcome::of(&record).unwrap()
    }

    #[test]
    fn means_are_paired_by_seed() {
        let pair = |seed: u64, fused: f64, separate: f64| Pair {
            seed,
            fused: outcome(fused, 10.0),
            separate: outcome(separate, 20.0),
        };
        let runs = [pair(0, 75.0, 74.5), pair(1, 50.0, 50.0), pair(2, 25.0, 25.5)];
        let repeats = [Repeat { fused: true, threads: 2, same_bits: false, outcome: outcome(75.0, 9.0) }];
        let text = table(&runs, &repeats);
        // Differences of 0.5, 0 and -0.5: a deviation of 0.5 over the root of 3, times 4.303. Over the seeds 25 and 24.5.
        assert!(
            text.contains("| test accuracy, % | 50.00 ± 25.00 | 50.00 ± 24.50 | +0.00 (-1.24 to 1.24) |"),
            "{text}"
        );
        assert!(text.contains("| time of the processor, s | 10 ± 0 | 20 ± 0 | -10 (-10 to -10) |"), "{text}");
        assert!(text.contains("| 0 | 75.00, 74.50 | 0.2500, 0.2500 | 10, 20 |"), "{text}");
        assert!(text.contains("| fused | 2 | others | 75.00 |"), "{text}");
        // One seed has no interval, and a table all the same.
        let text = table(&runs[..1], &[]);
        assert!(text.contains("| test accuracy, % | 75.00 | 74.50 | +0.50 |"), "{text}");
        assert!(!text.contains("again"), "{text}");
    }

    #[test]
    fn a_record_without_a_figure_is_no_outcome() {
        let record =
            json!({"test_accuracy": 0.5, "train_loss": [], "processor_seconds": 1.0, "checkpoint_sha256": "ab"});
        assert!(Outcome::of(&record).is_err());
        assert!(Outcome::of(&json!({"test_accuracy": 0.5, "train_loss": [1.0], "checkpoint_sha256": "ab"})).is_err());
    }
}
