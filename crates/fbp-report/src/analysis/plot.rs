use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::StageAnalysis;
use crate::ReportError;
use crate::page::{colour, finish_svg, quiet_mesh, ticks};

/// Numbers along an axis, at most.
const LABELS: usize = 5;
/// Size of a panel.
const PANEL: (u32, u32) = (320, 250);

/// Two rows of panels, one column for each stage: mean distance and loss of the checkpoints, and of groups of samples of
/// the last checkpoint.
///
/// # Errors
/// [`ReportError::Plot`].
pub(super) fn draw(analysis: &StageAnalysis) -> Result<String, ReportError> {
    let stages = analysis.over_checkpoints.len() as u32;
    let size = (PANEL.0 * stages.max(1), 2 * PANEL.1);
    let mut svg = String::new();
    panels(analysis, size, &mut svg)
        .map_err(|reason| ReportError::Plot { what: "distance and loss".into(), reason })?;
    let svg = finish_svg(&svg, size, "loss against distance to the targets, by stage");
    // A file of its own needs a size as well.
    Ok(svg.replacen("<svg ", &format!("<svg width=\"{}\" height=\"{}\" ", size.0, size.1), 1))
}

fn panels(analysis: &StageAnalysis, size: (u32, u32), svg: &mut String) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    root.fill(&WHITE).map_err(|error| text(&error))?;
    let areas = root.split_evenly((2, analysis.over_checkpoints.len().max(1)));
    for (index, stage) in analysis.over_checkpoints.iter().enumerate() {
        let checkpoints: Vec<(f64, f64)> =
            analysis.checkpoints.iter().map(|point| (point.stages[index].distance, point.loss)).collect();
        let last = analysis.checkpoints.last().map(|point| &point.stages[index]);
        let groups: Vec<(f64, f64)> = last.into_iter().flat_map(|s| s.groups.iter().map(|g| (g[0], g[1]))).collect();
        let columns = analysis.over_checkpoints.len();
        panel(&areas[index], &format!("{}: checkpoints", stage.stage), &checkpoints, 2)?;
        panel(&areas[columns + index], &format!("{}: samples of the last", stage.stage), &groups, 1)?;
    }
    root.present().map_err(|error| text(&error))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn panel(area: &Area<'_>, title: &str, points: &[(f64, f64)], line: usize) -> Result<(), String> {
    let right = points.iter().map(|point| point.0).fold(f64::MIN_POSITIVE, f64::max);
    let top = points.iter().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max);
    let mut chart: ChartContext<'_, _, Cartesian2d<RangedCoordf64, RangedCoordf64>> = ChartBuilder::on(area)
        .margin(8)
        .caption(title, ("sans-serif", 15))
        .x_label_area_size(38)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..1.05 * right, 0.0..1.05 * top)
        .map_err(|error| error.to_string())?;
    let mut mesh = chart.configure_mesh();
    quiet_mesh(&mut mesh, 13);
    mesh.x_desc("distance to the target")
        .y_desc("mean loss")
        .x_labels(LABELS)
        .y_labels(LABELS)
        .x_label_formatter(&ticks(0.0..1.05 * right, LABELS))
        .y_label_formatter(&ticks(0.0..1.05 * top, LABELS))
        .draw()
        .map_err(|error| error.to_string())?;
    let (red, green, blue) = colour(line);
    let colour = RGBColor(red, green, blue);
    chart.draw_series(LineSeries::new(points.iter().copied(), colour.mix(0.4))).map_err(|error| error.to_string())?;
    chart
        .draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))
        .map_err(|error| error.to_string())?;
    Ok(())
}
