//! Repairs: how many images became right, what it cost, which weights changed.

use fbp_train::explain::Change;
use fbp_train::repair::{RepairRecord, RepairedExample, RepairedLayer, WeightChange};
use fbp_train::settings::{Measure, Part};

use super::paths;
use crate::ReportError;
use crate::page::{
    Captions, change_row, duration, escape, gained, grouped, image_figure, named_class, number, percent, push, table,
};

const CAPTIONS: Captions = Captions { before: "before the repair", after: "after the repair" };
/// Outputs and single weights that are listed.
const LISTED: usize = 8;
/// Repairs that are shown in full; the others stand in the table.
const SHOWN: usize = 6;

/// # Errors
/// [`ReportError::Plot`].
pub(super) fn section(html: &mut String, repairs: &[RepairRecord]) -> Result<(), ReportError> {
    let of_outputs = repairs.iter().any(is_of_outputs);
    let (images, score) = if of_outputs { ("samples", "test accuracy or RMSE") } else { ("images", "test accuracy") };
    push(
        html,
        format_args!(
            "<h2>Repair</h2>\n<p>Some {images} are wrong and matter. A repair looks for the smallest change of the weights of \
             one layer that makes them right and leaves the features of all other {images} alone as far as it can."
        ),
    );
    if repairs.iter().any(|record| record.rival.is_some()) {
        html.push_str(
            " For comparison stands the usual way: fine-tuning the whole network on the same images until they are right.",
        );
    }
    html.push_str("</p>\n");
    let mut rows = Vec::new();
    for record in repairs {
        rows.push(row(record));
        rows.extend(record.rival.as_ref().map(|_| rival_row(record)));
    }
    let headings =
        ["what was done", images, "right now", "others right", score, "cost", "weights moved", "time", "network"];
    html.push_str(&table("repairs", &headings, &rows));
    html.push_str(
        "<p class=\"small\"><b>Right now</b>: share of the given images. <b>Others right</b>: share of the wrong test images \
         (of the same class, if one was asked for) that became right as well. <b>Cost</b>: lost accuracy on the test \
         images. <b>Weights moved</b>: length of the change relative to the weights of the layer.</p>\n",
    );
    if of_outputs {
        html.push_str(
            "<p class=\"small\">Of outputs <b>right</b> is what is within the tolerance, and the <b>cost</b> is the growth of the \
             RMSE.</p>\n",
        );
    }
    for record in repairs.iter().take(SHOWN) {
        push(
            html,
            format_args!(
                "<h3>{} of {} on {}: {} of {} {}</h3>\n",
                escape(&names(record)),
                escape(&record.settings.model),
                escape(&record.settings.data.name),
                (record.efficacy * record.samples.len() as f64).round(),
                record.samples.len(),
                if is_of_outputs(record) { "samples within tolerance" } else { "images right" }
            ),
        );
        push(html, format_args!("<div class=\"verdict {}\"><p>{}</p></div>\n", class(record), verdict(record)));
        if is_of_outputs(record) {
            paths::repaired(html, record);
        }
        for layer in record.layers() {
            if let Some(weights) = &layer.weights {
                weights_section(html, layer, weights);
            }
        }
        if is_of_outputs(record) {
            continue;
        }
        for (index, example) in record.examples.iter().enumerate() {
            if index == 1 {
                html.push_str("<details class=\"screen\"><summary>More of its images</summary>\n");
            }
            one_example(html, example, record)?;
        }
        if record.examples.len() > 1 {
            html.push_str("</details>\n");
        }
    }
    if repairs.len() > SHOWN {
        push(
            html,
            format_args!(
                "<p class=\"small\">{} further repairs stand in the table alone.</p>\n",
                repairs.len() - SHOWN
            ),
        );
    }
    Ok(())
}

