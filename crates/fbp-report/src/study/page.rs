use fbp_train::evaluate::ErrorMeasures;
use fbp_train::settings::Measure;

use super::groups::Group;
use super::rows::Rows;
use super::verdict::overall;
use super::{Comparison, Runs, Study, classes, noise, origin, repairs, targets, training};
use crate::ReportError;
use crate::page::{document, duration, escape, grouped, number, percent, push};
use crate::statistics::Spread;

/// The whole page.
///
/// # Errors
/// [`ReportError::Plot`].
pub(super) fn render(study: &Study, comparisons: &[Comparison]) -> Result<String, ReportError> {
    let subjects = study.subjects();
    let title = match &study.all_subjects()[..] {
        [one] => format!("What the layers should have said: {one}"),
        _ => "What the layers should have said".into(),
    };
    let mut html = String::new();
    introduction(&mut html, study);
    in_short(&mut html, study);
    for subject in &subjects {
        push(&mut html, format_args!("<h2>{}</h2>\n", escape(subject)));
        let starts: Vec<&Runs> = study.starts.iter().filter(|runs| subject_of(runs) == *subject).collect();
        for runs in &starts {
            push(&mut html, format_args!("<h3>{}</h3>\n", start_heading(runs)));
            start_section(&mut html, runs, comparisons)?;
        }
    }
    if !study.repairs.is_empty() {
        repairs::section(&mut html, &study.repairs)?;
    }
    classes::section(&mut html, &study.evaluations);
    noise::section(&mut html, &study.evaluations);
    closing(&mut html, study);
    Ok(document(&title, &html))
}

impl Study {
    /// Networks and data, in their order.
    fn subjects(&self) -> Vec<String> {
        let mut subjects: Vec<String> = self.starts.iter().map(subject_of).collect();
        subjects.dedup();
        subjects
    }

