//! Data, networks and commands, and what all commands are held to.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};

use crate::common::World;

/// Longest time of a command. Most take a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(120);

/// Data of random numbers.
#[derive(Clone, Copy)]
pub(crate) struct Data {
    /// For training and for the test.
    pub(crate) samples: [usize; 2],
    pub(crate) channels: usize,
    pub(crate) side: usize,
    /// An input, from its place and what it would be.
    pub(crate) value: fn(usize, f32) -> f32,
    pub(crate) label: fn(usize) -> i64,
    /// An output in place of the label, of which there are two.
    pub(crate) output: Option<fn(usize, f32) -> f32>,
    /// What `--classes` is.
    pub(crate) classes: Option<usize>,
}

impl Default for Data {
    fn default() -> Self {
        let (value, label) = (|_, value| value, |k| k as i64 % 3);
        Self { samples: [60, 20], channels: 1, side: 6, value, label, output: None, classes: None }
    }
}

/// A network of a convolution and two linear layers.
#[derive(Clone, Copy)]
pub(crate) struct Network {
    pub(crate) channels: usize,
    pub(crate) side: usize,
    pub(crate) kernel: usize,
    pub(crate) classes: usize,
}

impl Default for Network {
    fn default() -> Self {
        Self { channels: 1, side: 6, kernel: 3, classes: 3 }
    }
}

/// A weight, from the name of its tensor, its place and what it was.
type Weight = fn(&str, usize, f32) -> f32;

/// What is odd, and what it comes to.
#[derive(Clone, Copy, Default)]
pub(crate) struct Edge {
    pub(crate) name: &'static str,
    pub(crate) data: Data,
    pub(crate) network: Network,
    /// Changes weights of the trained network.
    pub(crate) weights: Option<Weight>,
    /// Commands that fail, and a part of what they say; the first one counts. `*` are all with data and the trained network.
    pub(crate) fails: &'static [(&'static str, &'static str)],
    /// What any other command may say, of which a part is enough, in place of a right answer. Nothing: it must have one.
    pub(crate) may: &'static str,
}

/// What is done with every edge, in this order: a name, and the arguments. DATA is the data, TOLERANCE what outputs want.
const COMMANDS: &[(&str, &str)] = &[
    ("pretrain", "pretrain --model m.toml DATA --epochs 1 --batch 8 --out p.safetensors"),
    ("import", "import w.safetensors --model m.toml --out i.safetensors"),
    ("export", "export --checkpoint c.safetensors --out x.safetensors"),
    ("predict", "predict --checkpoint c.safetensors --inputs d.safetensors --features fc1 --out y.safetensors"),
    ("eval", "eval --checkpoint c.safetensors DATA"),
    ("targets", "targets --checkpoint c.safetensors DATA TOLERANCE --effort quick --out t"),
    ("layer-wise", "targets --checkpoint c.safetensors DATA TOLERANCE --targets layer-wise --out tl"),
    ("point", "targets --checkpoint c.safetensors DATA TOLERANCE --targets point --out tp"),
    ("mahalanobis", "targets --checkpoint c.safetensors DATA --metric mahalanobis --effort quick --out tm"),
    ("explain", "explain --checkpoint c.safetensors DATA TOLERANCE --samples all --limit 2 --effort quick --out e"),
    ("joint", "post-train --checkpoint c.safetensors DATA --targets t --stage fc1 --epochs 1 --batch 8 --out rj"),
    (
        "refresh",
        "post-train --checkpoint c.safetensors DATA --targets t --stage fc1 --policy refresh --epochs 2 --batch 8 --out rr",
    ),
    ("local", "post-train --checkpoint c.safetensors DATA --mode local --targets t --stage fc1 --epochs 1 --out rl"),
    ("live", "post-train --checkpoint c.safetensors DATA --targets t --stage out --policy live --epochs 1 --out rv"),
    ("full", "post-train --checkpoint c.safetensors DATA --mode full --epochs 1 --batch 8 --out rf"),
    ("tail", "post-train --checkpoint c.safetensors DATA --mode tail --stage fc1 --epochs 1 --batch 8 --out rt"),
    ("head", "post-train --checkpoint c.safetensors DATA --mode head --out rh"),
    ("hierarchical", "post-train --checkpoint c.safetensors DATA --mode hierarchical --targets t --epochs 1 --out ri"),
    ("closed-form", "post-train --checkpoint c.safetensors DATA --mode closed-form --targets t --stage fc1 --out rc"),
    ("repair", "repair --checkpoint c.safetensors DATA TOLERANCE --samples 0 --stage fc1 --out r.safetensors"),
    ("prune", "compress --checkpoint c.safetensors DATA --prune 0.5 --calibrate 40 --out cp.safetensors"),
    ("channels", "compress --checkpoint c.safetensors DATA --channels 0.5 --calibrate 40 --out cc.safetensors"),
    ("quantise", "compress --checkpoint c.safetensors DATA --quantise int4 --calibrate 40 --out cq.safetensors"),
    ("adapt", "adapt --checkpoint c.safetensors DATA --method head --folds 2 --out a.safetensors"),
    ("analyse-stages", "analyse stages --checkpoint c.safetensors DATA --out as"),
    ("analyse-repair", "analyse repair --checkpoint c.safetensors DATA --samples 0 --stage out --out ar"),
    ("sweep", "sweep --config s.toml --out s"),
];
/// Those without data or without the trained network.
const APART: [&str; 4] = ["pretrain", "import", "export", "predict"];
/// Those that are about classes, which outputs are none of.
const OF_CLASSES: [&str; 4] = ["mahalanobis", "adapt", "analyse-stages", "analyse-repair"];

