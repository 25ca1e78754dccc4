use super::chart::{accuracy_chart, colour};
use super::groups::Group;
use super::html::{duration, escape, points, push, table};
use super::{Comparison, Runs};
use crate::TrainError;
use crate::statistics::Spread;

/// Charts, tables and verdicts of the post-training runs.
///
/// # Errors
/// [`TrainError::Plot`].
pub(super) fn section(html: &mut String, runs: &Runs, comparisons: &[Comparison]) -> Result<(), TrainError> {
    let groups = Group::all(&runs.post_train);
    html.push_str("<h2>Training the layers with their targets</h2>\n");
    html.push_str(
        "<p>Each run takes one layer, freezes the layers above it, and trains that layer and those below it. The goal is \
         the usual one (cross-entropy at the output) plus α times the distance of the layer's features to their targets; \
         α = 0 is plain fine-tuning, the yardstick. The test images were never trained on.</p>\n<div class=\"charts\">\n",
    );
    for stage in runs.stages() {
        let of_stage: Vec<_> = groups.iter().filter(|group| group.stage == stage).collect();
        // A mode that reads the test set once has no curve.
        if of_stage.iter().all(|group| group.epochs() < 2) {
            continue;
        }
        push(html, format_args!("<figure><h3>{}</h3>{}", escape(&stage), accuracy_chart(&stage, &of_stage)?));
        html.push_str("<figcaption class=\"keys\">");
        for (index, group) in of_stage.iter().enumerate() {
            let (r, g, b) = colour(index);
            let label = group.label();
            push(
                html,
                format_args!("<span><i class=\"key\" style=\"background:rgb({r},{g},{b})\"></i>{label}</span> "),
            );
        }
        html.push_str("</figcaption></figure>\n");
    }
    html.push_str("</div>\n<p class=\"small\">Lines: mean over the seeds. Bands: one standard deviation.</p>\n");
    let rows: Vec<_> = groups.iter().map(group_row).collect();
    let headings = ["layer, goal", "runs", "before", "first epoch", "last epoch", "best epoch", "time of a run"];
    html.push_str(&table(&headings, &rows));
    html.push_str(
        "<p class=\"small\">Accuracy on the test images, mean ± standard deviation over the seeds. The best epoch is the \
         best on the test images, which a real application could not choose by.</p>\n",
    );
    if comparisons.is_empty() {
        return Ok(());
    }
    html.push_str("<h3>Is the difference real?</h3>\n");
    let rows: Vec<_> = comparisons.iter().map(comparison_row).collect();
    let headings = [
        "layer, goal",
        "against",
        "pairs",
        "difference",
        "95 % interval",
        "t-test",
        "Wilcoxon",
        "d<sub>z</sub>",
        "time",
    ];
    html.push_str(&table(&headings, &rows));
    html.push_str(
        "<p class=\"small\">Differences between the results of runs with the same seed, in percentage points. \
         <b>Interval</b>: where the mean difference would lie in 95 % of repetitions, by drawing from the pairs. <b>t-test, \
         Wilcoxon</b>: the probability of such a gain or a larger one if there were none, in brackets after Holm's \
         correction for the number of rows. <b>d<sub>z</sub></b>: mean difference over its standard deviation. \
         <b>Time</b>: of a run, and of a run of the yardstick.</p>\n",
    );
    for group in &groups {
        for other in group.yardsticks(&groups) {
            let row = comparisons.iter().find(|row| row.is_of(group) && row.against == other.name());
            if let Some(text) = row.and_then(|row| verdict(row, other)) {
                push(html, format_args!("<p><b>{}, {}</b>: {text}</p>\n", escape(group.stage), group.label()));
            }
        }
    }
    Ok(())
}

fn group_row(group: &Group<'_>) -> Vec<String> {
    let accuracy = |spread: Option<Spread>| match spread {
        Some(Spread { mean, deviation }) => format!("{:.2} ± {:.2} %", 100.0 * mean, 100.0 * deviation),
        None => "–".into(),
    };
    vec![
        format!("{}, {}", escape(group.stage), group.label()),
        group.runs.len().to_string(),
        accuracy(group.accuracy(0)),
        accuracy(group.accuracy(1)),
        accuracy(group.accuracy(group.epochs())),
        accuracy(group.best()),
        duration(group.seconds()),
    ]
}

fn comparison_row(row: &Comparison) -> Vec<String> {
    let p = |p: Option<f64>, adjusted: Option<f64>| match (p, adjusted) {
        (Some(p), Some(adjusted)) => format!("{p:.3} ({adjusted:.3})"),
        _ => "–".into(),
    };
    let alpha = row.alpha.map(|alpha| format!(" α = {alpha}")).unwrap_or_default();
    vec![
        format!("{}, {}{alpha}", escape(&row.stage), row.mode),
        escape(&row.against),
        row.seeds.to_string(),
        points(row.mean_pp / 100.0),
        format!("{} to {}", points(row.ci_low / 100.0), points(row.ci_high / 100.0)),
        p(row.p_t, row.p_t_holm),
        p(row.p_wilcoxon, row.p_wilcoxon_holm),
        row.d_z.map_or("–".into(), |d_z| format!("{d_z:+.2}").replace('-', "−")),
        format!("{} / {}", duration(row.seconds), duration(row.seconds_against)),
    ]
}

/// Says whether the targets held the training back or protected it, where the figures allow a statement.
fn verdict(row: &Comparison, yardstick: &Group<'_>) -> Option<String> {
    let plain = yardstick.accuracy(yardstick.epochs())?.mean - yardstick.accuracy(0)?.mean;
    let (gain, pairs) = (row.mean_pp / 100.0, row.seeds);
    let (gain_text, plain_text) = (points(gain), points(plain));
    let clear = row.p_two_sided_holm.is_some_and(|p| p <= 0.05);
    Some(match (clear, gain > 0.0, plain > 0.0) {
        (false, ..) => format!(
            "{gain_text} against plain fine-tuning (which changed the accuracy by {plain_text}): within what \
             chance explains over {pairs} seeds (two-sided t-test, 5 % over the whole table), so no difference was shown."
        ),
        (true, true, true) => {
            format!(
                "{gain_text} on top of the {plain_text} of plain fine-tuning: the targets helped the network improve."
            )
        }
        (true, true, false) => format!(
            "{gain_text} against plain fine-tuning, which changed the accuracy by {plain_text}: the targets held the \
             layer near its start, which protected it here."
        ),
        (true, false, true) => format!(
            "{gain_text} against plain fine-tuning, which gained {plain_text}: the start could still improve, and the \
             targets held it back."
        ),
        (true, false, false) => format!(
            "{gain_text} against plain fine-tuning, which itself changed the accuracy by {plain_text}: the targets did not \
             help here."
        ),
    })
}
