//! Reversal of convolutions: first call, warm calls, residuals and distances against the optimum in `f64`.
//!
//! Measures every cell of the list below and writes `reverse.json`, `reverse.md` and `reverse.svg` to the folder that
//! `FBP_RESULTS` names (`benches/results` without it). Arguments: `--full`, `--sizes 16,32`, `--seeds 1`, `--peer torch`,
//! `--resume`, which keeps the cells that the folder has.
//!
//! Residuals and distances are measured with plain loops in `f64`; what the optimum is, and how far that is proved, says
//! [`oracle`].

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to the person who started it")]

mod cell;
mod oracle;
mod output;

use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs};

use fbp_linalg::FeatureShape;
use fbp_linalg::conv_solve::ConvMode;
use fbp_linalg::conv2d::Conv2dParams;

use cell::{Cell, Entry};
use output::{plot, table};

/// Distance, relative to the observed input, that `bounded` and `auto` keep to.
const BOUND: f64 = 10.0;
/// Residual, relative to the target, that `tolerance` allows.
const TOLERANCE: f64 = 1e-3;

/// What is asked for on the command line.
struct Options {
    full: bool,
    sizes: Vec<usize>,
    seeds: Option<u64>,
    torch: bool,
    resume: bool,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut options = Self { full: false, sizes: vec![16, 32, 64, 128], seeds: None, torch: false, resume: false };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--full" => options.full = true,
                "--resume" => options.resume = true,
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

/// The same cells with PyTorch, where `python3` has it; `torch-` begins the names of these methods.
fn torch(entries: &mut Vec<Entry>, folder: &Path, sizes: &[usize]) -> Result<(), Box<dyn Error>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peer/reverse_torch.py");
    let list: Vec<String> = sizes.iter().map(ToString::to_string).collect();
    let output = folder.join("reverse-torch.json");
    match Command::new("python3").arg(script).arg(&output).arg(list.join(",")).status() {
        Ok(status) if status.success() => {
            entries.retain(|entry| !entry.is_peer());
            entries.extend(serde_json::from_slice::<Vec<Entry>>(&fs::read(&output)?)?);
            fs::remove_file(output)?;
        }
        Ok(_) => eprintln!("the PyTorch peer did not run: python3 needs torch; the other results are complete"),
        Err(error) => eprintln!("the PyTorch peer did not run: python3 could not be started ({error})"),
    }
    Ok(())
}

/// Most memory that this program held at once, in GiB, where the system says so and all was measured in one run.
fn peak_memory(options: &Options) -> Option<f64> {
    if options.resume {
        return None;
    }
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1_048_576.0)
}

/// Layers of networks: the exact solution, and the nearest point within a residual.
fn practical(entries: &mut Vec<Entry>) -> Result<(), Box<dyn Error>> {
    let image = FeatureShape::image;
    let shapes = [
        (Conv2dParams::new(image(10, 6, 6), 10, [3, 3]), 256),
        (Conv2dParams::new(image(64, 8, 8), 64, [3, 3]).padding([1, 1]), 64),
        (Conv2dParams::new(image(64, 16, 16), 128, [3, 3]).padding([1, 1]), 16),
        (Conv2dParams::new(image(128, 16, 16), 128, [3, 3]).padding([1, 1]).stride([2, 2]), 16),
    ];
    let modes = [("exact", ConvMode::Exact), ("tolerance", ConvMode::Tolerance(TOLERANCE))];
    for (params, batch) in shapes {
        Cell::new(params, 1.0, 0, batch)?.measure_new(&modes, entries)?;
    }
    Ok(())
}

/// Cells of the literature's layer at 64×64 beside the grid: batch 64, and the distances at which conjugate gradients
/// (3.2 norms) and division of frequencies (3.8 norms) end at condition 1e3.
fn beside_grid(entries: &mut Vec<Entry>) -> Result<(), Box<dyn Error>> {
    for padding in [0, 1, 2] {
        let cell = Cell::new(layer(64, 4, padding), 1.0, 0, 64)?;
        cell.measure_new(&[("exact", ConvMode::Exact)], entries)?;
    }
    let modes = [("bounded-3.2", ConvMode::Bounded(3.2)), ("bounded-3.8", ConvMode::Bounded(3.8))];
    Cell::new(layer(64, 4, 1), 1e3, 0, 2)?.measure_new(&modes, entries)
}

/// The literature's layer: 8 input channels, kernel 5×5.
fn layer(size: usize, c_out: usize, padding: usize) -> Conv2dParams {
    Conv2dParams::new(FeatureShape::image(8, size, size), c_out, [5, 5]).padding([padding, padding])
}

/// Writes all files, after every layer, so that an interrupted run leaves what it measured.
fn save(entries: &[Entry], folder: &Path, peak: Option<f64>) -> Result<(), Box<dyn Error>> {
    fs::write(folder.join("reverse.json"), serde_json::to_string_pretty(entries)?)?;
    fs::write(folder.join("reverse.md"), table(entries, peak))?;
    plot(entries, &folder.join("reverse.svg"))
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let folder = fbp_benches::results_folder()?;
    let kept = folder.join("reverse.json");
    let mut entries: Vec<Entry> = if options.resume { serde_json::from_slice(&fs::read(kept)?)? } else { Vec::new() };
    if options.full || options.sizes.len() > 1 {
        practical(&mut entries)?;
    }
    let modes = [("exact", ConvMode::Exact), ("bounded", ConvMode::Bounded(BOUND)), ("auto", ConvMode::Auto(BOUND))];
    for &size in &options.sizes {
        for (c_out, padding) in [4, 8, 16].into_iter().flat_map(|c| [0, 1, 2].map(|p| (c, p))) {
            for (&condition, seed) in
                options.conditions(size).iter().flat_map(|c| (0..options.seeds(size)).map(move |s| (c, s)))
            {
                Cell::new(layer(size, c_out, padding), condition, seed, 2)?.measure_new(&modes, &mut entries)?;
            }
            save(&entries, &folder, peak_memory(&options))?;
        }
    }
    if options.sizes.contains(&64) {
        beside_grid(&mut entries)?;
        save(&entries, &folder, peak_memory(&options))?;
    }
    if options.torch {
        torch(&mut entries, &folder, &options.sizes)?;
        save(&entries, &folder, peak_memory(&options))?;
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
