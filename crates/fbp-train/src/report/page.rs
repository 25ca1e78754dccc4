use super::html::{duration, escape, grouped, percent, push, table};
use super::picture::{Picture, Scale};
use super::{Comparison, Runs, training};
use crate::TrainError;
use crate::record::{Example, ExampleFeature, StageReport, TargetsReport};
use crate::settings::{Embedding, TargetMode};

/// The classes of Fashion-MNIST, in the order of its labels.
const FASHION: [&str; 10] =
    ["T-shirt/top", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"];

/// The whole page.
///
/// # Errors
/// [`TrainError::Plot`].
pub(super) fn render(runs: &Runs, comparisons: &[Comparison]) -> Result<String, TrainError> {
    let (model, data) = runs.subject();
    let title = format!("What the layers should have said: {} on {}", escape(model), escape(data));
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{}</style></head><body>\n<h1>{title}</h1>\n",
        include_str!("style.css")
    );
    html.push_str(
        "<p>A trained network turns an image into features, layer by layer, and the last features into a class. Feature \
         back-propagation goes the other way: from the right class it computes what the features of every layer \
         <em>should have been</em>, changing them as little as possible. These are the targets. They show where a \
         network went wrong, and they can train the layers below.</p>\n",
    );
    key_figures(&mut html, runs);
    if let Some(targets) = &runs.targets {
        targets_section(&mut html, targets);
    }
    if !runs.post_train.is_empty() {
        training::section(&mut html, runs, comparisons)?;
    }
    if !runs.examples.is_empty() {
        examples_section(&mut html, runs, data);
    }
    origin_section(&mut html, runs);
    html.push_str("</body></html>\n");
    Ok(html)
}

fn key_figures(html: &mut String, runs: &Runs) {
    html.push_str("<ul class=\"figures\">");
    let mut item = |value: String, text: &str| push(html, format_args!("<li><b>{value}</b>{text}</li>"));
    if let Some(record) = &runs.pretrain {
        item(percent(record.test_accuracy, 2), "of the test images right after the first training");
        item(duration(record.seconds_per_epoch), "for one pass over the training images");
    }
    if let Some(targets) = &runs.targets {
        let worst = targets.stages.iter().map(|stage| stage.frozen_rest_accuracy).fold(1.0, f64::min);
        item(percent(worst, 2), "of the training images right when a layer is given its targets (worst layer)");
        item(grouped(targets.images_per_second.round() as usize), "images per second, targets of all layers");
    }
    if !runs.post_train.is_empty() {
        item(runs.post_train.len().to_string(), "post-training runs");
    }
    html.push_str("</ul>\n");
}

