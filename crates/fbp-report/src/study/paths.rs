//! Samples with outputs in place of labels: the worst ones with their targets, and repaired ones before and after.

use fbp_train::evaluate::ErrorMeasures;
use fbp_train::explain::Change;
use fbp_train::repair::{RepairErrors, RepairRecord, RepairedExample};
use fbp_train::targets::{Example, OutputExample};

use crate::page::{
    Drawn, Named, Shown, Stroke, View, birds_eye, ends_of, errors_of, escape, number, outputs_figure, percent, push,
    stroke_keys, table, units, with_errors,
};

/// Samples that are not folded away.
const OPEN: usize = 2;

/// The samples with the largest errors, and which units of every layer would have had to say what.
pub(super) fn examples(html: &mut String, examples: &[Example], tolerance: f64) {
    html.push_str(
        "<h4>The worst samples, layer by layer</h4>\n<p>Training samples with the largest errors. For each layer: which of its \
         units would have had to say what. The ring is what a unit said, the dot what it should have said: <b>red</b> for more, \
         <b>blue</b> for less. The green tube is what counts as right.</p>\n",
    );
    for (index, example) in examples.iter().enumerate() {
        if index == OPEN {
            let more = examples.len() - OPEN;
            push(html, format_args!("<details class=\"screen\"><summary>{more} more samples</summary>\n"));
        }
        if let Some(outputs) = &example.outputs {
            one_example(html, example, outputs, tolerance);
        }
    }
    if examples.len() > OPEN {
        html.push_str("</details>\n");
    }
}

fn one_example(html: &mut String, example: &Example, outputs: &OutputExample, tolerance: f64) {
    let OutputExample { wanted, found, pose } = outputs;
    let (largest, displacement) = errors_of(found, wanted, *pose);
    let off = match displacement {
        Some(displacement) => format!("{} off on average, {} at most", number(displacement), number(largest)),
        None => format!("off by {}", number(largest)),
    };
    push(html, format_args!("<div class=\"example\"><h5>Sample {}: {off}</h5><div class=\"facts\">\n", example.sample));
    let before = Named { name: "as planned", values: found };
    let shown = Shown { wanted, before, after: None, pose: *pose, tolerance };
    html.push_str(&outputs_figure(&shown, &format!("sample {} from above", example.sample)));
    for feature in &example.features {
        let change = Change { shape: feature.shape, before: &feature.observed, after: &feature.target, image: false };
        let drawing = units(&change, &feature.stage);
        if !drawing.is_empty() {
            push(
                html,
                format_args!(
                    "<figure>{drawing}<figcaption>{}, moved by {}</figcaption></figure>\n",
                    escape(&feature.stage),
                    percent(change.distance_relative(), 2)
                ),
            );
        }
    }
    html.push_str("</div></div>\n");
}

/// Errors of a repair before and after, and its samples from above.
pub(super) fn repaired(html: &mut String, record: &RepairRecord) {
    if let Some(errors) = &record.errors {
        html.push_str(&errors_table(errors));
    }
    let tolerance = record.settings.tolerance.unwrap_or_default();
    let pairs: Vec<(&RepairedExample, &OutputExample, usize)> = record
        .examples
        .iter()
        .filter_map(|example| {
            let outputs = example.example.outputs.as_ref()?;
            Some((example, outputs, outputs.pose?))
        })
        .collect();
    if pairs.is_empty() {
        return;
    }
    let drawn = |poses, pose, stroke| Drawn { poses, pose, stroke };
    let wanted = || pairs.iter().map(|(_, outputs, pose)| drawn(&outputs.wanted[..], *pose, Stroke::Wanted));
    let before = || pairs.iter().map(|(_, outputs, pose)| drawn(&outputs.found[..], *pose, Stroke::Before));
    let after = || pairs.iter().map(|(example, _, pose)| drawn(&example.found_after[..], *pose, Stroke::After));
    let ends = ends_of(wanted().chain(before()).chain(after()));
    let view = View { tolerance, many: true, ends };
    let wanted: Vec<Drawn<'_>> = wanted().collect();
    let [before, after] = [before().collect::<Vec<_>>(), after().collect()];
    push(
        html,
        format_args!(
            "<p>{} of the repaired samples from above. Green: as they should be, in a tube of what counts as right. Red lines \
             join each pose with the wanted one.</p>\n<div class=\"charts\">{}{}</div>\n<figure>{}</figure>\n",
            pairs.len(),
            panel("before", &wanted, &before, view),
            panel("after", &wanted, &after, view),
            stroke_keys(&[
                (Stroke::Wanted, "as it should be"),
                (Stroke::Before, "before the repair"),
                (Stroke::After, "after the repair"),
            ]),
        ),
    );
}

/// All paths at one time, joined with those wanted.
fn panel(title: &str, wanted: &[Drawn<'_>], found: &[Drawn<'_>], view: View) -> String {
    let all: Vec<Drawn<'_>> = wanted.iter().chain(found).copied().collect();
    let lines: Vec<(Drawn<'_>, Drawn<'_>)> = found.iter().copied().zip(wanted.iter().copied()).collect();
    let svg = with_errors(birds_eye(&all, view, &format!("{} paths {title} the repair", found.len())), &lines, view);
    format!("<figure><h5>{title} the repair</h5>{svg}</figure>")
}

fn errors_table(errors: &RepairErrors) -> String {
    type Get = fn(&ErrorMeasures) -> Option<f64>;
    let measures: [(&str, Get); 4] = [
        ("ADE", |errors| errors.ade),
        ("FDE", |errors| errors.fde),
        ("RMSE", |errors| Some(errors.rmse)),
        ("MAE", |errors| Some(errors.mae)),
    ];
    let of = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.4}"));
    let rows: Vec<Vec<String>> = [
        ("repaired samples", &errors.cases_before, &errors.cases_after),
        ("all others", &errors.others_before, &errors.others_after),
    ]
    .into_iter()
    .flat_map(|(name, before, after)| {
        measures.iter().filter(|(_, get)| get(before).is_some()).map(move |(measure, get)| {
            vec![format!("{name} ({})", before.samples), (*measure).to_owned(), of(get(before)), of(get(after))]
        })
    })
    .collect();
    table("errors before and after the repair", &["samples", "measure", "before", "after"], &rows)
}
