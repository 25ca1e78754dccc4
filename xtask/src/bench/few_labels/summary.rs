//! Paired comparisons of the runs, cell by cell and over all cells of a network.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::statistics::{holm, interval, p_value};
use super::choice::{ALL as EVERYTHING, CLOSED, FINE_TUNING, Run, Tried, UNLABELLED};

/// What is compared, by name: methods whose settings are chosen among the labels, alone or several together.
const SIDES: [(&str, &[&str]); 13] = [
    ("unlabelled", UNLABELLED),
    ("closed", CLOSED),
    ("fine-tuning", FINE_TUNING),
    ("renormalise", &["renormalise"]),
    ("statistics", &["statistics"]),
    ("head", &["head"]),
    ("head-refit", &["head-refit"]),
    ("layer-wise", &["layer-wise"]),
    ("head-fine-tune", &["head-fine-tune"]),
    ("tail", &["tail"]),
    ("l2-sp", &["l2-sp"]),
    ("joint", &["joint"]),
    ("full", &["full"]),
];
/// What everything is compared with.
const RIVALS: [&str; 3] = ["leave", "full", "fine-tuning"];
/// Corruption and number of labels in a row over all cells.
const ALL: &str = "all";

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    network: String,
    data: String,
    corruption: String,
    /// 0 over all cells.
    labels: usize,
    method: String,
    against: String,
    /// Runs, or cells in a row over all cells.
    pairs: usize,
    mean_pp: f64,
    ci_low: Option<f64>,
    ci_high: Option<f64>,
    /// Adjusted by Holm over all cells with the same two sides.
    p_holm: Option<f64>,
    #[serde(skip)]
    p: Option<f64>,
    accuracy_pct: f64,
    against_accuracy_pct: f64,
    /// Of the settings of the method: what was worst on the test part, and best.
    worst_pct: Option<f64>,
    best_pct: Option<f64>,
    /// Time of all fits and their cross-validation.
    seconds: f64,
}

/// Accuracy of a side in per cent with the worst and best of its settings, and its time.
struct Outcome {
    accuracy: f64,
    range: Option<(f64, f64)>,
    seconds: f64,
}

fn outcome(run: &Run, side: &str) -> Option<Outcome> {
    match side {
        "leave" => return Some(Outcome { accuracy: 100.0 * run.before, range: None, seconds: 0.0 }),
        "auto" => {
            let accuracy = 100.0 * run.chosen(EVERYTHING)?.test;
            return Some(Outcome { accuracy, range: None, seconds: run.seconds });
        }
        _ => {}
    }
    let (_, methods) = SIDES.iter().find(|(name, _)| *name == side)?;
    let accuracy = 100.0 * run.chosen(methods)?.test;
    let tests = || run.of_methods(methods).map(|tried| 100.0 * tried.test);
    let range = (tests().fold(f64::INFINITY, f64::min), tests().fold(0.0, f64::max));
    let seconds = run.of_methods(methods).map(Tried::seconds).sum();
    Some(Outcome { accuracy, range: range.0.is_finite().then_some(range), seconds })
}

/// All comparisons: those over all cells of a network first.
pub(super) fn rows(runs: &[Run]) -> Vec<Row> {
    let mut cells: BTreeMap<(String, String, String, usize), Vec<&Run>> = BTreeMap::new();
    for run in runs {
        let key = (run.network.clone(), run.data.clone(), run.corruption.clone(), run.labels);
        cells.entry(key).or_default().push(run);
    }
    let mut rows = Vec::new();
    let sides = || std::iter::once("auto").chain(SIDES.iter().map(|(name, _)| *name));
    for (key, runs) in &cells {
        for (side, rival) in sides().flat_map(|side| RIVALS.map(|rival| (side, rival))) {
            let pairs: Option<Vec<_>> =
                runs.iter().map(|run| Some((outcome(run, side)?, outcome(run, rival)?))).collect();
            if let Some(pairs) = pairs.filter(|_| side != rival) {
                rows.push(Row::of(key, (side, rival), &pairs));
            }
        }
    }
    let wholes = over_cells(&rows);
    adjust(&mut rows);
    wholes.into_iter().chain(rows).collect()
}

