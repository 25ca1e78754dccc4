//! The linear programme of provable repair, as a rival of `fbp repair`: the smallest change of one linear layer in the sum or the
//! maximum of its entries that gives every sample its label by a margin in the *decoupled* network, in which units stay active or
//! not as they were before the change.
//!
//! `cargo xtask bench repair` runs it. Arguments: `--checkpoint FILE`, `--record FILE` (of a repair, which names the samples),
//! `--data-dir DIR`, `--task LAYER:l1|max` (may be given several times), `--limit SECONDS` of the processor for each programme, `--out FILE`.
//!
//! # Source
//! Sotoudeh & Thakur, "Provable repair of deep neural networks", PLDI 2021, §4 (decoupled networks) and §5 (repair of points).

#![expect(clippy::print_stdout, reason = "a benchmark talks to the person who started it")]

mod decoupled;
mod programme;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

use faer::Mat;
use fbp_models::Checkpoint;
use fbp_train::data::{Dataset, SPLIT_SEED, Split};
use fbp_train::input::{DataRequest, Input};
use fbp_train::processor::Stopwatch;
use fbp_train::repair::{Corrupted, RepairRecord, SampleOrigin};
use fbp_train::settings::Part;
use serde::Serialize;

use decoupled::{Mlp, Pass, leads};
use programme::{Condition, End, Norm, Programme};

/// Lead that is asked for. A larger one costs more: 1 in place of it loses 34 points and not 15 with `out` of `mlp-3x100`, 16 and not 7
/// with `fc3` (seed 0).
const MARGIN: f64 = 0.01;

#[derive(Default)]
struct Options {
    checkpoint: PathBuf,
    record: PathBuf,
    data_dir: Option<PathBuf>,
    out: PathBuf,
    tasks: Vec<(String, Norm)>,
    limit: f64,
}

/// What a changed network is worth, shares from 0 to 1.
#[derive(Serialize)]
struct Measures {
    efficacy: f64,
    generalisation: f64,
    generalisation_validation: f64,
    drawdown_test: f64,
    drawdown_validation: f64,
}

/// One programme, with the keys of the results file.
#[derive(Serialize)]
struct Entry {
    layer: String,
    norm: &'static str,
    margin: f64,
    end: &'static str,
    /// Weights that may change.
    weights: usize,
    conditions: usize,
    /// Programmes that were solved, each with some of the conditions and weights, and the size of the last one.
    rounds: usize,
    rows: usize,
    columns: usize,
    iterations: u32,
    size: f64,
    /// Time of the processor; null where the system does not tell.
    seconds: Option<f64>,
    decoupled: Measures,
    coupled: Measures,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut options = Self { limit: 600.0, ..Self::default() };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            // What cargo adds.
            if word == "--bench" {
                continue;
            }
            let value = words.next().ok_or(format!("{word} needs a value"))?;
            match word.as_str() {
                "--checkpoint" => options.checkpoint = value.into(),
                "--record" => options.record = value.into(),
                "--data-dir" => options.data_dir = Some(value.into()),
                "--out" => options.out = value.into(),
                "--limit" => options.limit = value.parse()?,
                "--task" => options.tasks.push(match value.split_once(':') {
                    Some((layer, "l1")) => (layer.to_owned(), Norm::L1),
                    Some((layer, "max")) => (layer.to_owned(), Norm::Max),
                    _ => return Err(format!("{value:?} is not LAYER:l1 or LAYER:max").into()),
                }),
                _ => return Err(format!("{word:?} is none of this program's arguments").into()),
            }
        }
        Ok(options)
    }
}

/// Samples with what a layer gets of them.
struct Set {
    pass: Pass,
    labels: Vec<usize>,
    /// Which of them were right before.
    right: Vec<bool>,
}

impl Set {
    fn new(
        mlp: &Mlp,
        layer: usize,
        input: &Input,
        images: &Dataset,
        samples: &[usize],
    ) -> Result<Self, Box<dyn Error>> {
        let pass = mlp.pass(layer, images, samples, &input.bundle.normalization)?;
        let labels: Vec<usize> = samples.iter().map(|&sample| usize::from(images.labels()[sample])).collect();
        let right = leads(&pass.logits, &labels).into_iter().map(|lead| lead > 0.0).collect();
        Ok(Self { pass, labels, right })
    }

    fn right_after(&self, logits: &Mat<f64>) -> Vec<bool> {
        leads(logits, &self.labels).into_iter().map(|lead| lead > 0.0).collect()
    }

    /// Share that is right.
    fn share(right: &[bool]) -> f64 {
        right.iter().filter(|right| **right).count() as f64 / right.len().max(1) as f64
    }

    /// Share of those that were wrong before that is right now.
    fn gained(&self, after: &[bool]) -> f64 {
        let own: Vec<bool> =
            self.right.iter().zip(after).filter(|(before, _)| !**before).map(|(_, after)| *after).collect();
        Self::share(&own)
    }
}

