//! `cargo xtask bench`: runs the benchmarks and keeps their results with the context they were measured in.

mod compress;
mod context;
mod few_labels;
mod ratios;
mod repair;
mod results;
mod statistics;
mod study;
mod training;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use crate::command::Child;
use crate::error::TaskError;
use crate::fetch::write_whole;
use crate::{layering, workspace};

use context::Context;
use results::Snapshot;

/// Run the benchmarks against their rivals and keep the results
///
/// Results of a whole benchmark go to benches/results/NAME.json, with processor, cores, compiler, commit and date. What
/// a filter or --quick leaves incomplete or rough goes to target/bench-results/ instead.
#[derive(Args)]
#[command(after_help = "Example: cargo xtask bench conv2d")]
pub(crate) struct Arguments {
    /// Name of one benchmark, or a part of the names of the measurements to run
    filter: Option<String>,
    /// Measure for a short time: rough numbers
    #[arg(long)]
    quick: bool,
    /// reverse: every condition and ten seeds for every cell
    #[arg(long)]
    full: bool,
    /// reverse: sizes of the images, such as 16,32
    #[arg(long)]
    sizes: Option<String>,
    /// compress: some of the ways, such as "prune 0.7,2:4"; few-labels: some of the corruptions, such as fog:4,noise:2
    #[arg(long)]
    ways: Option<String>,
    /// compress, few-labels: some of the numbers of calibration images or labels, such as 100,500; training: the first so many images
    /// only
    #[arg(long)]
    images: Option<String>,
    /// compress: fashion-mnist, shapes-mini, or idx:FOLDER with the four IDX files of MNIST
    #[arg(long)]
    data: Option<String>,
    /// compress: leave out the rival in five times the time
    #[arg(long)]
    equal_time: bool,
    /// compress: also training on the labels from the closed form on, against fine-tuning in the time of both
    #[arg(long)]
    labels: bool,
    /// reverse, compress, few-labels, repair, training: number of seeds
    #[arg(long)]
    seeds: Option<String>,
    /// compress, few-labels, repair: some of the networks, such as resnet20,cnn-mnist-large
    #[arg(long)]
    networks: Option<String>,
    /// compress, few-labels, repair, training: folder with the data sets
    #[arg(long)]
    data_dir: Option<String>,
    /// reverse, networks, convolution: also time another program, torch; images: pillow
    #[arg(long)]
    peer: Option<String>,
    /// networks, attainable, training: one network only
    #[arg(long)]
    network: Option<String>,
    /// attainable: how much is spent on nearer targets: quick, refined or thorough
    #[arg(long)]
    effort: Option<String>,
    /// convolution: layers with so many channels only
    #[arg(long)]
    channels: Option<String>,
    /// networks: one kind of work only: step, inference or product
    #[arg(long)]
    work: Option<String>,
    /// reverse: keep the cells that an interrupted run has measured
    #[arg(long)]
    resume: bool,
    /// ratios: random problems per solver
    #[arg(long)]
    cases: Option<u64>,
    /// ratios: which random problems
    #[arg(long)]
    seed: Option<u64>,
    /// ratios: one solver only
    #[arg(long)]
    solver: Option<String>,
}

/// A benchmark that keeps its own results and takes flags of its own.
struct OwnResults {
    name: &'static str,
    /// Flags that it takes, beside `--quick`.
    flags: &'static [&'static str],
    /// Flags that make it incomplete.
    partial: &'static [&'static str],
}

/// Most take half an hour, so they have to be named.
const OWN_RESULTS: [OwnResults; 5] = [
    OwnResults {
        name: "reverse",
        flags: &["--full", "--resume", "--sizes", "--seeds", "--peer"],
        partial: &["--sizes", "--seeds"],
    },
    OwnResults { name: "convolution", flags: &["--peer", "--channels"], partial: &["--channels"] },
    OwnResults { name: "images", flags: &["--peer"], partial: &[] },
    OwnResults { name: "attainable", flags: &["--network", "--effort"], partial: &["--network", "--effort"] },
    OwnResults { name: "networks", flags: &["--network", "--work", "--peer"], partial: &["--network", "--work"] },
];

