//! What the runs of a sweep say when compared.

mod families;

pub use families::RateEdge;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Deref;
use std::path::Path;

use fbp_train::TrainError;
use fbp_train::atomic::{prepare_folder, write_atomic};
use fbp_train::json::{read_json, write_json};
use fbp_train::outputs::{is_result, refuse_foreign_files};
use fbp_train::scores::ComparedScores;
use fbp_train::settings::{Embedding, Keep, Measure, Metric, Objective, Schedule, TargetMode, TargetPolicy};
use fbp_train::sweep::RUNS_FOLDER;
use fbp_train::train::{PostTrainOptions, PostTrainRecord, post_train_records};
use serde::{Deserialize, Serialize};

use crate::ReportError;
use crate::difference::Difference;
use crate::tables::{csv, markdown};
use families::Family;

/// File name, without extension, of the comparisons of a sweep.
const SUMMARY: &str = "summary";

/// One way of training against a yardstick, over the seeds that both have: an entry of `summary.json`.
///
/// # Units
/// Names ending in `_pp` and the interval: percentage points of test accuracy. Times: seconds of caching and training,
/// without evaluations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepRow {
    /// Name of the start.
    pub start: String,
    /// What was minimised.
    pub mode: Objective,
    /// The stage.
    pub stage: String,
    /// Weight of the distance to the targets; none if nothing else was minimised.
    pub alpha: Option<f64>,
    /// Margin of the targets; none without targets.
    pub margin: Option<f64>,
    /// Tolerance of the targets; for data with outputs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Kind of the targets; none without targets or at the output.
    pub targets: Option<TargetMode>,
    /// Embedding of the label; left out for a margin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Embedding>,
    /// In which metric they are nearest; left out for the Euclidean one.
    #[serde(default, skip_serializing_if = "Metric::is_euclidean")]
    pub metric: Metric,
    /// When the targets were computed.
    pub policy: TargetPolicy,
    /// The learning rate; none if the best on the validation part was taken for each seed, or if there is none.
    pub learning_rate: Option<f64>,
    /// The end of the learning rates tried that was the best for more than half of the seeds: then it was not tuned enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_edge: Option<RateEdge>,
    /// How the learning rate changed.
    pub schedule: Schedule,
    /// Passes over the training data; none if there are none.
    pub epochs: Option<usize>,
    /// Samples per step.
    pub batch: usize,
    /// Weight decay of AdamW.
    pub weight_decay: f64,
    /// Which state became the result.
    pub keep: Keep,
    /// Decay of the average of the weights.
    pub ema: Option<f64>,
    /// The yardstick: `plain`, `tuned` or `tuned-equal-time`; see [`summarise`].
    pub against: String,
    /// Passes over the training data of the yardstick.
    pub against_epochs: usize,
    /// As `rate_edge`, of the yardstick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_edge_against: Option<RateEdge>,
    /// The differences.
    #[serde(flatten)]
    pub difference: Difference,
    /// Mean test accuracies, 0 to 1, or RMSE for data with outputs.
    #[serde(flatten)]
    pub scores: ComparedScores,
    /// Mean time of a run.
    pub seconds: f64,
    /// Mean time of a run of the yardstick, of the learning rate that was chosen.
    pub seconds_against: f64,
    /// Mean time for a seed with all learning rates.
    pub tuning_seconds: f64,
    /// The same of the yardstick.
    pub tuning_seconds_against: f64,
}

/// Names of the files of a summary.
pub fn summary_files() -> [String; 3] {
    ["json", "csv", "md"].map(|extension| format!("{SUMMARY}.{extension}"))
}

/// Finds out before the work whether the summary of a sweep may be written to its folder.
///
/// # Errors
/// [`TrainError::Foreign`] for files of its names that are none, [`TrainError::Write`].
pub fn check_summary(folder: &Path) -> Result<(), ReportError> {
    prepare_folder(folder)?;
    let (names, json) = (summary_files(), folder.join(format!("{SUMMARY}.json")));
    let is_own = matches!(read_json::<Vec<SweepRow>>(&json, "summary"), Ok(Some(_))) && !is_result(&json);
    Ok(refuse_foreign_files(folder, &names, if is_own { &names } else { &[] }, ("sweep", false))?)
}

