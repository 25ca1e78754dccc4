//! Reversal of convolutions: first call, warm calls, residuals and distances against the optimum in `f64`.
//!
//! Measures every cell of the list below and writes `reverse.json`, `reverse.md` and `reverse.svg` to the folder that
//! `FBP_RESULTS` names (`benches/results` without it). Arguments: `--full`, `--sizes 16,32`, `--seeds 1`, `--peer torch`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to the person who started it")]

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;
use std::{env, fs};

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_linalg::conv_solve::{ConvMode, ConvRecipe, ConvSolveParams, ConvSolvePlan, ConvSystem};
use fbp_linalg::conv2d::{Conv2d, Conv2dGeometry, Conv2dParams, ConvForward};
use fbp_linalg::dense::AffineSolve;
use fbp_linalg::testkit::{normal_mat, normal_vec, rng, uniform_vec};
use fbp_linalg::{FeatureShape, Real, SolveReport, SolveSide};
use plotters::prelude::*;
use serde::Serialize;

/// Warm calls of which the median counts.
const REPEATS: usize = 5;
/// Samples that a plan is built for, so that it factors what a data set repays.
const SAMPLES: usize = 10_000;
/// Distance, relative to the observed input, that `bounded` and `auto` keep to.
const BOUND: f64 = 10.0;

/// One cell: a convolution, its weights and its targets.
struct Cell {
    geometry: Conv2dGeometry,
    condition: f64,
    seed: u64,
    batch: usize,
    weight: Vec<f64>,
    start: Vec<f64>,
    target: Vec<f64>,
}

/// A measurement, with the keys of the results file.
#[derive(Clone, Serialize)]
struct Entry {
    size: usize,
    padding: usize,
    c_in: usize,
    c_out: usize,
    kernel: usize,
    stride: usize,
    batch: usize,
    condition: f64,
    seed: u64,
    method: String,
    recipe: String,
    dtype: String,
    threads: usize,
    first_ms: f64,
    warm_ms: f64,
    residual_relative: f64,
    residual_optimum: Option<f64>,
    distance_relative: f64,
    distance_optimum: Option<f64>,
    regularised: bool,
    lambda: f64,
}

/// What is asked for on the command line.
struct Options {
    full: bool,
    sizes: Vec<usize>,
    seeds: Option<u64>,
    torch: bool,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut options = Self { full: false, sizes: vec![16, 32, 64, 128], seeds: None, torch: false };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--full" => options.full = true,
                "--sizes" => {
                    let list = words.next().ok_or("--sizes needs a list like 16,32")?;
                    options.sizes = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--seeds" => options.seeds = Some(words.next().ok_or("--seeds needs a number")?.parse()?),
                "--peer" => match words.next().as_deref() {
                    Some("torch") => options.torch = true,
                    other => return Err(format!("no such peer: {other:?}; there is torch").into()),
                },
                // Cargo and criterion's flags, which mean nothing here.
                "--bench" | "--quick" => {}
                other => return Err(format!("unknown argument {other:?}").into()),
            }
        }
        Ok(options)
    }

    fn seeds(&self, size: usize) -> u64 {
        self.seeds.unwrap_or(if self.full {
            10
        } else if size >= 128 {
            1
        } else {
            3
        })
    }

    fn conditions(&self, size: usize) -> &'static [f64] {
        if self.full || size < 128 { &[1.0, 1e1, 1e2, 1e3, 1e4, 1e5] } else { &[1.0, 1e3, 1e5] }
    }
}

/// Weights `U diag(logspace(0, -log10 κ)) Vᵀ`.
fn weights(g: &Conv2dGeometry, condition: f64, seed: u64) -> Vec<f64> {
    let mut rng = rng(seed);
    let [rows, ci, kh, kw] = g.weight_shape();
    let (cols, rank) = (ci * kh * kw, rows.min(ci * kh * kw));
    let u = normal_mat::<f64>(rows, rank, &mut rng).qr().compute_thin_Q();
    let v = normal_mat::<f64>(cols, rank, &mut rng).qr().compute_thin_Q();
    let sigma = |k: usize| condition.powf(-(k as f64) / (rank.max(2) - 1) as f64);
    let w = Mat::from_fn(rows, rank, |i, k| u[(i, k)] * sigma(k)) * v.transpose();
    (0..rows * cols).map(|at| w[(at / cols, at % cols)]).collect()
}

