//! Accuracy of checkpoints on test images with noise.

use fbp_train::evaluate::EvalRecord;

use crate::page::{escape, percent, table};
use crate::statistics::Spread;

/// A table with a row for each checkpoint and a column for each strength of noise; nothing if no record has noise.
pub(super) fn section(html: &mut String, evaluations: &[EvalRecord]) {
    if evaluations.iter().all(|record| record.noise == 0.0) {
        return;
    }
    let mut strengths: Vec<f64> = evaluations.iter().map(|record| record.noise).collect();
    strengths.sort_by(f64::total_cmp);
    strengths.dedup();
    let mut checkpoints: Vec<&EvalRecord> = Vec::new();
    for record in evaluations {
        if !checkpoints.iter().any(|other| key(other) == key(record)) {
            checkpoints.push(record);
        }
    }
    html.push_str(
        "<h2>Accuracy under noise</h2>\n<p>Share of the test images that are right when normal noise is added to their \
         pixels. A noise of 1 is as strong as the difference of black and white; over several seeds it is the mean.</p>\n",
    );
    let headings: Vec<String> = strengths.iter().map(|noise| format!("noise {noise}")).collect();
    let headings: Vec<&str> =
        ["checkpoint", "network"].into_iter().chain(headings.iter().map(String::as_str)).collect();
    let rows: Vec<Vec<String>> = checkpoints.iter().map(|first| row(first, evaluations, &strengths)).collect();
    html.push_str(&table("accuracy under noise", &headings, &rows));
}

/// What tells checkpoints apart; the same weights may be judged on different data.
fn key(record: &EvalRecord) -> (&str, &str) {
    (&record.checkpoint_sha256, &record.data)
}

fn row(first: &EvalRecord, evaluations: &[EvalRecord], strengths: &[f64]) -> Vec<String> {
    let accuracy = |noise: &f64| {
        let own = evaluations.iter().filter(|record| key(record) == key(first) && record.noise == *noise);
        let accuracies: Vec<f64> = own.map(|record| record.scores.test).collect();
        Spread::of(&accuracies).map_or("–".into(), |spread| percent(spread.mean, 2))
    };
    let name = escape(&format!("{} ({:.8})", first.checkpoint, first.checkpoint_sha256));
    let subject = escape(&format!("{} on {}", first.model, first.data));
    [name, subject].into_iter().chain(strengths.iter().map(accuracy)).collect()
}

#[cfg(test)]
mod tests {
    use fbp_train::scores::EvalScores;
    use fbp_train::settings::Measure;

    use super::*;

    fn record(checkpoint: &str, seed: u64, noise: f64, test_accuracy: f64) -> EvalRecord {
        EvalRecord {
            model: "small".into(),
            data: "toy".into(),
            checkpoint: format!("{checkpoint}.safetensors"),
            checkpoint_sha256: checkpoint.repeat(64),
            seed,
            noise,
            scores: EvalScores { measure: Measure::Accuracy, train: 0.9, test: test_accuracy },
            train_errors: None,
            test_errors: None,
            train: None,
            test: None,
            class_names: Vec::new(),
            normalization: None,
            frozen_rest: Vec::new(),
        }
    }

    #[test]
    fn strengths_are_columns_and_seeds_are_averaged() {
        let mut html = String::new();
        section(&mut html, &[record("a", 0, 0.0, 0.875)]);
        assert_eq!(html, "");
        let records = [
            record("a", 0, 0.25, 0.5),
            record("a", 1, 0.25, 0.75),
            record("a", 0, 0.0, 0.875),
            record("b", 0, 0.0, 0.8),
        ];
        section(&mut html, &records);
        let find = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text} is not in {html}"));
        assert!(find("noise 0<") < find("noise 0.25<"));
        assert!(html.contains("<td>87.50 %</td><td>62.50 %</td>"), "{html}");
        assert!(html.contains("<td>80.00 %</td><td>–</td>"), "{html}");
    }
}
