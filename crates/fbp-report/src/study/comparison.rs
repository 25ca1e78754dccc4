use std::fmt::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::groups::Group;
use super::{Runs, Study};
use crate::ReportError;
use crate::statistics::holm;
use fbp_train::atomic::write_atomic;
use fbp_train::json::write_json;
use fbp_train::settings::Objective;

/// File name, without extension, of the table of comparisons.
pub(super) const COMPARISONS: &str = "comparisons";
/// One way of training against a yardstick, over the seeds that both have: a line of `comparisons.json`.
///
/// # Units
/// Names ending in `_pp` and the interval: percentage points of test accuracy.
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
    /// Number of pairs.
    pub seeds: usize,
    /// Mean difference.
    pub mean_pp: f64,
    /// Lower end of the bootstrap 95 % interval.
    pub ci_low: f64,
    /// Its upper end.
    pub ci_high: f64,
    /// One-sided paired t-test; none for one pair.
    pub p_t: Option<f64>,
    /// The same, adjusted by Holm over the table.
    pub p_t_holm: Option<f64>,
    /// Two-sided paired t-test, adjusted by Holm over the table: for verdicts in both directions.
    pub p_two_sided_holm: Option<f64>,
    /// One-sided Wilcoxon signed-rank test.
    pub p_wilcoxon: Option<f64>,
    /// The same, adjusted by Holm over the table.
    pub p_wilcoxon_holm: Option<f64>,
    /// Cohen's `d_z`.
    pub d_z: Option<f64>,
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
        adjust(&mut table, |row| row.p_t, |row, p| row.p_t_holm = Some(p));
        adjust(&mut table, |row| row.p_two_sided_holm, |row, p| row.p_two_sided_holm = Some(p));
        adjust(&mut table, |row| row.p_wilcoxon, |row, p| row.p_wilcoxon_holm = Some(p));
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
            seeds: found.pairs,
            mean_pp: 100.0 * found.mean,
            ci_low: 100.0 * found.interval[0],
            ci_high: 100.0 * found.interval[1],
            p_t: found.p_t,
            p_t_holm: None,
            p_two_sided_holm: found.p_t_two_sided(),
            p_wilcoxon: found.p_wilcoxon,
            p_wilcoxon_holm: None,
            d_z: found.d_z,
            seconds: group.seconds(),
            seconds_against: other.seconds(),
        })
    }

    fn cells(&self) -> [String; 17] {
        let p = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.4}"));
        [
            self.data.clone(),
            self.model.clone(),
            self.start.clone(),
            self.stage.clone(),
            self.mode.to_string(),
            self.alpha.map_or_else(|| "-".into(), |alpha| alpha.to_string()),
            self.learning_rate.to_string(),
            format!("{} ({})", self.against, self.learning_rate_against),
            self.seeds.to_string(),
            format!("{:+.3}", self.mean_pp),
            format!("{:+.3}", self.ci_low),
            format!("{:+.3}", self.ci_high),
            p(self.p_t),
            p(self.p_t_holm),
            p(self.p_wilcoxon),
            p(self.p_wilcoxon_holm),
            self.d_z.map_or_else(|| "-".into(), |d_z| format!("{d_z:+.2}")),
        ]
    }
}

fn adjust(table: &mut [Comparison], get: impl Fn(&Comparison) -> Option<f64>, set: impl Fn(&mut Comparison, f64)) {
    let values: Vec<f64> = table.iter().map(|row| get(row).unwrap_or(f64::NAN)).collect();
    for (row, adjusted) in table.iter_mut().zip(holm(&values)) {
        if !adjusted.is_nan() {
            set(row, adjusted);
        }
    }
}

const HEADINGS: [&str; 17] = [
    "data",
    "model",
    "start",
    "stage",
    "mode",
    "alpha",
    "learning_rate",
    "against",
    "seeds",
    "mean_pp",
    "ci_low",
    "ci_high",
    "p_t",
    "p_t_holm",
    "p_wilcoxon",
    "p_wilcoxon_holm",
    "d_z",
];

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
    write_json(&file("json"), &table)?;
    write_atomic(&file("csv"), csv(table).as_bytes())?;
    write_atomic(&file("md"), markdown(table).as_bytes())?;
    write_atomic(&file("tex"), latex(table).as_bytes())?;
    Ok(())
}

/// Comma-separated values as in RFC 4180: fields with commas or quotes are quoted.
fn csv(table: &[Comparison]) -> String {
    let quote = |cell: &str| match cell.contains([',', '"', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    };
    let mut text = HEADINGS.join(",") + "\r\n";
    for row in table {
        text += &row.cells().map(|cell| quote(&cell)).join(",");
        text += "\r\n";
    }
    text
}

fn markdown(table: &[Comparison]) -> String {
    let mut text = format!("| {} |\n|{}\n", HEADINGS.join(" | "), "---|".repeat(HEADINGS.len()));
    for row in table {
        let cells = row.cells().map(|cell| cell.replace('|', "\\|"));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn latex(table: &[Comparison]) -> String {
    let escape = |text: &str| {
        let mut safe = String::new();
        for character in text.chars() {
            match character {
                '&' | '%' | '$' | '#' | '_' | '{' | '}' => safe.extend(['\\', character]),
                '\\' => safe.push_str("\\textbackslash{}"),
                '~' => safe.push_str("\\textasciitilde{}"),
                '^' => safe.push_str("\\textasciicircum{}"),
                'α' => safe.push_str("$\\alpha$"),
                other => safe.push(other),
            }
        }
        safe
    };
    let mut text = format!("\\begin{{tabular}}{{llllllrl{}}}\n\\hline\n", "r".repeat(HEADINGS.len() - 8));
    text += &HEADINGS.map(escape).join(" & ");
    text += " \\\\\n\\hline\n";
    for row in table {
        text += &row.cells().map(|cell| escape(&cell)).join(" & ");
        text += " \\\\\n";
    }
    text + "\\hline\n\\end{tabular}\n"
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
            seeds: 10,
            mean_pp: -0.25,
            ci_low: -0.5,
            ci_high: 0.125,
            p_t: Some(0.01),
            p_t_holm: None,
            p_two_sided_holm: None,
            p_wilcoxon: None,
            p_wilcoxon_holm: None,
            d_z: None,
            seconds: 1.0,
            seconds_against: 2.0,
        }
    }

    #[test]
    fn p_values_are_adjusted_over_the_table_and_gaps_stay() {
        let mut table = vec![row(), Comparison { p_t: Some(0.04), ..row() }, Comparison { p_t: None, ..row() }];
        adjust(&mut table, |row| row.p_t, |row, p| row.p_t_holm = Some(p));
        let adjusted: Vec<_> = table.iter().map(|row| row.p_t_holm).collect();
        assert_eq!(adjusted, [Some(0.02), Some(0.04), None]);
    }

    #[test]
    fn tables_escape_what_their_format_reserves() {
        let table = [row()];
        let line = csv(&table);
        assert_eq!(
            line.lines().nth(1).unwrap(),
            "d,m,s,conv_1,joint,0.3,0.001,\"joint α = 0, conv_1 (0.00005)\",10,-0.250,-0.500,+0.125,0.0100,-,-,-,-"
        );
        assert!(latex(&table).contains("conv\\_1 & joint & 0.3 & 0.001 & joint $\\alpha$ = 0"), "{}", latex(&table));
        let columns = |line: &str| line.matches('|').count();
        assert!(markdown(&table).lines().all(|line| columns(line) == HEADINGS.len() + 1));
    }
}
