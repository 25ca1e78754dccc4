//! Bad input gives one clear error and an exit code that is not 0.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;
#[path = "bad_input/first_day.rs"]
mod first_day;
#[path = "bad_input/table.rs"]
mod table;
#[path = "bad_input/words.rs"]
mod words;

use std::fs;
use std::io::Write;

use common::{World, post_train_arguments, targets_arguments};
use flate2::Compression;
use flate2::write::GzEncoder;

const PRETRAIN: &str = "pretrain --model small.toml --data idx:data --classes 3 --epochs 1 --out c.safetensors";

#[test]
fn damaged_data_are_named() {
    let world = World::new();
    let images = fs::read(world.path("data/train-images-idx3-ubyte")).unwrap();
    let labels = fs::read(world.path("data/train-labels-idx1-ubyte")).unwrap();
    let with_images = |bytes: &[u8], parts: &[&str]| {
        fs::write(world.path("data/train-images-idx3-ubyte"), bytes).unwrap();
        world.fails(PRETRAIN, parts);
        fs::write(world.path("data/train-images-idx3-ubyte"), &images).unwrap();
    };
    with_images(&images[..images.len() - 7], &["train-images-idx3-ubyte", "cut off"]);
    with_images(&labels, &["train-images-idx3-ubyte", "right file"]);
    with_images(b"", &["train-images-idx3-ubyte"]);

    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&images).unwrap();
    let gzip = gzip.finish().unwrap();
    fs::remove_file(world.path("data/train-images-idx3-ubyte")).unwrap();
    for damaged in [&gzip[..gzip.len() / 2], &[&gzip[..200], &[0x55; 40], &gzip[240..]].concat()] {
        fs::write(world.path("data/train-images-idx3-ubyte.gz"), damaged).unwrap();
        world.fails(PRETRAIN, &["train-images-idx3-ubyte.gz", "gzip"]);
    }
    fs::write(world.path("data/train-images-idx3-ubyte.gz"), &gzip).unwrap();
    world.ok(PRETRAIN);

    fs::remove_file(world.path("data/t10k-labels-idx1-ubyte")).unwrap();
    world.fails(PRETRAIN, &["t10k-labels-idx1-ubyte", "no file"]);
}

#[test]
fn labels_out_of_range_and_counts_that_differ_are_named() {
    let world = World::new();
    let file = world.path("data/train-labels-idx1-ubyte");
    let labels = fs::read(&file).unwrap();
    let mut wrong = labels.clone();
    wrong[8 + 11] = 3;
    fs::write(&file, wrong).unwrap();
    world.fails(PRETRAIN, &["label 3 of sample 11", "classes, 3"]);
    let count = (labels.len() as u32 - 8 - 1).to_be_bytes();
    fs::write(&file, [&labels[..4], &count, &labels[8..labels.len() - 1]].concat()).unwrap();
    world.fails(PRETRAIN, &["400 images", "399 labels"]);
}

#[test]
fn unknown_names_list_the_known_ones() {
    let world = World::new();
    world.fails("pretrain --model nonsense --data idx:data --out c", &["nonsense", "simple-cnn-mnist-v2"]);
    world.fails("pretrain --model small.toml --data emnist --out c", &["emnist", "fashion-mnist", "idx:FOLDER"]);
    world.fails("pretrain --model none.toml --data idx:data --out c", &["none.toml"]);
    fs::write(world.path("bad.toml"), "name = 3").unwrap();
    world.fails("pretrain --model bad.toml --data idx:data --out c", &["TOML"]);
    world.ok(PRETRAIN);
    world.targets("c.safetensors", "t");
    let arguments = post_train_arguments("c.safetensors", "t", "0.3", "runs");
    world.fails(&arguments.replace("conv1", "conv9"), &["conv9", "conv1, conv2"]);
    let tail = arguments.replace("joint", "tail").replace("--alpha 0.3", "").replace("--stage conv1", "");
    world.fails(&tail, &["--stage is missing", "conv1, conv2"]);
    world.fails(&format!("{tail} --stage all"), &["--stage is missing", "conv1, conv2"]);
    // Modes that know what to train take no stage, and no weight of a distance either.
    let head = arguments.replace("joint", "head").replace("--alpha 0.3", "");
    world.fails(&head, &["--stage = conv1", "modes full and head"]);
    world.fails(&head.replace("--stage conv1", "--alpha 0.1"), &["--alpha", "--mode joint"]);
    world.fails(&head.replace("--stage conv1", "--validation 0"), &["--validation", "modes head"]);
    // The output has no features that could be computed once, and nothing above it to reverse; its targets alone can be
    // live.
    let of_output = arguments.replace("conv1", "out").replace("--alpha 0.3", "");
    world.fails(&of_output.replace("joint", "closed-form"), &["\"out\"", "conv1, conv2"]);
    world.fails(&of_output.replace("joint", "tail"), &["\"out\"", "conv1, conv2"]);
    world.fails(&format!("{arguments} --policy live"), &["--policy = live", "static"]);
    world.fails(&format!("{arguments} --ema 1.5"), &["--ema = 1.5", "(0, 1)"]);
    assert!(!world.path("runs").exists());
}

