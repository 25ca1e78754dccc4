//! Compressions as a page: sizes, accuracies, and what every layer misses.

use std::path::Path;

use fbp_train::atomic::write_atomic;
use fbp_train::compress::{CompressRecord, Criterion, LayerRecord, Recover};
use plotters::prelude::*;

use crate::ReportError;
use crate::page::{
    colour, document, duration, escape, finish_svg, grouped, keys, number, percent, push, quiet_mesh, table,
};

/// Size of the plot.
const PLOT: (u32, u32) = (760, 300);
/// Smallest residual that is drawn, as a share.
const FLOOR: f64 = 1e-6;

/// Writes the page.
///
/// # Errors
/// [`ReportError::Plot`], [`fbp_train::TrainError::Write`].
pub fn write_page(page: &Path, record: &CompressRecord) -> Result<(), ReportError> {
    Ok(write_atomic(page, render(record)?.as_bytes())?)
}

fn render(record: &CompressRecord) -> Result<String, ReportError> {
    let settings = &record.settings;
    let mut html = String::new();
    push(
        &mut html,
        format_args!(
            "<p>{} on {}, compressed by <strong>{}</strong>; {} calibration images, put right: {}. {}.</p>\n",
            escape(&settings.model),
            escape(&settings.data.name),
            escape(&settings.compression.name(settings.recover)),
            settings.calibrate,
            settings.recover,
            duration(record.compress_seconds),
        ),
    );
    html.push_str(&scores(record));
    html.push_str("<h2>Size</h2>\n");
    html.push_str(&sizes(record));
    if let Some(tuned) = &record.tuned {
        let start = tuned.start.map(|score| vec!["none".to_owned(), number(score)]);
        let tried = tuned.tried.iter().map(|(rate, score)| vec![number(*rate), number(*score)]);
        let rows: Vec<Vec<String>> = start.into_iter().chain(tried).collect();
        let kept = match tuned.steps {
            0 => "what the closed form gave, as no rate made images held back better".to_owned(),
            steps => format!("rate {}, {steps} steps", number(tuned.learning_rate)),
        };
        push(&mut html, format_args!("<h2>Fine-tuning</h2>\n<p>Kept: {kept}.</p>\n"));
        html.push_str(&table("learning rates", &["rate", "score on images held back"], &rows));
    }
    if !record.layers.is_empty() {
        html.push_str(
            "<h2>What every layer misses</h2>\n<p>Mean square of what is missing from a layer's outputs on the calibration images, as a \
             share of their variance, given what the layers below it now give: with the weights as they were compressed, and with \
             those solved for.</p>\n",
        );
        html.push_str(&plot(&record.layers)?);
        html.push_str(&layers(&record.layers));
    }
    if !record.left_alone.is_empty() {
        html.push_str("<h2>What stays as it is</h2>\n");
        let rows: Vec<Vec<String>> =
            record.left_alone.iter().map(|one| vec![escape(&one.layer), escape(&one.reason)]).collect();
        html.push_str(&table("layers left alone", &["layer", "reason"], &rows));
    }
    Ok(document(&format!("{} compressed", settings.model), &html))
}

fn scores(record: &CompressRecord) -> String {
    let score = |value: f64| if record.is_accuracy { percent(value, 2) } else { number(value) };
    let against = |value: f64| match record.is_accuracy {
        true => format!("{:+.2} pp", 100.0 * (value - record.test_before)),
        false => format!("{:+.1} %", 100.0 * (value / record.test_before.max(f64::MIN_POSITIVE) - 1.0)),
    };
    let row = |name: &str, value: f64| vec![name.to_owned(), score(value), against(value)];
    let recovered = match record.settings.recover {
        Recover::None => "as it is kept".to_owned(),
        way => format!("put right ({way})"),
    };
    let compression = &record.settings.compression;
    let chooses = record.settings.recover.solves() && compression.has_zeros();
    let by_size = chooses && compression.criterion != Some(Criterion::Magnitude);
    let compressed = if by_size { "compressed, the smallest weights zero" } else { "compressed" };
    let rows = [
        vec!["before".to_owned(), score(record.test_before), String::new()],
        row(compressed, record.test_compressed),
        row(&recovered, record.test_recovered),
    ];
    table(
        "scores",
        &["network", if record.is_accuracy { "test accuracy" } else { "test RMSE" }, "against before"],
        &rows,
    )
}

fn sizes(record: &CompressRecord) -> String {
    let row = |name: &str, size: &fbp_train::compress::SizeRecord| {
        vec![
            name.to_owned(),
            grouped(size.dense_bytes),
            grouped(size.packed_bytes),
            grouped(size.weights),
            percent(size.zero_share(), 1),
        ]
    };
    let rows = [row("before", &record.size_before), row("now", &record.size)];
    let html = table("sizes", &["network", "bytes in single precision", "bytes packed", "weights", "zeros"], &rows);
    html + "<p>Packed: zeros left out at a bit for each weight (or two bits for each that stays in a pattern), levels at their bits with \
            a scale for every output; whatever is least.</p>\n"
}

