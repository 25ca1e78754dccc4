//! How many test images of each class checkpoints get right.

use fbp_train::evaluate::{EvalRecord, Measures};

use crate::page::{class_name, escape, grouped, percent, push, table};

/// Most classes of which all are listed; of more, those with the least right are.
const LISTED: usize = 20;

/// A table for each checkpoint that was evaluated without noise; nothing if no record tells its classes.
pub(super) fn section(html: &mut String, evaluations: &[EvalRecord]) {
    let told = evaluations.iter().filter(|record| record.noise == 0.0);
    let told: Vec<(&EvalRecord, &Measures)> =
        told.filter_map(|record| record.test.as_ref().map(|test| (record, test))).collect();
    if told.is_empty() {
        return;
    }
    html.push_str(
        "<h2>Class by class</h2>\n<p>Test images of each class that are right, and the class that the others are most often \
         taken for.</p>\n",
    );
    for (record, test) in told {
        let name = escape(&format!("{} on {}, {}", record.model, record.data, record.checkpoint));
        push(html, format_args!("<h3>{name}</h3>\n"));
        let all = test.per_class.iter().flatten().count();
        let rows = rows(record, test);
        html.push_str(&table("classes", &["class", "images", "right", "most often taken for"], &rows));
        if rows.len() < all {
            push(
                html,
                format_args!("<p class=\"small\">The {} of {all} classes with the least right.</p>\n", rows.len()),
            );
        }
    }
}

fn rows(record: &EvalRecord, test: &Measures) -> Vec<Vec<String>> {
    let mut order: Vec<usize> = (0..test.per_class.len()).filter(|&class| test.per_class[class].is_some()).collect();
    if order.len() > LISTED {
        let right = |class: usize| test.per_class[class].unwrap_or(1.0);
        order.sort_by(|&a, &b| right(a).total_cmp(&right(b)));
        order.truncate(LISTED);
    }
    let name = |class: usize| match record.class_names.get(class) {
        Some(name) => escape(name),
        None => class_name(&record.data, class as u32),
    };
    let row = |class: usize| {
        let taken = &test.confusion[class];
        let count: usize = taken.iter().sum();
        let others = (0..taken.len()).filter(|&other| other != class && taken[other] > 0);
        // Of several with the same number the first one.
        let most = others.max_by_key(|&other| (taken[other], taken.len() - other));
        let most = most.map_or("–".into(), |other| {
            format!("{} ({})", name(other), percent(taken[other] as f64 / count.max(1) as f64, 1))
        });
        vec![name(class), grouped(count), percent(test.per_class[class].unwrap_or(0.0), 1), most]
    };
    order.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use fbp_train::evaluate::TopK;
    use fbp_train::scores::EvalScores;
    use fbp_train::settings::Measure;

    use super::*;

    fn record(classes: usize, class_names: Vec<String>) -> EvalRecord {
        // Of class k, k of 200 images are taken for the class behind it.
        let confusion = (0..classes)
            .map(|class| {
                let mut row = vec![0; classes];
                row[class] = 200 - class;
                row[(class + 1) % classes] += class;
                row
            })
            .collect();
        let test = Measures {
            samples: 200 * classes,
            accuracy: 0.5,
            top_k: TopK { k: 1, accuracy: 0.5 },
            loss: 1.0,
            per_class: (0..classes).map(|class| Some(1.0 - class as f64 / 200.0)).collect(),
            confusion,
        };
        EvalRecord {
            model: "small".into(),
            data: "toy".into(),
            checkpoint: "c.safetensors".into(),
            checkpoint_sha256: "c".repeat(64),
            seed: 0,
            noise: 0.0,
            scores: EvalScores { measure: Measure::Accuracy, train: 0.9, test: 0.5 },
            train: None,
            test: Some(test),
            train_errors: None,
            test_errors: None,
            class_names,
            normalization: None,
            frozen_rest: Vec::new(),
        }
    }

    #[test]
    fn few_classes_are_all_listed_by_name() {
        let mut html = String::new();
        section(&mut html, &[record(3, vec!["cat".into(), "<dog>".into(), "cow".into()])]);
        let find = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text} is not in {html}"));
        assert!(find("cat") < find("&lt;dog&gt;") && html.contains("cow (0.5 %)"), "{html}");
        assert!(!html.contains("least right"));
        let mut none = String::new();
        section(&mut none, &[EvalRecord { test: None, ..record(3, Vec::new()) }]);
        section(&mut none, &[EvalRecord { noise: 0.5, ..record(3, Vec::new()) }]);
        assert_eq!(none, "");
    }

    #[test]
    fn of_many_classes_the_worst_are_listed() {
        let record = record(100, Vec::new());
        let rows = rows(&record, record.test.as_ref().unwrap());
        assert_eq!((rows.len(), &*rows[0][0], &*rows[19][0]), (LISTED, "class 99", "class 80"));
        let mut html = String::new();
        section(&mut html, &[record]);
        assert!(html.contains("The 20 of 100 classes with the least right"), "{html}");
    }
}