/// All sets of one layer.
struct Sets {
    samples: Set,
    validation: Set,
    kin_validation: Set,
    test: Set,
    kin_test: Set,
}

impl Sets {
    fn measure(&self, logits: impl Fn(&Pass) -> Mat<f64>) -> Measures {
        let after = |set: &Set| set.right_after(&logits(&set.pass));
        let lost = |set: &Set| Set::share(&set.right) - Set::share(&after(set));
        Measures {
            efficacy: Set::share(&after(&self.samples)),
            generalisation: self.kin_test.gained(&after(&self.kin_test)),
            generalisation_validation: self.kin_validation.gained(&after(&self.kin_validation)),
            drawdown_test: lost(&self.test),
            drawdown_validation: lost(&self.validation),
        }
    }
}

/// The conditions of every sample over every other class.
fn conditions(mlp: &Mlp, set: &Set, margin: f64) -> Vec<Condition> {
    let logits = &set.pass.logits;
    let of_sample = |sample: usize| {
        let (label, slopes) = (set.labels[sample], mlp.slopes(&set.pass, sample));
        let over = |class: usize| Condition {
            sample,
            slope: (0..slopes.ncols()).map(|o| slopes[(label, o)] - slopes[(class, o)]).collect(),
            demand: margin - (logits[(label, sample)] - logits[(class, sample)]),
        };
        (0..logits.nrows()).filter(|&class| class != label).map(over).collect::<Vec<_>>()
    };
    (0..set.labels.len()).flat_map(of_sample).collect()
}

/// Solves the programme of a layer and measures both networks with its change.
fn entry(
    mlp: &Mlp,
    (name, layer): (&str, usize),
    norm: Norm,
    sets: &Sets,
    limit: f64,
) -> Result<Entry, Box<dyn Error>> {
    let begun = Stopwatch::start();
    let conditions = conditions(mlp, &sets.samples, MARGIN);
    let x = &sets.samples.pass.x;
    let outputs = mlp.len_of(layer) / x.nrows();
    let answer = Programme { x, conditions: &conditions, outputs, norm }.solve(limit)?;
    let seconds = begun.processor_seconds();
    let decoupled = sets.measure(|pass| mlp.decoupled(pass, &answer.change));
    if answer.end == End::Solved && decoupled.efficacy < 1.0 {
        return Err(
            format!("a sample is wrong in the decoupled network of {name}, which the programme rules out").into()
        );
    }
    Ok(Entry {
        layer: name.to_owned(),
        norm: if norm == Norm::L1 { "l1" } else { "max" },
        margin: MARGIN,
        end: match answer.end {
            End::Solved => "solved",
            End::Infeasible => "infeasible",
            End::Unfinished => "unfinished",
        },
        weights: mlp.len_of(layer),
        conditions: conditions.len(),
        rounds: answer.rounds,
        rows: answer.rows,
        columns: answer.columns,
        iterations: answer.iterations,
        size: answer.norm,
        seconds,
        decoupled,
        coupled: sets.measure(|pass| mlp.coupled(pass, &answer.change)),
    })
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let record: RepairRecord = serde_json::from_str(&fs::read_to_string(&options.record)?)?;
    let checkpoint = Checkpoint::load(&options.checkpoint)?;
    let name = record.settings.data.name.clone();
    let mut input = DataRequest { name, data_dir: options.data_dir.clone(), ..DataRequest::default() }.load()?;
    input.prepare_for(&checkpoint, false)?;
    let corruption = record.settings.samples_corrupt.ok_or("the samples of the record are not corrupted ones")?;
    let corrupted = Corrupted::new(&input.bundle, corruption, 0)?;
    let kin = |part| SampleOrigin::Corrupted(part, &corrupted).images(&input.bundle);
    let split = Split::stratified(&input.bundle.train, record.settings.validation, SPLIT_SEED)?;
    let test: Vec<usize> = (0..input.bundle.test.len()).collect();
    let mlp = Mlp::new(&checkpoint.network)?;
    let mut entries = Vec::new();
    for (name, norm) in &options.tasks {
        let layer = mlp.names.iter().position(|own| own == name).ok_or(format!("there is no stage {name:?}"))?;
        let set = |images: &Dataset, samples: &[usize]| Set::new(&mlp, layer, &input, images, samples);
        let sets = Sets {
            samples: set(kin(Part::Train), &record.samples)?,
            validation: set(&input.bundle.train, &split.validation)?,
            kin_validation: set(kin(Part::Train), &split.validation)?,
            test: set(&input.bundle.test, &test)?,
            kin_test: set(kin(Part::Test), &test)?,
        };
        let entry = entry(&mlp, (name, layer), *norm, &sets, options.limit)?;
        println!("{}", serde_json::to_string(&entry)?);
        entries.push(entry);
    }
    fs::write(&options.out, serde_json::to_string_pretty(&entries)?)?;
    Ok(())
}

fn main() -> ExitCode {
    fbp_benches::status(run())
}