/// Compares all runs in the folder of a sweep, and writes `summary.json`, `.csv` and `.md` there.
///
/// | yardstick | what it is |
/// |---|---|
/// | `plain` | fine-tuning at the same learning rate: `joint` with α = 0, of the same stages if there is one, else of all |
/// | `tuned` | `full`, for each seed with the learning rate that is best on the validation part; of several the one that is most like the runs, above all in its epochs |
/// | `tuned-equal-time` | for modes that are not trained like it: of several kinds of `tuned`, the one whose runs took a time most like that of the runs, if that is another |
///
/// What has several learning rates itself has a line for the best one of each seed alone. Where the best one is an end of
/// those tried for more than half of the seeds, the line says so ([`SweepRow::rate_edge`]).
///
/// # Errors
/// [`ReportError::NoRecords`] without records, [`TrainError::OtherSettings`] if a start was changed between the runs,
/// [`TrainError::Foreign`] for files of these names that are no summary,
/// [`TrainError::Json`] for a file that is no record, [`TrainError::Read`], [`TrainError::Write`].
pub fn summarise(folder: &Path) -> Result<Vec<SweepRow>, ReportError> {
    let records = records(folder)?;
    check_summary(folder)?;
    let rows = compare(&records);
    let [what, figures] = HEADINGS;
    let is_rmse = rows.first().is_some_and(|row| !row.measure().is_accuracy());
    let renamed = |name: &&str| match (*name, is_rmse) {
        ("margin", true) => "tolerance".to_owned(),
        ("accuracy_pct", true) => "rmse".to_owned(),
        ("accuracy_against_pct", true) => "rmse_against".to_owned(),
        (name, _) => name.to_owned(),
    };
    let headings = what.iter().chain(&Difference::HEADINGS).chain(figures).map(renamed).collect();
    let cells: Vec<Vec<String>> = std::iter::once(headings).chain(rows.iter().map(SweepRow::cells)).collect();
    let file = |extension: &str| folder.join(format!("{SUMMARY}.{extension}"));
    write_json(&file("json"), &rows)?;
    write_atomic(&file("csv"), csv(&cells).as_bytes())?;
    write_atomic(&file("md"), markdown(&cells).as_bytes())?;
    Ok(rows)
}

/// The records of all starts, in an order of their own.
fn records(folder: &Path) -> Result<Vec<PostTrainRecord>, ReportError> {
    let runs = folder.join(RUNS_FOLDER);
    let mut records = Vec::new();
    let missing = || {
        let reason = "no runs of a sweep here: make some with `fbp sweep` and name their folder".into();
        ReportError::NoRecords { folder: folder.to_owned(), reason }
    };
    let entries = match std::fs::read_dir(&runs) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
        entries => entries.map_err(TrainError::reading(&runs))?,
    };
    for entry in entries {
        let path = entry.map_err(TrainError::reading(&runs))?.path();
        if path.is_dir() {
            records.extend(post_train_records(&path)?);
        }
    }
    if records.is_empty() {
        return Err(missing());
    }
    let order = |a: &PostTrainRecord, b: &PostTrainRecord| {
        let (a, b) = (&a.settings, &b.settings);
        let number = |a: Option<f64>, b: Option<f64>| a.partial_cmp(&b).unwrap_or(Ordering::Equal);
        (a.start.cmp(&b.start))
            .then((a.mode as u8).cmp(&(b.mode as u8)))
            .then(a.stage.cmp(&b.stage))
            .then(number(a.margin, b.margin))
            .then(number(a.tolerance, b.tolerance))
            .then(number(a.alpha, b.alpha))
            .then((a.target_mode.map(|mode| mode as u8)).cmp(&b.target_mode.map(|mode| mode as u8)))
            .then((a.embedding.map(|embedding| embedding as u8)).cmp(&b.embedding.map(|embedding| embedding as u8)))
            .then((a.metric as u8).cmp(&(b.metric as u8)))
            .then((a.policy as u8).cmp(&(b.policy as u8)))
            .then(number(a.ema, b.ema))
            .then(a.epochs.cmp(&b.epochs))
            .then(number(Some(a.learning_rate), Some(b.learning_rate)))
            .then(a.checkpoint_sha256.cmp(&b.checkpoint_sha256))
            .then(a.seed.cmp(&b.seed))
    };
    records.sort_by(order);
    same_starts(&records, &runs)?;
    Ok(records)
}