impl Row {
    fn of(
        (network, data, corruption, labels): &(String, String, String, usize),
        (method, against): (&str, &str),
        pairs: &[(Outcome, Outcome)],
    ) -> Self {
        let mean = |of: &dyn Fn(&(Outcome, Outcome)) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len() as f64;
        let differences: Vec<f64> = pairs.iter().map(|(own, other)| own.accuracy - other.accuracy).collect();
        let bound = |of: fn((f64, f64)) -> f64| {
            pairs.iter().all(|(own, _)| own.range.is_some()).then(|| mean(&|(own, _)| own.range.map_or(0.0, of)))
        };
        Self {
            network: network.clone(),
            data: data.clone(),
            corruption: corruption.clone(),
            labels: *labels,
            method: method.to_owned(),
            against: against.to_owned(),
            accuracy_pct: mean(&|(own, _)| own.accuracy),
            against_accuracy_pct: mean(&|(_, other)| other.accuracy),
            worst_pct: bound(|(worst, _)| worst),
            best_pct: bound(|(_, best)| best),
            seconds: mean(&|(own, _)| own.seconds),
            ..Self::compared(&differences)
        }
    }

    /// The statistics of paired differences, and nothing else.
    fn compared(differences: &[f64]) -> Self {
        let (mean_pp, half) = interval(differences);
        Self {
            network: String::new(),
            data: String::new(),
            corruption: ALL.to_owned(),
            labels: 0,
            method: String::new(),
            against: String::new(),
            pairs: differences.len(),
            mean_pp,
            ci_low: half.map(|half| mean_pp - half),
            ci_high: half.map(|half| mean_pp + half),
            p_holm: None,
            p: p_value(differences),
            accuracy_pct: 0.0,
            against_accuracy_pct: 0.0,
            worst_pct: None,
            best_pct: None,
            seconds: 0.0,
        }
    }

    /// The mean; with its interval from three pairs on, since one of two says nothing.
    fn with_interval(&self) -> String {
        match (self.ci_low, self.ci_high) {
            (Some(low), Some(high)) if self.pairs > 2 => format!("{:+.2} ({low:.2} to {high:.2})", self.mean_pp),
            _ => format!("{:+.2}", self.mean_pp),
        }
    }
}

/// One row for each two sides over all cells of a network on some data, each cell counting once.
fn over_cells(rows: &[Row]) -> Vec<Row> {
    let mut groups: BTreeMap<(String, String, String, String), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        let key = (row.network.clone(), row.data.clone(), row.against.clone(), row.method.clone());
        groups.entry(key).or_default().push(row);
    }
    let whole = |((network, data, against, method), cells): ((String, String, String, String), Vec<&Row>)| {
        let mean = |of: fn(&Row) -> f64| cells.iter().map(|row| of(row)).sum::<f64>() / cells.len() as f64;
        let some = |of: fn(&Row) -> Option<f64>| {
            let values: Option<Vec<f64>> = cells.iter().map(|row| of(row)).collect();
            values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
        };
        let compared = Row::compared(&cells.iter().map(|row| row.mean_pp).collect::<Vec<_>>());
        Row {
            network,
            data,
            method,
            against,
            p_holm: compared.p,
            accuracy_pct: mean(|row| row.accuracy_pct),
            against_accuracy_pct: mean(|row| row.against_accuracy_pct),
            worst_pct: some(|row| row.worst_pct),
            best_pct: some(|row| row.best_pct),
            seconds: mean(|row| row.seconds),
            ..compared
        }
    };
    groups.into_iter().map(whole).collect()
}

/// Holm's adjustment, over all cells with the same two sides.
fn adjust(rows: &mut [Row]) {
    let mut families: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    for (place, row) in rows.iter().enumerate().filter(|(_, row)| row.p.is_some()) {
        families.entry((row.method.clone(), row.against.clone())).or_default().push(place);
    }
    for places in families.into_values() {
        let adjusted = holm(&places.iter().map(|&place| rows[place].p.unwrap_or(1.0)).collect::<Vec<_>>());
        places.into_iter().zip(adjusted).for_each(|(place, p)| rows[place].p_holm = Some(p));
    }
}

