use std::ops::Deref;
use std::path::Path;

use fbp_train::atomic::write_atomic;
use fbp_train::json::write_json;
use fbp_train::settings::{Measure, Objective};
use serde::{Deserialize, Serialize};

use super::groups::Group;
use super::{Runs, Study};
use crate::ReportError;
use crate::difference::Difference;
use crate::tables::{csv, latex, markdown};

/// File name, without extension, of the table of comparisons.
pub(super) const COMPARISONS: &str = "comparisons";

/// One way of training against a yardstick, over the seeds that both have: a line of `comparisons.json`.
///
/// # Units
/// Names ending in `_pp` and the interval: percentage points of test accuracy; for data with outputs, whose `measure` is `rmse`, the
/// per cent of the yardstick's RMSE that are gone, so that more is better there too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The data.
    #[serde(default)]
    pub data: String,
    /// The network.
    #[serde(default)]
    pub model: String,
    /// What the runs started from.
    #[serde(default)]
    pub start: String,
    /// The transitional stage.
    pub stage: String,
    /// What was minimised.
    pub mode: Objective,
    /// Weight of the distance to the targets; none if nothing else was minimised.
    pub alpha: Option<f64>,
    /// Kind of the targets, empty if there is one kind alone.
    #[serde(default)]
    pub targets: String,
    /// Learning rate, the best one on the validation part of those that were tried.
    #[serde(default)]
    pub learning_rate: f64,
    /// Name of the yardstick.
    pub against: String,
    /// Its learning rate: that of the runs, or the best one on the validation part.
    #[serde(default)]
    pub learning_rate_against: f64,
    /// What was measured; left out for accuracy.
    #[serde(default, skip_serializing_if = "Measure::is_accuracy")]
    pub measure: Measure,
    /// The differences.
    #[serde(flatten)]
    pub difference: Difference,
    /// Mean time of a run.
    pub seconds: f64,
    /// Mean time of a run of the yardstick.
    pub seconds_against: f64,
}

impl Comparison {
    /// Every group of runs of every start against its yardsticks, with p-values adjusted over the whole table.
    ///
    /// Of groups that differ in learning rate, schedule and the like, the best one on the validation part stands for all.
    pub fn all(study: &Study) -> Vec<Self> {
        let mut table: Vec<Self> = study.starts.iter().flat_map(Self::of_start).collect();
        Difference::adjust(&mut table.iter_mut().map(|row| &mut row.difference).collect::<Vec<_>>());
        table
    }

    fn of_start(runs: &Runs) -> Vec<Self> {
        let groups = Group::all(runs);
        let tuned = Group::tuned(&groups);
        let (model, data) = runs.subject();
        let mut table = Vec::new();
        for group in &tuned {
            for other in group.yardsticks(&groups, &tuned) {
                table.extend(Self::of(group, other).map(|row| Self {
                    data: data.to_owned(),
                    model: model.to_owned(),
                    start: runs.start_name(),
                    ..row
                }));
            }
        }
        table
    }

    fn of(group: &Group<'_>, other: &Group<'_>) -> Option<Self> {
        let found = group.against(other)?;
        Some(Self {
            data: String::new(),
            model: String::new(),
            start: String::new(),
            targets: group.kind.clone(),
            learning_rate: group.hyper.learning_rate,
            learning_rate_against: other.hyper.learning_rate,
            stage: group.stage.to_owned(),
            mode: group.mode,
            alpha: group.alpha,
            against: other.name(),
            measure: group.measure(),
            difference: found.into(),
            seconds: group.seconds(),
            seconds_against: other.seconds(),
        })
    }

    fn cells(&self) -> Vec<String> {
        let what = [
            self.data.clone(),
            self.model.clone(),
            self.start.clone(),
            self.stage.clone(),
            self.mode.to_string(),
            self.alpha.map_or_else(|| "-".into(), |alpha| alpha.to_string()),
            self.learning_rate.to_string(),
            format!("{} ({})", self.against, self.learning_rate_against),
        ];
        what.into_iter().chain(self.difference.cells()).collect()
    }

    /// The table with its headings.
    fn rows(table: &[Self]) -> Vec<Vec<String>> {
        let headings = HEADINGS.into_iter().chain(Difference::HEADINGS).map(str::to_owned).collect();
        std::iter::once(headings).chain(table.iter().map(Self::cells)).collect()
    }
}

impl Deref for Comparison {
    type Target = Difference;

    fn deref(&self) -> &Difference {
        &self.difference
    }
}

/// The columns before the differences.
const HEADINGS: [&str; 8] = ["data", "model", "start", "stage", "mode", "alpha", "learning_rate", "against"];

/// Names of the files of the table.
pub(super) fn files() -> Vec<String> {
    ["json", "csv", "md", "tex"].iter().map(|extension| format!("{COMPARISONS}.{extension}")).collect()
}

/// Writes the table as JSON, CSV, Markdown and LaTeX.
///
/// # Errors
/// [`TrainError::Write`].
pub(super) fn write_tables(table: &[Comparison], folder: &Path) -> Result<(), ReportError> {
    let file = |extension: &str| folder.join(format!("{COMPARISONS}.{extension}"));
    let rows = Comparison::rows(table);
    write_json(&file("json"), &table)?;
    write_atomic(&file("csv"), csv(&rows).as_bytes())?;
    write_atomic(&file("md"), markdown(&rows).as_bytes())?;
    write_atomic(&file("tex"), latex(&rows, HEADINGS.len()).as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Comparison {
        Comparison {
            data: "d".into(),
            model: "m".into(),
            start: "s".into(),
            targets: String::new(),
            learning_rate: 1e-3,
            learning_rate_against: 5e-5,
            stage: "conv_1".into(),
            mode: Objective::Joint,
            alpha: Some(0.3),
            against: "joint α = 0, conv_1".into(),
            measure: Measure::Accuracy,
            difference: Difference {
                seeds: 10,
                mean_pp: -0.25,
                ci_low: Some(-0.5),
                ci_high: Some(0.125),
                p_t: Some(0.01),
                ..Difference::default()
            },
            seconds: 1.0,
            seconds_against: 2.0,
        }
    }

    #[test]
    fn tables_escape_what_their_format_reserves() {
        let rows = Comparison::rows(&[row()]);
        let line = csv(&rows);
        assert_eq!(
            line.lines().nth(1).unwrap(),
            "d,m,s,conv_1,joint,0.3,0.001,\"joint α = 0, conv_1 (0.00005)\",10,-0.250,-0.500,+0.125,0.0100,-,-,-,-"
        );
        let latex = latex(&rows, HEADINGS.len());
        assert!(latex.contains("conv\\_1 & joint & 0.3 & 0.001 & joint $\\alpha$ = 0"), "{latex}");
        let columns = |line: &str| line.matches('|').count();
        assert!(markdown(&rows).lines().all(|line| columns(line) == rows[0].len() + 1));
    }
}
