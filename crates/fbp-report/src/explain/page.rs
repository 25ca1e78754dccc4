use fbp_train::explain::{
    ExplainRecord, ExplainSettings, ExplainedSample, ExplainedStage, Explanation, INPUT, SampleRecord, StageRecord,
};
use fbp_train::settings::{Embedding, Part, TargetMode};

use crate::ReportError;
use crate::page::{
    Captions, change_row, class_name, document, escape, grouped, image_figure, number, percent, push, signed, table,
    table_of_parts,
};

/// Columns of a table of outputs that fit on a telephone.
const OUTPUTS: usize = 5;
/// Most classes of which all outputs are listed, and how many of more are.
const ALL_CLASSES: usize = 20;
const SOME_CLASSES: usize = 10;
/// Channels that the page lists for a stage.
const CHANNELS: usize = 4;

/// What the two pictures of a row are: a target that does not give the right class is not what should have been.
fn captions(stage: &ExplainedStage, label: u32) -> Captions {
    let after = match (stage.predicted() == label, stage.attained) {
        (true, true) => "as it should have been",
        (true, false) => "right, with a smaller lead",
        (false, _) => "as close as the search came, still wrong",
    };
    Captions { before: "as it was", after }
}

/// The whole page.
///
/// # Errors
/// [`ReportError::Plot`].
pub(super) fn render(record: &ExplainRecord, explanation: &Explanation) -> Result<String, ReportError> {
    let settings = &record.settings;
    let title = match settings.own {
        true => format!("What the network should have seen: {} on images of your own", settings.model),
        false => format!("What the network should have seen: {} on {}", settings.model, settings.data.name),
    };
    let mut body = String::new();
    introduction(&mut body, record);
    for (sample, summary) in explanation.samples.iter().zip(&record.samples) {
        sample_section(&mut body, sample, summary, settings)?;
    }
    push(
        &mut body,
        format_args!(
            "<h2>How this was made</h2><p class=\"small\">Checkpoint <span class=\"hash\">{}</span>. Targets: {}, {}, \
             margin {}. {}. Every figure is in <code>explain.json</code>, every picture beside it \
             as a PNG file. Method: arXiv:2506.07188.</p>\n",
            escape(&settings.checkpoint_sha256),
            settings.mode,
            settings.embedding,
            settings.margin,
            origin(settings),
        ),
    );
    Ok(document(&title, &body))
}

/// Name of a class, as HTML.
fn class_of(settings: &ExplainSettings, label: u32) -> String {
    let told = settings.class_names.get(label as usize);
    told.map_or_else(|| class_name(&settings.data.name, label), |name| escape(name))
}

/// Where the images are from, as HTML.
pub(super) fn origin(settings: &ExplainSettings) -> String {
    let of_outputs = settings.tolerance.is_some();
    let (name, samples) = (escape(&settings.data.name), grouped(settings.data.samples));
    match (settings.own, settings.part) {
        (true, _) => format!("Images of your own: {name}, {samples} in all"),
        (false, Part::Train) if of_outputs => format!("Data: {name}, {samples} training samples"),
        (false, Part::Test) if of_outputs => format!("Data: the test samples of {name}"),
        (false, Part::Train) => format!("Data: {name}, {samples} training images"),
        (false, Part::Test) => format!("Data: the test images of {name}"),
    }
}