impl Arguments {
    /// Whether a flag was given that only `bench compress` takes.
    fn has_flags_of_compress(&self) -> bool {
        self.data.is_some() || self.equal_time || self.labels
    }

    /// Whether a flag was given that picks some cells of a study.
    fn picks_cells(&self) -> bool {
        self.ways.is_some() || self.images.is_some()
    }

    /// The flags that were given of those which not every benchmark takes, each with its value.
    fn own_flags(&self) -> Vec<Vec<&str>> {
        let switches = [("--full", self.full), ("--resume", self.resume)];
        let switches = switches.into_iter().filter(|(_, given)| *given).map(|(name, _)| vec![name]);
        let values = [
            ("--sizes", &self.sizes),
            ("--seeds", &self.seeds),
            ("--peer", &self.peer),
            ("--network", &self.network),
            ("--effort", &self.effort),
            ("--work", &self.work),
            ("--channels", &self.channels),
        ];
        let values = values.into_iter().filter_map(|(name, value)| Some(vec![name, value.as_deref()?]));
        switches.chain(values).collect()
    }
}

/// Runs a benchmark that writes its results itself.
fn run_own(benchmark: &OwnResults, arguments: &Arguments) -> Result<(), TaskError> {
    let flags = arguments.own_flags();
    if let Some(flag) = flags.iter().map(|flag| flag[0]).find(|flag| !benchmark.flags.contains(flag)) {
        let known = benchmark.flags.join(", ");
        return Err(TaskError::Refused(format!("`bench {}` takes {known} and --quick, not {flag}", benchmark.name)));
    }
    let partial = arguments.quick || flags.iter().any(|flag| benchmark.partial.contains(&flag[0]));
    let folder =
        if partial { target_folder()?.join("bench-results") } else { workspace::root().join("benches/results") };
    fs::create_dir_all(&folder).map_err(TaskError::at(&folder))?;
    let quick = arguments.quick.then_some("--quick");
    let child = cargo_bench(benchmark.name).args(flags.concat()).args(quick);
    child.env("FBP_RESULTS", &folder.display().to_string()).run()?;
    println!("kept in {}", folder.join(format!("{}.json", benchmark.name)).display());
    Ok(())
}

/// Runs a study of the program `fbp`, if one of them is named; the others refuse its flags.
fn run_study(arguments: &Arguments) -> Option<Result<(), TaskError>> {
    let name = arguments.filter.as_deref();
    if name == Some(ratios::NAME) {
        return Some(ratios::run(arguments));
    }
    if arguments.cases.is_some() || arguments.seed.is_some() || arguments.solver.is_some() {
        return refused(format!("--cases, --seed and --solver belong to `bench {}`", ratios::NAME));
    }
    if name == Some(compress::NAME) {
        return Some(compress::run(arguments));
    }
    if name == Some(training::NAME) {
        return Some(training::run(arguments));
    }
    if arguments.has_flags_of_compress() {
        return refused(format!("--data, --equal-time and --labels belong to `bench {}`", compress::NAME));
    }
    if name == Some(few_labels::NAME) {
        return Some(few_labels::run(arguments));
    }
    if arguments.picks_cells() {
        return refused(format!(
            "--ways and --images belong to `bench {}` and `bench {}`, --images also to `bench {}`",
            compress::NAME,
            few_labels::NAME,
            training::NAME
        ));
    }
    if name == Some(repair::NAME) {
        return Some(repair::run(arguments));
    }
    if arguments.networks.is_some() || arguments.data_dir.is_some() {
        let takers = [compress::NAME, few_labels::NAME, repair::NAME].map(|name| format!("`bench {name}`")).join(", ");
        return refused(format!(
            "--networks and --data-dir belong to {takers}, --data-dir also to `bench {}`",
            training::NAME
        ));
    }
    None
}