    /// Networks and data of everything on the page.
    fn all_subjects(&self) -> Vec<String> {
        let mut subjects = self.subjects();
        let repairs = self.repairs.iter().map(|record| (&record.settings.model, &record.settings.data.name));
        let evaluations = self.evaluations.iter().map(|record| (&record.model, &record.data));
        for (model, data) in repairs.chain(evaluations) {
            let subject = format!("{model} on {data}");
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
        subjects
    }
}

fn subject_of(runs: &Runs) -> String {
    let (model, data) = runs.subject();
    format!("{model} on {data}")
}

/// What the runs started from, as HTML.
fn start_heading(runs: &Runs) -> String {
    let scores: Vec<f64> = runs.post_train.iter().map(|run| run.scores.before).collect();
    let before = Spread::of(&scores).map(|spread| spread.mean);
    let before = before.or(runs.pretrain.as_ref().map(|record| record.scores.test));
    let score = before.map(|score| match runs.measure() {
        Measure::Accuracy => format!(", {} of the test images right", percent(score, 2)),
        Measure::Rmse => format!(", test RMSE {}", number(score)),
    });
    format!("Start: {}{}", escape(&runs.start_name()), score.unwrap_or_default())
}

/// What this is about, of images.
const LEAD: &str = "<p class=\"lead\">A trained network turns an image into features, layer by layer, and the last features into a class. \
         Feature back-propagation goes the other way: from the right class it computes what the features of every layer \
         <em>should have been</em>, changing them as little as possible. These are the <b>targets</b>.</p>\n";

fn introduction(html: &mut String, study: &Study) {
    if study.starts.iter().any(|runs| runs.measure() == Measure::Rmse) {
        html.push_str(
            "<p class=\"lead\">A trained network turns its inputs into features, layer by layer, and the last features into \
             outputs, such as the path of a vehicle. Feature back-propagation goes the other way: from the outputs that were \
             wanted it computes what the features of every layer <em>should have been</em>, changing them as little as possible. \
             These are the <b>targets</b>.</p>\n",
        );
    } else {
        html.push_str(LEAD);
    }
    let mut sentences = Vec::new();
    if study.starts.iter().any(|runs| !runs.examples.is_empty() || runs.targets.is_some()) {
        sentences.push("They show where a network went wrong.");
    }
    if study.starts.iter().any(|runs| !runs.post_train.is_empty()) {
        sentences.push(
            "A layer can be trained to give them (<b>post-training</b>); whether that is better than simply training on is \
             measured below.",
        );
    }
    if !study.repairs.is_empty() {
        sentences.push(
            "What one layer should have given also tells how its weights must change so that given images become right \
             (<b>repair</b>).",
        );
    }
    if !sentences.is_empty() {
        push(html, format_args!("<p>{}</p>\n", sentences.join(" ")));
    }
}

/// Key figures, and for every start one sentence that says what came out.
fn in_short(html: &mut String, study: &Study) {
    html.push_str("<ul class=\"figures\">");
    let mut item = |value: String, text: &str| push(html, format_args!("<li><b>{value}</b>{text}</li>"));
    if let [runs] = &study.starts[..] {
        if let Some(record) = &runs.pretrain {
            let elsewhere = runs.pretrained_elsewhere().map(|data| format!(" of {data}")).unwrap_or_default();
            match &record.test_errors {
                None => {
                    let text = format!("of the test images{} right after the first training", escape(&elsewhere));
                    item(percent(record.scores.test, 2), &text);
                }
                Some(errors) => error_items(errors, &mut item),
            }
            item(duration(record.seconds_per_epoch), "for one pass over the training data");
        }
        if let Some(targets) = &runs.targets {
            let worst = targets.stages.iter().map(|stage| stage.frozen_rest_accuracy).fold(1.0, f64::min);
            let (right, samples) = match targets.tolerance {
                None => ("of the training images right when a layer is given its targets (worst layer)", "images"),
                Some(_) => (
                    "of the training samples within tolerance when a layer is given its targets (worst layer)",
                    "samples",
                ),
            };
            item(percent(worst, 2), right);
            let text = format!("{samples} per second, targets of all layers");
            item(grouped(targets.images_per_second.round() as usize), &text);
        }
    } else if !study.starts.is_empty() {
        item(study.starts.len().to_string(), "starts: networks, data and states of training");
    }
    let runs: usize = study.starts.iter().map(|start| start.post_train.len()).sum();
    if runs > 0 {
        item(grouped(runs), if runs == 1 { "post-training run" } else { "post-training runs" });
    }
    if !study.repairs.is_empty() {
        item(study.repairs.len().to_string(), if study.repairs.len() == 1 { "repair" } else { "repairs" });
    }
    html.push_str("</ul>\n");
    let several = study.starts.len() > 1;
    for runs in study.starts.iter().filter(|_| several) {
        let groups = Group::all(runs);
        if let Some(verdict) = overall(&Rows::new(&groups)) {
            let first = verdict.text.split("</p><p>").next().unwrap_or_default().to_owned();
            let start = escape(&format!("{}, {}", subject_of(runs), runs.start_name()));
            push(
                html,
                format_args!("<div class=\"verdict {}\"><p>{start}. {first}</p></div>\n", verdict.shown.class()),
            );
        }
    }
}

/// Errors of outputs after the first training.
fn error_items(errors: &ErrorMeasures, item: &mut dyn FnMut(String, &str)) {
    match (errors.ade, errors.fde) {
        (Some(ade), Some(fde)) => {
            item(number(ade), "mean distance of a test pose from the wanted one (ADE) after the first training");
            item(number(fde), "of the last pose (FDE)");
        }
        _ => item(number(errors.rmse), "root mean squared error on the test samples after the first training"),
    }
}

fn start_section(html: &mut String, runs: &Runs, comparisons: &[Comparison]) -> Result<(), ReportError> {
    if !runs.post_train.is_empty() {
        training::section(html, runs, comparisons)?;
    }
    if let Some(report) = &runs.targets {
        targets::figures(html, report);
    }
    if !runs.examples.is_empty() {
        let names = runs.pretrain.as_ref().map_or(&[][..], |record| &record.class_names);
        targets::examples(html, runs, names)?;
    }
    origin::section(html, runs);
    Ok(())
}

fn closing(html: &mut String, study: &Study) {
    html.push_str("<h2>About this page</h2>\n<div class=\"small\">\n");
    for note in &study.notes {
        push(html, format_args!("<p>Note: {}.</p>\n", escape(note)));
    }
    html.push_str(
        "<p>Method: arXiv:2506.07188. All figures on this page are in the JSON records that it was made from, in short in \
         <code>summary.json</code>, the comparisons in <code>comparisons.csv</code>, <code>.json</code>, <code>.md</code> \
         and <code>.tex</code>.</p>\n</div>\n",
    );
}
