//! Comparison, verdict, charts and tables of the post-training runs of one start.

use std::cmp::Ordering;

use fbp_train::settings::Measure;
use fbp_train::targets::TargetsReport;

use super::chart::accuracy_chart;
use super::groups::Group;
use super::rows::{Row, Rows};
use super::time_chart::time_chart;
use super::verdict::{Shown, interval_text, overall};
use super::{Comparison, Runs};
use crate::ReportError;
use crate::page::{duration, escape, gained, keys, push, signed, table};
use crate::statistics::Spread;

/// Rows from which on a table is folded away.
const LONG: usize = 12;
/// Lines that a chart can hold.
const LINES: usize = 7;

/// # Errors
/// [`ReportError::Plot`].
pub(super) fn section(html: &mut String, runs: &Runs, comparisons: &[Comparison]) -> Result<(), ReportError> {
    let groups = Group::all(runs);
    let rows = Rows::new(&groups);
    html.push_str("<h4>Does training with the targets pay?</h4>\n");
    three_rows(html, &rows, runs.targets.as_ref());
    if let Some(verdict) = overall(&rows) {
        push(html, format_args!("<div class=\"verdict {}\"><p>{}</p></div>\n", verdict.shown.class(), verdict.text));
    }
    let measure = groups.first().map_or(Measure::Accuracy, Group::measure);
    push(html, format_args!("<h4>{} against time</h4>\n", title(measure)));
    html.push_str(&time_chart(&groups, &rows)?);
    let has_seeds = groups.iter().any(|group| group.runs.len() > 1);
    push(
        html,
        format_args!(
            "<p class=\"small\">Large dots: the rows of the table above{}, and their way there where every epoch was evaluated.{} \
             Dashed: before.{}</p>\n",
            if has_seeds { ", with one standard deviation over the seeds" } else { "" },
            if groups.len() > rows.drawn() { " Small dots: every other setting that was tried." } else { "" },
            if runs.targets.is_some() { " The time of the targets comes on top, once for all runs." } else { "" },
        ),
    );
    let tuned = Group::tuned(&groups);
    epoch_charts(html, runs, &tuned)?;
    html.push_str("<h4>Every layer and goal</h4>\n");
    folded(html, "every layer and goal", tuned.len(), group_table("every layer and goal", &tuned));
    let images = if measure.is_accuracy() { "images" } else { "samples" };
    let choice = match tuned.len() < groups.len() {
        true => " Of several learning rates the best on the validation images stands here.",
        false => "",
    };
    push(
        html,
        format_args!(
            "<p class=\"small\">{} on the test {images}{}.{choice} The best epoch is the best on the test {images}, which a \
             real application could not choose by.</p>\n",
            title(measure),
            if has_seeds { ", mean ± standard deviation over the seeds" } else { ", of one run each" },
        ),
    );
    if tuned.len() < groups.len() {
        let all: Vec<&Group<'_>> = groups.iter().collect();
        let table = group_table("every setting", &all);
        push(
            html,
            format_args!(
                "<details class=\"screen\"><summary>Show the table: every setting that was tried</summary>{table}</details>\n"
            ),
        );
    }
    comparison_section(html, runs, comparisons);
    Ok(())
}

/// The measure at the head of a section.
fn title(measure: Measure) -> &'static str {
    if measure.is_accuracy() { "Accuracy" } else { "RMSE" }
}

/// Folds a long table away.
fn folded(html: &mut String, what: &str, rows: usize, table: String) {
    match rows > LONG {
        true => push(html, format_args!("<details><summary>Show the table: {what}</summary>{table}</details>\n")),
        false => html.push_str(&table),
    }
}

/// The table that every method owes.
fn three_rows(html: &mut String, rows: &Rows<'_, '_>, targets: Option<&TargetsReport>) {
    html.push_str(
        "<p>A fair comparison has three rows: fine-tuning (training on with the usual goal, no targets) at the learning rate \
         of the method, fine-tuning with a learning rate of its own choice, and the method with its own choice. All choices \
         were made on images held back from the training, never on the test images.</p>\n",
    );
    let cells: Vec<Vec<String>> = rows.all().into_iter().map(|row| row_cells(row, rows)).collect();
    let measure = rows.all().iter().find_map(|row| row.group).map_or(Measure::Accuracy, Group::measure);
    let heading = format!("test {}", measure.word());
    let headings = [
        "what was done",
        &heading,
        "gain over the start",
        "against tuned fine-tuning",
        "95 % interval",
        "time of a run",
        "settings tried",
        "time of all tries",
        "settings chosen",
    ];
    html.push_str(&table("the three rows of a fair comparison", &headings, &cells));
    if let Some(targets) = targets {
        push(
            html,
            format_args!(
                "<p class=\"small\">The targets themselves took {}, once for all runs.</p>\n",
                duration(targets.seconds)
            ),
        );
    }
    let wanted = [(&rows.same_rate, "full --learning-rate RATE"), (&rows.tuned, "full"), (&rows.method, "joint")];
    for (row, mode) in wanted.into_iter().filter(|(row, _)| row.group.is_none()) {
        push(
            html,
            format_args!(
                "<p class=\"small\">Not run: {}. Make it with <code>cargo fbp post-train --mode {mode}</code>, the same seeds \
                 and the same folder.</p>\n",
                row.title
            ),
        );
    }
}

