//! Repairing samples: what the record says is what the checkpoint does.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use std::fs;

use common::{World, timeless};

const COMMON: &str = "repair --checkpoint c.safetensors --data idx:data --classes 3 --validation 0.2 --threads 2";

fn number(value: &serde_json::Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn every_kind_of_layer_can_be_repaired() {
    let world = World::new();
    world.pretrain("c.safetensors");
    // A tenth of the labels of these data is wrong on purpose, and conv1 has 30 weights: not everything can be had.
    for (stage, least) in [("conv1", 0.15), ("conv2", 0.5), ("out", 0.5)] {
        let text = world.ok(&format!(
            "{COMMON} --samples wrong:6 --max-drawdown 20 --stage {stage} --rival --out {stage}.safetensors"
        ));
        assert!(text.contains("of 6 samples right") && text.contains("fine-tuning"), "{text}");
        let record = world.json(&format!("{stage}.json"));
        assert!(number(&record["efficacy"]) >= least, "{record}");
        assert!(number(&record["drawdown_validation"]) <= 0.2, "{record}");
        assert!(number(&record["change_relative"]) > 0.0, "{record}");
        let best = record["candidates"].as_array().unwrap().iter().filter(|c| number(&c["drawdown_validation"]) <= 0.2);
        let best = best.map(|candidate| number(&candidate["efficacy"])).fold(0.0, f64::max);
        assert_eq!(best, number(&record["efficacy"]), "{record}");
        world.ok(&format!("eval --checkpoint {stage}.safetensors --data idx:data --classes 3 --json e.json"));
        assert_eq!(world.json("e.json")["test_accuracy"], record["test_accuracy_after"]);
        let difference = number(&record["test_accuracy_before"]) - number(&record["test_accuracy_after"]);
        assert!((difference - number(&record["drawdown_test"])).abs() < 1e-12);
        assert!(number(&record["rival"]["efficacy"]) > 0.0 && record["rival"]["curve"].as_array().unwrap().len() > 1);
        // Only that layer has changed.
        let tensors = |name: &str| {
            let bytes = fs::read(world.path(name)).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let mut tensors: Vec<_> = file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
            tensors.sort();
            tensors
        };
        let layer = record["layer"].as_str().unwrap();
        for (old, new) in tensors("c.safetensors").iter().zip(tensors(&format!("{stage}.safetensors"))) {
            assert!(old.1 == new.1 || old.0.starts_with(layer), "{stage}: {}", old.0);
        }
    }
}

#[test]
fn equal_settings_give_equal_repairs_and_finished_ones_are_kept() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let arguments =
        |out: &str| format!("{COMMON} --samples class:1 --max-drawdown 50 --stage conv2 --out {out}.safetensors");
    world.ok(&arguments("a"));
    world.ok(&arguments("b"));
    let record = |name: &str| {
        let mut record = timeless(world.json(&format!("{name}.json")));
        record["checkpoint"] = serde_json::Value::Null;
        record
    };
    assert_eq!(record("a"), record("b"));
    assert_eq!(fs::read(world.path("a.safetensors")).unwrap(), fs::read(world.path("b.safetensors")).unwrap());
    assert!(world.ok(&arguments("a")).contains("finished already"));
    world.fails(&arguments("a").replace("class:1", "class:0"), &["other settings", "samples: class:1, now class:0"]);
    world.ok(&format!("{} --force", arguments("a").replace("class:1", "class:0")));
}

#[test]
fn samples_from_a_file_and_a_bound_that_forbids_everything() {
    let world = World::new();
    world.pretrain("c.safetensors");
    fs::write(world.path("list.txt"), "# positions\n5\n\n3\n5\n").unwrap();
    world.ok(&format!("{COMMON} --samples list.txt --stage out --out f.safetensors"));
    let record = world.json("f.json");
    assert_eq!(record["samples"], serde_json::json!([3, 5]));
    assert!(number(&record["drawdown_validation"]) <= 0.013);
}

#[test]
fn what_cannot_be_repaired_is_named() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let with = |samples: &str, stage: &str| format!("{COMMON} --samples {samples} --stage {stage} --out r.safetensors");
    world.fails(&with("wrong:5000", "out"), &["wrong:5000", "samples wrongly"]);
    world.fails(&with("class:7", "out"), &["class:7", "no sample of that class"]);
    world.fails(&with("wrong:3", "conv9"), &["conv9", "conv1, conv2, out"]);
    fs::write(world.path("bad.txt"), "12\nseven\n").unwrap();
    world.fails(&with("bad.txt", "out"), &["seven", "no position"]);
    world.fails(&with("none.txt", "out"), &["cannot read none.txt"]);
    world.fails(&with("wrong:3", "out").replace("r.safetensors", "r.json"), &["--out"]);
    world.fails(&format!("{} --max-drawdown -1", with("wrong:3", "out")), &["--max-drawdown", "[0, 1]"]);
    world.fails(&with("wrong:3", "out").replace("--validation 0.2", "--validation 0"), &["--validation"]);
    fs::write(world.path("mine.safetensors"), "not a checkpoint").unwrap();
    world.fails(&with("wrong:3", "out").replace("r.safetensors", "mine.safetensors"), &["--out", "--force"]);
    assert_eq!(fs::read(world.path("mine.safetensors")).unwrap(), b"not a checkpoint");
    assert!(!world.path("r.safetensors").exists());
}
