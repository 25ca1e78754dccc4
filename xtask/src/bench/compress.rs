//! `cargo xtask bench compress`: what the closed form is worth on compressed networks, against statistics and tuned fine-tuning.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::context::processor;
use super::statistics::{holm, interval, p_value};
use super::study::{self, Training, number, training};
use super::{Arguments, target_folder};
use crate::command::Child;
use crate::error::TaskError;
use crate::fetch::write_whole;
use crate::workspace;

/// The benchmark that runs `fbp` and compares records.
pub(super) const NAME: &str = "compress";

/// Learning rates of the rival.
const RATES: [f64; 5] = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2];
/// How much longer the rival may take in the second comparison.
const LONGER: f64 = 5.0;
/// Test images that judge.
const TEST: &str = "2000";

/// A comparison: what is compared, with what, and the accuracies of both in per cent.
type Comparison = (&'static str, &'static str, fn(&Outcome) -> Option<[f64; 2]>);

/// A way to make a network small, as options of `fbp compress`.
type Way = (&'static str, &'static [&'static str]);

/// What is compared: the closed form, and training on the labels from there on.
const METHODS: [&str; 2] = ["closed-form", "both"];
/// The other sides of the comparisons.
const AGAINST: [&str; 4] = ["statistics", "tuned-equal-time", "tuned-five-times", "intact"];

const WAYS: [Way; 12] = [
    ("prune 0.7", &["--prune", "0.7"]),
    ("prune 0.9", &["--prune", "0.9"]),
    ("2:4", &["--pattern", "2:4"]),
    ("int4", &["--quantise", "int4"]),
    ("prune 0.8", &["--prune", "0.8"]),
    ("prune 0.5", &["--prune", "0.5"]),
    ("prune 0.7 of every layer", &["--prune", "0.7", "--scope", "layer"]),
    // The other sides get the zeros that the closed form chooses, and the time that this took.
    ("prune 0.7 same zeros", &["--prune", "0.7", "--criterion", "reconstruction"]),
    ("prune 0.9 same zeros", &["--prune", "0.9", "--criterion", "reconstruction"]),
    ("2:4 same zeros", &["--pattern", "2:4", "--criterion", "reconstruction"]),
    ("prune 0.8 same zeros", &["--prune", "0.8", "--criterion", "reconstruction"]),
    ("prune 0.5 same zeros", &["--prune", "0.5", "--criterion", "reconstruction"]),
];

/// How ways end in which all sides have the zeros of the closed form.
const SAME: &str = "same zeros";

/// The data set that is meant where none is named.
const LARGE_DATA: &str = "fashion-mnist";

/// Networks that suit data, with the options of their training.
fn networks_for(data: &str) -> Vec<(&'static str, Training)> {
    match data {
        "shapes-mini" => vec![("resnet20", training("15", "3e-3"))],
        LARGE_DATA | "fashion-mnist-mini" => vec![
            ("cnn-mnist-large", training("10", "3e-3")),
            ("resnet20", training("5", "3e-3")),
            ("simple-vit-v2", training("10", "2e-3")),
        ],
        // Small sets of grey images.
        _ => vec![("cnn-mnist-large", training("30", "1e-3"))],
    }
}

/// What is run.
struct Study {
    fbp: PathBuf,
    /// Where networks and single runs are kept; what is there is used again.
    work: PathBuf,
    results: PathBuf,
    data: Vec<String>,
    /// As results call them, folders with their whole path.
    data_name: String,
    /// Networks with the options of their training.
    networks: Vec<(&'static str, Training)>,
    ways: Vec<Way>,
    images: Vec<usize>,
    seeds: u64,
    /// Whether the rival also gets more time.
    is_longer: bool,
    /// Whether training on the labels from the closed form on is measured too.
    with_labels: bool,
}

/// One comparison of one cell, as the summary has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    network: String,
    data: String,
    compression: String,
    images: usize,
    method: String,
    against: String,
    seeds: usize,
    mean_pp: f64,
    ci_low: Option<f64>,
    ci_high: Option<f64>,
    /// Of the method.
    accuracy_pct: f64,
    /// Of the method; choosing a rate does not count, as it does not for the other side.
    seconds: f64,
    /// Of the other side.
    against_accuracy_pct: f64,
    /// Two-sided, of Student's t for paired samples.
    #[serde(default)]
    p: Option<f64>,
    /// The same after Holm over all cells with the same other side.
    #[serde(default)]
    p_holm: Option<f64>,
    /// On which it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    processor: Option<String>,
}

impl Row {
    fn is_of(&self, other: &Self) -> bool {
        let cell = |row: &Self| (row.network.clone(), row.data.clone(), row.compression.clone(), row.images);
        cell(self) == cell(other) && self.method == other.method
    }

    /// Whether all sides have the zeros of the closed form.
    fn has_same_zeros(&self) -> bool {
        self.compression.ends_with(SAME)
    }

    /// Whether both are members of a family of tests.
    fn is_alike(&self, other: &Self) -> bool {
        let family = |row: &Self| (row.method.clone(), row.against.clone(), row.has_same_zeros());
        family(self) == family(other)
    }
}

/// Accuracies of one seed in per cent, and the time of the closed form.
struct Outcome {
    closed: f64,
    statistics: f64,
    equal: f64,
    /// If that was asked for.
    longer: Option<f64>,
    /// Training on the labels from the closed form on, for as long again, and the best of fine-tuning in the time of both; if that was
    /// asked for.
    both: Option<[f64; 2]>,
    intact: f64,
    seconds: f64,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    let study = Study::new(arguments)?;
    for folder in [&study.work, &study.results] {
        fs::create_dir_all(folder).map_err(TaskError::at(folder))?;
    }
    for (network, training) in &study.networks {
        study.train(network, training)?;
    }
    for &images in &study.images {
        for &way in &study.ways {
            for (network, _) in &study.networks {
                let outcomes: Result<Vec<Outcome>, TaskError> =
                    (0..study.seeds).map(|seed| study.outcome(network, way, images, seed)).collect();
                let cell = study.compare(network, way.0, images, &outcomes?);
                let text: Vec<String> = cell.iter().map(brief).collect();
                // Another study of other cells may write as well.
                let lock = study.lock()?;
                let mut rows = study.earlier()?;
                rows.retain(|row| !cell.iter().any(|own| own.is_of(row)));
                rows.extend(cell);
                put_in_order(&mut rows);
                adjust(&mut rows);
                study.write(&rows)?;
                drop(lock);
                println!("{network}, {}, {images} images: {}", way.0, text.join("; "));
            }
        }
    }
    println!("kept in {}", study.results.display());
    Ok(())
}

impl Study {
    fn new(arguments: &Arguments) -> Result<Self, TaskError> {
        let (seeds, fbp) = (study::seeds(arguments, if arguments.quick { 3 } else { 10 })?, study::program()?);
        let target = target_folder()?;
        let data = match (&arguments.data, arguments.quick) {
            (Some(data), _) => data.as_str(),
            (None, true) => "fashion-mnist-mini",
            (None, false) => LARGE_DATA,
        };
        let (mut ways, mut images) = (vec![WAYS[0], WAYS[2], WAYS[3]], vec![100]);
        let mut networks = networks_for(data);
        if arguments.quick {
            networks.truncate(1);
        } else {
            // Other sets may have no more training images.
            images = if data == LARGE_DATA { vec![500, 100, 2000] } else { vec![500, 100] };
            ways = WAYS.to_vec();
        }
        let chosen = |name: &str| arguments.networks.as_ref().is_none_or(|list| list.split(',').any(|one| one == name));
        networks.retain(|(name, _)| chosen(name));
        if let Some(list) = &arguments.ways {
            ways = study::picked("ways", list, &WAYS, |way| way.0.to_owned())?;
        }
        if let Some(list) = &arguments.images {
            images = study::picked("images", list, &[100, 500, 2000], usize::to_string)?;
        }
        if networks.is_empty() {
            return Err(TaskError::Refused("none of the networks of this study is called so".to_owned()));
        }
        let folder = arguments.data_dir.iter().flat_map(|folder| ["--data-dir".to_owned(), folder.clone()]);
        Ok(Self {
            fbp,
            work: target.join(if arguments.quick { "compress-quick" } else { "compress" }),
            results: match arguments.quick {
                true => target.join("bench-results/compress"),
                false => workspace::root().join("benches/results/compress"),
            },
            data: ["--data".to_owned(), data.to_owned()].into_iter().chain(folder).collect(),
            data_name: data.trim_end_matches('/').to_owned(),
            networks,
            ways,
            images,
            seeds,
            is_longer: !arguments.equal_time,
            with_labels: arguments.labels,
        })
    }

    fn child(&self, command: &str) -> Child {
        study::on_one_thread(&self.fbp, command).args(&self.data)
    }

    /// A network on these data, as names of files have it.
    fn called(&self, network: &str) -> String {
        match self.data_name.as_str() {
            LARGE_DATA => network.to_owned(),
            data => format!("{network}_{}", data.replace(['/', ':'], "-")),
        }
    }

    fn checkpoint(&self, network: &str) -> PathBuf {
        self.work.join(format!("{}.safetensors", self.called(network)))
    }

    /// Trains a network, unless it is there.
    fn train(&self, network: &str, training: &[&str]) -> Result<(), TaskError> {
        let out = self.checkpoint(network);
        if out.exists() {
            return Ok(());
        }
        self.child("pretrain").args(["--model", network]).args(training).args([Path::new("--out"), &out]).run()
    }

    /// The record of a compression, made if it is not there.
    fn record(&self, name: &str, network: &str, options: &[String]) -> Result<Value, TaskError> {
        let (runs, checkpoint) = (self.work.join("runs"), self.checkpoint(network));
        let record = runs.join(format!("{name}.json"));
        if let Some(found) = study::made_of(&record, &checkpoint)? {
            return Ok(found);
        }
        let out = runs.join(format!("{name}.safetensors"));
        let child = self.child("compress").args([Path::new("--checkpoint"), &checkpoint]);
        child.args(options).args([Path::new("--force"), Path::new("--out"), &out]).output()?;
        // Only its figures are wanted.
        for file in [out.clone(), out.with_extension("html")] {
            fs::remove_file(&file).map_err(TaskError::at(&file))?;
        }
        study::read(&record)
    }

    fn outcome(&self, network: &str, way: Way, images: usize, seed: u64) -> Result<Outcome, TaskError> {
        let called = |way: &str| format!("{}_{}_{images}_{seed}", self.called(network), way.replace([' ', ':'], "-"));
        // The closed form does the same where others have its zeros.
        let (own, start) = (called(way.0.trim_end_matches(SAME).trim_end()), called(way.0));
        let run = |name: &str, more: &[&str]| {
            let start = if name == METHODS[0] { &own } else { &start };
            let images = images.to_string();
            let seed = seed.to_string();
            let common = ["--calibrate", &images, "--seed", &seed, "--test-size", TEST];
            let options: Vec<String> = way.1.iter().chain(&common).chain(more).map(|word| (*word).to_owned()).collect();
            self.record(&format!("{start}_{name}"), network, &options)
        };
        let closed = run(METHODS[0], &["--recover", "closed-form"])?;
        let statistics = run("statistics", &["--recover", "statistics"])?;
        // The time of the processor: what else the machine does takes nothing from either side.
        let seconds = number(&closed, "compress_processor_seconds").or_else(|_| number(&closed, "compress_seconds"))?;
        let tune = |name: &str, time: f64, rate: f64| {
            let (time, rate) = (format!("{time}s"), rate.to_string());
            let options = ["--recover", "fine-tune", "--time", &time, "--clock", "processor", "--rate", &rate];
            // A rate that diverges has lost.
            match run(&format!("{name}_{rate}"), &options) {
                Ok(record) => accuracy(&record, "test_recovered"),
                Err(TaskError::Command { .. }) => Ok(0.0),
                Err(error) => Err(error),
            }
        };
        let tune_all = |name: &str, time: f64, rates: &[f64]| {
            rates.iter().map(|&rate| tune(name, time, rate)).collect::<Result<Vec<f64>, TaskError>>()
        };
        let equal = tune_all("equal", seconds, &RATES)?;
        let best = (0..RATES.len()).max_by(|&a, &b| equal[a].total_cmp(&equal[b])).unwrap_or(0);
        let near = if self.is_longer { best.saturating_sub(1)..(best + 2).min(RATES.len()) } else { 0..0 };
        let longer = tune_all("longer", LONGER * seconds, &RATES[near])?;
        let both = if self.with_labels {
            let time = format!("{seconds}s");
            let both = run("both", &["--recover", "both", "--time", &time, "--clock", "processor"])?;
            let double = tune_all("double", 2.0 * seconds, &RATES)?;
            Some([accuracy(&both, "test_recovered")?, double.into_iter().fold(0.0, f64::max)])
        } else {
            None
        };
        Ok(Outcome {
            closed: accuracy(&closed, "test_recovered")?,
            statistics: accuracy(&statistics, "test_recovered")?,
            equal: equal[best],
            longer: longer.into_iter().reduce(f64::max),
            both,
            intact: accuracy(&closed, "test_before")?,
            seconds,
        })
    }

    fn compare(&self, network: &str, compression: &'static str, images: usize, outcomes: &[Outcome]) -> Vec<Row> {
        let comparisons: [Comparison; 5] = [
            (METHODS[0], "statistics", |outcome| Some([outcome.closed, outcome.statistics])),
            (METHODS[0], "tuned-equal-time", |outcome| Some([outcome.closed, outcome.equal])),
            (METHODS[0], "tuned-five-times", |outcome| outcome.longer.map(|longer| [outcome.closed, longer])),
            (METHODS[0], "intact", |outcome| Some([outcome.closed, outcome.intact])),
            (METHODS[1], "tuned-equal-time", |outcome| outcome.both),
        ];
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / outcomes.len().max(1) as f64;
        let row = |(method, against, of): Comparison| {
            let pairs: Vec<[f64; 2]> = outcomes.iter().map(of).collect::<Option<_>>()?;
            let differences: Vec<f64> = pairs.iter().map(|[own, other]| own - other).collect();
            let (mean_pp, half) = interval(&differences);
            let times = if method == METHODS[1] { 2.0 } else { 1.0 };
            Some(Row {
                network: network.to_owned(),
                data: self.data_name.clone(),
                compression: compression.to_owned(),
                images,
                method: method.to_owned(),
                against: against.to_owned(),
                seeds: outcomes.len(),
                mean_pp,
                ci_low: half.map(|half| mean_pp - half),
                ci_high: half.map(|half| mean_pp + half),
                accuracy_pct: mean(&mut pairs.iter().map(|[own, _]| *own)),
                seconds: times * mean(&mut outcomes.iter().map(|outcome| outcome.seconds)),
                against_accuracy_pct: mean(&mut pairs.iter().map(|[_, other]| *other)),
                p: p_value(&differences),
                p_holm: None,
                processor: Some(processor()),
            })
        };
        // The intact network has no zeros.
        let is_new = |row: &Row| !(row.has_same_zeros() && row.against == "intact");
        comparisons.into_iter().filter_map(row).filter(is_new).collect()
    }

    fn summary(&self) -> PathBuf {
        self.results.join("summary.json")
    }

    /// Nobody else writes results until it is dropped.
    fn lock(&self) -> Result<File, TaskError> {
        let path = self.work.join("summary.lock");
        let lock = File::create(&path).map_err(TaskError::at(&path))?;
        lock.lock().map_err(TaskError::at(&path))?;
        Ok(lock)
    }

    /// What earlier runs found, of these and other networks.
    fn earlier(&self) -> Result<Vec<Row>, TaskError> {
        let path = self.summary();
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path).map_err(TaskError::at(&path))?;
        serde_json::from_str(&text).map_err(|error| TaskError::Malformed { path, reason: error.to_string() })
    }

    fn write(&self, rows: &[Row]) -> Result<(), TaskError> {
        let path = self.summary();
        let malformed =
            |error: serde_json::Error| TaskError::Malformed { path: path.clone(), reason: error.to_string() };
        let lines: Vec<String> = rows.iter().map(serde_json::to_string).collect::<Result<_, _>>().map_err(malformed)?;
        write_whole(&path, format!("[\n{}\n]\n", lines.join(",\n")).as_bytes())?;
        write_whole(&self.results.join("table.md"), format!("{}\n{}", counts(rows), table(rows)).as_bytes())
    }
}

fn accuracy(record: &Value, name: &str) -> Result<f64, TaskError> {
    Ok(100.0 * number(record, name)?)
}

/// `+6.10 (5.02 to 7.18) against tuned-equal-time`.
fn brief(row: &Row) -> String {
    let own = if row.method == METHODS[0] { "" } else { "both " };
    format!("{own}{} against {}", with_interval(row), row.against)
}

fn with_interval(row: &Row) -> String {
    match (row.ci_low, row.ci_high) {
        (Some(low), Some(high)) => format!("{:+.2} ({low:.2} to {high:.2})", row.mean_pp),
        _ => format!("{:+.2}", row.mean_pp),
    }
}

/// Cells by data, network, images and way, in the order of the lists above.
fn put_in_order(rows: &mut [Row]) {
    let way = |row: &Row| WAYS.iter().position(|way| way.0 == row.compression);
    rows.sort_by_key(|row| (row.data.clone(), row.network.clone(), row.images, way(row), row.method != METHODS[0]));
}

/// Holm's adjustment, over all cells with the same method and other side.
fn adjust(rows: &mut [Row]) {
    let mut done = vec![false; rows.len()];
    while let Some(first) = done.iter().position(|done| !done) {
        let members: Vec<usize> = (first..rows.len()).filter(|&k| rows[k].is_alike(&rows[first])).collect();
        members.iter().for_each(|&k| done[k] = true);
        let tested: Vec<usize> = members.into_iter().filter(|&k| rows[k].p.is_some()).collect();
        let adjusted = holm(&tested.iter().map(|&k| rows[k].p.unwrap_or(1.0)).collect::<Vec<_>>());
        tested.into_iter().zip(adjusted).for_each(|(k, p)| rows[k].p_holm = Some(p));
    }
}

/// In how many cells the closed form is ahead of each other side, a line each.
fn counts(rows: &[Row]) -> String {
    let mut text = String::from(
        "| the other side has | closed form against | cells | ahead | of these after Holm | behind | not told apart |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for (zeros, against) in
        ["a compression of its own", SAME].into_iter().flat_map(|zeros| AGAINST.map(|against| (zeros, against)))
    {
        let is_same = |row: &Row| row.has_same_zeros() == (zeros == SAME);
        let is_meant =
            |row: &&Row| row.method == METHODS[0] && row.against == against && is_same(row) && row.p.is_some();
        let cells: Vec<&Row> = rows.iter().filter(is_meant).collect();
        let is_ahead = |row: &Row| row.ci_low.is_some_and(|low| low > 0.0);
        let count = |holds: &dyn Fn(&Row) -> bool| cells.iter().filter(|row| holds(row)).count();
        let (ahead, behind) = (count(&is_ahead), count(&|row| row.ci_high.is_some_and(|high| high < 0.0)));
        let adjusted = count(&|row| is_ahead(row) && row.p_holm.is_some_and(|p| p < 0.05));
        let (all, rest) = (cells.len(), cells.len() - ahead - behind);
        if all > 0 {
            text.push_str(&format!("| {zeros} | {against} | {all} | {ahead} | {adjusted} | {behind} | {rest} |\n"));
        }
    }
    text
}

/// All cells, a line each.
fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| network | data | compression | images | method | seeds | accuracy, % | time, s | against statistics, pp | tuned, equal time | \
         tuned, five times | intact |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for cell in rows.chunk_by(Row::is_of) {
        let Row { network, data, compression, images, method, seeds, accuracy_pct, seconds, .. } = &cell[0];
        let gain = |against: &str| cell.iter().find(|row| row.against == against).map_or("–".to_owned(), with_interval);
        let gains = AGAINST.map(gain);
        text.push_str(&format!(
            "| {network} | {data} | {compression} | {images} | {method} | {seeds} | {accuracy_pct:.2} | {seconds:.1} | {} |\n",
            gains.join(" | ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_lines_of_the_table() {
        let row = |against: &str| Row {
            network: "n".into(),
            data: "d".into(),
            compression: "int4".into(),
            images: 100,
            method: "closed-form".into(),
            against: against.into(),
            seeds: 2,
            mean_pp: 1.0,
            ci_low: Some(0.5),
            ci_high: Some(1.5),
            accuracy_pct: 90.0,
            seconds: 2.0,
            against_accuracy_pct: 89.0,
            p: Some(0.02),
            p_holm: None,
            processor: None,
        };
        let text = table(&AGAINST.map(row));
        assert_eq!(text.lines().count(), 3);
        // Without the longer time, and with another cell behind it.
        let other = Row { images: 500, ..row("intact") };
        let mut rows = vec![row("statistics"), row("intact"), other];
        let text = table(&rows);
        assert!(text.contains("+1.00 (0.50 to 1.50) | – | – | +1.00"), "{text}");
        assert_eq!(text.lines().count(), 4);
        adjust(&mut rows);
        assert_eq!([rows[0].p_holm, rows[1].p_holm, rows[2].p_holm], [Some(0.02), Some(0.04), Some(0.04)]);
        // Another method is a line and a family of its own.
        rows.insert(2, Row { method: METHODS[1].into(), ..row("intact") });
        adjust(&mut rows);
        assert_eq!([rows[1].p_holm, rows[2].p_holm], [Some(0.04), Some(0.02)]);
        assert_eq!(table(&rows).lines().count(), 5);
        // Cells come in the order of the lists, whatever was measured first.
        let way = |way: &str, images: usize| Row { compression: way.into(), images, ..row("intact") };
        let mut mixed = vec![way("int4", 500), way("2:4", 500), way("prune 0.7", 500), way("int4", 100)];
        put_in_order(&mut mixed);
        let order: Vec<(&str, usize)> = mixed.iter().map(|row| (row.compression.as_str(), row.images)).collect();
        assert_eq!(order, [("int4", 100), ("prune 0.7", 500), ("2:4", 500), ("int4", 500)]);
        // Rivals with the zeros of the closed form are a family and a line of their own.
        rows.push(Row { compression: "prune 0.7 same zeros".into(), p: Some(0.03), ..row("statistics") });
        adjust(&mut rows);
        assert_eq!([rows[0].p_holm, rows[4].p_holm], [Some(0.02), Some(0.03)]);
        assert!(counts(&rows).contains("| same zeros | statistics | 1 | 1 | 1 | 0 | 0 |\n"), "{}", counts(&rows));
        let text = counts(&rows);
        assert!(text.contains("| a compression of its own | intact | 2 | 2 | 2 | 0 | 0 |\n"), "{text}");
        rows[0] = Row { ci_low: Some(-1.0), ci_high: Some(-0.5), ..rows[0].clone() };
        assert!(counts(&rows).contains("| a compression of its own | statistics | 1 | 0 | 0 | 1 | 0 |\n"));
        let text = table(&AGAINST.map(row));
        assert!(
            text.contains("| n | d | int4 | 100 | closed-form | 2 | 90.00 | 2.0 | +1.00 (0.50 to 1.50) |"),
            "{text}"
        );
    }
}