fn row_cells(row: &Row<'_, '_>, rows: &Rows<'_, '_>) -> Vec<String> {
    let Some(group) = row.group else {
        return std::iter::once(row.title.to_owned()).chain((0..8).map(|_| "–".to_owned())).collect();
    };
    let against = match (rows.tuned.group, row.group) {
        (Some(tuned), Some(own)) if !std::ptr::eq(tuned, own) => own.against(tuned),
        _ => None,
    };
    let difference = against.as_ref().map_or("–".into(), |found| match Shown::of(found) {
        Shown::Nothing => gained(group.measure(), found.mean),
        _ => format!("<b>{}</b>", gained(group.measure(), found.mean)),
    });
    let interval = against.and_then(|found| interval_text(&found, group.measure())).unwrap_or_else(|| "–".into());
    let rate = match group.rate().as_str() {
        "–" => String::new(),
        rate => format!(", rate {rate}"),
    };
    vec![
        row.title.to_owned(),
        score(group.measure(), group.result()),
        gained(group.measure(), group.gain()),
        difference,
        interval,
        duration(group.seconds()),
        format!("{} × {} {}", row.tried, group.runs.len(), if group.runs.len() == 1 { "seed" } else { "seeds" }),
        duration(row.seconds),
        format!("{}{rate}", escape(&format!("{}{}", group.name(), kind_text(group)))),
    ]
}

fn kind_text(group: &Group<'_>) -> String {
    if group.kind.is_empty() { String::new() } else { format!(" ({})", group.kind) }
}

fn score(measure: Measure, spread: Option<Spread>) -> String {
    match spread {
        Some(Spread { mean, deviation: Some(deviation) }) => match measure {
            Measure::Accuracy => format!("{:.2} ± {:.2} %", 100.0 * mean, 100.0 * deviation),
            Measure::Rmse => format!("{mean:.4} ± {deviation:.4}"),
        },
        Some(Spread { mean, deviation: None }) => measure.text(mean),
        None => "–".into(),
    }
}

