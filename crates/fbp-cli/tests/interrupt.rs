//! Killing a run at any moment loses nothing that was finished, leaves nothing half-written, and the next run ends with
//! the same result as an uninterrupted one.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use std::path::Path;

use common::{World, contents, post_train_arguments, run_name, run_with_kills, targets_arguments, timeless};

/// Files that are there must be whole: shards and records under their final names are never partial.
fn assert_whole(folder: &Path, reference: &Path) {
    let Ok(found) = std::fs::read_dir(folder) else { return };
    for entry in found {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if name.starts_with("shard-") || name.ends_with(".safetensors") {
            let read = |folder: &Path| std::fs::read(folder.join(&name)).unwrap();
            assert_eq!(read(folder), read(reference), "{name}");
        } else if name.ends_with(".json") {
            let text = std::fs::read_to_string(folder.join(&name)).unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        } else if !name.contains(".safetensors.state-") {
            assert!(name.starts_with(".fbp-") && name.ends_with(".part"), "{name}");
        }
    }
}

fn without_times(folder: &Path) -> Vec<(String, Vec<u8>)> {
    contents(folder).into_iter().filter(|(name, _)| name != "report.json").collect()
}

#[test]
fn killed_targets_are_finished_with_the_same_bytes() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.targets("c.safetensors", "whole");
    let (whole, cut) = (world.path("whole"), world.path("cut"));
    let mut kills = 0;
    for seed in 0..3 {
        let _ = std::fs::remove_dir_all(&cut);
        kills += run_with_kills(&world, &targets_arguments("c.safetensors", "cut"), seed, || {
            assert_whole(&cut, &whole);
        });
        assert_eq!(without_times(&cut), without_times(&whole), "seed {seed}");
        assert_eq!(timeless_report(&world, "cut"), timeless_report(&world, "whole"));
    }
    assert!(kills > 0, "no run was killed");
}

fn timeless_report(world: &World, folder: &str) -> serde_json::Value {
    timeless(world.json(&format!("{folder}/report.json")))
}

#[test]
fn killed_post_training_starts_again_with_the_same_result() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.targets("c.safetensors", "t");
    world.ok(&post_train_arguments("c.safetensors", "t", "0.3", "whole"));
    let arguments = post_train_arguments("c.safetensors", "t", "0.3", "cut");
    let kills = run_with_kills(&world, &arguments, 7, || assert_whole(&world.path("cut"), &world.path("whole")));
    assert!(kills > 0, "no run was killed");
    world.ok(&arguments);
    let names = |folder: &str| contents(&world.path(folder)).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names("cut"), names("whole"));
    let name = run_name("joint_conv1_alpha0.3");
    let record = |folder: &str| timeless(world.json(&format!("{folder}/{name}.json")));
    assert_eq!(record("cut"), record("whole"));
    let weights = |folder: &str| std::fs::read(world.path(folder).join(format!("{name}.safetensors"))).unwrap();
    assert_eq!(weights("cut"), weights("whole"));
}

#[test]
fn missing_and_damaged_shards_are_made_again() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.targets("c.safetensors", "t");
    let before = without_times(&world.path("t"));
    let seconds = || world.json("t/report.json")["seconds"].as_f64().unwrap();
    let first_run = seconds();
    std::fs::remove_file(world.path("t/shard-00002.safetensors")).unwrap();
    std::fs::write(world.path("t/shard-00005.safetensors"), b"not a shard").unwrap();
    std::fs::write(world.path("t/.fbp-1-0.part"), b"left by a killed run").unwrap();
    world.fails(
        &post_train_arguments("c.safetensors", "t", "0.3", "runs"),
        &["shard-00002.safetensors", "run `fbp targets` again"],
    );
    world.targets("c.safetensors", "t");
    assert_eq!(without_times(&world.path("t")), before);
    assert!(seconds() > first_run, "the report counts the time of all runs: {} {first_run}", seconds());
}
