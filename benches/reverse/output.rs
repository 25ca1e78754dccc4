use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use plotters::prelude::*;

use crate::cell::Entry;

/// Every measurement as a row of a Markdown table, after the peak memory in GiB.
pub(crate) fn table(entries: &[Entry], peak: Option<f64>) -> String {
    let mut text = peak.map_or_else(String::new, |gib| format!("Peak memory of the whole run: {gib:.2} GiB.\n\n"));
    text.push_str(
        "| layer | size | padding | κ | method | recipe | first ms | warm ms | residual | optimum | distance | optimum |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let number = |x: Option<f64>| x.map_or(String::from("-"), |x| format!("{x:.2e}"));
    for e in entries {
        let _ = writeln!(
            text,
            "| {}→{} {}×{} | {} | {} | {:.0e} | {} | {} | {:.0} | {:.1} | {:.2e} | {} | {:.3e} | {} |",
            e.c_in,
            e.c_out,
            e.kernel,
            e.kernel,
            e.size,
            e.padding,
            e.condition,
            e.method,
            e.recipe,
            e.first_ms,
            e.warm_ms,
            e.residual_relative,
            number(e.residual_optimum),
            e.distance_relative,
            number(e.distance_optimum),
        );
    }
    text
}

/// Median warm time against the size of the image, per method and number of outputs.
pub(crate) fn plot(entries: &[Entry], path: &Path) -> Result<(), Box<dyn Error>> {
    let cells: Vec<_> = entries.iter().filter(|e| e.c_in == 8).collect();
    let mut sizes: Vec<_> = cells.iter().map(|e| e.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut lines = Vec::new();
    for (c_out, method) in [4, 8, 16].into_iter().flat_map(|c| ["exact", "bounded"].map(|m| (c, m))) {
        let median = |size: usize| {
            let chosen = cells.iter().filter(|e| e.size == size && e.c_out == c_out && e.method == method);
            let mut times: Vec<_> = chosen.map(|e| e.warm_ms).collect();
            times.sort_by(f64::total_cmp);
            times.get(times.len() / 2).map(|ms| (size as f64, *ms))
        };
        lines.push((format!("8→{c_out} {method}"), sizes.iter().filter_map(|&s| median(s)).collect::<Vec<_>>()));
    }
    let all: Vec<f64> = lines.iter().flat_map(|(_, points)| points.iter().map(|p| p.1)).collect();
    let (Some(first), Some(last)) = (sizes.first(), sizes.last()) else { return Ok(()) };
    let (low, high) = all.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), x| (low.min(*x), high.max(*x)));
    let root = SVGBackend::new(path, (800, 500)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root).margin(12).x_label_area_size(40).y_label_area_size(60).build_cartesian_2d(
        (*first as f64 * 0.9..*last as f64 * 1.1).log_scale(),
        (low * 0.7..high * 1.4).log_scale(),
    )?;
    chart.configure_mesh().x_desc("image size").y_desc("warm time per batch of 2, ms").draw()?;
    for (index, (name, points)) in lines.into_iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE.mix(0.8)).draw()?;
    root.present()?;
    Ok(())
}
