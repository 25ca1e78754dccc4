use fbp_train::repair::RepairPoint;
use plotters::prelude::*;

use super::group::Curve;
use crate::ReportError;
use crate::page::{colour, finish_svg, quiet_mesh, ticks};

/// Size of a panel.
const PANEL: (u32, u32) = (520, 330);
/// Largest loss that is drawn, in percentage points.
const LARGEST_LOSS: f64 = 20.0;

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// A row of panels for each kind of samples: efficacy and generalisation against drawdown, a colour for each layer and
/// rival, large dots for chosen states.
///
/// # Errors
/// [`ReportError::Plot`].
pub(super) fn draw(points: &[RepairPoint]) -> Result<String, ReportError> {
    let curves = Curve::all(points);
    let rows: Vec<&[Curve<'_>]> = curves.chunk_by(|a, b| a.subject == b.subject).collect();
    let size = (2 * PANEL.0, PANEL.1 * rows.len().max(1) as u32);
    let mut svg = String::new();
    panels(&rows, size, &mut svg).map_err(|reason| ReportError::Plot { what: "repairs".into(), reason })?;
    let svg = finish_svg(&svg, size, "efficacy and generalisation of repairs against loss of test accuracy");
    // A file of its own needs a size as well.
    Ok(svg.replacen("<svg ", &format!("<svg width=\"{}\" height=\"{}\" ", size.0, size.1), 1))
}

fn panels(rows: &[&[Curve<'_>]], size: (u32, u32), svg: &mut String) -> Result<(), String> {
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    root.fill(&WHITE).map_err(|error| error.to_string())?;
    let areas = root.split_evenly((rows.len().max(1), 2));
    // A method keeps its colour in every row.
    let mut names: Vec<String> = Vec::new();
    for curve in rows.iter().copied().flatten() {
        if !names.contains(&curve.name()) {
            names.push(curve.name());
        }
    }
    for (row, areas) in rows.iter().zip(areas.chunks_exact(2)) {
        panel(&areas[0], row, &names, "efficacy, %", &|point| 100.0 * point.efficacy)?;
        panel(&areas[1], row, &names, "generalisation, %", &|point| 100.0 * point.generalisation)?;
    }
    root.present().map_err(|error| error.to_string())
}

fn panel(
    area: &Area<'_>,
    curves: &[Curve<'_>],
    names: &[String],
    what: &str,
    value: &dyn Fn(&RepairPoint) -> f64,
) -> Result<(), String> {
    let all = || curves.iter().flat_map(|curve| curve.points.iter().filter(|point| point.drawdown_pp <= LARGEST_LOSS));
    let left = all().map(|point| point.drawdown_pp).fold(0.0, f64::min);
    let right = all().map(|point| point.drawdown_pp).fold(1.0, f64::max);
    let top = all().map(|point| value(point)).fold(1.0, f64::max);
    let text = |error: DrawingAreaErrorKind<_>| error.to_string();
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .caption(curves.first().map_or("", |curve| &curve.subject), ("sans-serif", 14))
        .x_label_area_size(38)
        .y_label_area_size(52)
        .build_cartesian_2d(1.05 * left..1.05 * right, 0.0..1.05 * top)
        .map_err(text)?;
    let mut mesh = chart.configure_mesh();
    quiet_mesh(&mut mesh, 13);
    mesh.x_desc("drawdown, percentage points")
        .y_desc(what)
        .x_labels(8)
        .y_labels(6)
        .x_label_formatter(&ticks(1.05 * left..1.05 * right, 8))
        .y_label_formatter(&ticks(0.0..1.05 * top, 6))
        .draw()
        .map_err(text)?;
    for curve in curves {
        let (red, green, blue) = colour(names.iter().position(|name| *name == curve.name()).unwrap_or_default());
        let rgb = RGBColor(red, green, blue);
        let drawn = curve.points.iter().filter(|point| point.drawdown_pp <= LARGEST_LOSS);
        let dots = drawn.map(|point| {
            let (size, style) = if point.chosen { (6, rgb.filled()) } else { (3, rgb.mix(0.55).filled()) };
            Circle::new((point.drawdown_pp, value(point)), size, style)
        });
        chart
            .draw_series(dots)
            .map_err(text)?
            .label(curve.name())
            .legend(move |place| Circle::new(place, 4, rgb.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(225, 225, 225))
        .label_font(("sans-serif", 12))
        .draw()
        .map_err(text)
}
