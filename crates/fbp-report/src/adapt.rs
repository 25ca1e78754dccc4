//! Adaptations to few labels as a page: what was tried, what cross-validation said of it, and what was chosen.

use std::path::Path;

use fbp_train::adapt::{AdaptRecord, Candidate, TriedRecord};
use fbp_train::atomic::write_atomic;

use crate::ReportError;
use crate::page::{document, duration, escape, number, percent, push, table};

/// Writes the page.
///
/// # Errors
/// [`fbp_train::TrainError::Write`].
pub fn write_page(page: &Path, record: &AdaptRecord) -> Result<(), ReportError> {
    Ok(write_atomic(page, render(record).as_bytes())?)
}

fn render(record: &AdaptRecord) -> String {
    let settings = &record.settings;
    let counts: Vec<String> = record.class_counts.iter().map(ToString::to_string).collect();
    let mut html = String::new();
    push(
        &mut html,
        format_args!(
            "<p>{} adapted to {} labels of {} ({} of each class), everything chosen by cross-validation with {} folds among these \
             labels. Chosen: <strong>{}</strong>. {}.</p>\n",
            escape(&settings.model),
            settings.labels,
            escape(&settings.data.name),
            counts.join(", "),
            settings.folds,
            escape(&record.chosen.to_string()),
            duration(record.adapt_seconds),
        ),
    );
    let rows = [
        vec!["before".to_owned(), percent(record.test_before, 2), String::new()],
        vec![
            "after".to_owned(),
            percent(record.test_after, 2),
            format!("{:+.2} pp", 100.0 * (record.test_after - record.test_before)),
        ],
    ];
    html.push_str(&table("test part", &["network", "test accuracy", "against before"], &rows));
    html.push_str(
        "<h2>What was tried</h2>\n<p>Accuracy on labels that a candidate was not fitted to, with its standard error, and how much more \
         often it is right than the network as it is. Of those that are by more than one and a half standard errors, and that are within \
         one of the best, the one with the smallest loss is chosen.</p>\n",
    );
    if record.start != Candidate::leave() {
        let start = escape(&record.start.to_string());
        push(&mut html, format_args!("<p>What needs labels begins with: {start}.</p>\n"));
    }
    html.push_str(&tried(record));
    document(&format!("{} adapted", settings.model), &html)
}

fn tried(record: &AdaptRecord) -> String {
    let mut headings = vec!["candidate", "right", "more often right", "loss", "time"];
    let is_judged = record.tried.iter().any(|tried| tried.test.is_some());
    if is_judged {
        headings.push("test accuracy, fitted to all labels");
    }
    let row = |tried: &TriedRecord| {
        let name = escape(&tried.candidate.to_string());
        let mut row = vec![
            if tried.candidate == record.chosen { format!("<strong>{name}</strong>") } else { name },
            match tried.failed {
                true => "failed".to_owned(),
                false => format!("{} ± {}", percent(tried.accuracy, 1), percent(tried.error, 1)),
            },
            format!("{:+.1} ± {:.1} pp", 100.0 * tried.gain, 100.0 * tried.gain_error),
            tried.loss.map_or_else(|| "none".to_owned(), number),
            duration(tried.seconds),
        ];
        if is_judged {
            row.push(tried.test.map_or_else(String::new, |test| percent(test, 2)));
        }
        row
    };
    table("candidates", &headings, &record.tried.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use fbp_train::DataIdentity;
    use fbp_train::adapt::{AdaptSettings, Method};

    use super::*;

    fn record() -> AdaptRecord {
        let tried = |candidate: Candidate, accuracy: f64| TriedRecord {
            candidate,
            accuracy,
            error: 0.05,
            gain: accuracy - 0.5,
            gain_error: 0.04,
            loss: Some(1.25),
            failed: false,
            test: None,
            right: None,
            seconds: 0.5,
            processor_seconds: None,
        };
        let full = Candidate::grid(Method::Full)[1];
        AdaptRecord {
            settings: AdaptSettings {
                checkpoint_sha256: "a".into(),
                model: "<small>".into(),
                data: DataIdentity { name: "toy, fog:4".into(), sha256: String::new(), samples: 50 },
                labels: 20,
                method: Method::Auto,
                folds: 5,
                seed: 0,
                test_size: None,
                judge_all: false,
            },
            threads: 1,
            class_counts: vec![11, 9],
            start: Candidate::leave(),
            tried: vec![
                tried(Candidate::leave(), 0.5),
                TriedRecord { failed: true, loss: None, ..tried(Candidate::grid(Method::Head)[0], 0.0) },
                tried(full, 0.7),
            ],
            chosen: full,
            test_before: 0.5,
            test_after: 0.65,
            adapt_seconds: 2.5,
            adapt_processor_seconds: None,
            checkpoint: "c.safetensors".into(),
            checkpoint_sha256_after: "b".into(),
            seconds: 3.0,
        }
    }

    #[test]
    fn the_page_tells_what_was_tried_and_chosen() {
        let mut record = record();
        let html = render(&record);
        for part in
            ["&lt;small&gt;", "fog:4", "11, 9", "<strong>full, rate", "70.0 %", "+20.0 ± 4.0 pp", "failed", "+15.00 pp"]
        {
            assert!(html.contains(part), "{part}: {html}");
        }
        assert!(!html.contains("fitted to all labels") && !html.contains("<small>"));
        record.tried[0].test = Some(0.51);
        record.start = Candidate::grid(Method::Renormalise)[1];
        let html = render(&record);
        assert!(html.contains("51.00 %") && html.contains("begins with: renormalise, share 1."), "{html}");
    }
}
