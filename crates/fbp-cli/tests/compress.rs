//! Compressing networks: what the record says is what the checkpoint does.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use std::fs;

use common::{World, number, timeless};

const COMMON: &str = "compress --checkpoint c.safetensors --data idx:data --classes 3 --calibrate 100 --threads 2";

#[test]
fn the_record_tells_what_the_checkpoint_does() {
    let world = World::new();
    world.pretrain("c.safetensors");
    for (name, options) in [
        ("pruned", "--prune 0.6"),
        ("global", "--prune 0.6 --scope layer --quantise int8 --recover statistics"),
        ("rounded", "--quantise int4"),
        ("slim", "--channels 0.4 --quantise int8"),
        ("pattern", "--pattern 2:4"),
        ("plain", "--prune 0.6 --recover none"),
        ("chosen", "--prune 0.6 --criterion reconstruction --recover statistics --quantise int8"),
        ("tuned", "--prune 0.6 --recover fine-tune --time 0.2s --clock processor --rate 1e-3 --rate 1e-2"),
        ("both", "--prune 0.6 --recover both --time 0.2s --clock processor --rate 1e-3 --rate 1e-2"),
    ] {
        let text = world.ok(&format!("{COMMON} {options} --out {name}.safetensors --json r.json"));
        assert!(text.contains("packed") && text.contains("compressed"), "{text}");
        let record = world.json(&format!("{name}.json"));
        assert_eq!(record, world.json("r.json"));
        world.ok(&format!("eval --checkpoint {name}.safetensors --data idx:data --classes 3 --json e.json"));
        assert_eq!(world.json("e.json")["test_accuracy"], record["test_recovered"], "{name}");
        world.ok("eval --checkpoint c.safetensors --data idx:data --classes 3 --json e.json");
        assert_eq!(world.json("e.json")["test_accuracy"], record["test_before"], "{name}");
        let bytes = |size: &str, what: &str| number(&record[size][what]);
        assert!(bytes("size", "packed_bytes") < bytes("size_before", "dense_bytes"), "{record}");
        let page = fs::read_to_string(world.path(&format!("{name}.html"))).unwrap();
        assert!(page.contains("small") && page.contains("packed"), "{page}");
        // An ordinary checkpoint.
        world.ok(&format!("export --checkpoint {name}.safetensors --out {name}-torch.safetensors"));
    }
    let [pruned, plain] =
        ["pruned", "plain"].map(|name| number(&world.json(&format!("{name}.json"))["test_recovered"]));
    assert!(pruned >= plain, "{pruned} {plain}");
    let page = fs::read_to_string(world.path("chosen.html")).unwrap();
    assert!(page.contains("prune 0.6 by reconstruction, int8"), "{page}");
}

#[test]
fn equal_settings_give_equal_results_and_finished_ones_are_kept() {
    let world = World::new();
    world.pretrain("c.safetensors");
    for out in ["a", "b"] {
        world.ok(&format!("{COMMON} --prune 0.5 --quantise int8 --out {out}.safetensors"));
    }
    let [a, b] = ["a.safetensors", "b.safetensors"].map(|name| fs::read(world.path(name)).unwrap());
    assert!(a == b);
    let record = |name: &str| {
        let mut record = timeless(world.json(name));
        record["checkpoint"] = serde_json::Value::Null;
        record["compress_seconds"] = serde_json::Value::Null;
        record
    };
    assert_eq!(record("a.json"), record("b.json"));
    let text = world.ok(&format!("{COMMON} --prune 0.5 --quantise int8 --out a.safetensors"));
    assert!(text.contains("finished already"), "{text}");
    // What is meant anyway may be said.
    world.ok(&format!("{COMMON} --prune 0.5 --recover none --out d.safetensors"));
    for (criterion, out) in [("reconstruction --quantise int8", "a"), ("magnitude --recover none", "d")] {
        let text = world.ok(&format!("{COMMON} --prune 0.5 --criterion {criterion} --out {out}.safetensors"));
        assert!(text.contains("finished already"), "{text}");
    }
    world.fails(&format!("{COMMON} --prune 0.6 --out a.safetensors"), &["other settings", "prune", "--force"]);
    assert_eq!(fs::read(world.path("a.safetensors")).unwrap(), a);
}

#[test]
fn what_makes_no_sense_is_one_clear_error_and_writes_nothing() {
    let world = World::new();
    world.pretrain("c.safetensors");
    fs::write(world.path("mine.html"), "mine").unwrap();
    for (options, parts) in [
        ("--out x.safetensors", vec!["--prune is missing", "channels"]),
        ("--prune 1 --out x.safetensors", vec!["--prune = 1", "[0, 1)"]),
        ("--prune -0.1 --out x.safetensors", vec!["--prune = -0.1"]),
        ("--channels 1.5 --out x.safetensors", vec!["--channels = 1.5"]),
        ("--channels 0.01 --out x.safetensors", vec!["--channels = 0.01", "no channel"]),
        ("--prune 0.5 --pattern 2:4 --out x.safetensors", vec!["--pattern = 2:4", "one of them"]),
        ("--quantise int8 --scope global --out x.safetensors", vec!["--scope = global", "prune"]),
        (
            "--quantise int8 --criterion magnitude --out x.safetensors",
            vec!["--criterion = magnitude", "prune or pattern"],
        ),
        ("--prune 0.5 --calibrate 0 --out x.safetensors", vec!["--calibrate = 0"]),
        ("--prune 0.5 --calibrate 401 --out x.safetensors", vec!["--calibrate = 401", "400 images"]),
        ("--prune 0.5 --time 3s --out x.safetensors", vec!["--time = 3s", "fine-tune"]),
        ("--prune 0.5 --clock processor --out x.safetensors", vec!["--clock = processor", "fine-tune"]),
        ("--prune 0.5 --rate 1e-3 --out x.safetensors", vec!["--rate = 0.001", "fine-tune"]),
        ("--prune 0.5 --recover fine-tune --rate 0 --out x.safetensors", vec!["--rate = 0"]),
        ("--prune 0.5 --recover fine-tune --time 0s --out x.safetensors", vec!["--time"]),
        ("--prune 0.5 --out c.safetensors", vec!["--out", "starts from"]),
        ("--prune 0.5 --out mine.safetensors", vec!["mine.html", "--force"]),
    ] {
        let before = fs::read_dir(world.path(".")).unwrap().count();
        // The option comes once.
        let common =
            if options.contains("--calibrate") { COMMON.replace(" --calibrate 100", "") } else { COMMON.into() };
        world.fails(&format!("{common} {options}"), &parts);
        assert_eq!(fs::read_dir(world.path(".")).unwrap().count(), before, "{options}");
    }
    assert_eq!(fs::read_to_string(world.path("mine.html")).unwrap(), "mine");
}
