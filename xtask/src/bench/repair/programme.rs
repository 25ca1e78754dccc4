//! The linear programme of provable repair, beside the repairs.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::summary::Outcome;
use super::{Study, Subject};
use crate::bench::study;
use crate::command::Child;
use crate::error::TaskError;

/// Time of the processor for each programme, in seconds.
const LIMIT: &str = "300";
/// The network that a change is put into, as records and as rows call it.
pub(super) const NAMES: [(&str, &str); 2] = [("decoupled", ""), ("coupled", ", not decoupled")];

/// What a row is called.
pub(super) fn method(task: &str, (_, name): &(&str, &str)) -> String {
    format!("linear programme of {}{name}", task.replace(':', ", "))
}

impl Study {
    pub(super) fn answer_path(&self, subject: &Subject, task: &str, seed: u64) -> PathBuf {
        let name = format!("{}_programme-{}_{seed}.json", subject.network.name(), task.replace(':', "-"));
        self.work.join("runs").join(name)
    }

    /// Solves a programme for the samples of a seed, unless that is done.
    pub(super) fn solve(&self, subject: &Subject, task: &str, seed: u64) -> Result<(), TaskError> {
        let (record, out) = (self.record_path(subject, &subject.ways[0], seed), self.answer_path(subject, task, seed));
        if out.exists() {
            return Ok(());
        }
        let child = Child::cargo().args(["bench", "--workspace", "--profile", "dev", "--bench", super::NAME, "--"]);
        let files = [("--checkpoint", &self.checkpoint(subject)), ("--record", &record), ("--out", &out)];
        let child = files.iter().fold(child, |child, (flag, path)| child.args([Path::new(flag), path.as_path()]));
        let child = child.args(&self.data_dir).args(["--task", task, "--limit", LIMIT]);
        child.env("RAYON_NUM_THREADS", "1").run()
    }

    /// What a programme came to with the samples of a seed, in both networks; none without an answer.
    pub(super) fn answers(&self, subject: &Subject, task: &str, seed: u64) -> Result<[Option<Outcome>; 2], TaskError> {
        let path = self.answer_path(subject, task, seed);
        if !path.exists() {
            return Ok([None; 2]);
        }
        let entries = study::read(&path)?;
        let of = |(network, _): (&str, &str)| answer(&entries[0], network);
        Ok([of(NAMES[0])?, of(NAMES[1])?])
    }
}

/// What an answer is worth; none for a programme without one.
fn answer(entry: &Value, network: &str) -> Result<Option<Outcome>, TaskError> {
    if entry["end"] != "solved" {
        return Ok(None);
    }
    let number = |name: &str| {
        let missing = || TaskError::Refused(format!("an answer of a linear programme has no {name}"));
        entry[network][name].as_f64().ok_or_else(missing)
    };
    Ok(Some(Outcome {
        efficacy: 100.0 * number("efficacy")?,
        generalisation: 100.0 * number("generalisation")?,
        drawdown: 100.0 * number("drawdown_test")?,
        seconds: entry["seconds"].as_f64(),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_solved_programmes_have_an_answer() {
        let measures = |loss: f64| json!({ "efficacy": 1.0, "generalisation": 0.5, "drawdown_test": loss });
        let entry =
            |end: &str| json!({ "end": end, "seconds": 2.0, "decoupled": measures(0.25), "coupled": measures(0.5) });
        let loss = |network| answer(&entry("solved"), network).unwrap().map(|outcome| outcome.drawdown);
        assert_eq!((loss("decoupled"), loss("coupled")), (Some(25.0), Some(50.0)));
        assert_eq!(answer(&entry("infeasible"), "decoupled").unwrap(), None);
        assert!(answer(&json!({ "end": "solved" }), "decoupled").is_err());
    }
}
