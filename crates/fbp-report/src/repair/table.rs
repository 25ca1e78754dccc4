use std::fmt::Write;

use fbp_train::repair::RepairPoint;

use super::group::Curve;

/// Share of repaired samples that counts as all of them, for samples whose labels may be wrong.
const ENOUGH: f64 = 0.99;
/// Losses of test accuracy, in percentage points, within which the best states are listed.
const LOSSES: [f64; 3] = [0.5, 1.3, 5.0];

/// The points as text with tables: what the methods choose, and what lies on their curves.
pub(super) fn markdown(points: &[RepairPoint]) -> String {
    let mut text = String::from(
        "# Repairs and their rivals\n\n*Efficacy*: share of the given samples that became right. *Generalisation*: share of \
         the wrong test samples of the same kind that became right. *Drawdown*: loss of accuracy on the test set, in \
         percentage points; negative for a gain. All as mean (least to most) over seeds.\n\n\
         Rivals are trained on the same samples: fine-tuning changes all layers, a head refit the last one.\n",
    );
    let mut line = |line: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{line}");
    };
    let curves = Curve::all(points);
    for (index, curve) in curves.iter().enumerate() {
        if index > 0 && curves[index - 1].subject == curve.subject {
            continue;
        }
        let own: Vec<&Curve<'_>> = curves.iter().filter(|other| other.subject == curve.subject).collect();
        // A folder that is not complete may lack seeds in some curves.
        let widest = own.iter().map(|curve| seeds(curve)).max_by_key(Vec::len).unwrap_or_default();
        let starts: Vec<f64> = widest.iter().map(|points| 100.0 * points[0].start_test_accuracy).collect();
        let counts: Vec<f64> = widest.iter().map(|points| points[0].subject.count as f64).collect();
        let (start, count) = (spread(&starts, 2), spread(&counts, 0));
        line(format!("\n## {}\n\n{} samples; test accuracy before: {start} %.\n", safe(&curve.subject), count));
        line("Chosen by each method on the validation part; time with everything that was tried.\n".into());
        line("| | seeds | efficacy, % | generalisation, % | drawdown, pp | time, s |".into());
        line("|---|---|---|---|---|---|".into());
        own.iter().filter_map(|curve| chosen_row(curve)).for_each(&mut line);
        line("\nThe best points of each curve, found with the test set.\n".into());
        let within = LOSSES.map(|loss| format!("efficacy within {loss} pp, % |"));
        line(format!("| | points | drawdown where efficacy is {} %, pp | {}", 100.0 * ENOUGH, within.join(" ")));
        line(format!("|---|---|---|{}", "---|".repeat(LOSSES.len())));
        own.iter().map(|curve| curve_row(curve)).for_each(&mut line);
    }
    text
}

fn safe(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The points of each seed.
fn seeds<'a>(curve: &Curve<'a>) -> Vec<Vec<&'a RepairPoint>> {
    let mut seeds: Vec<Vec<&RepairPoint>> = Vec::new();
    for &point in &curve.points {
        match seeds.iter_mut().find(|points| points[0].subject == point.subject) {
            Some(points) => points.push(point),
            None => seeds.push(vec![point]),
        }
    }
    seeds
}

/// `1.20 (0.95 to 1.51)`; only the number if there is one.
fn spread(values: &[f64], digits: usize) -> String {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match values {
        [] => "-".into(),
        _ if least == most => format!("{mean:.digits$}"),
        _ => format!("{mean:.digits$} ({least:.digits$} to {most:.digits$})"),
    }
}

fn chosen_row(curve: &Curve<'_>) -> Option<String> {
    let chosen: Vec<&RepairPoint> = curve.points.iter().copied().filter(|point| point.chosen).collect();
    let of = |value: &dyn Fn(&RepairPoint) -> f64, digits| {
        let values: Vec<f64> = chosen.iter().map(|point| value(point)).collect();
        spread(&values, digits)
    };
    let efficacy = of(&|point| 100.0 * point.efficacy, 1);
    let generalisation = of(&|point| 100.0 * point.generalisation, 1);
    let (drawdown, seconds) = (of(&|point| point.drawdown_pp, 2), of(&|point| point.seconds, 1));
    let (name, count) = (safe(&curve.name()), chosen.len());
    (count > 0).then(|| format!("| {name} | {count} | {efficacy} | {generalisation} | {drawdown} | {seconds} |"))
}