/// Runs every command with every edge. Prints a table, which `--nocapture` shows.
pub(crate) fn check(edges: &[Edge]) {
    let mut wrong = Vec::new();
    for edge in edges {
        println!("{}", edge.name);
        let world = edge.world();
        for (name, arguments) in COMMANDS {
            let needs_start = arguments.contains("c.safetensors") || arguments.contains("w.safetensors");
            let needs_targets = arguments.contains("--targets t ");
            let is_of_classes = edge.data.output.is_some() && OF_CLASSES.contains(name);
            // Without a network or targets there is nothing to go on from, which an earlier line has told.
            if is_of_classes
                || needs_start && !world.path("c.safetensors").exists()
                || needs_targets && !world.path("t/report.json").exists()
            {
                continue;
            }
            if let Err(reason) = edge.run(&world, (name, arguments)) {
                wrong.push(format!("{}: {name}: {reason}", edge.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Edge {
    /// A folder with the data, the network and a checkpoint, which learnt from data of the same shape that are nothing special.
    fn world(&self) -> World {
        let world = World::new();
        fs::write(world.path("m.toml"), self.network.toml()).unwrap();
        fs::write(world.path("d.safetensors"), self.data.bytes()).unwrap();
        let most = self.network.classes.min(256) as i64;
        let plain = Data { value: |_, value| value, output: self.data.output.map(|_| plain as _), ..self.data };
        fs::write(world.path("plain.safetensors"), plain.bytes_with(|label| label.clamp(0, most - 1))).unwrap();
        let pretrain = "pretrain --model m.toml --data tensors:plain.safetensors --epochs 2 --batch 8 --learning-rate 0.01 \
                        --validation 0 --out c.safetensors";
        let made = world.command(&format!("{pretrain} {}", self.classes())).output().unwrap();
        if made.status.success() {
            fs::remove_file(world.path("c.json")).unwrap();
            self.change_weights(&world);
        }
        let start = match made.status.success() {
            true => "starts = [{ name = \"start\", checkpoint = \"c.safetensors\" }]",
            false => "model = \"m.toml\"\nstarts = [{ name = \"start\", epochs = 1 }]",
        };
        let (classes, tolerance) = (
            self.data.classes.map(|classes| format!(", classes = {classes}")).unwrap_or_default(),
            if self.data.output.is_some() { ", tolerance = 0.1" } else { "" },
        );
        let sweep = format!(
            "data = {{ name = \"tensors:d.safetensors\"{classes} }}\nseeds = [0]\n{start}\n\
             runs = [{{ mode = \"full\", epochs = 1 }}, {{ mode = \"local\", stage = \"fc1\", epochs = 1{tolerance} }}]\n"
        );
        fs::write(world.path("s.toml"), sweep).unwrap();
        world
    }

    fn classes(&self) -> String {
        self.data.classes.map(|classes| format!("--classes {classes}")).unwrap_or_default()
    }

    /// Writes the weights as they are meant to be, into the checkpoint and as somebody else's.
    fn change_weights(&self, world: &World) {
        let path = world.path("c.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let mut tensors = Vec::new();
        for (name, info) in metadata.tensors() {
            let range = header + info.data_offsets.0..header + info.data_offsets.1;
            let part = &mut bytes[range];
            for (k, bytes) in part.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let value = f32::from_le_bytes(*bytes);
                *bytes = self.weights.map_or(value, |weight| weight(&name, k, value)).to_le_bytes();
            }
            tensors.push((name, info.shape.clone(), part.to_vec()));
        }
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        fs::write(world.path("w.safetensors"), serialize(views, None).unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Runs a command; what is wrong with what it did.
    fn run(&self, world: &World, (name, arguments): (&str, &str)) -> Result<(), String> {
        let takes_both = !APART.contains(&name);
        let is_meant = |names: &str| names.split_whitespace().any(|meant| meant == name || meant == "*" && takes_both);
        let expected = self.fails.iter().find(|(names, _)| is_meant(names)).map(|(_, part)| *part);
        let tolerance = if self.data.output.is_some() { "--tolerance 0.1" } else { "" };
        let data = format!("--data tensors:d.safetensors {}", self.classes());
        let line = arguments.replace("DATA", &data).replace("TOLERANCE", tolerance);
        let before = files(&world.path(""));
        let begun = Instant::now();
        let (code, stdout, stderr) = run(world, &line)?;
        let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        let told = errors.first().copied().or(stdout.lines().next()).unwrap_or_default();
        println!("  {name:14} {code} {:5.2} s  {told}", begun.elapsed().as_secs_f64());
        if stderr.contains("panicked") {
            return Err(stderr);
        }
        match expected {
            None if code == 0 => {}
            parts => {
                let parts = parts.unwrap_or(self.may);
                let is_told = !parts.is_empty() && parts.split('|').any(|part| told.contains(part));
                if code != 1 || errors.len() != 1 || !is_told {
                    return Err(format!("it should say {parts:?}: {code}, {stdout}{stderr}"));
                }
            }
        }
        if has_no_numbers(&stdout) {
            return Err(stdout);
        }
        let new = files(&world.path("")).into_iter().filter(|file| !before.contains(file));
        match new.map(|(path, _)| path).find(|path| !is_finite(path)) {
            None => Ok(()),
            Some(path) => Err(format!("{} holds what is no number", path.display())),
        }
    }
}

/// Its exit status and what it said.
fn run(world: &World, line: &str) -> Result<(i32, String, String), String> {
    let mut command = world.command(line);
    let mut child = command.args(["--threads", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    // What is said fits into a pipe.
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            return Err("it does not end".into());
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ok((status.code().ok_or("a signal was the end")?, text(stdout), text(stderr)))
}

/// Files of a folder and those below, with when they were written.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.map(|path| match path.is_dir() {
        true => files(&path),
        false => vec![(path.clone(), fs::metadata(&path).unwrap().modified().unwrap())],
    });
    found.flatten().collect()
}

/// Whether a text holds what is no number where one should be.
fn has_no_numbers(text: &str) -> bool {
    let words = text.split(|c: char| !c.is_alphanumeric());
    words.into_iter().any(|word| ["NaN", "inf", "Infinity", "nan"].contains(&word))
}

/// Whether all numbers of a file are numbers.
fn is_finite(path: &Path) -> bool {
    let bytes = fs::read(path).unwrap();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().all(|(_, tensor)| {
            let numbers = tensor.data().as_chunks::<4>().0;
            tensor.dtype() != Dtype::F32 || numbers.iter().all(|bytes| f32::from_le_bytes(*bytes).is_finite())
        }),
        Some("json" | "md" | "html" | "svg") => !has_no_numbers(&String::from_utf8_lossy(&bytes)),
        _ => true,
    }
}

fn plain(_: usize, value: f32) -> f32 {
    value
}

impl Network {
    fn toml(&self) -> String {
        let Self { channels, side, kernel, classes } = self;
        format!(
            "name = \"net\"\ninput = [{channels}, {side}, {side}]\nclasses = {classes}\n\
             [[stages]]\nname = \"conv1\"\n\
             layers = [{{ type = \"conv2d\", out_channels = 3, kernel = {kernel} }}, {{ type = \"relu\" }}]\n\
             [[stages]]\nname = \"fc1\"\n\
             layers = [{{ type = \"flatten\" }}, {{ type = \"linear\", out_features = 8 }}, {{ type = \"relu\" }}]\n\
             [[stages]]\nname = \"out\"\nlayers = [{{ type = \"linear\", out_features = {classes} }}]\n"
        )
    }
}

impl Data {
    fn bytes(&self) -> Vec<u8> {
        self.bytes_with(|label| label)
    }

    fn bytes_with(&self, label: impl Fn(i64) -> i64) -> Vec<u8> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut normal = || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        let len = self.channels * self.side * self.side;
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (prefix, samples) in [("", self.samples[0]), ("test_", self.samples[1])] {
            let labels: Vec<i64> = (0..samples).map(self.label).map(&label).collect();
            // The label shows in the brightness.
            let values = (0..samples * len).map(|k| {
                let shift = if k as i64 % 3 == labels[k / len] { 1.0 } else { 0.0 };
                (self.value)(k, normal() + shift)
            });
            let values = values.flat_map(f32::to_le_bytes).collect();
            let dims = vec![samples, self.channels, self.side, self.side];
            tensors.push((format!("{prefix}inputs"), Dtype::F32, dims, values));
            tensors.push(match self.output {
                Some(output) => {
                    let outputs = (0..samples * 2).flat_map(|k| output(k, normal()).to_le_bytes()).collect();
                    (format!("{prefix}outputs"), Dtype::F32, vec![samples, 2], outputs)
                }
                None => {
                    let labels = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
                    (format!("{prefix}labels"), Dtype::I64, vec![samples], labels)
                }
            });
        }
        let views = tensors
            .iter()
            .map(|(name, dtype, dims, bytes)| (name.as_str(), TensorView::new(*dtype, dims.clone(), bytes).unwrap()));
        serialize(views, None).unwrap()
    }
}
