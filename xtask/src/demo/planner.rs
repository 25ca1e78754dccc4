//! `cargo xtask demo planner`: a planner for driving, what its layers should have said, and the repair of its worst paths.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use super::story::Story;
use crate::error::TaskError;

const MODEL: &str = "mlp-planner";
const DATA: &str = "planner";
const PRETRAINING: [&str; 12] = [
    "--epochs",
    "12",
    "--batch",
    "128",
    "--learning-rate",
    "2e-3",
    "--schedule",
    "cosine",
    "--keep",
    "best",
    "--seed",
    "0",
];
/// Metres by which x and y of a pose may miss.
const TOLERANCE: &str = "0.5";
/// Paths that are repaired, and paths that are explained.
const CASES: &str = "worst:50";
const EXPLAINED: &str = "worst:6";
/// Growth of the RMSE in per cent that a repair may cost, and time of its search.
const BOUNDS: [&str; 4] = ["--max-drawdown", "5", "--time", "15s"];
/// The layer that is repaired.
const STAGE: &str = "fc2";

/// Trains the planner, reconstructs targets, explains and repairs its worst paths, and writes the report.
pub(super) fn run(out: Option<&PathBuf>) -> Result<(), TaskError> {
    let story = Story::new(out, "demo-planner", DATA)?;
    let begun = Instant::now();
    let goal = ["--tolerance", TOLERANCE];
    story.pretrain(MODEL, &PRETRAINING)?;
    let targets = story.targets(&goal)?;
    let explained = story.explain(EXPLAINED, &goal)?;
    let repair = story.repair(CASES, STAGE, &[&goal[..], &BOUNDS].concat())?;
    let (from, report) = (story.report()?, story.path("report.html"));
    fs::copy(&from, &report).map_err(TaskError::at(&report))?;
    let summary = story.write_summary(summary(&targets, &repair))?;
    println!("\n{}", table(&summary, &repair));
    println!("\ndone in {:.0} s after the build", begun.elapsed().as_secs_f64());
    for path in [report, explained, story.path("summary.json")] {
        println!("{}", path.display());
    }
    Ok(())
}

/// What the demo is judged by.
fn summary(targets: &Value, repair: &Value) -> Option<Value> {
    let samples = targets["samples"].as_f64()?;
    let stages: Option<Vec<Value>> = targets["stages"]
        .as_array()?
        .iter()
        .map(|stage| {
            let attained = 1.0 - stage["unattained"].as_f64()? / samples;
            Some(json!({ "name": stage["name"], "attained": attained }))
        })
        .collect();
    let ade = |name: &str| repair["errors"][name]["ade"].as_f64();
    Some(json!({
        "targets": { "tolerance": targets["tolerance"].as_f64()?, "stages": stages? },
        "repair": {
            "cases": repair["samples"].as_array()?.len(),
            "ade_before": ade("cases_before")?,
            "ade_after": ade("cases_after")?,
            "others_ade_before": ade("others_before")?,
            "others_ade_after": ade("others_after")?,
        },
    }))
}

/// The same for people, with the final displacement.
fn table(summary: &Value, repair: &Value) -> String {
    let tolerance = &summary["targets"]["tolerance"];
    let mut lines = Vec::new();
    for stage in summary["targets"]["stages"].as_array().into_iter().flatten() {
        let (name, attained) = (stage["name"].as_str().unwrap_or_default(), stage["attained"].as_f64().unwrap_or(0.0));
        lines.push(format!("targets of {name}: {:.3} % of the paths within {tolerance} m", 100.0 * attained));
    }
    for (name, key) in [("repaired paths", "cases"), ("all others", "others")] {
        let of = |time: &str, what: &str| repair["errors"][format!("{key}_{time}")][what].as_f64().unwrap_or(f64::NAN);
        lines.push(format!(
            "{name}: ADE {:.3} → {:.3} m, FDE {:.3} → {:.3} m",
            of("before", "ade"),
            of("after", "ade"),
            of("before", "fde"),
            of("after", "fde")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_holds_shares_and_displacements() {
        let targets = json!({
            "samples": 1000, "tolerance": 0.25, "stages": [{ "name": "fc1", "unattained": 1 }, { "name": "fc2", "unattained": 0 }],
        });
        let errors = |ade: f64| json!({ "ade": ade, "fde": 2.0 * ade });
        let repair = json!({
            "samples": [3, 17],
            "errors": {
                "cases_before": errors(1.0), "cases_after": errors(0.125), "others_before": errors(0.25), "others_after": errors(0.5),
            },
        });
        let found = summary(&targets, &repair).unwrap();
        let wanted = json!({
            "targets": {
                "tolerance": 0.25, "stages": [{ "name": "fc1", "attained": 0.999 }, { "name": "fc2", "attained": 1.0 }],
            },
            "repair": {
                "cases": 2, "ade_before": 1.0, "ade_after": 0.125, "others_ade_before": 0.25, "others_ade_after": 0.5,
            },
        });
        assert_eq!(found, wanted);
        assert!(table(&found, &repair).contains("repaired paths: ADE 1.000 → 0.125 m, FDE 2.000 → 0.250 m"));
        assert_eq!(summary(&targets, &json!({})), None);
    }
}
