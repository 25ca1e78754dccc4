//! Three ranks on one machine against one process: same bytes where that is promised, and what happens when a rank fails.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

/// What looks at a whole batch is in it: batch normalisation, in a residual block too, and dropout.
const MODEL: &str = r#"
name = "small"
input = [1, 28, 28]
classes = 10

[[stages]]
name = "conv1"
layers = [{ type = "conv2d", out_channels = 4, kernel = 5, stride = 2 }, { type = "batch_norm" }, { type = "relu" }]

[[stages]]
name = "block"
layers = [{ type = "basic_block", channels = 4 }, { type = "max_pool2d", kernel = 2 }]

[[stages]]
name = "out"
layers = [{ type = "flatten" }, { type = "dropout", p = 0.1 }, { type = "linear", out_features = 10 }]
"#;

/// Of the data that ships with the repository.
const DATA: &str = "--data fashion-mnist-mini --train-size 600";
const PRETRAIN: &str = "pretrain --model small.toml --epochs 2 --batch 64 --learning-rate 0.003 --threads 1 --seed 3";
const TARGETS: &str = "targets --checkpoint c.safetensors --shard-size 50 --threads 1";
const FULL: &str = "post-train --mode full --checkpoint c.safetensors --epochs 2 --batch 64 --ema 0.9 --threads 1";
const HIERARCHICAL: &str =
    "post-train --mode hierarchical --checkpoint c.safetensors --targets t --epochs 2 --batch 64 --threads 1";

/// A folder in which commands run.
struct World(TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        std::fs::write(world.path("small.toml"), MODEL).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn arguments(arguments: &str) -> Vec<String> {
        let arguments = arguments.split_whitespace().map(str::to_owned);
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets");
        let data = DATA.split_whitespace().map(str::to_owned).chain(["--data-dir".into(), data.display().to_string()]);
        arguments.chain(data).collect()
    }

    fn set(&self, mut command: Command) -> Command {
        command.current_dir(self.0.path()).env_remove("RUST_LOG");
        // Open MPI asks for both of those who are root.
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// One process, without mpirun.
    fn one(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fbp-mpi"));
        command.args(Self::arguments(arguments));
        self.set(command)
    }

    fn three(&self, arguments: &str) -> Command {
        let mut command = Command::new("mpirun");
        command.args(["-n", "3", "--oversubscribe", env!("CARGO_BIN_EXE_fbp-mpi")]).args(Self::arguments(arguments));
        self.set(command)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.bytes(name)).unwrap()
    }

    /// The checkpoint that a post-training has written into a folder.
    fn result(&self, folder: &str) -> Vec<u8> {
        let names = std::fs::read_dir(self.path(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names =
            names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.contains(".safetensors"));
        let name = names.next().unwrap();
        assert_eq!(names.next(), None, "states of a finished training are gone");
        self.bytes(&format!("{folder}/{name}"))
    }
}

fn ok(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line of a failure that begins with `error: `.
fn error_of(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    errors[0].to_owned()
}

/// Files of a folder; records without their times.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let bytes = match path.extension().is_some_and(|kind| kind == "json") {
            true => timeless(serde_json::from_slice(&bytes).unwrap()).to_string().into_bytes(),
            false => bytes,
        };
        (path.file_name().unwrap().to_string_lossy().into_owned(), bytes)
    };
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(file).collect();
    files.sort();
    files
}

fn timeless(mut record: Value) -> Value {
    if let Some(fields) = record.as_object_mut() {
        fields.retain(|name, _| !name.contains("second"));
        fields.values_mut().for_each(|value| *value = timeless(value.take()));
    }
    record
}

/// The ranks that mpirun has started, as soon as all are there.
fn ranks(mpirun: &Child) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let id = mpirun.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let is_rank =
            |id: &&str| std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.trim() == "fbp-mpi");
        let ranks: Vec<String> = children.split_whitespace().filter(is_rank).map(str::to_owned).collect();
        if ranks.len() == 3 {
            return ranks;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "mpirun has not started three ranks");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(name: &str, process: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), process]).status().unwrap().success());
}

/// When a state was kept last.
fn last_state(world: &World) -> Option<SystemTime> {
    let path = |generation: u8| world.path(&format!("killed.safetensors.state-{generation}"));
    (0..2).filter_map(|generation| std::fs::metadata(path(generation)).ok()?.modified().ok()).max()
}

