//! Figures of the targets, and pictures of a few.

use fbp_train::explain::Change;
use fbp_train::settings::{Embedding, Metric, TargetMode};
use fbp_train::targets::{Example, StageReport, TargetsReport};

use super::{Runs, paths};
use crate::ReportError;
use crate::page::{Captions, change_row, escape, grouped, image_figure, named_class, percent, push, table};

const CAPTIONS: Captions = Captions { before: "as it was", after: "as it should have been" };

/// Figures of the targets of every layer.
pub(super) fn figures(html: &mut String, targets: &TargetsReport) {
    html.push_str("<h4>The targets</h4>\n");
    let wanted = match targets.embedding {
        Embedding::Margin => format!("the right class leads every other by at least {}", targets.margin),
        Embedding::MaxAssign => "the right class is raised to the largest output".into(),
        Embedding::OneHot => "the output is 1 for the right class and 0 for the others".into(),
        Embedding::Tolerance => {
            format!("every output comes within {} of the wanted one", targets.tolerance.unwrap_or_default())
        }
    };
    let range = match targets.mode {
        TargetMode::Attainable => {
            "Only features that the layers below can produce are allowed; the layers above were considered all at once."
        }
        TargetMode::LayerWise => {
            "Only features that the layers below can produce are allowed, one layer after the other."
        }
        TargetMode::Point => {
            "These are the published point targets: they may ask for features that no layer below can produce."
        }
    };
    let metric = match targets.metric {
        Metric::Euclidean => "",
        Metric::Mahalanobis => {
            " Changes of the kind in which features of different images differ count as short (Mahalanobis metric)."
        }
    };
    let before = percent(targets.accuracy_before, 1);
    let (images, got, right, wrong) = match targets.tolerance {
        None => ("images", format!("got {before} right"), "right with targets", "of the wrong images"),
        Some(_) => (
            "samples",
            format!("had {before} within the tolerance"),
            "within tolerance with targets",
            "of those beyond it",
        ),
    };
    push(
        html,
        format_args!(
            "<p>For {} training {images} (of which the network {got}) we asked for the nearest features with which \
             {wanted}. {range}{metric} To check them, the targets of each layer were fed into the unchanged rest of the \
             network.</p>\n",
            grouped(targets.samples),
        ),
    );
    let rows: Vec<_> = targets.stages.iter().map(|stage| row(stage, targets.samples)).collect();
    let headings =
        ["layer", right, wrong, "moved by", "needed no change", "second attempt", "not attained", "largest miss"];
    html.push_str(&table("targets of every layer", &headings, &rows));
    html.push_str(
        "<details><summary>What the columns mean</summary><p class=\"small\"><b>Right with targets</b>: share of the images \
         that the unchanged rest of the network classifies as their label. <b>Moved by</b>: length of the change relative to \
         the features. <b>Needed no change</b>: images that already met the demand. <b>Second attempt</b>: images whose \
         target was found only on the other of the two ways, over all layers above at once and layer by layer. <b>Not \
         attained</b>: images for which no allowed feature was found that fulfils the whole demand, but for \
         the rounding of the outputs; they may still be classified right, with a smaller lead. <b>Largest miss</b>: how far the worst output stayed from what was \
         demanded.</p></details>\n",
    );
}

fn row(stage: &StageReport, samples: usize) -> Vec<String> {
    let share = |count: usize| percent(count as f64 / samples.max(1) as f64, 2);
    vec![
        escape(&stage.name),
        percent(stage.frozen_rest_accuracy, 3),
        percent(stage.frozen_rest_accuracy_of_wrong, 2),
        percent(stage.distance_relative, 2),
        share(stage.satisfied_before),
        grouped(stage.corrected),
        format!("{} ({})", grouped(stage.unattained), share(stage.unattained)),
        format!("{:.2e}", stage.violation_max).replace('-', "−"),
    ]
}

/// A few wrongly classified images, layer by layer.
///
/// # Errors
/// [`ReportError::Plot`].
pub(super) fn examples(html: &mut String, runs: &Runs, names: &[String]) -> Result<(), ReportError> {
    let (examples, data) = (&runs.examples, runs.subject().1);
    if examples.iter().any(|example| example.outputs.is_some()) {
        let tolerance = runs.targets.as_ref().and_then(|targets| targets.tolerance);
        paths::examples(html, examples, tolerance.unwrap_or_default());
        return Ok(());
    }
    html.push_str("<h4>A few wrong images, layer by layer</h4>\n");
    html.push_str(
        "<p>Training images that the network got wrong. For each layer: its features as they were, as they should have \
         been, and the difference. Each small square is one channel, a map of where the layer found what it looks for. The \
         first two pictures share a colour scale; in the third <b>red</b> means that the layer should have said more, \
         <b>blue</b> less, on a scale of its own.</p>\n",
    );
    for (index, example) in examples.iter().enumerate() {
        if index == 2 {
            push(
                html,
                format_args!("<details class=\"screen\"><summary>{} more images</summary>\n", examples.len() - 2),
            );
        }
        one_example(html, example, data, names)?;
    }
    if examples.len() > 2 {
        html.push_str("</details>\n");
    }
    Ok(())
}

fn one_example(html: &mut String, example: &Example, data: &str, names: &[String]) -> Result<(), ReportError> {
    let [label, predicted] = [example.label, example.predicted].map(|class| named_class(names, data, class));
    push(
        html,
        format_args!(
            "<div class=\"example\"><h5>Label: {label}. The network said: {predicted}.</h5><div class=\"facts\">\n"
        ),
    );
    let caption = format!("image {}", example.sample);
    html.push_str(&image_figure(&example.image, example.shape, &caption)?);
    html.push_str("</div>\n");
    for feature in &example.features {
        let change = Change { shape: feature.shape, before: &feature.observed, after: &feature.target, image: false };
        let text = format!("moved by {}", percent(change.distance_relative(), 1));
        change_row(html, [&escape(&feature.stage), &text], &change, CAPTIONS)?;
    }
    html.push_str("</div>\n");
    Ok(())
}
