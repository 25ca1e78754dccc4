use fbp_train::settings::{Measure, Objective};
use plotters::prelude::*;

use super::chart::{axis, scale};
use super::groups::Group;
use super::rows::Rows;
use crate::ReportError;
use crate::page::{colour, finish_svg, keys, quiet_mesh, ticks};

/// Size of the chart in CSS pixels.
const SIZE: (u32, u32) = (400, 290);
/// Numbers along an axis, at most.
const LABELS: usize = 6;
/// Ratio of the longest to the shortest time from which on the axis of time is logarithmic.
const WIDE: f64 = 12.0;

/// A way to train: its colour, and what the key calls it.
fn way(group: &Group<'_>) -> (usize, &'static str) {
    match group.mode {
        _ if group.is_baseline() => (0, "fine-tuning"),
        Objective::Joint => (1, "targets beside the usual goal"),
        Objective::Local => (2, "targets alone"),
        Objective::ClosedForm => (3, "one layer solved for its targets"),
        Objective::Head => (4, "refit of the last layer"),
        Objective::Full | Objective::Tail => (5, "only the upper stages"),
        Objective::Hierarchical => (6, "all segments at once"),
    }
}

/// One row: its colour, its way over the epochs (maybe one point), and the spread at its end.
struct Curve {
    way: usize,
    points: Vec<(f64, f64)>,
    spread: f64,
}

/// What is drawn, in seconds and per cent.
struct Drawing {
    /// The rows of the comparison.
    chosen: Vec<Curve>,
    /// Colour and place of every group.
    all: Vec<(usize, f64, f64)>,
    before: f64,
    measure: Measure,
    logarithmic: bool,
}

impl Drawing {
    fn new(groups: &[Group<'_>], rows: &Rows<'_, '_>) -> Self {
        let scale = |group: &Group<'_>| scale(group.measure());
        let result = |group: &Group<'_>| group.result().map_or(0.0, |spread| scale(group) * spread.mean);
        let all: Vec<_> = groups.iter().map(|group| (way(group).0, group.seconds(), result(group))).collect();
        let times: Vec<f64> = all.iter().map(|(_, seconds, _)| *seconds).filter(|seconds| *seconds > 0.0).collect();
        let longest = times.iter().copied().fold(0.0, f64::max);
        let shortest = times.iter().copied().fold(f64::INFINITY, f64::min);
        let chosen = rows.all().into_iter().filter_map(|row| row.group).map(|group| {
            let spread = group.result().map_or(0.0, |spread| scale(group) * spread.deviation.unwrap_or(0.0));
            Curve { way: way(group).0, points: curve(group), spread }
        });
        let before = groups.iter().filter_map(|group| Some(scale(group) * group.score(0)?.mean));
        let measure = groups.first().map_or(Measure::Accuracy, Group::measure);
        Self {
            chosen: chosen.collect(),
            all,
            before: before.reduce(|a, b| if measure.is_better(b, a) { b } else { a }).unwrap_or(0.0),
            measure,
            logarithmic: longest > WIDE * shortest,
        }
    }

    /// Place of a time on the axis.
    fn x(&self, seconds: f64) -> f64 {
        if self.logarithmic { seconds.max(1e-3).log10() } else { seconds }
    }

    fn bounds(&self) -> ([f64; 2], [f64; 2]) {
        let points = || {
            let curves = self.chosen.iter().flat_map(|curve| curve.points.iter().copied());
            curves.chain(self.all.iter().map(|&(_, seconds, accuracy)| (seconds, accuracy)))
        };
        let ends = |values: &mut dyn Iterator<Item = f64>| {
            values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], v| [low.min(v), high.max(v)])
        };
        let [left, right] = ends(&mut points().map(|(seconds, _)| self.x(seconds)));
        let spreads = self.chosen.iter().filter_map(|curve| Some((curve.points.last()?.1, curve.spread)));
        let spread_ends = spreads.flat_map(|(y, spread)| [y - spread, y + spread]);
        let [low, high] = ends(&mut points().map(|(_, y)| y).chain([self.before]).chain(spread_ends));
        let (wide, tall) = (0.06 * (right - left).max(0.1), 0.08 * (high - low).max(2e-3 * high.abs()));
        let left = if self.logarithmic { left - wide } else { 0.0 };
        ([left, right + wide], [low - tall, high + tall])
    }
}

