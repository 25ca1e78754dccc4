//! Targets, sweeps and repairs that are killed at random instants, again and again: nothing half-written is ever under the name of
//! a result, the last run ends with the bytes of one that was never killed, and no temporary file is left.
//!
//! Every test kills a few times; `FBP_KILLS=100` asks for that many of each command.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]
#![allow(clippy::print_stdout, reason = "--nocapture shows how often")]

mod common;

use std::fs;
use std::path::Path;

use common::{World, run_with_kills, timeless};
use serde_json::Value;

/// Names from the folder that was asked for, and bytes; of JSON without times. Summaries tell of times in words.
type Files = Vec<(String, Vec<u8>)>;

/// Kills that each command should see at least.
fn wanted_kills() -> usize {
    std::env::var("FBP_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(3)
}

fn is_temporary(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap();
    name.starts_with(".fbp-") && name.ends_with(".part")
}

/// All files below a folder.
fn files(folder: &Path) -> Files {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else if !name.starts_with("summary.") {
            found.push((name, fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// JSON without times; it must be whole.
fn without_times((name, bytes): (String, Vec<u8>)) -> (String, Vec<u8>) {
    if !name.ends_with(".json") {
        return (name, bytes);
    }
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    let text = timeless(value).to_string().into_bytes();
    (name, text)
}

/// What a killed run has left: whole files with the bytes of the results, states and temporary files.
fn check_left(folder: &Path, whole: &Files) {
    for (name, bytes) in files(folder) {
        if name.ends_with(".safetensors") {
            let expected = whole.iter().find(|(other, _)| *other == name);
            // Targets that no run needs any more are removed from a whole sweep.
            assert!(expected.is_none_or(|(_, expected)| *expected == bytes), "{name} is not whole");
            safetensors::SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        } else if name.ends_with(".json") {
            without_times((name, bytes));
        } else {
            assert!(is_temporary(&name) || name.contains(".safetensors.state-"), "{name}");
        }
    }
}

/// Runs a command that writes to the folder OUT, once without and then with kills, until there were enough of them.
fn ends_alike(world: &World, command: &str) {
    world.ok(&command.replace("OUT", "whole"));
    let raw = files(&world.path("whole"));
    let expected: Files = raw.iter().cloned().map(without_times).collect();
    assert!(expected.iter().all(|(name, _)| !is_temporary(name)));
    let (mut kills, mut seed) = (0, 0);
    while kills < wanted_kills() {
        let cut = world.path("cut");
        kills += run_with_kills(world, &command.replace("OUT", "cut"), seed, || check_left(&cut, &raw));
        let found: Files = files(&cut).into_iter().map(without_times).collect();
        let names = |files: &Files| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "{command}");
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert!(found == expected, "{command}: {name}:\n{}\n{}", text(found), text(expected));
        }
        fs::remove_dir_all(cut).unwrap();
        seed += 1;
    }
    println!("{kills} kills: {command}");
}

fn world() -> World {
    let world = World::new();
    world.pretrain("c.safetensors");
    world
}

#[test]
fn killed_targets_end_with_the_same_bytes() {
    ends_alike(
        &world(),
        "targets --checkpoint c.safetensors --data idx:data --classes 3 --shard-size 24 --threads 2 --out OUT",
    );
}

#[test]
fn a_killed_sweep_ends_with_the_same_bytes() {
    let world = world();
    let sweep = "data = { name = \"idx:data\", classes = 3, train_size = 150 }\nmodel = \"small.toml\"\nseeds = [1, 2]\n\
                 keep_checkpoints = true\n\
                 starts = [{ name = \"short\", epochs = 2 }, { name = \"file\", checkpoint = \"c.safetensors\" }]\n\
                 runs = [{ mode = \"full\", epochs = 2 }, { mode = \"local\", stage = \"conv1\", epochs = 2 },\n\
                         { mode = [\"head\", \"closed-form\"], stage = \"conv2\" }]\n";
    fs::write(world.path("sweep.toml"), sweep).unwrap();
    ends_alike(&world, "sweep --config sweep.toml --threads 2 --out OUT");
}

#[test]
fn a_killed_repair_ends_with_the_same_bytes() {
    let repair =
        "repair --checkpoint c.safetensors --data idx:data --classes 3 --samples wrong:10 --stage conv2 --threads 1";
    ends_alike(&world(), &format!("{repair} --out OUT/r.safetensors"));
}