fn introduction(body: &mut String, record: &ExplainRecord) {
    let settings = &record.settings;
    body.push_str(
        "<p class=\"lead\">A network turns an image into features, stage by stage, and the last features into one number for \
         each class; the largest number wins. Here the way back is shown: from the right class we computed, for every \
         stage, the features that it <em>should have</em> given.</p>\n",
    );
    let wanted = match settings.embedding {
        Embedding::Margin => format!("the right class leads every other one by at least {}", settings.margin),
        Embedding::MaxAssign => "the right class is raised to the largest number".into(),
        Embedding::OneHot => "the number is 1 for the right class and 0 for the others".into(),
        Embedding::Tolerance => {
            format!("every output is within {} of the wanted one", settings.tolerance.unwrap_or_default())
        }
    };
    let kind = match settings.mode {
        TargetMode::Attainable => "They are the nearest features found with which",
        TargetMode::LayerWise => "They were made nearest one layer after the other, so that",
        TargetMode::Point => "They are the published point targets, which no layer may be able to produce; with them",
    };
    push(body, format_args!("<p>{kind} {wanted}, if the rest of the network stays as it is."));
    match &record.input_note {
        Some(note) => push(body, format_args!(" The image itself is left out: {}.</p>\n", escape(note))),
        None => body.push_str(
            " For the input we looked for the nearest image, from black to white, that the network would have got right. Where \
             none was found, the row and the caption of the picture say so.</p>\n",
        ),
    }
    body.push_str(
        "<p><b>How to read the pictures.</b> Each square is one channel of a stage: a small map of where the stage found \
         what it looks for. The first two pictures of a row share one colour scale; darker means more. The third shows the \
         change: <b>red</b> where the stage should have given more, <b>blue</b> where less, on a scale of its own, so \
         even a small change has strong colours. Mind the numbers below it.</p>\n",
    );
    let (shown, chosen) = (record.samples.len(), record.chosen);
    if shown < chosen {
        push(
            body,
            format_args!(
                "<p>The choice <code>{}</code> names {} images; the first {shown} are shown.</p>\n",
                escape(&settings.samples),
                grouped(chosen)
            ),
        );
    }
}

fn sample_section(
    body: &mut String,
    sample: &ExplainedSample,
    summary: &SampleRecord,
    settings: &ExplainSettings,
) -> Result<(), ReportError> {
    let (label, predicted) = (class_of(settings, sample.label), class_of(settings, sample.predicted()));
    let heading = match (sample.label == sample.predicted(), sample.satisfied) {
        (false, _) => format!("a {label}, and the network said {predicted}"),
        (true, true) => format!("a {label}, and the network knew it"),
        (true, false) => format!("a {label}; the network said so, but with too small a lead"),
    };
    let heading = heading.replacen("a class", "class", 1);
    push(
        body,
        format_args!("<div class=\"example\"><h2>Image {}: {heading}</h2><div class=\"facts\">\n", sample.sample),
    );
    body.push_str(&image_figure(&sample.image, sample.shape, &format!("the image: {label}"))?);
    push(body, format_args!("<div>{}</div></div>\n", logits_table(sample, settings)));
    if sample.satisfied {
        body.push_str("<p>Its output met the demand already: nothing has to change.</p>\n");
    }
    for (stage, figures) in sample.stages.iter().zip(&summary.stages) {
        stage_row(body, stage, figures, sample, settings)?;
    }
    body.push_str("</div>\n");
    Ok(())
}

/// Numbers of the classes before and, for each stage, after its features were replaced by their targets.
fn logits_table(sample: &ExplainedSample, settings: &ExplainSettings) -> String {
    let columns: Vec<&[f32]> =
        std::iter::once(&sample.logits[..]).chain(sample.stages.iter().map(|stage| &stage.logits[..])).collect();
    let headings: Vec<String> = ["class, and its output".to_owned(), "as it was".to_owned()]
        .into_iter()
        .chain(sample.stages.iter().map(|stage| format!("with target of {}", escape(&stage.stage))))
        .collect();
    let cell = |column: &[f32], class: usize| {
        let text = signed(f64::from(column[class]), 2);
        if fbp_train::metrics::argmax(column) == class { format!("<span class=\"best\">{text}</span>") } else { text }
    };
    let classes = listed(&columns, sample.label as usize);
    let rows: Vec<Vec<String>> = classes
        .iter()
        .map(|&class| {
            let name = class_of(settings, class as u32);
            let name = if class as u32 == sample.label { format!("{name} (right)") } else { name };
            std::iter::once(name).chain(columns.iter().map(|column| cell(column, class))).collect()
        })
        .collect();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let table = table_of_parts(&format!("outputs for image {}", sample.sample), &headings, &rows, OUTPUTS);
    match sample.logits.len() {
        all if all > rows.len() => {
            format!(
                "{table}<p class=\"small\">The right class and those with the largest outputs, {} of {all}.</p>",
                rows.len()
            )
        }
        _ => table,
    }
}