fn curve_row(curve: &Curve<'_>) -> String {
    let seeds = seeds(curve);
    let best = |of: &dyn Fn(&[&RepairPoint]) -> Option<f64>, digits| {
        let values: Vec<f64> = seeds.iter().filter_map(|points| of(points)).collect();
        match spread(&values, digits) {
            text if values.len() == seeds.len() || values.is_empty() => text,
            text => format!("{text}, {} of {} seeds", values.len(), seeds.len()),
        }
    };
    let least = |points: &[&RepairPoint]| {
        let enough = points.iter().filter(|point| point.efficacy >= ENOUGH);
        enough.map(|point| point.drawdown_pp).reduce(f64::min)
    };
    let most = |points: &[&RepairPoint], loss: f64| {
        let within = points.iter().filter(|point| point.drawdown_pp <= loss);
        within.map(|point| 100.0 * point.efficacy).reduce(f64::max)
    };
    let within = LOSSES.map(|loss| best(&|points| most(points, loss), 1)).join(" | ");
    let (name, count) = (safe(&curve.name()), curve.points.len());
    format!("| {name} | {count} | {} | {within} |", best(&least, 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fbp_train::DataIdentity;
    use fbp_train::repair::{RepairMethod, RepairSubject};

    fn point(seed: u64, stage: &str, steps: usize, efficacy: f64, drawdown_pp: f64) -> RepairPoint {
        let data = DataIdentity { name: "toy".into(), sha256: String::new(), samples: 50 };
        let (model, samples) = ("small".into(), "wrong:4".into());
        let subject = RepairSubject { samples, count: 4, seed, model, data, checkpoint_sha256: seed.to_string() };
        RepairPoint {
            method: RepairMethod::FineTuning { learning_rate: 1e-3, steps },
            stage: stage.into(),
            subject,
            start_test_accuracy: 0.8,
            chosen: steps == 2,
            efficacy,
            generalisation: 0.25,
            drawdown_pp,
            drawdown_validation_pp: drawdown_pp,
            seconds: 1.0,
        }
    }

    #[test]
    fn tables_hold_means_ranges_and_the_best_points_of_every_seed() {
        let points = [
            point(0, "all", 1, 0.5, 0.25),
            point(0, "all", 2, 1.0, 3.0),
            point(1, "all", 1, 0.75, 2.0),
            point(1, "all", 2, 0.875, 6.0),
        ];
        let text = markdown(&points);
        assert!(text.contains("## small, toy, wrong:4\n\n4 samples; test accuracy before: 80.00 %"), "{text}");
        let chosen = "| fine-tuning | 2 | 93.8 (87.5 to 100.0) | 25.0 | 4.50 (3.00 to 6.00) | 1.0 |";
        assert!(text.contains(chosen), "{text}");
        let curve =
            "| fine-tuning | 4 | 3.00, 1 of 2 seeds | 50.0, 1 of 2 seeds | 50.0, 1 of 2 seeds | 87.5 (75.0 to 100.0) |";
        assert!(text.contains(curve), "{text}");
    }

    #[test]
    fn points_come_back_from_their_lines() {
        let of = |method| RepairPoint { method, ..point(0, "fc1", 1, 0.5, 0.25) };
        let demand = fbp_train::repair::Demand { margin: 0.3, ridge: 0.01, slack: 1e-5 };
        for method in [
            RepairMethod::FineTuning { learning_rate: 1e-3, steps: 7 },
            RepairMethod::HeadRefit { damping: 0.1 },
            RepairMethod::Repair { demand: Some(demand), round: 4 },
            RepairMethod::Repair { demand: None, round: 0 },
        ] {
            let line = serde_json::to_string(&of(method)).unwrap();
            assert!(line.starts_with("{\"method\":\""), "{line}");
            assert_eq!(serde_json::from_str::<RepairPoint>(&line).unwrap(), of(method));
        }
    }
}