/// All rows, a line each.
///
/// # Errors
/// Those of `serde_json`.
pub(super) fn json(rows: &[Row]) -> serde_json::Result<String> {
    let lines: Vec<String> = rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    Ok(format!("[\n{}\n]\n", lines.join(",\n")))
}

/// What everything comes to over all cells, and the cells themselves for some sides.
pub(super) fn table(rows: &[Row]) -> String {
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let mut text = String::from(
        "| network, data | method | cells | accuracy, % | against leave, pp | against fine-tuning, pp | worst setting, % | best \
         setting, % | time, s |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let find = |row: &Row, against: &str| {
        let is = |other: &&Row| {
            (&other.network, &other.data, &other.corruption, other.labels, &other.method)
                == (&row.network, &row.data, &row.corruption, row.labels, &row.method)
                && other.against == against
        };
        rows.iter().find(is).map_or_else(String::new, Row::with_interval)
    };
    for row in rows.iter().filter(|row| row.corruption == ALL && row.against == "leave") {
        text.push_str(&format!(
            "| {}, {} | {} | {} | {:.2} | {} | {} | {} | {} | {:.1} |\n",
            row.network,
            row.data,
            row.method,
            row.pairs,
            row.accuracy_pct,
            row.with_interval(),
            find(row, "fine-tuning"),
            number(row.worst_pct),
            number(row.best_pct),
            row.seconds,
        ));
    }
    text.push_str(
        "\n| network, data | changed by | labels | runs | as it is, % | auto, % | against leave, pp | closed against fine-tuning, pp | \
         Holm's p |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows.iter().filter(|row| row.corruption != ALL && (&*row.method, &*row.against) == ("auto", "leave")) {
        let closed = rows.iter().find(|other| {
            (&other.network, &other.data, &other.corruption, other.labels)
                == (&row.network, &row.data, &row.corruption, row.labels)
                && (&*other.method, &*other.against) == ("closed", "fine-tuning")
        });
        text.push_str(&format!(
            "| {}, {} | {} | {} | {} | {:.2} | {:.2} | {} | {} | {} |\n",
            row.network,
            row.data,
            row.corruption,
            row.labels,
            row.pairs,
            row.against_accuracy_pct,
            row.accuracy_pct,
            row.with_interval(),
            closed.map_or_else(String::new, Row::with_interval),
            closed.and_then(|row| row.p_holm).map_or_else(String::new, |p| format!("{p:.3}")),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::choice::tests::run;
    use super::*;

    #[test]
    fn cells_are_compared_and_put_together() {
        let one = |head: f64, full: f64| {
            run(&[
                ("leave", "1100000000", 1.0, 0.5),
                ("head", "1111111111", 0.9, head),
                ("full", "1111111111", 0.5, full),
                ("full", "1111111110", 0.1, full - 0.1),
            ])
        };
        let mut other = one(0.9, 0.7);
        other.labels = 9;
        let rows = rows(&[one(0.8, 0.7), one(0.7, 0.7), other]);
        let find = |labels: usize, method: &str, against: &str| {
            let is = |row: &&Row| row.labels == labels && row.method == method && row.against == against;
            rows.iter().find(is).unwrap()
        };
        // Of the settings of full the second one has the smaller loss, and one label of ten is noise.
        let cell = find(4, "head", "full");
        assert!((cell.mean_pp - 15.0).abs() < 1e-9 && cell.pairs == 2 && cell.p_holm.is_some(), "{cell:?}");
        let whole = find(0, "head", "full");
        assert!((whole.mean_pp - 22.5).abs() < 1e-9 && whole.pairs == 2, "{whole:?}");
        let full = find(4, "full", "leave");
        assert!((full.worst_pct.unwrap() - 60.0).abs() < 1e-9 && (full.best_pct.unwrap() - 70.0).abs() < 1e-9);
        let text = table(&rows);
        assert!(text.contains("| n, d | head | 2 |") && text.contains("| n, d | fog:4 | 4 | 2 |"), "{text}");
        assert!(json(&rows).unwrap().contains("\"against\":\"fine-tuning\""));
    }
}