/// The classes whose outputs are listed: all, or of many the right one and those that lead somewhere.
fn listed(columns: &[&[f32]], label: usize) -> Vec<usize> {
    let all = columns.first().map_or(0, |column| column.len());
    if all <= ALL_CLASSES {
        return (0..all).collect();
    }
    let best = |class: usize| columns.iter().map(|column| column[class]).fold(f32::NEG_INFINITY, f32::max);
    let leads = |class: usize| columns.iter().any(|column| fbp_train::metrics::argmax(column) == class);
    let mut order: Vec<usize> = (0..all).collect();
    order.sort_by(|&a, &b| {
        let rank = |class: usize| (class != label, !leads(class));
        rank(a).cmp(&rank(b)).then(best(b).total_cmp(&best(a)))
    });
    order.truncate(SOME_CLASSES);
    order
}

fn stage_row(
    body: &mut String,
    stage: &ExplainedStage,
    figures: &StageRecord,
    sample: &ExplainedSample,
    settings: &ExplainSettings,
) -> Result<(), ReportError> {
    let heading = match stage.stage.as_str() {
        INPUT => "The image".to_owned(),
        name => format!("Stage {}", escape(name)),
    };
    let result = match (stage.predicted() == sample.label, stage.attained) {
        (true, true) => "With it, the rest of the network gives the right class and the whole lead.".to_owned(),
        (true, false) => "With it, the rest of the network gives the right class, with a smaller lead.".to_owned(),
        (false, _) => {
            let said = class_of(settings, stage.predicted());
            format!(
                "This is as close as the search came: no target was found that gives the right class, and with this one the network says {said}."
            )
        }
    };
    let text = match figures.distance {
        0.0 => "Nothing changes.".to_owned(),
        _ => format!("Moved by {} of its length. {result}", percent(figures.distance_relative, 1)),
    };
    change_row(body, [&heading, &text], &stage.change(), captions(stage, sample.label))?;
    if figures.distance > 0.0 && stage.shape[0] > 1 {
        let what = if stage.shape[1] * stage.shape[2] == 1 { "value" } else { "channel" };
        let rows: Vec<Vec<String>> = figures
            .channels
            .iter()
            .take(CHANNELS)
            .filter(|entry| entry.change > 0.0)
            .map(|entry| {
                let width = (6.0 * entry.share).max(0.05);
                vec![
                    format!("{what} {}", entry.channel),
                    format!("<i class=\"bar\" style=\"width:{width:.2}em\"></i> {}", percent(entry.share, 0)),
                    format!("{} → {}", number(entry.mean_before), number(entry.mean_after)),
                ]
            })
            .collect();
        let mean = if what == "value" { "value" } else { "its mean" };
        body.push_str(&table("most changed", &["most changed", "share of the change", mean], &rows));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_classes_the_right_one_and_the_leading_ones_are_listed() {
        let before: Vec<f32> = (0..100).map(|class| ((class * 37) % 100) as f32).collect();
        let mut after = before.clone();
        after[5] = 200.0;
        let listed = listed(&[&before, &after], 42);
        assert_eq!(listed.len(), SOME_CLASSES);
        // 37 · 27 = 999: the largest output at first; 5 leads later.
        assert_eq!(listed[..3], [42, 5, 27]);
        assert_eq!(super::listed(&[&before[..20]], 3), (0..20).collect::<Vec<_>>());
    }
}
