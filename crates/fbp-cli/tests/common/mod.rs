//! A small world for tests of the program: images of three patterns, a small network, and the binary.
#![allow(dead_code, reason = "every test file uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fbp_linalg::FeatureShape;
use fbp_train::data::idx::{self, IdxImages};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

pub(crate) const TRAIN: usize = 400;
pub(crate) const TEST: usize = 120;
const SIDE: usize = 12;
const CLASSES: usize = 3;

/// A convolutional network of three stages for images of 12 × 12 pixels.
const MODEL: &str = r#"
name = "small"
input = [1, 12, 12]
classes = 3

[[stages]]
name = "conv1"
layers = [{ type = "conv2d", out_channels = 3, kernel = 3 }, { type = "relu" }, { type = "max_pool2d", kernel = 2 }]

[[stages]]
name = "conv2"
layers = [{ type = "conv2d", out_channels = 4, kernel = 2 }, { type = "relu" }, { type = "max_pool2d", kernel = 2 }]

[[stages]]
name = "out"
layers = [{ type = "flatten" }, { type = "linear", out_features = 3 }]
"#;

/// A folder with data and the description of a network.
pub(crate) struct World {
    folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { folder };
        std::fs::create_dir(world.path("data")).unwrap();
        write_part(&world.path("data"), ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"], TRAIN, 1);
        write_part(&world.path("data"), ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"], TEST, 2);
        std::fs::write(world.path("small.toml"), MODEL).unwrap();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with arguments separated by blanks, started in the folder.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fbp"));
        command.args(arguments.split_whitespace()).current_dir(self.folder.path()).env_remove("RUST_LOG");
        command
    }

    /// Runs the program, which must succeed; its standard output.
    pub(crate) fn ok(&self, arguments: &str) -> String {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "fbp {arguments}: {error}");
        String::from_utf8(stdout).unwrap()
    }

    /// Runs the program, which must fail with one message that contains all of `parts`.
    pub(crate) fn fails(&self, arguments: &str, parts: &[&str]) {
        let Output { status, stderr, .. } = self.command(arguments).output().unwrap();
        let error = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "fbp {arguments}: {error}");
        let start = error.lines().position(|line| line.starts_with("error: "));
        let start = start.unwrap_or_else(|| panic!("fbp {arguments}: {error}"));
        let lines: Vec<&str> = error.lines().skip(start).collect();
        // Of several lines only where they show a place in a file.
        assert!(lines.len() == 1 || lines[0].contains("TOML"), "fbp {arguments}: {error}");
        assert_eq!(error.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{error}");
        let line = lines.join("\n");
        for part in parts {
            assert!(line.contains(part), "fbp {arguments}: {part:?} is not in {line:?}");
        }
    }

    pub(crate) fn pretrain(&self, out: &str) {
        self.ok(&format!(
            "pretrain --model small.toml --data idx:data --classes 3 --epochs 4 --batch 32 --learning-rate 0.003 \
             --seed 3 --threads 2 --out {out}"
        ));
    }

    pub(crate) fn targets(&self, checkpoint: &str, out: &str) -> String {
        self.ok(&targets_arguments(checkpoint, out))
    }

    pub(crate) fn json(&self, name: &str) -> serde_json::Value {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        unmarked(serde_json::from_str(&text).unwrap())
    }
}

/// A result of `--json` without the mark that it is one.
pub(crate) fn unmarked(mut value: serde_json::Value) -> serde_json::Value {
    let mark = value.as_object_mut().and_then(|object| object.remove("result_of"));
    match (mark, value.get("rows")) {
        (Some(_), Some(rows)) => rows.clone(),
        _ => value,
    }
}

/// Name of the record of a run with the arguments of [`post_train_arguments`].
pub(crate) fn run_name(what: &str) -> String {
    format!("post-train_{what}_rate1e-3_epochs3_batch32_seed5")
}

pub(crate) fn targets_arguments(checkpoint: &str, out: &str) -> String {
    format!(
        "targets --checkpoint {checkpoint} --data idx:data --classes 3 --margin 1 --shard-size 24 --threads 2 --out {out}"
    )
}

pub(crate) fn post_train_arguments(checkpoint: &str, targets: &str, alpha: &str, out: &str) -> String {
    format!(
        "post-train --checkpoint {checkpoint} --targets {targets} --data idx:data --classes 3 --mode joint \
         --stage conv1 --alpha {alpha} --epochs 3 --batch 32 --learning-rate 0.001 --seed 5 --threads 2 --out {out}"
    )
}

/// Images of class `k` are bright in a region of their own, with much noise; every tenth label is wrong.
fn write_part(folder: &Path, [images, labels]: [&str; 2], count: usize, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut pixels, mut classes) = (Vec::new(), Vec::new());
    for sample in 0..count {
        let class = sample % CLASSES;
        for k in 0..SIDE * SIDE {
            let (y, x) = (k / SIDE, k % SIDE);
            let inside = match class {
                0 => y < 6,
                1 => x < 6,
                _ => (3..9).contains(&y) && (3..9).contains(&x),
            };
            let noise: f32 = rng.random();
            pixels.push((if inside { 90.0 + 130.0 * noise } else { 130.0 * noise }) as u8);
        }
        classes.push(if sample % 10 == 9 { (class + 1) % CLASSES } else { class } as u8);
    }
    let shape = FeatureShape::image(1, SIDE, SIDE);
    idx::write_images(&folder.join(images), &IdxImages { shape, pixels }).unwrap();
    idx::write_labels(&folder.join(labels), &classes).unwrap();
}

/// Names and contents of the files of a folder, sorted; without time-dependent reports.
pub(crate) fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Records without what depends on the time that they took.
pub(crate) fn timeless(mut record: serde_json::Value) -> serde_json::Value {
    if let Some(fields) = record.as_object_mut() {
        fields.retain(|name, _| !name.contains("second"));
        fields.values_mut().for_each(|value| *value = timeless(value.take()));
    }
    if let Some(records) = record.as_array_mut() {
        records.iter_mut().for_each(|record| *record = timeless(record.take()));
    }
    record
}

/// Runs a command again and again, killing it after random times that grow, until it ends by itself.
///
/// The times grow by a share, so that a machine that is busy or slow needs a few kills more and not many; after a minute the
/// command is left alone.
pub(crate) fn run_with_kills(world: &World, arguments: &str, seed: u64, mut after_kill: impl FnMut()) -> usize {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (begun, mut longest, mut kills) = (Instant::now(), 0.02, 0);
    loop {
        let mut child = world.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let kill_at = Instant::now() + Duration::from_secs_f64(rng.random::<f64>() * longest);
        let is_last = begun.elapsed() > Duration::from_secs(60);
        while child.try_wait().unwrap().is_none() && (is_last || Instant::now() < kill_at) {
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return kills;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        after_kill();
        (kills, longest) = (kills + 1, longest * 1.2);
    }
}

/// A number of a record.
pub(crate) fn number(value: &serde_json::Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}