/// Refuses records of one start and seed that began at different checkpoints: its description was changed between them.
fn same_starts(records: &[PostTrainRecord], runs: &Path) -> Result<(), TrainError> {
    let mut checkpoints = HashMap::new();
    for settings in records.iter().map(|record| &record.settings) {
        let sha256 = &settings.checkpoint_sha256;
        let first = *checkpoints.entry((&settings.start, settings.seed)).or_insert(sha256);
        if first != sha256 {
            let cut = |sha256: &str| sha256.chars().take(12).collect::<String>();
            return Err(TrainError::OtherSettings {
                path: runs.join(settings.start.as_deref().unwrap_or_default()),
                differences: format!("start of seed {}: {}…, also {}…", settings.seed, cut(first), cut(sha256)),
            });
        }
    }
    Ok(())
}

/// Every family against its yardsticks, with p-values adjusted over the whole table.
pub(super) fn compare(records: &[PostTrainRecord]) -> Vec<SweepRow> {
    let families = Family::all(records);
    let mut rows = Vec::new();
    for family in families.iter().filter(|family| !family.is_candidate) {
        let plain = plain(family, &families);
        let tuned = tuned(family, &families);
        let equal_time =
            equal_time(family, &families).filter(|other| tuned.is_some_and(|tuned| !std::ptr::eq(tuned, *other)));
        let yardsticks = [("plain", plain), ("tuned", tuned), ("tuned-equal-time", equal_time)];
        let found = yardsticks.into_iter().filter_map(|(name, other)| SweepRow::of(family, name, other?));
        rows.extend(found);
    }
    Difference::adjust(&mut rows.iter_mut().map(|row| &mut row.difference).collect::<Vec<_>>());
    rows
}

/// Fine-tuning at the same learning rate.
fn plain<'b, 'a>(family: &Family<'a>, families: &'b [Family<'a>]) -> Option<&'b Family<'a>> {
    if family.is_plain() && family.learning_rate.is_some() {
        return None;
    }
    let rate = family.learning_rate.unwrap_or(PostTrainOptions::default().learning_rate);
    let needs_stage = family.settings.mode.is_published();
    let last_resort = |other: &Family<'_>| usize::from(other.settings.mode == Objective::Full);
    let fits = |other: &&Family<'a>| {
        other.is_plain()
            && other.learning_rate == Some(rate)
            && other.same_start(family)
            && (!needs_stage || other.settings.stage == family.settings.stage)
    };
    let rank = |other: &&Family<'a>| {
        (other.settings.stage == family.settings.stage, last_resort(other), other.likeness(family))
    };
    first_best(families.iter().filter(fits), rank)
}

