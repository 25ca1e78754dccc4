//! Attainable targets of whole networks, as `fbp targets` makes them, files included: images per second over all stages, and
//! where the time goes.
//!
//! Trains each network shortly on Fashion-MNIST (where `cargo xtask fetch fashion-mnist` has put it, otherwise the part that
//! ships), then makes targets of every transitional feature with margin 1. Writes `attainable.json` to the folder that
//! `FBP_RESULTS` names (`benches/results` without it), where rows of other processors stay. Arguments: `--network NAME` and
//! `--effort quick|refined|thorough` (both may be given several times), `--quick` (fewer images).

#![expect(clippy::print_stdout, reason = "a benchmark talks to the person who started it")]

mod spans;

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use fbp_benches::Row;
use fbp_models::{NetworkSpec, zoo};
use fbp_train::data::{DataBundle, LoadOptions, load};
use fbp_train::progress::Silent;
use fbp_train::settings::Effort;
use fbp_train::store::StoreWriter;
use fbp_train::targets::{TargetsOptions, TargetsSource, compute_targets};
use fbp_train::{DataIdentity, PretrainOptions, pretrain};
use serde::{Deserialize, Serialize};

const NETWORKS: [&str; 3] = ["plain-bn", "resnet20", "simple-cnn-mnist-v2"];
const EFFORTS: [Effort; 3] = [Effort::Quick, Effort::Refined, Effort::Thorough];
/// Images that get targets.
const IMAGES: usize = 2048;
/// The same with `--quick`.
const QUICK_IMAGES: usize = 256;

/// One network and effort, with the keys of the results file.
#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    network: String,
    effort: Effort,
    images: usize,
    /// Features per image that get a target.
    stages: usize,
    images_per_second: f64,
    /// Shares of the time of all threads, which add up to 1: passes of the frozen rest forwards, products with its transposed
    /// Jacobian, the small problems, and whatever else there is.
    forward: f64,
    products: f64,
    nearest: f64,
    rest: f64,
    /// Targets that are not attained.
    unattained: usize,
    /// How far the targets lie, relative to the features, per stage.
    moved_by: Vec<f64>,
    processor: String,
}

impl Row for Entry {
    fn processor(&self) -> &str {
        &self.processor
    }
}

fn data() -> Result<DataBundle, Box<dyn Error>> {
    let options = LoadOptions::default();
    Ok(load("fashion-mnist", &options).or_else(|_| load("fashion-mnist-mini", &options))?)
}

fn spec(name: &str) -> Result<NetworkSpec, Box<dyn Error>> {
    if name == "plain-bn" {
        return Ok(NetworkSpec::from_toml(include_str!("../networks/plain-bn.toml"))?);
    }
    Ok(zoo::spec(name)?.adapted([1, 28, 28], 10)?)
}

/// Makes targets once into a folder that is gone afterwards.
fn measure(
    (name, effort): (&'static str, Effort),
    source: TargetsSource<'_>,
    processor: &str,
) -> Result<Entry, Box<dyn Error>> {
    let images = source.data.len();
    let options = TargetsOptions { effort, ..TargetsOptions::default() };
    let sha256 = source.data.sha256();
    let identity = DataIdentity { name: source.data.name().to_owned(), sha256, samples: images };
    let folder = tempfile::tempdir()?;
    let manifest = options.manifest(source.network, String::new(), identity)?;
    let writer = StoreWriter::open(folder.path(), manifest, false)?;
    spans::seconds();
    let begun = Instant::now();
    let report = compute_targets(source, &writer, &Silent)?;
    let elapsed = begun.elapsed().as_secs_f64();
    let [forward, products, nearest] =
        spans::seconds().map(|seconds| seconds / (elapsed * rayon::current_num_threads() as f64));
    Ok(Entry {
        network: name.to_owned(),
        effort,
        images,
        stages: report.stages.len(),
        images_per_second: images as f64 / elapsed,
        forward,
        products,
        nearest,
        rest: 1.0 - forward - products - nearest,
        unattained: report.stages.iter().map(|stage| stage.unattained).sum(),
        moved_by: report.stages.iter().map(|stage| stage.distance_relative).collect(),
        processor: processor.to_owned(),
    })
}

fn line(entry: &Entry) -> String {
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let [forward, products, nearest, rest] = [entry.forward, entry.products, entry.nearest, entry.rest].map(percent);
    let moved: Vec<String> = entry.moved_by.iter().map(|share| format!("{:.3}", 100.0 * share)).collect();
    format!(
        "| {} | {} | {:.0} | {forward} | {products} | {nearest} | {rest} | {} | {} % |",
        entry.network,
        entry.effort,
        entry.images_per_second,
        entry.unattained,
        moved.join(" / ")
    )
}

fn run() -> Result<(), Box<dyn Error>> {
    let (mut quick, mut networks, mut efforts) = (false, Vec::new(), Vec::new());
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => quick = true,
            "--effort" => {
                let name = words.next().unwrap_or_default();
                let known = EFFORTS.into_iter().find(|effort| effort.to_string() == name);
                efforts.push(known.ok_or("--effort needs quick, refined or thorough")?);
            }
            "--network" => {
                let name = words.next().unwrap_or_default();
                let known = NETWORKS.into_iter().find(|known| *known == name);
                networks.push(known.ok_or_else(|| format!("--network needs one of {}", NETWORKS.join(", ")))?);
            }
            // Cargo's flag, which means nothing here.
            "--bench" => {}
            other => return Err(format!("unknown argument {other:?}").into()),
        }
    }
    if networks.is_empty() {
        networks.extend(NETWORKS);
    }
    if efforts.is_empty() {
        efforts.push(Effort::default());
    }
    tracing::subscriber::set_global_default(spans::Stopwatch)?;
    let folder = fbp_benches::results_folder()?;
    let (data, processor) = (data()?, fbp_benches::processor());
    let images: Vec<usize> = (0..data.train.len().min(if quick { QUICK_IMAGES } else { IMAGES })).collect();
    let (some, epochs) = (data.train.subset(&images)?, if data.train.len() > 10_000 { 1 } else { 5 });
    println!("| network | effort | images/s | forward | products | nearest | else | not attained | moved by |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut entries = Vec::new();
    for name in networks {
        let options = PretrainOptions { epochs, batch: 128, ..PretrainOptions::default() };
        let network = pretrain(&spec(name)?, &data, &options, &Silent)?.network;
        for &effort in &efforts {
            let source = TargetsSource { network: &network, data: &some, normalization: &data.normalization };
            let entry = measure((name, effort), source, &processor)?;
            println!("{}", line(&entry));
            entries.push(entry);
            fbp_benches::write_rows(&folder.join("attainable.json"), &entries)?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    fbp_benches::status(run())
}