fn refused(reason: String) -> Option<Result<(), TaskError>> {
    Some(Err(TaskError::Refused(reason)))
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    if let Some(done) = run_study(arguments) {
        return done;
    }
    let named = |benchmark: &&OwnResults| arguments.filter.as_deref() == Some(benchmark.name);
    if let Some(benchmark) = OWN_RESULTS.iter().find(named) {
        return run_own(benchmark, arguments);
    }
    if let Some(flag) = arguments.own_flags().first() {
        let takers = OWN_RESULTS.iter().filter(|benchmark| benchmark.flags.contains(&flag[0]));
        let takers: Vec<_> = takers.map(|benchmark| format!("`bench {}`", benchmark.name)).collect();
        return Err(TaskError::Refused(format!("{} belongs to {}", flag[0], takers.join(" and "))));
    }
    let mut names = benchmarks()?;
    // That of repairs is run by the study, for each of its seeds.
    names.retain(|name| name != repair::NAME && OWN_RESULTS.iter().all(|benchmark| benchmark.name != name));
    let (names, filter) = match &arguments.filter {
        Some(one) if names.contains(one) => (vec![one.clone()], None),
        other => (names, other.as_deref()),
    };
    let context = Context::collect()?;
    let target = target_folder()?;
    let criterion = target.join("criterion");
    let folder = match (filter, arguments.quick) {
        (None, false) => workspace::root().join("benches/results"),
        _ => target.join("bench-results"),
    };
    fs::create_dir_all(&folder).map_err(TaskError::at(&folder))?;
    let mut measured = false;
    for name in &names {
        let before = Snapshot::take(&criterion)?;
        let quick = arguments.quick.then_some("--quick");
        let child = cargo_bench(name).args(filter).args(quick);
        child.env("CRITERION_HOME", &criterion.display().to_string()).run()?;
        let entries = before.changes(&criterion)?;
        if entries.is_empty() {
            continue;
        }
        measured = true;
        println!("\n## {name}\n\n{}", results::table(&entries));
        let path = folder.join(format!("{name}.json"));
        write_whole(&path, &results::json(name, &context, arguments.quick, &entries)?)?;
        println!("kept in {}\n", path.display());
    }
    match (measured, filter) {
        (true, _) => Ok(()),
        (false, Some(filter)) => Err(TaskError::Refused(format!(
            "no measurement is called like {filter:?}; the benchmarks are {}",
            names.join(", ")
        ))),
        (false, None) => Err(TaskError::Refused("no benchmark measured anything".to_owned())),
    }
}

/// Runs one benchmark. The profile and the features are those of tests and `fbp`, so that it shares their builds.
fn cargo_bench(name: &str) -> Child {
    Child::cargo().args(["bench", "--workspace", "--profile", "dev", "--bench", name, "--"])
}

/// The benchmarks in the manifest.
fn targets() -> Result<Vec<toml::Value>, TaskError> {
    let manifests = layering::manifests()?;
    let benches = manifests.into_iter().find(|(_, manifest)| layering::package_name(manifest) == Some("fbp-benches"));
    let targets = benches.and_then(|(_, mut manifest)| manifest.remove("bench"));
    match targets {
        Some(toml::Value::Array(targets)) if !targets.is_empty() => Ok(targets),
        _ => Err(TaskError::Refused("benches/Cargo.toml names no [[bench]]".to_owned())),
    }
}

/// Names of the benchmarks, in the order of the manifest.
fn benchmarks() -> Result<Vec<String>, TaskError> {
    Ok(targets()?.iter().filter_map(|target| target.get("name")?.as_str()).map(str::to_owned).collect())
}

/// The folder that cargo builds in.
pub(crate) fn target_folder() -> Result<PathBuf, TaskError> {
    let text = Child::cargo().args(["metadata", "--format-version", "1", "--no-deps"]).output()?;
    let folder = serde_json::from_str::<Value>(&text).ok().and_then(|metadata| {
        let folder = metadata.get("target_directory")?.as_str()?;
        Some(Path::new(folder).to_owned())
    });
    folder.ok_or_else(|| TaskError::Refused("`cargo metadata` does not name the target folder".to_owned()))
}