fn layers(records: &[LayerRecord]) -> String {
    let row = |layer: &LayerRecord| {
        vec![
            escape(&layer.layer),
            grouped(layer.weights),
            percent(layer.zeros as f64 / layer.weights.max(1) as f64, 1),
            percent(layer.residual_before, 2),
            percent(layer.residual, 2),
            number(layer.damping),
        ]
    };
    let rows: Vec<Vec<String>> = records.iter().map(row).collect();
    table("layers", &["layer", "weights", "zeros", "missing, compressed", "missing, solved", "damping"], &rows)
}

/// What is missing from every layer, in the order of the network, on a logarithmic scale.
fn plot(layers: &[LayerRecord]) -> Result<String, ReportError> {
    let mut svg = String::new();
    draw(layers, &mut svg).map_err(|reason| ReportError::Plot { what: "residuals of the layers".into(), reason })?;
    let svg = finish_svg(&svg, PLOT, "what is missing from every layer, compressed and solved for");
    Ok(keys([(0, "compressed"), (1, "solved for")]) + &svg)
}

fn draw(layers: &[LayerRecord], svg: &mut String) -> Result<(), String> {
    let root = SVGBackend::with_string(svg, PLOT).into_drawing_area();
    root.fill(&WHITE).map_err(|error| error.to_string())?;
    let values = |of: fn(&LayerRecord) -> f64| layers.iter().map(move |layer| of(layer).max(FLOOR).log10());
    let series: [Vec<f64>; 2] =
        [values(|layer| layer.residual_before).collect(), values(|layer| layer.residual).collect()];
    let all = || series.iter().flatten().copied();
    let (low, high) = (all().fold(0.0, f64::min).floor(), all().fold(-1.0, f64::max).ceil().max(0.0));
    let text = |error: DrawingAreaErrorKind<_>| error.to_string();
    let mut chart = ChartBuilder::on(&root)
        .margin(10)
        .x_label_area_size(38)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..layers.len() as f64 + 1.0, low..high)
        .map_err(text)?;
    let mut mesh = chart.configure_mesh();
    quiet_mesh(&mut mesh, 13);
    mesh.x_desc("layer, in forward order")
        .y_desc("share missing")
        .y_labels((high - low) as usize + 1)
        .y_label_formatter(&|power| format!("{:.4} %", 100.0 * 10.0_f64.powf(*power)).replace(".0000 ", " "))
        .draw()
        .map_err(text)?;
    for (index, values) in series.iter().enumerate() {
        let (red, green, blue) = colour(index);
        let style = RGBColor(red, green, blue);
        let points = || values.iter().enumerate().map(|(place, value)| (place as f64 + 1.0, *value));
        chart.draw_series(LineSeries::new(points(), style.mix(0.5).stroke_width(1))).map_err(text)?;
        chart.draw_series(points().map(|point| Circle::new(point, 4, style.filled()))).map_err(text)?;
    }
    root.present().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use fbp_train::DataIdentity;
    use fbp_train::compress::{CompressSettings, Compression, LeftAlone, SizeRecord};

    use super::*;

    fn record() -> CompressRecord {
        let size = SizeRecord { dense_bytes: 4000, packed_bytes: 1300, weights: 900, zeros: 630 };
        CompressRecord {
            settings: CompressSettings {
                checkpoint_sha256: "a".into(),
                model: "<small>".into(),
                data: DataIdentity { name: "toy".into(), sha256: String::new(), samples: 50 },
                compression: Compression { prune: Some(0.7), ..Compression::default() },
                calibrate: 500,
                recover: Recover::ClosedForm,
                seed: 0,
                test_size: None,
                time: None,
                clock: None,
                learning_rates: Vec::new(),
            },
            threads: 1,
            test_before: 0.9,
            test_compressed: 0.1,
            test_recovered: 0.89,
            is_accuracy: true,
            size_before: SizeRecord { zeros: 0, packed_bytes: 4000, ..size },
            size,
            layers: vec![LayerRecord {
                layer: "conv1".into(),
                weights: 900,
                zeros: 630,
                residual_before: 0.4,
                residual: 0.0,
                damping: 1e-3,
            }],
            left_alone: vec![LeftAlone { layer: "fc".into(), reason: "for no reason".into() }],
            tuned: None,
            compress_seconds: 2.5,
            compress_processor_seconds: None,
            checkpoint: "c.safetensors".into(),
            checkpoint_sha256_after: "b".into(),
            seconds: 3.0,
        }
    }

    #[test]
    fn the_page_tells_what_became_of_the_network() {
        let html = render(&record()).unwrap();
        let bytes = grouped(1300);
        for part in ["&lt;small&gt;", "prune 0.7", "89.00 %", "-1.00 pp", &bytes, "70.0 %", "for no reason", "<svg"] {
            assert!(html.contains(part), "{part}: {html}");
        }
        assert!(!html.contains("<small>"));
    }
}
