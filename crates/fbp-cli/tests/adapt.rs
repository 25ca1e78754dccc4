//! Corrupted data, and networks adapted to few labels of them.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use std::fs;

use common::{World, contents, number, run_with_kills, timeless};

const DATA: &str = "--checkpoint c.safetensors --data idx:data --classes 3 --threads 2";

#[test]
fn corrupted_data_are_data_of_their_own() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let eval = |more: &str| {
        world.ok(&format!("eval {DATA} {more} --json e.json"));
        world.json("e.json")
    };
    let [clean, some, strong] = ["", "--corrupt contrast:2", "--corrupt contrast:5"].map(eval);
    let accuracy = |record: &serde_json::Value| number(&record["test_accuracy"]);
    assert!(accuracy(&strong) < accuracy(&clean), "{strong}");
    assert_eq!((clean["data"].as_str(), some["data"].as_str()), (Some("idx:data"), Some("idx:data, contrast:2")));
    assert_eq!(eval("--corrupt noise --data-seed 3")["data"], "idx:data, noise:3, data-seed 3");
    // A run is told apart from one on other data.
    let pretrain = |more: &str| {
        format!(
            "pretrain --model small.toml --data idx:data --classes 3 --epochs 1 --batch 32 --out p.safetensors {more}"
        )
    };
    world.ok(&pretrain("--corrupt fog:2"));
    world.ok(&pretrain("--corrupt fog:2"));
    for more in ["--corrupt fog:3", ""] {
        world.fails(&pretrain(more), &["other settings", "fog:2", "--force"]);
    }
    world.fails(
        "pretrain --model mlp --data planner --epochs 1 --corrupt fog --out q.safetensors",
        &["--corrupt = fog:3", "planner"],
    );
    for wrong in ["fog:6", "snow", "fog:"] {
        let output = world.command(&format!("eval {DATA} --corrupt {wrong}")).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8(output.stderr).unwrap().contains("noise, blur, fog and contrast"));
    }
}

#[test]
fn the_record_tells_what_the_checkpoint_does() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let adapt = |more: &str| format!("adapt {DATA} --corrupt contrast:5 --labels 24 {more}");
    for (name, more) in [
        ("auto", ""),
        ("head", "--method head"),
        ("full", "--method full --folds 3"),
        ("plain", "--method renormalise"),
    ] {
        let text = world.ok(&adapt(&format!("{more} --seed 4 --out {name}.safetensors --json r.json")));
        let record = world.json(&format!("{name}.json"));
        assert_eq!(record, world.json("r.json"));
        assert!(text.contains("24 labels") && text.contains("chosen"), "{text}");
        let judge = |data: &str| {
            world.ok(&format!(
                "eval --checkpoint {name}.safetensors --data idx:data --classes 3 --corrupt contrast:5 {data} --json e.json"
            ));
            world.json("e.json")["test_accuracy"].clone()
        };
        assert_eq!(judge(""), record["test_after"], "{name}");
        let page = fs::read_to_string(world.path(&format!("{name}.html"))).unwrap();
        assert!(page.contains("24 labels") && page.contains("contrast:5"), "{page}");
        // An ordinary checkpoint.
        world.ok(&format!("export --checkpoint {name}.safetensors --out {name}-torch.safetensors"));
    }
    let record = world.json("auto.json");
    assert!(number(&record["test_after"]) > number(&record["test_before"]), "{record}");
    assert_eq!(record["class_counts"], serde_json::json!([8, 8, 8]));
    world.ok(&format!("eval {DATA} --corrupt contrast:5 --json e.json"));
    assert_eq!(world.json("e.json")["test_accuracy"], record["test_before"]);
}

