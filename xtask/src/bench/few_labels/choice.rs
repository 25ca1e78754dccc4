//! What would have been chosen among some of the candidates of a run, by its own rule.

use serde::Deserialize;
use serde_json::Value;

/// Candidates without labels, those in closed form, and those that take gradient steps.
pub(super) const UNLABELLED: &[&str] = &["renormalise", "statistics"];
pub(super) const CLOSED: &[&str] = &["renormalise", "statistics", "head", "head-refit", "layer-wise"];
pub(super) const FINE_TUNING: &[&str] = &["head-fine-tune", "tail", "l2-sp", "full"];

/// Standard errors by which a candidate has to be better than the network as it is, and those by which another one may lead it: those of
/// the program.
const SURE: f64 = 1.5;
const NEAR: f64 = 1.0;

/// All of them.
pub(super) const ALL: &[&str] = &[
    "renormalise",
    "statistics",
    "head",
    "head-refit",
    "layer-wise",
    "head-fine-tune",
    "tail",
    "l2-sp",
    "joint",
    "full",
];

/// A candidate of a run.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Tried {
    pub(super) method: String,
    #[serde(default)]
    loss: Option<f64>,
    #[serde(default)]
    failed: bool,
    /// Accuracy on the test part.
    pub(super) test: f64,
    right: String,
    seconds: f64,
    #[serde(default)]
    processor_seconds: Option<f64>,
}

/// A run of `fbp adapt --judge-all`.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) network: String,
    pub(super) data: String,
    pub(super) corruption: String,
    pub(super) labels: usize,
    pub(super) before: f64,
    pub(super) seconds: f64,
    pub(super) tried: Vec<Tried>,
}

#[derive(Deserialize)]
struct Record {
    settings: Settings,
    tried: Vec<Tried>,
    test_before: f64,
    adapt_seconds: f64,
    #[serde(default)]
    adapt_processor_seconds: Option<f64>,
}

#[derive(Deserialize)]
struct Settings {
    model: String,
    data: Data,
    labels: usize,
}

#[derive(Deserialize)]
struct Data {
    name: String,
}

impl Run {
    /// What a record says.
    ///
    /// # Errors
    /// In words.
    pub(super) fn of(record: &Value) -> Result<Self, String> {
        let record: Record = serde_json::from_value(record.clone()).map_err(|error| error.to_string())?;
        // `fashion-mnist, noise:4`
        let (data, corruption) = record.settings.data.name.split_once(", ").ok_or("its data are not corrupted")?;
        Ok(Self {
            network: record.settings.model,
            data: data.to_owned(),
            corruption: corruption.to_owned(),
            labels: record.settings.labels,
            before: record.test_before,
            seconds: record.adapt_processor_seconds.unwrap_or(record.adapt_seconds),
            tried: record.tried,
        })
    }

    /// The candidates of some methods.
    pub(super) fn of_methods<'a>(&'a self, methods: &[&str]) -> impl Iterator<Item = &'a Tried> {
        self.tried.iter().filter(move |tried| methods.contains(&tried.method.as_str()))
    }

    /// What would have been chosen among the settings of these methods and, for several methods, the network as it is; by the
    /// rule of `fbp adapt`.
    pub(super) fn chosen(&self, methods: &[&str]) -> Option<&Tried> {
        let leave = self.tried.iter().find(|tried| tried.method == "leave")?;
        let is_better = |tried: &Tried| tried.count() > leave.count() && !tried.leads_by_noise(leave, SURE);
        let better =
            || self.of_methods(methods).filter(move |tried| !tried.failed && (methods.len() == 1 || is_better(tried)));
        let fallback = if methods.len() > 1 { Some(leave) } else { self.of_methods(methods).next() };
        // The first of equals.
        let Some(best) = better().reduce(|best, other| if other.count() > best.count() { other } else { best }) else {
            return fallback;
        };
        let near = better().filter(|tried| best.leads_by_noise(tried, NEAR));
        near.reduce(|least, other| if other.loss() < least.loss() { other } else { least }).or(fallback)
    }
}

impl Tried {
    /// Time of its fits: that of the processor where the record has it.
    pub(super) fn seconds(&self) -> f64 {
        self.processor_seconds.unwrap_or(self.seconds)
    }

    fn count(&self) -> usize {
        self.right.bytes().filter(|right| *right == b'1').count()
    }

    fn loss(&self) -> f64 {
        self.loss.unwrap_or(f64::INFINITY)
    }

    /// Whether it is right more often than another by no more than so many times the standard error of that.
    fn leads_by_noise(&self, other: &Self, errors: f64) -> bool {
        let alone = |a: &Self, b: &Self| a.right.bytes().zip(b.right.bytes()).filter(|(a, b)| a > b).count();
        let (won, lost) = (alone(self, other), alone(other, self));
        (won.abs_diff(lost) as f64).powi(2) <= errors.powi(2) * (won + lost) as f64
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn run(test: &[(&str, &str, f64, f64)]) -> Run {
        let tried = test.iter().map(|&(method, right, loss, test)| Tried {
            method: method.into(),
            loss: Some(loss),
            failed: false,
            test,
            right: right.into(),
            seconds: 1.0,
            processor_seconds: None,
        });
        Run {
            network: "n".into(),
            data: "d".into(),
            corruption: "fog:4".into(),
            labels: 4,
            before: 0.5,
            seconds: 2.0,
            tried: tried.collect(),
        }
    }

    #[test]
    fn the_choice_is_that_of_the_program() {
        let run = run(&[
            ("leave", "1100000000", 1.0, 0.5),
            ("head", "1111100000", 0.9, 0.6),
            ("head", "1111000000", 0.2, 0.7),
            ("full", "1110000000", 0.1, 0.9),
            ("full", "0000000000", 0.0, 0.1),
        ]);
        // Of the settings of one method no floor; of several the network as it is, unless they are better by more than noise.
        assert_eq!(run.chosen(&["head"]).unwrap().test, 0.7);
        assert_eq!(run.chosen(&["full"]).unwrap().test, 0.9);
        assert_eq!(run.chosen(&["full", "tail"]).unwrap().test, 0.5);
        assert_eq!(run.chosen(CLOSED).unwrap().test, 0.6);
        assert!(run.chosen(&["none"]).is_none());
    }

    #[test]
    fn records_are_read() {
        let text = r#"{"settings": {"model": "n", "data": {"name": "fashion-mnist, fog:4", "sha256": "", "samples": 9}, "labels": 5},
            "test_before": 0.5, "test_after": 0.75, "adapt_seconds": 3, "tried": [
            {"method": "leave", "accuracy": 0.4, "test": 0.5, "right": "10", "seconds": 0.1}]}"#;
        let run = Run::of(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!((run.data.as_str(), run.corruption.as_str(), run.labels), ("fashion-mnist", "fog:4", 5));
        assert_eq!((run.before, run.tried.len()), (0.5, 1));
        assert!(Run::of(&Value::Null).is_err());
    }
}
