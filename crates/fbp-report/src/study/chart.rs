use fbp_train::settings::Measure;
use plotters::prelude::*;

use super::groups::Group;
use crate::ReportError;
use crate::page::{colour, finish_svg, quiet_mesh, ticks};
use crate::statistics::Spread;

/// Size of a chart in CSS pixels: readable on a telephone without zooming.
pub(super) const SIZE: (u32, u32) = (360, 260);

/// Numbers along an axis, at most.
const LABELS: usize = 6;

/// What charts multiply scores with: accuracies are drawn in per cent.
pub(super) fn scale(measure: Measure) -> f64 {
    if measure.is_accuracy() { 100.0 } else { 1.0 }
}

/// What stands at the axis of scores.
pub(super) fn axis(measure: Measure) -> &'static str {
    if measure.is_accuracy() { "test accuracy, %" } else { "test RMSE" }
}

/// One line: mean and spread at each epoch, accuracies in per cent.
struct Line {
    colour: RGBColor,
    points: Vec<(i32, Spread)>,
}

/// Draws test accuracy, or RMSE of outputs, against epochs, one line for each group, with a band of one standard deviation.
///
/// # Errors
/// [`ReportError::Plot`].
pub(super) fn accuracy_chart(stage: &str, groups: &[&Group<'_>]) -> Result<String, ReportError> {
    let measure = groups.first().map_or(Measure::Accuracy, |group| group.measure());
    let lines: Vec<Line> = groups.iter().enumerate().map(|(index, group)| line(index, group)).collect();
    let mut svg = String::new();
    draw(&lines, axis(measure), &mut svg)
        .map_err(|reason| ReportError::Plot { what: format!("accuracy of {stage}"), reason })?;
    Ok(finish_svg(&svg, SIZE, &format!("test {} per epoch, stage {stage}", measure.word())))
}

fn line(index: usize, group: &Group<'_>) -> Line {
    let (red, green, blue) = colour(index);
    let scale = scale(group.measure());
    let scaled = |spread: Spread| Spread {
        mean: scale * spread.mean,
        deviation: spread.deviation.map(|deviation| scale * deviation),
    };
    let points = (0..=group.epochs()).filter_map(|epoch| Some((epoch as i32, scaled(group.score(epoch)?))));
    Line { colour: RGBColor(red, green, blue), points: points.collect() }
}

fn draw(lines: &[Line], axis: &str, svg: &mut String) -> Result<(), String> {
    let (epochs, low, high) = bounds(lines);
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(6)
        .margin_right(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0..epochs, low..high)
        .map_err(|error| error.to_string())?;
    let mut mesh = chart.configure_mesh();
    quiet_mesh(&mut mesh, 14);
    mesh.x_desc("epoch")
        .y_desc(axis)
        .x_labels(LABELS)
        .y_labels(LABELS)
        .y_label_formatter(&ticks(low..high, LABELS))
        .draw()
        .map_err(|error| error.to_string())?;
    for Line { colour, points } in lines {
        let upper = points.iter().map(|(x, y)| (*x, y.mean + y.deviation.unwrap_or(0.0)));
        let lower = points.iter().rev().map(|(x, y)| (*x, y.mean - y.deviation.unwrap_or(0.0)));
        let band = Polygon::new(upper.chain(lower).collect::<Vec<_>>(), colour.mix(0.15));
        chart.draw_series([band]).map_err(|error| error.to_string())?;
    }
    for Line { colour, points } in lines {
        let means = points.iter().map(|(x, y)| (*x, y.mean));
        chart.draw_series(LineSeries::new(means.clone(), colour.stroke_width(2))).map_err(|error| error.to_string())?;
        chart.draw_series(means.map(|at| Circle::new(at, 2, colour.filled()))).map_err(|error| error.to_string())?;
    }
    root.present().map_err(|error| error.to_string())
}

/// Last epoch, and the range of accuracies with some room around them.
fn bounds(lines: &[Line]) -> (i32, f64, f64) {
    let points = || lines.iter().flat_map(|line| &line.points);
    let epochs = points().map(|(x, _)| *x).fold(1, i32::max);
    let low = points().map(|(_, y)| y.mean - y.deviation.unwrap_or(0.0)).fold(f64::INFINITY, f64::min);
    let high = points().map(|(_, y)| y.mean + y.deviation.unwrap_or(0.0)).fold(f64::NEG_INFINITY, f64::max);
    if low > high {
        return (epochs, 0.0, 100.0);
    }
    let room = 0.08 * (high - low).max(2e-3 * high.abs());
    (epochs, low - room, high + room)
}