fn row(record: &RepairRecord) -> Vec<String> {
    vec![
        format!("repair of {}", escape(&names(record))),
        format!("{} ({})", record.samples.len(), escape(&images(record))),
        percent(record.efficacy, 1),
        percent(record.generalisation, 1),
        before_after(record, record.scores.after),
        cost(record, record.drawdown_test),
        record.layers().map(|layer| percent(layer.change_relative, 1)).collect::<Vec<_>>().join(", "),
        duration(record.repair_seconds),
        escape(&format!("{} on {}", record.settings.model, record.settings.data.name)),
    ]
}

fn rival_row(record: &RepairRecord) -> Vec<String> {
    let Some(rival) = &record.rival else { return Vec::new() };
    let before = record.scores.before;
    let after = if is_of_outputs(record) { before * (1.0 + rival.drawdown_test) } else { before - rival.drawdown_test };
    vec![
        "fine-tuning on the same images".into(),
        record.samples.len().to_string(),
        percent(rival.measures.efficacy, 1),
        percent(rival.generalisation, 1),
        before_after(record, after),
        cost(record, rival.drawdown_test),
        "–".into(),
        duration(rival.seconds),
        escape(&format!("{} on {}", record.settings.model, record.settings.data.name)),
    ]
}

/// The choice of images, as it was written, and what it chose from.
fn images(record: &RepairRecord) -> String {
    let settings = &record.settings;
    let chosen = match (&settings.own, settings.part) {
        (Some(own), _) => format!("{} of {}", settings.samples, own.name),
        (None, Part::Test) => format!("{} of the test images", settings.samples),
        (None, Part::Train) => settings.samples.clone(),
    };
    match settings.samples_corrupt {
        Some(corruption) => format!("{chosen}, with {corruption}"),
        None => chosen,
    }
}

/// `81.10 → 77.95 %`.
fn before_after(record: &RepairRecord, after: f64) -> String {
    match record.scores.measure {
        Measure::Accuracy => format!("{:.2} → {}", 100.0 * record.scores.before, percent(after, 2)),
        Measure::Rmse => format!("{:.4} → {after:.4}", record.scores.before),
    }
}

fn is_of_outputs(record: &RepairRecord) -> bool {
    !record.scores.measure.is_accuracy()
}

/// What was lost: percentage points, or per cent of the RMSE.
fn cost(record: &RepairRecord, drawdown: f64) -> String {
    gained(record.scores.measure, drawdown)
}

/// The layers that changed.
fn names(record: &RepairRecord) -> String {
    record.layers().map(|layer| layer.layer.as_str()).collect::<Vec<_>>().join(", ")
}

fn is_changed(record: &RepairRecord) -> bool {
    record.layers().any(|layer| layer.chosen.is_some())
}

fn class(record: &RepairRecord) -> &'static str {
    let better = record.rival.as_ref().is_none_or(|rival| {
        record.drawdown_test <= rival.drawdown_test && record.efficacy + 0.005 >= rival.measures.efficacy
    });
    match is_changed(record) {
        false => "loss",
        true if better => "gain",
        true => "open",
    }
}

/// What came out, in words.
fn verdict(record: &RepairRecord) -> String {
    let of_outputs = is_of_outputs(record);
    let samples = if of_outputs { "samples" } else { "images" };
    let size = |share: f64| cost(record, share).trim_start_matches('+').to_owned();
    if !is_changed(record) {
        return format!(
            "No change was found that loses at most {} on the held-back {samples}: the network is as it was.",
            cost(record, record.settings.max_drawdown).trim_start_matches('+')
        );
    }
    let loss = match record.drawdown_test {
        d if d > 0.0 && of_outputs => format!("The RMSE on the test samples grew by {}.", size(d)),
        d if d < 0.0 && of_outputs => format!("The RMSE on the test samples even fell by {}.", size(-d)),
        _ if of_outputs => "The RMSE on the test samples stayed the same.".into(),
        d if d > 0.0 => format!("It cost {} of accuracy on the test images.", size(d)),
        d if d < 0.0 => format!("On the test images the accuracy even rose by {}.", size(-d)),
        _ => "The accuracy on the test images stayed the same.".into(),
    };
    let rival = record.rival.as_ref().map(|rival| {
        format!(
            " Fine-tuning on the same {samples} made {} of them right, and the {} changed by {}.",
            percent(rival.measures.efficacy, 1),
            record.scores.measure.word(),
            cost(record, if of_outputs { rival.drawdown_test } else { -rival.drawdown_test })
        )
    });
    format!(
        "<b>{} of the given {samples} are {} now.</b> {loss}{}",
        percent(record.efficacy, 1),
        if of_outputs { "within tolerance" } else { "right" },
        rival.unwrap_or_default()
    )
}