/// Tuned fine-tuning that is most like the family.
fn tuned<'b, 'a>(family: &Family<'a>, families: &'b [Family<'a>]) -> Option<&'b Family<'a>> {
    let same_epochs =
        |other: &Family<'_>| family.settings.mode.takes_steps() && other.settings.epochs == family.settings.epochs;
    let rank = |other: &&Family<'a>| (same_epochs(other), other.likeness(family), other.settings.epochs);
    first_best(baselines(family, families), rank)
}

/// Tuned fine-tuning that took a time most like that of the family.
fn equal_time<'b, 'a>(family: &Family<'a>, families: &'b [Family<'a>]) -> Option<&'b Family<'a>> {
    let ratio = |other: &Family<'_>| (other.seconds() / family.seconds()).ln().abs();
    let is_alike = family.settings.mode.is_published() || family.is_plain();
    baselines(family, families).filter(|_| !is_alike).min_by(|a, b| ratio(a).total_cmp(&ratio(b)))
}

fn baselines<'b, 'a>(family: &Family<'a>, families: &'b [Family<'a>]) -> impl Iterator<Item = &'b Family<'a>> {
    let is_method = !family.is_tuned_baseline();
    families.iter().filter(move |other| is_method && other.is_tuned_baseline() && other.same_start(family))
}

/// The first of those with the largest rank.
fn first_best<T, R: Ord>(items: impl Iterator<Item = T>, rank: impl Fn(&T) -> R) -> Option<T> {
    items.reduce(|best, item| if rank(&item) > rank(&best) { item } else { best })
}

/// The columns before the differences, and those behind.
const HEADINGS: [&[&str]; 2] = [
    &["start", "mode", "stage", "alpha", "margin", "targets", "rate", "epochs", "training", "against"],
    &["accuracy_pct", "accuracy_against_pct", "seconds", "seconds_against"],
];

impl Deref for SweepRow {
    type Target = Difference;

    fn deref(&self) -> &Difference {
        &self.difference
    }
}

impl SweepRow {
    fn of(family: &Family<'_>, against: &str, other: &Family<'_>) -> Option<Self> {
        let found = family.against(other)?;
        let settings = family.settings;
        let takes_steps = settings.mode.takes_steps();
        Some(Self {
            start: settings.start.clone().unwrap_or_default(),
            mode: settings.mode,
            stage: settings.stage.clone(),
            alpha: settings.alpha,
            margin: settings.margin,
            tolerance: settings.tolerance,
            targets: settings.target_mode,
            embedding: settings.embedding,
            metric: settings.metric,
            policy: settings.policy,
            learning_rate: family.learning_rate.filter(|_| takes_steps),
            rate_edge: family.rate_edge.filter(|_| takes_steps),
            schedule: settings.schedule,
            epochs: takes_steps.then_some(settings.epochs),
            batch: settings.batch,
            weight_decay: settings.weight_decay,
            keep: settings.keep,
            ema: settings.ema,
            against: against.to_owned(),
            against_epochs: other.settings.epochs,
            rate_edge_against: other.rate_edge,
            difference: found.into(),
            scores: ComparedScores {
                measure: family.measure(),
                before: family.score_before(),
                result: family.score(),
                against: other.score(),
            },
            seconds: family.seconds(),
            seconds_against: other.seconds(),
            tuning_seconds: family.tuning_seconds,
            tuning_seconds_against: other.tuning_seconds,
        })
    }

    /// What was measured.
    pub fn measure(&self) -> Measure {
        self.scores.measure
    }

    /// A score in tables: accuracies in per cent.
    fn figure(&self, score: f64) -> String {
        match self.scores.measure {
            Measure::Accuracy => format!("{:.3}", 100.0 * score),
            Measure::Rmse => format!("{score:.5}"),
        }
    }

    /// The schedule, and what else of the training is not as by default.
    fn training(&self) -> String {
        let usual = PostTrainOptions::default();
        let others = [
            (self.batch != usual.batch).then(|| format!("batch {}", self.batch)),
            (self.weight_decay != usual.weight_decay).then(|| format!("weight decay {}", self.weight_decay)),
            (self.keep != usual.keep).then(|| format!("{} kept", self.keep)),
            self.ema.map(|decay| format!("ema {decay}")),
        ];
        std::iter::once(self.schedule.to_string()).chain(others.into_iter().flatten()).collect::<Vec<_>>().join(", ")
    }

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let rate = match (self.epochs, self.learning_rate) {
            (None, _) => "-".to_owned(),
            (_, None) => self.rate_edge.map_or("tuned".to_owned(), |edge| format!("tuned ({} tried)", edge.name())),
            (_, Some(rate)) => format!("{rate:e}"),
        };
        let embedding = self.embedding.map(|embedding| embedding.to_string());
        let parts = match (self.margin.or(self.tolerance), self.targets) {
            (None, _) => [Some("-".to_owned()), None, None, None],
            (_, None) => [Some("output".to_owned()), Some(self.policy.to_string()), embedding, None],
            (_, Some(mode)) => {
                let metric = Some(self.metric.to_string()).filter(|_| !self.metric.is_euclidean());
                let policy = Some(self.policy.to_string()).filter(|_| self.policy != TargetPolicy::Static);
                [Some(mode.to_string()), metric, policy, embedding]
            }
        };
        let targets = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let what = [
            self.start.clone(),
            self.mode.to_string(),
            self.stage.clone(),
            or_dash(self.alpha.map(|alpha| alpha.to_string())),
            or_dash(self.margin.or(self.tolerance).map(|number| number.to_string())),
            targets,
            rate,
            or_dash(self.epochs.map(|epochs| epochs.to_string())),
            or_dash(self.epochs.map(|_| self.training())),
            match self.against.as_str() {
                "plain" => self.against.clone(),
                name => {
                    let edge = self.rate_edge_against.map(|edge| format!(" ({} rate tried)", edge.name()));
                    format!("{name}, {} epochs{}", self.against_epochs, edge.unwrap_or_default())
                }
            },
        ];
        let figures = [
            self.figure(self.scores.result),
            self.figure(self.scores.against),
            format!("{:.1}", self.seconds),
            format!("{:.1}", self.seconds_against),
        ];
        what.into_iter().chain(self.difference.cells()).chain(figures).collect()
    }
}
