use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::cell::Entry;

/// Output channels of the literature's layer.
const OUTPUTS: [usize; 3] = [4, 8, 16];
/// Methods of which times are drawn, in the order of their colours.
const DRAWN: [&str; 5] = ["exact", "bounded", "torch-dense", "torch-cg", "torch-fft"];

/// Whether the entry belongs to the grid of the literature, which has batches of two.
fn in_grid(entry: &&Entry) -> bool {
    entry.c_in == 8 && entry.batch == 2
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// A summary and every measurement with the first seed as Markdown tables, after the peak memory in GiB.
pub(crate) fn table(entries: &[Entry], peak: Option<f64>) -> String {
    let mut text = peak.map_or_else(String::new, |gib| format!("Peak memory of the run: {gib:.2} GiB.\n\n"));
    summary(entries, &mut text);
    text.push_str(
        "\nSeed 0; reverse.json holds the others. First times include the set-up; the methods of a cell share what they factor, \
         so that `auto` finds made what `bounded` needed.\n\n\
         | layer | size | padding | batch | κ | method | recipe | first ms | warm ms | residual | optimum | distance | \
         optimum | converged |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let number = |x: Option<f64>| x.map_or(String::from("-"), |x| format!("{x:.2e}"));
    for e in entries.iter().filter(|e| e.seed == 0) {
        let _ = writeln!(
            text,
            "| {}→{} {}×{} | {} | {} | {} | {:.0e} | {} | {} | {:.0} | {:.1} | {:.2e} | {} | {:.3e} | {} | {} |",
            e.c_in,
            e.c_out,
            e.kernel,
            e.kernel,
            e.size,
            e.padding,
            e.batch,
            e.condition,
            e.method,
            e.recipe,
            e.first_ms,
            e.warm_ms,
            e.residual_relative,
            number(e.residual_optimum),
            e.distance_relative,
            number(e.distance_optimum),
            if e.converged { "yes" } else { "no" },
        );
    }
    text
}

/// Warm times of all cells of a layer and a size, per method.
fn summary(entries: &[Entry], text: &mut String) {
    let mut cells = BTreeMap::<_, Vec<&Entry>>::new();
    for entry in entries.iter().filter(in_grid) {
        cells.entry((entry.c_out, entry.size, entry.method.as_str())).or_default().push(entry);
    }
    text.push_str(
        "| layer | size | method | cells | median ms | longest ms | median residual | not converged |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for ((c_out, size, method), cells) in cells {
        let longest = cells.iter().map(|e| e.warm_ms).fold(0.0, f64::max);
        let middle = |value: fn(&Entry) -> f64| median(cells.iter().map(|e| value(e)).collect()).unwrap_or(f64::NAN);
        let _ = writeln!(
            text,
            "| 8→{c_out} | {size} | {method} | {} | {:.1} | {longest:.1} | {:.2e} | {} |",
            cells.len(),
            middle(|e| e.warm_ms),
            middle(|e| e.residual_relative),
            cells.iter().filter(|e| !e.converged).count(),
        );
    }
}

/// Median warm time against the size of the image per method, one panel per number of outputs.
pub(crate) fn plot(entries: &[Entry], path: &Path) -> Result<(), Box<dyn Error>> {
    let cells: Vec<&Entry> = entries.iter().filter(in_grid).filter(|e| DRAWN.contains(&e.method.as_str())).collect();
    if cells.is_empty() {
        return Ok(());
    }
    let root = SVGBackend::new(path, (1200, 430)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, c_out) in root.split_evenly((1, OUTPUTS.len())).iter().zip(OUTPUTS) {
        panel(&cells, c_out, area)?;
    }
    root.present()?;
    Ok(())
}

fn panel(cells: &[&Entry], c_out: usize, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Box<dyn Error>> {
    let span = |value: fn(&Entry) -> f64| {
        let values = cells.iter().map(|e| value(e));
        values.fold((f64::INFINITY, 0.0_f64), |(low, high), x| (low.min(x), high.max(x)))
    };
    let ((first, last), (low, high)) = (span(|e| e.size as f64), span(|e| e.warm_ms));
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .caption(format!("8→{c_out}"), ("sans-serif", 18))
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d((first * 0.9..last * 1.1).log_scale(), (low * 0.7..high * 1.4).log_scale())?;
    chart.configure_mesh().x_desc("image size").y_desc("warm time per batch of 2, ms").draw()?;
    for (index, method) in DRAWN.into_iter().enumerate() {
        let mut times = BTreeMap::<usize, Vec<f64>>::new();
        for e in cells.iter().filter(|e| e.c_out == c_out && e.method == method) {
            times.entry(e.size).or_default().push(e.warm_ms);
        }
        let points = times.into_iter().filter_map(|(size, times)| Some((size as f64, median(times)?)));
        let points: Vec<_> = points.collect();
        if points.is_empty() {
            continue;
        }
        let color = Palette99::pick(index).to_rgba();
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(method)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE.mix(0.8)).draw()?;
    Ok(())
}
