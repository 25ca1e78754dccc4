//! Attainable targets of whole networks: images per second over all boundaries, and where the time goes.
//!
//! Trains each network shortly on Fashion-MNIST (where `cargo xtask fetch fashion-mnist` has put it, otherwise the part that
//! ships), then makes targets of every feature between the stages with margin 1. Writes `attainable.json` to the folder that
//! `FBP_RESULTS` names (`benches/results` without it). Arguments: `--network NAME` (may be given several times), `--quick`.

#![expect(clippy::print_stdout, reason = "a benchmark talks to the person who started it")]

use std::cell::Cell;
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs};

use candle_core::{Device, Tensor};
use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use fbp_inverse::joint::{FrozenRest, JointGoal, JointWorkspace, RestForward, RestVjp};
use fbp_inverse::{ChainRest, Interval, InverseError, Margins};
use fbp_models::{NetworkSpec, bridge, zoo};
use fbp_train::data::{Batcher, DataBundle, LoadOptions, load};
use fbp_train::progress::Silent;
use fbp_train::{PretrainOptions, pretrain};
use serde::Serialize;

const NETWORKS: [&str; 3] = ["plain-bn", "resnet20", "simple-cnn-mnist-v2"];
/// Images per batch.
const BATCH: usize = 256;
/// Images that get targets.
const IMAGES: usize = 2048;
/// The same with `--quick`.
const QUICK_IMAGES: usize = 256;
/// Lead of the right class.
const MARGIN: f64 = 1.0;

/// One network, with the keys of the results file.
#[derive(Serialize)]
struct Entry {
    network: &'static str,
    images: usize,
    /// Features per image that get a target.
    boundaries: usize,
    images_per_second: f64,
    /// Shares of the time, which add up to 1: forward passes, products with the transposed Jacobian, and the small problems and
    /// whatever else the iteration does.
    forward: f64,
    products: f64,
    rest: f64,
    /// Share of the targets that are attained.
    attained: f64,
    /// How far the targets lie, relative to the features, per boundary.
    moved_by: Vec<f64>,
    processor: String,
}

/// A frozen rest whose passes are timed.
struct Timed<'a> {
    rest: ChainRest<'a, f32>,
    forward: Cell<Duration>,
    products: Cell<Duration>,
}

impl<'a> Timed<'a> {
    fn new(rest: ChainRest<'a, f32>) -> Self {
        Self { rest, forward: Cell::default(), products: Cell::default() }
    }
}

fn timed<R>(sum: &Cell<Duration>, work: impl FnOnce() -> R) -> R {
    let begun = Instant::now();
    let result = work();
    sum.set(sum.get() + begun.elapsed());
    result
}

impl FrozenRest<f32> for Timed<'_> {
    fn name(&self) -> &str {
        self.rest.name()
    }

    fn in_len(&self) -> usize {
        self.rest.in_len()
    }

    fn out_len(&self) -> usize {
        self.rest.out_len()
    }

    fn interval(&self) -> Interval<f32> {
        self.rest.interval()
    }

    fn tape_lens(&self) -> &[usize] {
        self.rest.tape_lens()
    }

    fn has_derivatives(&self) -> bool {
        self.rest.has_derivatives()
    }

    fn forward_scratch(&self, batch: usize, par: Par) -> StackReq {
        self.rest.forward_scratch(batch, par)
    }

    fn forward(&self, pass: RestForward<'_, f32>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        timed(&self.forward, || self.rest.forward(pass, par, stack))
    }

    fn vjp_scratch(&self, batch: usize, count: usize, par: Par) -> StackReq {
        self.rest.vjp_scratch(batch, count, par)
    }

    fn vjp(&self, pass: RestVjp<'_, f32>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        timed(&self.products, || self.rest.vjp(pass, par, stack))
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
    let spec = zoo::spec(name)?;
    Ok(spec.adapted([1, 28, 28], 10)?)
}

fn measure(name: &'static str, data: &DataBundle, images: usize, processor: &str) -> Result<Entry, Box<dyn Error>> {
    let epochs = if data.train.len() > 10_000 { 1 } else { 5 };
    let options = PretrainOptions { epochs, batch: 128, ..PretrainOptions::default() };
    let network = pretrain(&spec(name)?, data, &options, &Silent)?.network;
    let stages = network.stages().len();
    let indices: Vec<usize> = (0..images.min(data.train.len())).collect();
    let (mut total, mut forward, mut products) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut unattained, mut moved_by) = (0, Vec::new());
    for stage in 1..stages {
        let chain = network.reverse_chain(stage, network.ranges_below(stage, Interval::EVERYTHING)?)?;
        let rest = Timed::new(chain.rest(0).ok_or("a chain without stages")?);
        let par = Par::rayon(rayon::current_num_threads());
        let mut work = JointWorkspace::new(&rest, BATCH, par);
        let (mut distance, mut observed) = (0.0, 0.0);
        let mut batches = Batcher::new(&data.train, indices.clone(), &data.normalization, BATCH)?;
        while let Some(batch) = batches.next_batch(par) {
            let images = Tensor::from_slice(batch.images, (batch.len(), 1, 28, 28), &Device::Cpu)?;
            let feature = network.infer_stages(0..stage, &images)?;
            let labels: Vec<usize> = batch.labels.iter().map(|&label| label as usize).collect();
            let goal = JointGoal::Margins(Margins { labels: &labels, margin: MARGIN });
            let begun = Instant::now();
            let report = bridge::with_matrix(&feature, |observed| work.nearest(observed, goal))??;
            total += begun.elapsed();
            unattained += report.unattained;
            distance += report.distance_sq;
            observed += report.observed_sq;
        }
        moved_by.push((distance / observed).sqrt());
        forward += rest.forward.get();
        products += rest.products.get();
    }
    let share = |part: Duration| part.as_secs_f64() / total.as_secs_f64();
    Ok(Entry {
        network: name,
        images: indices.len(),
        boundaries: stages - 1,
        images_per_second: indices.len() as f64 / total.as_secs_f64(),
        forward: share(forward),
        products: share(products),
        rest: 1.0 - share(forward) - share(products),
        attained: 1.0 - unattained as f64 / (indices.len() * (stages - 1)) as f64,
        moved_by,
        processor: processor.to_owned(),
    })
}

fn run() -> Result<(), Box<dyn Error>> {
    let (mut quick, mut networks) = (false, Vec::new());
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => quick = true,
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
    let folder = fbp_benches::results_folder()?;
    let (data, processor) = (data()?, fbp_benches::processor());
    println!(
        "| network | images/s | forward | products | the rest | attained | moved by |\n|---|---|---|---|---|---|---|"
    );
    let mut entries = Vec::new();
    for name in networks {
        let entry = measure(name, &data, if quick { QUICK_IMAGES } else { IMAGES }, &processor)?;
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let moved: Vec<String> = entry.moved_by.iter().map(|share| format!("{:.2}", 100.0 * share)).collect();
        println!(
            "| {name} | {:.0} | {} | {} | {} | {:.2} % | {} % |",
            entry.images_per_second,
            percent(entry.forward),
            percent(entry.products),
            percent(entry.rest),
            100.0 * entry.attained,
            moved.join(" / ")
        );
        entries.push(entry);
        fs::write(folder.join("attainable.json"), serde_json::to_string_pretty(&entries)?)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