impl Cell {
    fn new(params: Conv2dParams, condition: f64, seed: u64, batch: usize) -> Result<Self, Box<dyn Error>> {
        let geometry = params.check()?;
        let weight = weights(&geometry, condition, seed);
        let mut rng = rng(1000 + seed);
        let start = normal_vec::<f64>(batch * geometry.in_len(), &mut rng);
        let mut target = vec![0.0; batch * geometry.out_len()];
        let conv = Conv2d::new(geometry);
        let mut memory = MemBuffer::new(conv.forward_scratch::<f64>(batch, Par::rayon(0)));
        let args = ConvForward { input: &start, weight: &weight, bias: None, output: &mut target };
        conv.forward(args, Par::rayon(0), MemStack::new(&mut memory))?;
        let noise = uniform_vec::<f64>(target.len(), 0.0, 1.0, &mut rng);
        target.iter_mut().zip(noise).for_each(|(y, noise)| *y += noise);
        Ok(Self { geometry, condition, seed, batch, weight, start, target })
    }

    /// First and warm milliseconds, the last report, and `|v - v0| / |v0|`.
    fn run<T: Real>(&self, mode: ConvMode, recipe: Option<ConvRecipe>) -> Result<Outcome, Box<dyn Error>> {
        let (rows, cols, par) = (self.geometry.out_len(), self.geometry.in_len(), Par::rayon(0));
        let narrow =
            |len: usize, values: &[f64]| Mat::from_fn(len, self.batch, |i, j| T::from_f64(values[j * len + i]));
        let (start, target) = (narrow(cols, &self.start), narrow(rows, &self.target));
        let mut solution = Mat::<T>::zeros(cols, self.batch);
        let config = ConvSolveParams::new().mode(mode).samples_expected(SAMPLES).check()?;
        let system = ConvSystem { geometry: self.geometry, weight: &self.weight, bias: None, transposed: false };
        let begin = Instant::now();
        let plan = match recipe {
            Some(recipe) => ConvSolvePlan::<T>::with_recipe(&system, &config, recipe, par)?,
            None => ConvSolvePlan::<T>::new(&system, &config, par)?,
        };
        let mut memory = MemBuffer::new(plan.solve_scratch(self.batch, par));
        let mut times = Vec::new();
        let mut first_ms = 0.0;
        let mut report = None;
        for repeat in 0..=REPEATS {
            let warm = Instant::now();
            let (observed_in, target) = (start.as_ref(), target.as_ref());
            let pass = AffineSolve { observed_in, observed_out: None, target, solution: solution.as_mut() };
            report = Some(plan.solve(pass, par, MemStack::new(&mut memory))?);
            if repeat == 0 {
                first_ms = begin.elapsed().as_secs_f64() * 1e3;
            } else {
                times.push(warm.elapsed().as_secs_f64() * 1e3);
            }
            if repeat > 0 && begin.elapsed().as_secs_f64() > 20.0 {
                break;
            }
        }
        times.sort_by(f64::total_cmp);
        let (mut moved, mut size) = (0.0, 0.0);
        for (at, v0) in self.start.iter().enumerate() {
            moved += (solution[(at % cols, at / cols)].to_f64() - v0).powi(2);
            size += v0 * v0;
        }
        let report = report.ok_or("nothing was solved")?;
        let distance = (moved / size).sqrt();
        Ok(Outcome { first_ms, warm_ms: times[times.len() / 2], report, distance, recipe: plan.recipe() })
    }

