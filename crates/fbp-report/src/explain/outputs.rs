//! Explanations of outputs that are no classes: the path as planned and as it should have been, and which units would have had to
//! say what.

use fbp_train::explain::{ExplainRecord, ExplainSettings, ExplainedSample, ExplainedStage, Explanation, INPUT};

use super::page::origin;
use crate::ReportError;
use crate::page::{
    Captions, Named, Shown, change_row, document, errors_of, escape, grouped, number, outputs_figure, percent, push,
    table, units,
};

/// The whole page.
///
/// # Errors
/// [`ReportError::Plot`].
pub(super) fn render(record: &ExplainRecord, explanation: &Explanation) -> Result<String, ReportError> {
    let settings = &record.settings;
    let title = format!("What the layers should have said: {} on {}", settings.model, settings.data.name);
    let mut body = String::new();
    introduction(&mut body, record, explanation);
    for sample in &explanation.samples {
        sample_section(&mut body, sample, settings)?;
    }
    push(
        &mut body,
        format_args!(
            "<h2>How this was made</h2><p class=\"small\">Checkpoint <span class=\"hash\">{}</span>. Targets: {}, tolerance {}. \
             {}. Every figure is in <code>explain.json</code>, every picture beside it as a PNG file. Method: \
             arXiv:2506.07188.</p>\n",
            escape(&settings.checkpoint_sha256),
            settings.mode,
            settings.tolerance.unwrap_or_default(),
            origin(settings),
        ),
    );
    Ok(document(&title, &body))
}

/// Whether the samples are trajectories.
fn are_paths(explanation: &Explanation) -> bool {
    explanation.samples.iter().any(|sample| sample.pose.is_some())
}

fn introduction(body: &mut String, record: &ExplainRecord, explanation: &Explanation) {
    let settings = &record.settings;
    let (what, paths) = if are_paths(explanation) { ("a path", "path") } else { ("numbers", "output") };
    push(
        body,
        format_args!(
            "<p class=\"lead\">A network turns its inputs into features, layer by layer, and the last features into {what}. Here \
             the way back is shown: from the {paths} that was wanted we computed, for every layer, the features that it \
             <em>should have</em> given, changing them as little as possible.</p>\n<p>With these features, each output comes \
             within <b>{}</b> of the wanted one, if the layers above stay as they are. Only features that the layers below can \
             produce are allowed.</p>\n",
            settings.tolerance.unwrap_or_default()
        ),
    );
    body.push_str(
        "<p><b>How to read the units.</b> Each row is one unit of a layer. The ring is what it said, the dot what it would have \
         had to say: <b>red</b> for more, <b>blue</b> for less.</p>\n",
    );
    let (shown, chosen) = (record.samples.len(), record.chosen);
    if shown < chosen {
        push(
            body,
            format_args!(
                "<p>The choice <code>{}</code> names {} samples; the first {shown} are shown.</p>\n",
                escape(&settings.samples),
                grouped(chosen)
            ),
        );
    }
}

fn sample_section(body: &mut String, sample: &ExplainedSample, settings: &ExplainSettings) -> Result<(), ReportError> {
    let tolerance = settings.tolerance.unwrap_or_default();
    let (largest, displacement) = errors_of(&sample.logits, &sample.wanted, sample.pose);
    let heading = match displacement {
        Some(displacement) => format!("a path {} off on average, {} at most", number(displacement), number(largest)),
        None => format!("an output off by {}", number(largest)),
    };
    push(
        body,
        format_args!("<div class=\"example\"><h2>Sample {}: {heading}</h2><div class=\"facts\">\n", sample.sample),
    );
    let first = sample.stages.iter().find(|stage| stage.stage != INPUT);
    let name = first.map(|stage| format!("with the target of {}", escape(&stage.stage))).unwrap_or_default();
    let shown = Shown {
        wanted: &sample.wanted,
        before: Named { name: "as planned", values: &sample.logits },
        after: first.map(|stage| Named { name: &name, values: &stage.logits }),
        pose: sample.pose,
        tolerance,
    };
    body.push_str(&outputs_figure(&shown, &format!("sample {} from above", sample.sample)));
    push(body, format_args!("<div>{}</div></div>\n", stages_table(sample, tolerance)));
    if sample.satisfied {
        body.push_str("<p>Every output was within the tolerance already: nothing has to change.</p>\n");
    }
    for stage in sample.stages.iter().filter(|_| !sample.satisfied) {
        stage_section(body, stage)?;
    }
    body.push_str("</div>\n");
    Ok(())
}

/// Errors before and with the target of every layer.
fn stages_table(sample: &ExplainedSample, tolerance: f64) -> String {
    let row = |name: String, outputs: &[f32], moved: String| {
        let (largest, displacement) = errors_of(outputs, &sample.wanted, sample.pose);
        let cell = if largest <= tolerance * (1.0 + 1e-3) {
            format!("<span class=\"best\">{}</span>", number(largest))
        } else {
            number(largest)
        };
        vec![name, cell, displacement.map_or("–".into(), number), moved]
    };
    let mut rows = vec![row("as planned".into(), &sample.logits, "–".into())];
    for stage in &sample.stages {
        let name = if stage.stage == INPUT { "the input".to_owned() } else { escape(&stage.stage) };
        let moved = percent(stage.change().distance_relative(), 2);
        rows.push(row(format!("with target of {name}"), &stage.logits, moved));
    }
    let headings = ["features", "largest error", "mean distance", "moved by"];
    table(&format!("errors of sample {}", sample.sample), &headings, &rows)
}

fn stage_section(body: &mut String, stage: &ExplainedStage) -> Result<(), ReportError> {
    let change = stage.change();
    let name = if stage.stage == INPUT { "the input" } else { &stage.stage };
    let result = match stage.attained {
        true => "With it, every output comes within the tolerance.",
        false => "This is as close as the search came: some output stays outside the tolerance.",
    };
    let changed = change.before.iter().zip(change.after).filter(|(before, after)| before != after).count();
    let text = format!(
        "Moved by {} of its length, {} of {} units. {result}",
        percent(change.distance_relative(), 1),
        grouped(changed),
        grouped(change.before.len())
    );
    let drawing = units(&change, name);
    if drawing.is_empty() {
        return Ok(());
    }
    push(
        body,
        format_args!(
            "<h3>{}</h3><p>{text}</p><figure>{drawing}<figcaption>units that would have had to change most</figcaption></figure>\n\
             <details class=\"screen\"><summary>All of its units</summary>\n",
            escape(name)
        ),
    );
    let captions = Captions { before: "as it was", after: "as it should have been" };
    change_row(body, [&escape(name), "every unit a square"], &change, captions)?;
    body.push_str("</details>\n");
    Ok(())
}