fn weights_section(html: &mut String, layer: &RepairedLayer, weights: &WeightChange) {
    if weights.largest.is_empty() {
        return;
    }
    let all = weights.outputs * (weights.inputs + 1);
    push(
        html,
        format_args!(
            "<p>The weights of <b>{}</b> ({} outputs with {} inputs each) moved by {} of their length. Half of that change \
             lies in {} of its {} numbers.</p>\n",
            escape(&layer.layer),
            grouped(weights.outputs),
            grouped(weights.inputs),
            percent(layer.change_relative, 1),
            percent(weights.half_share, 1),
            grouped(all),
        ),
    );
    let mut outputs: Vec<(usize, [f64; 2])> = weights.by_output.iter().copied().enumerate().collect();
    outputs.sort_by(|a, b| b.1[0].total_cmp(&a.1[0]));
    let most = outputs.first().map_or(1.0, |(_, [change, _])| *change).max(f64::MIN_POSITIVE);
    let rows: Vec<Vec<String>> = outputs
        .iter()
        .take(LISTED)
        .map(|(output, [change, before])| {
            vec![
                format!("output {output}"),
                format!("<i class=\"bar\" style=\"width:{:.2}em\"></i> {}", 5.0 * change / most, number(*change)),
                percent(change / before.max(f64::MIN_POSITIVE), 1),
            ]
        })
        .collect();
    html.push_str("<div class=\"facts\"><div><h4>Outputs that changed most</h4>");
    html.push_str(&table("outputs that changed most", &["output", "change", "of its length"], &rows));
    let rows: Vec<Vec<String>> = weights
        .largest
        .iter()
        .take(LISTED)
        .map(|weight| {
            let input = weight.input.map_or("bias".into(), |input| format!("input {input}"));
            let difference = crate::page::signed(weight.after - weight.before, 4);
            vec![format!("output {}, {input}", weight.output), number(weight.before), number(weight.after), difference]
        })
        .collect();
    html.push_str("</div><div><h4>Single weights that changed most</h4>");
    html.push_str(&table("weights that changed most", &["weight", "before", "after", "difference"], &rows));
    html.push_str("</div></div>\n");
}

fn one_example(html: &mut String, repaired: &RepairedExample, record: &RepairRecord) -> Result<(), ReportError> {
    let (example, data) = (&repaired.example, &record.settings.data.name);
    let [label, before, after] = [example.label, example.predicted, repaired.predicted_after]
        .map(|class| named_class(&record.class_names, data, class));
    let result = if repaired.predicted_after == example.label { "right" } else { "still wrong" };
    push(
        html,
        format_args!(
            "<div class=\"example\"><h5>Label: {label}. Before: {before}; now: {after}, {result}.</h5><div class=\"facts\">\n"
        ),
    );
    html.push_str(&image_figure(&example.image, example.shape, &format!("image {}", example.sample))?);
    html.push_str("</div>\n");
    for feature in &example.features {
        let change = Change { shape: feature.shape, before: &feature.observed, after: &feature.target, image: false };
        let text = format!("moved by {}", percent(change.distance_relative(), 1));
        change_row(html, [&escape(&feature.stage), &text], &change, CAPTIONS)?;
    }
    html.push_str("</div>\n");
    Ok(())
}