fn targets_section(html: &mut String, targets: &TargetsReport) {
    html.push_str("<h2>The targets</h2>\n");
    let wanted = match targets.embedding {
        Embedding::Margin => format!("the right class leads every other by at least {}", targets.margin),
        Embedding::MaxAssign => "the right class is raised to the largest output".into(),
        Embedding::OneHot => "the output is 1 for the right class and 0 for the others".into(),
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
    push(
        html,
        format_args!(
            "<p>For {} training images (of which the network got {} right) we asked for the nearest features with which \
             {wanted}. {range} To check them, the targets of each layer were fed into the unchanged rest of the \
             network.</p>\n",
            grouped(targets.samples),
            percent(targets.accuracy_before, 1),
        ),
    );
    let rows: Vec<_> = targets.stages.iter().map(|stage| target_row(stage, targets.samples)).collect();
    let headings = [
        "layer",
        "right with targets",
        "of the wrong images",
        "moved by",
        "needed no change",
        "second attempt",
        "not attained",
        "largest miss",
    ];
    html.push_str(&table(&headings, &rows));
    html.push_str(
        "<p class=\"small\"><b>Right with targets</b>: share of the images that the unchanged rest of the network classifies \
         as their label. <b>Moved by</b>: length of the change relative to the features. <b>Needed no change</b>: images \
         that already met the demand. <b>Second attempt</b>: images whose target was found only on the other of the two ways, \
         over all layers above at once and layer by layer. <b>Not attained</b>: images for which no allowed feature was found that fulfils the \
         whole demand; they may still be classified right, with a smaller lead. <b>Largest miss</b>: how far the worst \
         output stayed from what was demanded.</p>\n",
    );
}

fn target_row(stage: &StageReport, samples: usize) -> Vec<String> {
    let share = |count: usize| percent(count as f64 / samples.max(1) as f64, 2);
    vec![
        escape(&stage.name),
        percent(stage.frozen_rest_accuracy, 3),
        percent(stage.frozen_rest_accuracy_of_wrong, 2),
        percent(stage.distance_relative, 2),
        share(stage.satisfied_before),
        grouped(stage.corrected),
        format!("{} ({})", grouped(stage.unattained), share(stage.unattained)),
        format!("{:.2e}", stage.violation_max),
    ]
}

fn examples_section(html: &mut String, runs: &Runs, data: &str) {
    html.push_str("<h2>A few wrong images, layer by layer</h2>\n");
    html.push_str(
        "<p>Training images that the network got wrong. For each layer: the features as they were, as they should have \
         been, and the difference of the two, all on the same colour scale. Each small square is one channel of the \
         layer. Where the difference is coloured, the layer would have had to say something else. The \
         strength of a colour grows with the square root of the value, so that small values show.</p>\n",
    );
    let limits: Vec<(String, f32)> = runs.stages().into_iter().map(|stage| limit_of(stage, &runs.examples)).collect();
    for (stage, limit) in limits.iter().filter(|(_, limit)| *limit > 0.0) {
        let bar = Picture::legend().html(Scale::Diverging { limit: *limit }, 1, "colour scale");
        push(
            html,
            format_args!(
                "<div class=\"legend\"><span>{}: −{limit:.2}</span>{bar}<span>+{limit:.2}</span></div>\n",
                escape(stage)
            ),
        );
    }
    for example in &runs.examples {
        example_rows(html, example, &limits, data);
    }
}

/// Largest value of a stage over all examples, which fixes its colour scale.
fn limit_of(stage: String, examples: &[Example]) -> (String, f32) {
    let features = examples.iter().flat_map(|example| &example.features).filter(|feature| feature.stage == stage);
    let values = features.flat_map(|f| {
        let differences = f.target.iter().zip(&f.observed).map(|(target, observed)| target - observed);
        f.observed.iter().chain(&f.target).copied().chain(differences)
    });
    let limit = values.fold(0.0, |limit: f32, value| limit.max(value.abs()));
    (stage, limit)
}

fn example_rows(html: &mut String, example: &Example, limits: &[(String, f32)], data: &str) {
    let (label, predicted) = (class_name(data, example.label), class_name(data, example.predicted));
    push(
        html,
        format_args!(
            "<div class=\"example\"><h3>Label: {label}. The network said: {predicted}.</h3><div class=\"pictures\">\n"
        ),
    );
    let image = Picture::of_feature(&example.image, example.shape, Scale::Grey);
    let text = format!("the image: {label}");
    push(
        html,
        format_args!(
            "<figure>{}<figcaption>image {}</figcaption></figure>\n",
            image.html(Scale::Grey, 3, &text),
            example.sample
        ),
    );
    html.push_str("</div>\n");
    for feature in &example.features {
        let limit = limits.iter().find(|(stage, _)| *stage == feature.stage).map_or(0.0, |(_, limit)| *limit);
        feature_row(html, feature, limit);
    }
    html.push_str("</div>\n");
}

fn feature_row(html: &mut String, feature: &ExampleFeature, limit: f32) {
    let scale = Scale::Diverging { limit };
    let difference: Vec<f32> = feature.target.iter().zip(&feature.observed).map(|(t, o)| t - o).collect();
    let norm = |values: &[f32]| values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let moved = norm(&difference) / norm(&feature.observed).max(f64::MIN_POSITIVE);
    let stage = escape(&feature.stage);
    push(html, format_args!("<p><b>{stage}</b>, moved by {}</p><div class=\"pictures\">\n", percent(moved, 1)));
    for (what, values) in [("observed", &feature.observed), ("target", &feature.target), ("difference", &difference)] {
        let picture = Picture::of_feature(values, feature.shape, scale);
        let zoom = (200 / picture.width.max(1)).clamp(2, 14);
        let image = picture.html(scale, zoom, &format!("{what} features of {stage}"));
        push(html, format_args!("<figure>{image}<figcaption>{what}</figcaption></figure>\n"));
    }
    html.push_str("</div>\n");
}

/// Name of a class, as HTML.
fn class_name(data: &str, label: u32) -> String {
    let fashion = FASHION.get(label as usize).filter(|_| data.starts_with("fashion-mnist"));
    fashion.map_or_else(|| format!("class {label}"), |name| (*name).to_owned())
}

fn origin_section(html: &mut String, runs: &Runs) {
    html.push_str("<h2>How this was made</h2>\n<div class=\"small\">\n");
    if let Some(record) = &runs.pretrain {
        let s = &record.settings;
        push(
            html,
            format_args!(
                "<p>First training: {} numbers to learn, {} epochs, batches of {}, AdamW with learning rate {:e} ({}), weight \
                 decay {}, seed {}, {} of the training images held back for validation; {} threads. Checkpoint {}.</p>\n",
                grouped(record.parameters),
                s.epochs,
                s.batch,
                s.learning_rate,
                s.schedule,
                s.weight_decay,
                s.seed,
                percent(s.validation, 0),
                record.threads,
                escape(&record.checkpoint_sha256),
            ),
        );
    }
    if let Some(run) = runs.post_train.first() {
        let s = &run.settings;
        push(
            html,
            format_args!(
                "<p>Post-training: {} epochs, batches of {}, AdamW with learning rate {:e}, weight decay {}; the weight of the \
                 distance is α times the ratio of the running means of the two goals, between 1e-5 and 10.</p>\n",
                s.epochs, s.batch, s.learning_rate, s.weight_decay,
            ),
        );
    }
    html.push_str(
        "<p>Method: arXiv:2506.07188. All figures on this page are in the JSON records beside it, in short in \
         <code>summary.json</code>.</p>\n</div>\n",
    );
}