/// Waits until a training has kept another state than the one before.
fn wait_for_state(world: &World, child: &mut Child, before: Option<SystemTime>) {
    let begun = Instant::now();
    while last_state(world) == before {
        assert!(child.try_wait().unwrap().is_none(), "it has ended before it kept anything");
        assert!(begun.elapsed() < Duration::from_secs(120), "no state is kept");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn targets_of_three_ranks_are_those_of_one() {
    let world = World::new();
    ok(world.one(&format!("{PRETRAIN} --out c.safetensors")));
    let one = ok(world.one(&format!("{TARGETS} --out one --json one.json")));
    let three = ok(world.three(&format!("{TARGETS} --out three --json three.json")));
    assert_eq!(one.lines().count(), three.lines().count(), "only the first rank says something: {three}");
    assert_eq!(contents(&world.path("three")), contents(&world.path("one")));
    assert_eq!(timeless(world.json("three.json")), timeless(world.json("one.json")));
    // What is finished stays as it is.
    let before = contents(&world.path("three"));
    ok(world.three(&format!("{TARGETS} --out three")));
    assert_eq!(contents(&world.path("three")), before);
    // What is damaged is made again, and what was asked for otherwise is told.
    std::fs::write(world.path("three/shard-00004.safetensors"), "damaged").unwrap();
    std::fs::remove_file(world.path("three/report.json")).unwrap();
    ok(world.three(&format!("{TARGETS} --out three")));
    assert_eq!(contents(&world.path("three")), before);
    let output = world.three(&format!("{TARGETS} --margin 2 --out three")).output().unwrap();
    assert!(error_of(&output).contains("margin: 1.0, now 2.0"), "{output:?}");
    ok(world.three(&format!("{TARGETS} --margin 2 --out three --force")));
    ok(world.one(&format!("{TARGETS} --margin 2 --out two")));
    assert_eq!(contents(&world.path("three")), contents(&world.path("two")));
}

#[test]
fn training_by_three_ranks_is_that_of_three_slices_bit_by_bit() {
    let world = World::new();
    ok(world.one(&format!("{PRETRAIN} --out c.safetensors")));
    ok(world.one(&format!("{PRETRAIN} --slices 3 --out slices.safetensors")));
    let said = ok(world.three(&format!("{PRETRAIN} --out three.safetensors")));
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(world.bytes("three.safetensors") == world.bytes("slices.safetensors"), "checkpoints differ");
    let [one, three] = ["c.json", "three.json"].map(|name| world.json(name));
    assert_eq!(three["ranks"], 3);
    assert_eq!(one["settings"], three["settings"]);
    // The loss of the first epoch, up to the rounding of sums over a batch and the pixels of the first feature. Slices with
    // statistics of their own differ in the second digit.
    let rounding = 64.0 * 144.0 * f64::from(f32::EPSILON);
    let [a, b] = [one, three].map(|record| record["train_loss"][0].as_f64().unwrap());
    assert!((a - b).abs() <= rounding * a, "{a} {b}");
    ok(world.one(&format!("{FULL} --slices 3 --out slices")));
    ok(world.three(&format!("{FULL} --out three")));
    assert!(world.result("three") == world.result("slices"), "checkpoints differ");
    // It is finished, and stays so.
    let said = ok(world.three(&format!("{FULL} --out three")));
    assert!(said.contains("is finished already") && said.lines().count() == 1, "{said}");
}

#[test]
fn segments_on_three_ranks_are_those_of_one() {
    let world = World::new();
    ok(world.one(&format!("{PRETRAIN} --out c.safetensors")));
    ok(world.one(&format!("{TARGETS} --out t")));
    ok(world.one(&format!("{HIERARCHICAL} --out one")));
    let said = ok(world.three(&format!("{HIERARCHICAL} --out three --json three.json")));
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(world.result("three") == world.result("one"), "checkpoints differ");
    let segments = world.json("three.json")["segments"].as_array().unwrap().len();
    assert_eq!(segments, 3);
}

#[test]
fn a_rank_that_dies_ends_the_run_which_then_goes_on() {
    let world = World::new();
    let run = format!("{PRETRAIN} --epochs 20 --checkpoint-every 2").replacen("--epochs 2 ", "", 1);
    ok(world.three(&format!("{run} --out whole.safetensors")));
    let killed = format!("{run} --out killed.safetensors");
    for (name, rank) in [("KILL", 1), ("KILL", 0), ("TERM", 2)] {
        let before = last_state(&world);
        let mut child = world.three(&killed).spawn().unwrap();
        wait_for_state(&world, &mut child, before);
        let ranks = ranks(&child);
        signal(name, &ranks[rank]);
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success(), "{name} of rank {rank}");
        assert!(!world.path("killed.safetensors").exists(), "{name} of rank {rank}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if name == "TERM" {
            // All ranks stop after the same step.
            assert_eq!(text.matches("stopped as asked: its state after step").count(), 1, "{text}");
        }
    }
    let output = world.three(&killed).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && text.contains("goes on after"), "{text}");
    assert!(world.bytes("killed.safetensors") == world.bytes("whole.safetensors"), "checkpoints differ");
}

#[test]
fn what_is_wrong_is_said_once() {
    let world = World::new();
    let fails = |arguments: &str, parts: &[&str]| {
        let output = world.three(arguments).output().unwrap();
        let line = error_of(&output);
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    };
    fails(&format!("{TARGETS} --out t"), &["c.safetensors"]);
    ok(world.one(&format!("{PRETRAIN} --out c.safetensors")));
    fails(&format!("{FULL} --out c --slices 2"), &["--slices = 2", "leave it out"]);
    fails(&format!("{TARGETS} --out t --shard 1/2"), &["--shard = 1/2", "leave it out"]);
    fails(
        &FULL.replacen("--mode full", "--mode joint --alpha 0 --out j", 1),
        &["mode = joint", "full and hierarchical"],
    );
    let output = world.three("eval").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.matches("unrecognized subcommand").count(), 1, "{text}");
    // Ranks that are not started alike: the last one has another seed.
    let mut command = Command::new("mpirun");
    let program = env!("CARGO_BIN_EXE_fbp-mpi");
    command.args(["--oversubscribe", "-n", "2", program]);
    command.args(World::arguments(&format!("{PRETRAIN} --out d.safetensors"))).args([":", "-n", "1", program]);
    command.args(World::arguments(&format!("{PRETRAIN} --out d.safetensors").replacen("--seed 3", "--seed 4", 1)));
    let line = error_of(&world.set(command).output().unwrap());
    assert!(line.contains("rank 2 gives") && line.contains("started alike"), "{line}");
    assert!(!world.path("d.safetensors").exists());
}