    /// Exact, bounded and auto in `f32`, each beside the optimum of the same problem in `f64`.
    fn measure(&self, entries: &mut Vec<Entry>) -> Result<(), Box<dyn Error>> {
        for (method, mode) in [
            ("exact", ConvMode::Exact),
            ("bounded", ConvMode::Bounded(BOUND)),
            ("auto", ConvMode::Auto(BOUND)),
            ("tolerance", ConvMode::Tolerance(1e-3)),
        ] {
            let practical = self.geometry.in_shape().channels != 8;
            if (method == "tolerance") != practical && method != "exact" {
                continue;
            }
            let found = self.run::<f32>(mode, None)?;
            let optimum = self.run::<f64>(mode, None)?;
            let g = &self.geometry;
            let entry = Entry {
                size: g.in_shape().height,
                padding: g.padding()[0],
                c_in: g.in_shape().channels,
                c_out: g.out_shape().channels,
                kernel: g.kernel()[0],
                stride: g.stride()[0],
                batch: self.batch,
                condition: self.condition,
                seed: self.seed,
                method: method.to_owned(),
                recipe: format!("{:?}", found.recipe),
                dtype: "f32".to_owned(),
                threads: Par::rayon(0).degree(),
                first_ms: found.first_ms,
                warm_ms: found.warm_ms,
                residual_relative: found.report.residual_relative,
                residual_optimum: Some(optimum.report.residual_relative),
                distance_relative: found.distance,
                distance_optimum: Some(optimum.distance),
                regularised: found.report.side == SolveSide::Regularised,
                lambda: found.report.lambda,
            };
            println!(
                "{}->{} {}x{} p{} κ {:.0e} seed {} {method} {}: first {:.0} ms, warm {:.1} ms, residual {:.2e} \
                 (optimum {:.2e}), distance {:.4} ({:.4}), λ {:.1e}, {:?}",
                entry.c_in,
                entry.c_out,
                entry.size,
                entry.size,
                entry.padding,
                entry.condition,
                entry.seed,
                entry.recipe,
                entry.first_ms,
                entry.warm_ms,
                entry.residual_relative,
                optimum.report.residual_relative,
                entry.distance_relative,
                optimum.distance,
                entry.lambda,
                found.report.stop,
            );
            entries.push(entry);
        }
        Ok(())
    }
}

/// What one method did with one cell.
struct Outcome {
    first_ms: f64,
    warm_ms: f64,
    report: SolveReport,
    distance: f64,
    recipe: ConvRecipe,
}

fn table(entries: &[Entry]) -> String {
    let mut text = String::from(
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
fn plot(entries: &[Entry], path: &Path) -> Result<(), Box<dyn Error>> {
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

/// The same cells with PyTorch, where `python3` has it.
fn torch(folder: &Path, sizes: &[usize]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peer/reverse_torch.py");
    let list: Vec<String> = sizes.iter().map(ToString::to_string).collect();
    let run = Command::new("python3").arg(script).arg(folder.join("reverse-torch.json")).arg(list.join(",")).status();
    match run {
        Ok(status) if status.success() => {}
        Ok(_) => eprintln!("the PyTorch peer did not run: python3 needs torch; the other results are complete"),
        Err(error) => eprintln!("the PyTorch peer did not run: python3 could not be started ({error})"),
    }
}

fn practical(entries: &mut Vec<Entry>) -> Result<(), Box<dyn Error>> {
    let image = FeatureShape::image;
    let shapes = [
        (Conv2dParams::new(image(10, 6, 6), 10, [3, 3]), 256),
        (Conv2dParams::new(image(64, 8, 8), 64, [3, 3]).padding([1, 1]), 64),
        (Conv2dParams::new(image(64, 16, 16), 128, [3, 3]).padding([1, 1]), 16),
        (Conv2dParams::new(image(128, 16, 16), 128, [3, 3]).padding([1, 1]).stride([2, 2]), 16),
    ];
    for (params, batch) in shapes {
        Cell::new(params, 1.0, 0, batch)?.measure(entries)?;
    }
    Ok(())
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let folder =
        env::var_os("FBP_RESULTS").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("results"), PathBuf::from);
    fs::create_dir_all(&folder)?;
    let mut entries = Vec::new();
    for &size in &options.sizes {
        for (c_out, padding) in [4, 8, 16].into_iter().flat_map(|c| [0, 1, 2].map(|p| (c, p))) {
            let params =
                Conv2dParams::new(FeatureShape::image(8, size, size), c_out, [5, 5]).padding([padding, padding]);
            for (&condition, seed) in
                options.conditions(size).iter().flat_map(|c| (0..options.seeds(size)).map(move |s| (c, s)))
            {
                Cell::new(params, condition, seed, 2)?.measure(&mut entries)?;
            }
            // Kept after every layer, so that an interrupted run leaves what it measured.
            fs::write(folder.join("reverse.json"), serde_json::to_string_pretty(&entries)?)?;
        }
    }
    if options.full || options.sizes.len() > 1 {
        practical(&mut entries)?;
    }
    fs::write(folder.join("reverse.json"), serde_json::to_string_pretty(&entries)?)?;
    fs::write(folder.join("reverse.md"), table(&entries))?;
    plot(&entries, &folder.join("reverse.svg"))?;
    if options.torch {
        torch(&folder, &options.sizes);
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