/// Mean accuracy over training time: the epochs of a published objective are evenly spaced, others have their end alone.
fn curve(group: &Group<'_>) -> Vec<(f64, f64)> {
    let (epochs, seconds) = (group.epochs(), group.seconds());
    let scale = scale(group.measure());
    let result = group.result().map_or(0.0, |spread| scale * spread.mean);
    if epochs < 2 {
        return vec![(seconds, result)];
    }
    let at = |epoch: usize| {
        let score = group.score(epoch)?;
        Some((seconds * epoch as f64 / epochs as f64, scale * score.mean))
    };
    (1..=epochs).filter_map(at).collect()
}

/// Test accuracy against the time of training, as a `<figure>`: every group a small dot, the rows of the comparison large
/// ones, with their way there where it is known.
///
/// # Errors
/// [`ReportError::Plot`].
pub(super) fn time_chart(groups: &[Group<'_>], rows: &Rows<'_, '_>) -> Result<String, ReportError> {
    let drawing = Drawing::new(groups, rows);
    let mut svg = String::new();
    draw(&drawing, &mut svg).map_err(|reason| ReportError::Plot { what: "accuracy over time".into(), reason })?;
    let mut ways: Vec<(usize, &str)> = groups.iter().map(way).collect();
    ways.sort_unstable();
    ways.dedup();
    let svg = finish_svg(&svg, SIZE, &format!("test {} against time of training", drawing.measure.word()));
    Ok(format!("<figure>{svg}{}</figure>\n", keys(ways)))
}

fn draw(drawing: &Drawing, svg: &mut String) -> Result<(), String> {
    let ([left, right], [low, high]) = drawing.bounds();
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let text = |error: DrawingAreaErrorKind<_>| error.to_string();
    let mut chart = ChartBuilder::on(&root)
        .margin(8)
        .margin_right(16)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(left..right, low..high)
        .map_err(text)?;
    let logarithmic = drawing.logarithmic;
    let (x_tick, y_tick) = (ticks(left..right, LABELS), ticks(low..high, LABELS));
    let mut mesh = chart.configure_mesh();
    quiet_mesh(&mut mesh, 14);
    mesh.x_desc(if logarithmic { "training time, s (each step a fixed factor)" } else { "training time, s" })
        .y_desc(axis(drawing.measure))
        .x_labels(LABELS)
        .y_labels(LABELS)
        .x_label_formatter(&|x| if logarithmic { crate::page::number(10f64.powf(*x)) } else { x_tick(x) })
        .y_label_formatter(&y_tick)
        .draw()
        .map_err(text)?;
    let before = [(left, drawing.before), (right, drawing.before)];
    chart.draw_series(DashedLineSeries::new(before, 5, 4, BLACK.mix(0.5).into())).map_err(text)?;
    let rgb = |index: usize| {
        let (red, green, blue) = colour(index);
        RGBColor(red, green, blue)
    };
    let dots = drawing
        .all
        .iter()
        .map(|&(way, seconds, y)| Circle::new((drawing.x(seconds), y), 2, rgb(way).mix(0.45).filled()));
    chart.draw_series(dots).map_err(text)?;
    for Curve { way, points, spread } in &drawing.chosen {
        let points: Vec<(f64, f64)> = points.iter().map(|&(seconds, y)| (drawing.x(seconds), y)).collect();
        let Some(&(x, y)) = points.last() else { continue };
        chart.draw_series(LineSeries::new(points, rgb(*way).stroke_width(2))).map_err(text)?;
        let bar = PathElement::new([(x, y - spread), (x, y + spread)], rgb(*way).stroke_width(2));
        chart.draw_series([bar]).map_err(text)?;
        chart.draw_series([Circle::new((x, y), 5, rgb(*way).filled())]).map_err(text)?;
    }
    root.present().map_err(text)
}