#[test]
fn equal_settings_give_equal_results_and_finished_ones_are_kept() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let adapt = |more: &str, out: &str| format!("adapt {DATA} --corrupt fog:3 --labels 15 {more} --out {out}");
    for out in ["a/x.safetensors", "b/x.safetensors"] {
        world.ok(&adapt("--judge-all", out));
    }
    let bytes = |name: &str| fs::read(world.path(name)).unwrap();
    assert!(bytes("a/x.safetensors") == bytes("b/x.safetensors"));
    assert_eq!(timeless(world.json("a/x.json")), timeless(world.json("b/x.json")));
    assert!(world.ok(&adapt("--judge-all", "a/x.safetensors")).contains("finished already"));
    world.fails(&adapt("", "a/x.safetensors"), &["other settings", "judge_all", "--force"]);
    world.fails(&adapt("--judge-all --seed 1", "a/x.safetensors"), &["other settings", "seed"]);
}

#[test]
fn a_network_left_as_it_is_is_the_same_to_the_last_bit() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.ok(&format!("adapt {DATA} --labels 12 --method leave --out l.safetensors"));
    let tensors = |name: &str| {
        let bytes = fs::read(world.path(name)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<_> = file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect();
        tensors.sort();
        tensors
    };
    assert_eq!(tensors("c.safetensors"), tensors("l.safetensors"));
    assert_eq!(world.json("l.json")["test_before"], world.json("l.json")["test_after"]);
}

#[test]
fn a_killed_adaptation_starts_over_and_leaves_nothing_half_written() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let adapt = |out: &str| format!("adapt {DATA} --corrupt noise:5 --labels 12 --out {out}/x.safetensors");
    world.ok(&adapt("whole"));
    let is_record = |name: &str| name == "x.safetensors" || name == "x.json";
    let kills = run_with_kills(&world, &adapt("cut"), 3, || {
        if !world.path("cut").exists() {
            return;
        }
        for (name, bytes) in contents(&world.path("cut")).into_iter().filter(|(name, _)| is_record(name)) {
            if name == "x.safetensors" {
                assert!(bytes == fs::read(world.path("whole/x.safetensors")).unwrap());
            }
        }
    });
    assert!(kills > 0, "no run was killed");
    world.ok(&adapt("cut"));
    let names: Vec<String> = contents(&world.path("cut")).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["x.html", "x.json", "x.safetensors"]);
    assert_eq!(timeless(world.json("cut/x.json")), timeless(world.json("whole/x.json")));
    assert!(fs::read(world.path("cut/x.safetensors")).unwrap() == fs::read(world.path("whole/x.safetensors")).unwrap());
}

#[test]
fn what_makes_no_sense_is_one_clear_error_and_writes_nothing() {
    let world = World::new();
    world.pretrain("c.safetensors");
    fs::write(world.path("mine.safetensors"), "mine").unwrap();
    fs::write(world.path("page.html"), "mine").unwrap();
    for (options, parts) in [
        ("--labels 0 --out x.safetensors", vec!["--labels = 0", "classes"]),
        ("--labels 2 --out x.safetensors", vec!["--labels = 2", "3 classes"]),
        ("--labels 401 --out x.safetensors", vec!["--labels = 401", "400"]),
        ("--labels 12 --folds 1 --out x.safetensors", vec!["--folds = 1"]),
        ("--labels 12 --folds 13 --out x.safetensors", vec!["--folds = 13", "12 labels"]),
        ("--labels 12 --method statistics --out x.safetensors", vec!["--method = statistics", "small"]),
        ("--labels 12 --out c.safetensors", vec!["--out", "starts from"]),
        ("--labels 12 --out mine.safetensors", vec!["mine.safetensors", "--force"]),
        ("--labels 12 --out page.safetensors", vec!["page.html", "--force"]),
    ] {
        let before = fs::read_dir(world.path(".")).unwrap().count();
        world.fails(&format!("adapt {DATA} {options}"), &parts);
        assert_eq!(fs::read_dir(world.path(".")).unwrap().count(), before, "{options}");
    }
    assert_eq!(fs::read_to_string(world.path("mine.safetensors")).unwrap(), "mine");
    let output = world.command(&format!("adapt {DATA} --method best --out x.safetensors")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("l2-sp"));
}