#[test]
fn data_that_were_not_fetched_say_how_to_fetch_them() {
    let world = World::new();
    fs::create_dir(world.path("empty")).unwrap();
    let arguments = "pretrain --model simple-cnn-mnist-v2 --data fashion-mnist --data-dir empty --out c.safetensors";
    world.fails(arguments, &["fashion-mnist is not there", "cargo xtask fetch fashion-mnist"]);
}

#[test]
fn damaged_checkpoints_are_named() {
    let world = World::new();
    world.ok(PRETRAIN);
    let good = fs::read(world.path("c.safetensors")).unwrap();
    let targets = targets_arguments("c.safetensors", "t");
    let with = |bytes: &[u8], parts: &[&str]| {
        fs::write(world.path("c.safetensors"), bytes).unwrap();
        world.fails(&targets, parts);
    };
    let mut nan = good.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    with(&nan, &["c.safetensors", "not finite"]);
    with(&good[..good.len() - 1], &["c.safetensors"]);
    with(b"something else", &["c.safetensors"]);
    fs::remove_file(world.path("c.safetensors")).unwrap();
    world.fails(&targets, &["c.safetensors"]);

    // A checkpoint of a network for other images.
    world.ok(PRETRAIN);
    let toml = fs::read_to_string(world.path("small.toml")).unwrap();
    fs::write(world.path("large.toml"), toml.replace("12, 12", "16, 16").replace("\"small\"", "\"large\"")).unwrap();
    world.fails("pretrain --model large.toml --data idx:data --classes 3 --out l.safetensors", &["[1, 16, 16]"]);
    // Targets of another checkpoint.
    world.targets("c.safetensors", "t");
    world.ok(&PRETRAIN.replace("c.safetensors", "d.safetensors --seed 9"));
    world.fails(&post_train_arguments("d.safetensors", "t", "0.3", "runs"), &["another checkpoint", "fbp targets"]);
    world.fails(&targets_arguments("d.safetensors", "t"), &["other settings", "checkpoint_sha256", "--force"]);
}

#[test]
fn parameters_out_of_range_are_named_with_their_range() {
    let world = World::new();
    world.ok(PRETRAIN);
    world.targets("c.safetensors", "t");
    for alpha in ["-0.1", "NaN", "inf"] {
        let arguments = post_train_arguments("c.safetensors", "t", alpha, "runs");
        world.fails(&arguments, &["--alpha", "[0, ∞)"]);
    }
    let arguments = post_train_arguments("c.safetensors", "t", "0.3", "runs");
    world.fails(&arguments.replace("joint", "local"), &["--alpha", "--mode local"]);
    world.fails(&arguments.replace("--targets t", ""), &["--targets"]);
    for (option, value) in [
        ("--learning-rate", "0"),
        ("--learning-rate", "-1"),
        ("--learning-rate", "NaN"),
        ("--weight-decay", "-1"),
        ("--validation", "1"),
        ("--epochs", "0"),
        ("--batch", "0"),
    ] {
        world.fails(&format!("{PRETRAIN} --force {option} {value}").replace("--epochs 1 ", ""), &[option]);
    }
    for margin in ["-1", "NaN", "inf"] {
        let arguments = targets_arguments("c.safetensors", "t2").replace("--margin 1", &format!("--margin {margin}"));
        world.fails(&arguments, &["--margin"]);
    }
    assert!(!world.path("runs").exists() && !world.path("t2").exists());
}

#[test]
fn folders_that_cannot_be_written_are_named() {
    let world = World::new();
    fs::write(world.path("file"), "in the way").unwrap();
    world.fails(&PRETRAIN.replace("c.safetensors", "file/c.safetensors"), &["cannot write", "file"]);
    world.ok(PRETRAIN);
    world.fails(&targets_arguments("c.safetensors", "file/t"), &["cannot write", "file/t"]);
    world.targets("c.safetensors", "t");
    world.fails(&post_train_arguments("c.safetensors", "t", "0.3", "file/runs"), &["cannot write", "file/runs"]);
    world.fails("report --runs none --out page", &["none"]);
    fs::create_dir(world.path("empty")).unwrap();
    world.fails("report --runs empty --out page", &["no records", "fbp post-train"]);
    world.fails("eval --checkpoint c.safetensors --data idx:data --classes 3 --targets none", &["fbp targets"]);
}

/// A limit on the size of files stands for a full disk: writes fail half-way.
#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_and_leaves_no_half_file() {
    let world = World::new();
    world.ok(PRETRAIN);
    // Shards of about 40 kB, a limit of 8 kB (16 blocks).
    let arguments = targets_arguments("c.safetensors", "t").replace("--shard-size 24", "--shard-size 100");
    let program = world.command(&arguments);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$@\"", "sh"]).arg(program.get_program());
    let output = shell.args(program.get_args()).current_dir(world.path("")).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("cannot write t/shard-00000.safetensors"), "{error}");
    let names: Vec<_> = fs::read_dir(world.path("t")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["manifest.json"]);
}
