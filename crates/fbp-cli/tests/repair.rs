//! Repairing samples: what the record says is what the checkpoint does.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use std::fs;

use common::{World, number, timeless};

const COMMON: &str = "repair --checkpoint c.safetensors --data idx:data --classes 3 --validation 0.2 --threads 2";

#[test]
fn every_kind_of_layer_can_be_repaired() {
    let world = World::new();
    world.pretrain("c.safetensors");
    // A tenth of the labels of these data is wrong on purpose, and conv1 has 30 weights: not everything can be had.
    for (stage, least) in [("conv1", 0.15), ("conv2", 0.5), ("out", 0.5)] {
        let text = world.ok(&format!(
            "{COMMON} --samples wrong:6 --max-drawdown 20 --stage {stage} --rival --rival-mixed --out {stage}.safetensors"
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
        // It sees other images too, and keeps to the bound.
        assert!(text.contains("fine-tuning on the same samples and other training images"), "{text}");
        let mixed = &record["mixed"];
        assert!(number(&mixed["drawdown_validation"]) <= 0.2 && number(&mixed["mixed"]) >= 1.0, "{mixed}");
        assert!(number(&mixed["efficacy"]) > 0.0 && mixed["curve"].as_array().unwrap().len() >= 6, "{mixed}");
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

#[test]
fn corrupted_samples_are_repaired_and_clean_images_judge() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let arguments = format!("{COMMON} --samples wrong:8 --samples-corrupt contrast:5 --max-drawdown 20 --neighbours 2");
    world.ok(&format!("{arguments} --stage out --out a.safetensors"));
    let record = world.json("a.json");
    assert_eq!(record["settings"]["samples_corrupt"], "contrast:5");
    assert_eq!(
        (&record["settings"]["prefer"], &record["settings"]["neighbours"]),
        (&"generalisation".into(), &2.into())
    );
    // What the record says of clean images is what eval says.
    world.ok("eval --checkpoint a.safetensors --data idx:data --classes 3 --json e.json");
    assert_eq!(world.json("e.json")["test_accuracy"], record["test_accuracy_after"]);
    let leads: Vec<[f64; 2]> = serde_json::from_value(record["leads"].clone()).unwrap();
    let right = |time: usize| leads.iter().filter(|lead| lead[time] > 0.0).count() as f64 / 8.0;
    assert_eq!((leads.len(), right(0), right(1)), (8, 0.0, number(&record["efficacy"])));
    let candidates = record["candidates"].as_array().unwrap();
    let of = |candidate: &serde_json::Value| {
        let figure = |name: &str| number(&candidate[name]);
        (figure("efficacy").min(0.99), figure("generalisation_validation"), -figure("drawdown_validation"))
    };
    let allowed = candidates.iter().filter(|candidate| number(&candidate["drawdown_validation"]) <= 0.2);
    let best = allowed.map(of).max_by(|a, b| a.partial_cmp(b).unwrap()).unwrap();
    assert_eq!(of(&record["chosen"]), best);
    let both = world.command(&format!("{arguments} --corrupt fog --stage out --out b.safetensors")).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
    world.fails(&format!("{arguments} --stage out,conv7 --out b.safetensors"), &["conv7", "conv1, conv2, out"]);
}

#[test]
fn a_further_layer_changes_only_if_one_does_not_suffice() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let repair = |stages: &str, efficacy: &str, out: &str| {
        let text = format!(
            "{COMMON} --samples wrong:6 --max-drawdown 20 --stage {stages} --efficacy {efficacy} --out {out}.safetensors"
        );
        // Exit status 3 where it falls short: both are looked at here.
        let status = world.command(&text).status().unwrap();
        assert!(matches!(status.code(), Some(0 | 3)), "{status}");
        world.json(&format!("{out}.json"))
    };
    let (one, both) = (repair("conv1", "1", "one"), repair("conv1,out", "1", "both"));
    assert!(number(&one["efficacy"]) < 1.0 && one["further"].is_null(), "{one}");
    // The second begins where the first ended and never ends behind it.
    for name in ["layer", "change_relative", "candidates", "chosen"] {
        assert_eq!(one[name], both[name]);
    }
    assert_eq!(both["further"].as_array().unwrap().len(), 1);
    assert!(number(&both["efficacy"]) >= number(&one["efficacy"]), "{both}");
    assert!(number(&both["drawdown_validation"]) <= 0.2);
    let enough = repair("conv1,out", "0.1", "enough");
    assert!(enough["further"].is_null() && number(&enough["efficacy"]) >= 0.1, "{enough}");
}

#[test]
fn curves_hold_every_layer_and_every_rival_and_grow() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let analyse = "analyse repair --checkpoint c.safetensors --data idx:data --classes 3 --samples wrong:6 --margin 0.3,1 \
                   --ridge 0.01 --slack 1e-5,1 --threads 2 --out a";
    let text = world.ok(analyse);
    assert!(text.contains("repair of conv1: ") && text.contains("fine-tuning of all: "), "{text}");
    let points = world.json("a/repair.json");
    let points = points.as_array().unwrap();
    let of = |method: &str, stage: &str, chosen: bool| -> Vec<&serde_json::Value> {
        let is_it = |point: &&serde_json::Value| {
            point["method"] == method && point["stage"] == stage && point["chosen"] == chosen
        };
        points.iter().filter(is_it).collect()
    };
    for stage in ["conv1", "conv2", "out"] {
        assert_eq!((of("repair", stage, false).len(), of("repair", stage, true).len()), (4, 1), "{stage}");
    }
    assert_eq!(of("fine-tuning", "all", true).len(), 1);
    // Each of the four runs goes on until all samples are right at two looks, or to its end.
    let looks = of("fine-tuning", "all", false);
    for rate in [1e-4, 3e-4, 1e-3, 3e-3] {
        let run: Vec<_> = looks.iter().filter(|point| number(&point["learning_rate"]) == rate).collect();
        let is_right = |point: &&&&serde_json::Value| number(&point["efficacy"]) == 1.0;
        let (right, last) = (run.iter().filter(is_right).count(), run.len() - 1);
        assert!(run.len() == 7 || (right == 2 && number(&run[last]["efficacy"]) == 1.0), "{rate}: {run:?}");
    }
    assert_eq!(of("head-refit", "out", false).len(), 8);
    // Weaker damping makes more of the samples right.
    let refits = of("head-refit", "out", false);
    assert!(number(&refits[7]["efficacy"]) >= number(&refits[0]["efficacy"]), "{refits:?}");
    assert!(number(&refits[7]["damping"]) < number(&refits[0]["damping"]), "{refits:?}");

    // What is chosen is what `fbp repair` chooses.
    world.ok("repair --checkpoint c.safetensors --data idx:data --classes 3 --threads 2 --samples wrong:6 --stage out --rival \
              --out r.safetensors");
    let record = world.json("r.json");
    let rivals = [(of("repair", "out", true)[0], &record), (of("fine-tuning", "all", true)[0], &record["rival"])];
    for (point, record) in rivals {
        assert_eq!((&point["efficacy"], &point["generalisation"]), (&record["efficacy"], &record["generalisation"]));
        assert!((number(&point["drawdown_pp"]) - 100.0 * number(&record["drawdown_test"])).abs() < 1e-9, "{point}");
    }
    let table = fs::read_to_string(world.path("a/repair.md")).unwrap();
    assert!(table.contains("| repair of conv2 | 1 |") && table.contains("| head refit | "), "{table}");
    let plot = fs::read_to_string(world.path("a/repair.svg")).unwrap();
    assert!(plot.starts_with("<svg width=\"1040\"") && plot.matches("<circle").count() > 40, "{plot}");

    // Nothing is made twice, and other demands and seeds are added.
    world.ok(analyse);
    assert_eq!(world.json("a/repair.json").as_array().unwrap(), points);
    world.ok(&analyse.replace("0.3,1", "0.3,2").replace("--threads", "--stage out --threads"));
    let grown = world.json("a/repair.json");
    assert_eq!(grown.as_array().unwrap().len(), points.len() + 2);
    world.ok(&format!("{analyse} --stage out --seed 1"));
    let more = world.json("a/repair.json");
    let added: Vec<_> = more.as_array().unwrap().iter().filter(|point| point["seed"] == 1).collect();
    assert!(added.len() >= 4 + 1 + 4 * 2 + 1 + 8, "{}", added.len());
    assert_eq!(more.as_array().unwrap().len(), grown.as_array().unwrap().len() + added.len());
}

#[test]
fn curves_refuse_what_makes_no_sense_and_files_that_are_not_theirs() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let analyse =
        "analyse repair --checkpoint c.safetensors --data idx:data --classes 3 --samples wrong:3 --stage out --out a";
    world.fails(&format!("{analyse} --margin 0.1,-1"), &["--margin = -1", "(0, 1000]"]);
    world.fails(&format!("{analyse} --slack nan"), &["--slack = NaN"]);
    world.fails(&analyse.replace("--stage out", "--stage conv9"), &["conv9", "conv1, conv2, out"]);
    fs::create_dir(world.path("a")).unwrap();
    fs::write(world.path("a/repair.json"), "{\"mine\": 1}").unwrap();
    world.fails(analyse, &["a/repair.json is not a list of repairs"]);
    fs::remove_file(world.path("a/repair.json")).unwrap();
    fs::write(world.path("a/repair.md"), "mine").unwrap();
    world.fails(analyse, &["a/repair.md", "--force"]);
    assert_eq!(fs::read_to_string(world.path("a/repair.md")).unwrap(), "mine");
}