/// One chart for each layer whose runs were evaluated after every epoch.
fn epoch_charts(html: &mut String, runs: &Runs, tuned: &[&Group<'_>]) -> Result<(), ReportError> {
    let mut charts = String::new();
    for stage in runs.stages() {
        let mut lines: Vec<&Group<'_>> =
            tuned.iter().copied().filter(|group| group.stage == stage && group.epochs() > 1).collect();
        if lines.is_empty() {
            continue;
        }
        // Plain fine-tuning and the best others: more lines than colours cannot be told apart.
        let left_out = lines.len().saturating_sub(LINES);
        lines.sort_by(|a, b| {
            let better = || match (a.is_better_than(b), b.is_better_than(a)) {
                (true, _) => Ordering::Less,
                (_, true) => Ordering::Greater,
                _ => Ordering::Equal,
            };
            a.is_baseline().cmp(&b.is_baseline()).reverse().then_with(better)
        });
        lines.truncate(LINES);
        // The yardstick is always black.
        lines.sort_by(|a, b| {
            let rank = |group: &Group<'_>| (!group.is_baseline(), group.alpha);
            rank(a).partial_cmp(&rank(b)).unwrap_or(std::cmp::Ordering::Equal)
        });
        let labels: Vec<String> = lines.iter().map(|group| escape(&group.label())).collect();
        let keys = keys(labels.iter().map(String::as_str).enumerate());
        push(&mut charts, format_args!("<figure><h5>{}</h5>{}{keys}", escape(&stage), accuracy_chart(&stage, &lines)?));
        if left_out > 0 {
            push(&mut charts, format_args!("<figcaption>{left_out} others are not drawn.</figcaption>"));
        }
        charts.push_str("</figure>\n");
    }
    if !charts.is_empty() {
        push(
            html,
            format_args!(
                "<h4>{} after every epoch</h4>\n<div class=\"charts\">\n{charts}</div>\n<p class=\"small\">{}α is the \
                 weight of the targets beside the usual goal; α = 0 is plain fine-tuning.</p>\n",
                title(tuned.first().map_or(Measure::Accuracy, |group| group.measure())),
                if tuned.iter().any(|group| group.runs.len() > 1) {
                    "Lines: mean over the seeds. Bands: one standard deviation. "
                } else {
                    ""
                }
            ),
        );
    }
    Ok(())
}

fn group_table(name: &str, groups: &[&Group<'_>]) -> String {
    let rows: Vec<Vec<String>> = groups.iter().map(|group| group_row(group)).collect();
    let headings = [
        "layer, goal",
        "learning rate",
        "runs",
        "validation",
        "before",
        "first epoch",
        "result",
        "best epoch",
        "time of a run",
    ];
    table(name, &headings, &rows)
}

fn group_row(group: &Group<'_>) -> Vec<String> {
    let first = if group.epochs() > 1 { group.score(1) } else { None };
    let best = if group.epochs() > 1 { group.best() } else { None };
    vec![
        escape(&format!("{}, {}", group.stage, group.label())),
        group.rate(),
        group.runs.len().to_string(),
        group.validation().map_or("–".into(), |value| group.measure().text(value)),
        score(group.measure(), group.score(0)),
        score(group.measure(), first),
        score(group.measure(), group.result()),
        score(group.measure(), best),
        duration(group.seconds()),
    ]
}

fn comparison_section(html: &mut String, runs: &Runs, comparisons: &[Comparison]) {
    let (model, data) = runs.subject();
    let start = runs.start_name();
    let own = |row: &&Comparison| (row.data.as_str(), row.model.as_str(), &row.start) == (data, model, &start);
    let rows: Vec<Vec<String>> = comparisons.iter().filter(own).map(comparison_row).collect();
    if rows.is_empty() {
        return;
    }
    html.push_str("<h4>Is the difference real?</h4>\n");
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
    folded(html, "differences and tests", rows.len(), table("differences and tests", &headings, &rows));
    html.push_str(
        "<details><summary>What the columns mean</summary><p class=\"small\">Differences between the results of runs with \
         the same start and seed, in percentage points of accuracy; of the RMSE of outputs the per cent that are gone. <b>Interval</b>: where the mean difference would lie in 95 % of \
         repetitions, by drawing from the pairs. <b>t-test, Wilcoxon</b>: the probability of such a gain or a larger one if \
         there were none, in brackets after Holm's correction for the number of rows of all tables of this kind on the \
         page. <b>d<sub>z</sub></b>: mean difference over its standard deviation. <b>Time</b>: of a run, and of a run of \
         the yardstick. In brackets behind the yardstick: its learning rate.</p></details>\n",
    );
}

fn comparison_row(row: &Comparison) -> Vec<String> {
    let p = |p: Option<f64>, adjusted: Option<f64>| match (p, adjusted) {
        (Some(p), Some(adjusted)) => format!("{p:.3} ({adjusted:.3})"),
        _ => "–".into(),
    };
    let alpha = row.alpha.map(|alpha| format!(" α = {alpha}")).unwrap_or_default();
    let kind = if row.targets.is_empty() { String::new() } else { format!(" ({})", row.targets) };
    let (difference, unit) =
        (gained(row.measure, row.mean_pp / 100.0), if row.measure.is_accuracy() { "pp" } else { "%" });
    let sure = row.p_two_sided_holm.is_some_and(|p| p <= 0.05);
    vec![
        escape(&format!("{}, {}{alpha}{kind}", row.stage, row.mode)),
        escape(&format!("{} ({})", row.against, row.learning_rate_against)),
        row.seeds.to_string(),
        if sure { format!("<b>{difference}</b>") } else { difference },
        match (row.ci_low, row.ci_high) {
            (Some(low), Some(high)) => format!("{} to {} {unit}", signed(low, 2), signed(high, 2)),
            _ => "–".into(),
        },
        p(row.p_t, row.p_t_holm),
        p(row.p_wilcoxon, row.p_wilcoxon_holm),
        row.d_z.map_or("–".into(), |d_z| signed(d_z, 2)),
        format!("{} / {}", duration(row.seconds), duration(row.seconds_against)),
    ]
}
