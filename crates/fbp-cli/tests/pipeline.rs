//! The whole way on small data: pretrain, targets, evaluation, post-training, report.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;
#[path = "pipeline/files.rs"]
mod files;

use std::fs;

use common::{TEST, TRAIN, World, contents, number, post_train_arguments, run_name, targets_arguments, timeless};

#[test]
fn from_labels_to_a_report() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let pretrain = world.json("c.json");
    let before = number(&pretrain["test_accuracy"]);
    // A tenth of the labels is wrong; three classes by chance would be a third.
    assert!((0.6..0.95).contains(&before), "{before}");
    assert_eq!(pretrain["validation_accuracy"].as_array().unwrap().len(), 4);

    let text = world.ok(&format!("{} --json t.json", targets_arguments("c.safetensors", "t")));
    assert!(text.contains("conv1") && text.contains("conv2"), "{text}");
    let targets = world.json("t.json");
    assert_eq!(targets["samples"], TRAIN);
    assert_eq!(targets["mode"], "attainable");
    let stages = targets["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 2, "the output has no target of its own");
    for stage in stages {
        assert!(number(&stage["frozen_rest_accuracy"]) >= 0.999, "{stage}");
        assert!(number(&stage["distance_relative"]) < 0.5, "{stage}");
        assert!(stage["satisfied_before"].as_u64().unwrap() < TRAIN as u64, "{stage}");
    }

    // The same figure by another path: the stored features through the network's own layers.
    world.ok("eval --checkpoint c.safetensors --data idx:data --classes 3 --targets t --json e.json");
    let eval = world.json("e.json");
    assert_eq!(eval["test_accuracy"], pretrain["test_accuracy"]);
    assert_eq!(number(&eval["train_accuracy"]), number(&targets["accuracy_before"]));
    for (rest, stage) in eval["frozen_rest"].as_array().unwrap().iter().zip(stages) {
        let difference = number(&rest["accuracy"]) - number(&stage["frozen_rest_accuracy"]);
        assert!(difference.abs() * TRAIN as f64 <= 1.0, "{rest} {stage}");
    }

    for (stage, alpha) in [("conv1", "0"), ("conv1", "0.3"), ("conv2", "0.3")] {
        let arguments = post_train_arguments("c.safetensors", "t", alpha, "runs").replace("conv1", stage);
        world.ok(&arguments);
        let again = world.ok(&arguments);
        assert!(again.contains("finished already"), "{again}");
    }
    let record = world.json(&format!("runs/{}.json", run_name("joint_conv1_alpha0.3")));
    assert_eq!(record["test_accuracy"].as_array().unwrap().len(), 3);
    assert_eq!(number(&record["test_accuracy_before"]), before);
    world.ok(&post_train_arguments("c.safetensors", "t", "30", "runs"));
    let strong = world.json(&format!("runs/{}.json", run_name("joint_conv1_alpha30")));
    let last = |record: &serde_json::Value, list: &str| number(&record[list][2]);
    assert!(last(&strong, "weight") > last(&record, "weight"), "{strong} {record}");
    assert!(last(&strong, "target_distance") < last(&record, "target_distance"), "{strong} {record}");
    let plain = world.json(&format!("runs/{}.json", run_name("joint_conv1_alpha0")));
    assert_eq!(plain["target_distance"].as_array().unwrap().len(), 0);

    world.ok("report --runs runs --out page --json s.json");
    let summary = world.json("page/summary.json");
    assert_eq!(summary, world.json("s.json"));
    assert_eq!(summary["post_train"].as_array().unwrap().len(), 4);
    assert_eq!(summary["post_train"][0]["alpha"], 0.0);
    assert_eq!(summary["pretrain"]["test_accuracy"], pretrain["test_accuracy"]);
    assert_eq!(summary["targets"]["stages"][1]["name"], "conv2");
    let page = fs::read_to_string(world.path("page/report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("data:image/png;base64,"));
}

#[test]
fn local_training_leaves_the_stages_above_alone() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.targets("c.safetensors", "t");
    let arguments = post_train_arguments("c.safetensors", "t", "0.3", "runs");
    let arguments = arguments.replace("--mode joint", "--mode local").replace("--alpha 0.3", "");
    world.ok(&arguments);
    let record = world.json(&format!("runs/{}.json", run_name("local_conv1")));
    assert_eq!(record["settings"]["alpha"], serde_json::Value::Null);
    assert_eq!(record["cross_entropy"].as_array().unwrap().len(), 0);
    let distances: Vec<f64> = record["target_distance"].as_array().unwrap().iter().map(number).collect();
    assert!(distances.is_sorted_by(|a, b| a > b), "{distances:?}");

    let tensors = |name: &str| {
        let bytes = fs::read(world.path(name)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<_> = file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
        tensors.sort();
        tensors
    };
    let (before, after) = (tensors("c.safetensors"), tensors(&format!("runs/{}.safetensors", run_name("local_conv1"))));
    for ((name, before), (same, after)) in before.iter().zip(&after) {
        assert_eq!(name, same);
        assert_eq!(before != after, name.starts_with("conv1."), "{name}");
    }
}

#[test]
fn equal_settings_give_equal_bytes() {
    let world = World::new();
    for run in ["a", "b"] {
        world.pretrain(&format!("{run}.safetensors"));
        world.targets(&format!("{run}.safetensors"), &format!("t{run}"));
        world.ok(&post_train_arguments(&format!("{run}.safetensors"), &format!("t{run}"), "0.1", &format!("r{run}")));
    }
    assert_eq!(fs::read(world.path("a.safetensors")).unwrap(), fs::read(world.path("b.safetensors")).unwrap());
    let stores = ["ta", "tb"].map(|folder| {
        let files = contents(&world.path(folder));
        files.into_iter().filter(|(name, _)| name != "report.json").collect::<Vec<_>>()
    });
    assert_eq!(stores[0], stores[1]);
    let name = run_name("joint_conv1_alpha0.1");
    let record = |folder: &str| timeless(world.json(&format!("{folder}/{name}.json")));
    assert_eq!(record("ra"), record("rb"));

    // Another seed gives other weights, and targets do not depend on the number of threads.
    let other = "pretrain --model small.toml --data idx:data --classes 3 --epochs 4 --batch 32 --learning-rate 0.003 \
        --seed 4 --threads 2 --out other.safetensors";
    world.ok(other);
    assert_ne!(fs::read(world.path("a.safetensors")).unwrap(), fs::read(world.path("other.safetensors")).unwrap());
    world.ok(&targets_arguments("a.safetensors", "t1").replace("--threads 2", "--threads 1"));
    let one = contents(&world.path("t1")).into_iter().filter(|(name, _)| name != "report.json").collect::<Vec<_>>();
    assert_eq!(one, stores[0]);
}

#[test]
fn point_targets_and_other_embeddings_are_offered() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let run = |extra: &str, out: &str| {
        world.ok(&format!("{} {extra} --json {out}.json", targets_arguments("c.safetensors", out)));
        world.json(&format!("{out}.json"))
    };
    let point = run("--targets point", "point");
    assert_eq!(point["mode"], "point");
    let attainable = run("", "attainable");
    let right = |report: &serde_json::Value| number(&report["stages"][0]["frozen_rest_accuracy"]);
    assert!(right(&point) <= right(&attainable), "{point} {attainable}");
    assert_eq!(run("--embedding one-hot", "one-hot")["embedding"], "one-hot");
    assert_eq!(run("--embedding max-assign", "max-assign")["margin"], 0.0);
}

#[test]
fn part_of_the_data_is_a_data_set_of_its_own() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let arguments = targets_arguments("c.safetensors", "t");
    world.ok(&format!("{arguments} --train-size 90 --json t.json"));
    assert_eq!(world.json("t.json")["samples"], 90);
    world.fails(&arguments, &["other settings", "data.samples: 90, now 400"]);
    world.ok(&format!("{arguments} --force --json t.json"));
    assert_eq!(world.json("t.json")["samples"], TRAIN);
    world.ok("eval --checkpoint c.safetensors --data idx:data --classes 3 --json e.json");
    let test = number(&world.json("e.json")["test_accuracy"]) * TEST as f64;
    assert!((test - test.round()).abs() < 1e-9);
}

#[test]
fn rivals_keep_the_start_as_a_candidate_and_read_the_test_set_once() {
    let world = World::new();
    // A start that can still improve.
    world.ok("pretrain --model small.toml --data idx:data --classes 3 --epochs 1 --batch 32 --out c.safetensors");
    let common =
        "--checkpoint c.safetensors --data idx:data --classes 3 --batch 32 --threads 2 --validation 0.2 --out runs";
    let before = fs::read(world.path("c.safetensors")).unwrap();
    for (mode, trained) in [("head", "out."), ("tail --stage conv1", "conv2."), ("full", "conv1.")] {
        let name = format!(
            "post-train_{}_validation0.2_seed0",
            match mode {
                "head" => "head_out",
                "full" => "full_all_rate1e-2_epochs3_batch32",
                _ => "tail_conv1_rate1e-2_epochs3_batch32",
            }
        );
        let arguments = format!("post-train {common} --mode {mode} --epochs 3 --learning-rate 0.01 --schedule cosine");
        world.ok(&arguments);
        let record = world.json(&format!("runs/{name}.json"));
        assert_eq!(record["test_accuracy"].as_array().unwrap().len(), 1, "{record}");
        assert_eq!(record["chosen"]["test_accuracy"], record["test_accuracy"][0]);
        assert_eq!(record["settings"]["keep"], "best");
        // What was kept is at least as good on the validation part as every candidate.
        let kept = number(&record["chosen"]["validation_accuracy"]);
        let candidates = record["validation_accuracy"].as_array().unwrap();
        assert!(candidates.iter().all(|candidate| number(candidate) <= kept), "{record}");
        let epoch = record["chosen"]["epoch"].as_u64().unwrap() as usize;
        assert!(epoch > 0 && number(&candidates[epoch - 1]) == kept, "{record}");
        let eval = format!("eval --checkpoint runs/{name}.safetensors --data idx:data --classes 3 --json e.json");
        world.ok(&eval);
        assert_eq!(world.json("e.json")["test_accuracy"], record["test_accuracy"][0], "{mode}");
        let tensors = |bytes: &[u8]| {
            let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
            let mut tensors: Vec<_> = file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
            tensors.sort();
            tensors
        };
        let after = fs::read(world.path(&format!("runs/{name}.safetensors"))).unwrap();
        let changed: Vec<String> = tensors(&before)
            .into_iter()
            .zip(tensors(&after))
            .filter(|(old, new)| old.1 != new.1)
            .map(|(old, _)| old.0)
            .collect();
        assert!(changed.iter().any(|name| name.starts_with(trained)), "{mode}: {changed:?}");
        assert_eq!(changed.iter().any(|name| name.starts_with("conv1.")), mode == "full", "{changed:?}");
        assert_eq!(changed.iter().any(|name| name.starts_with("conv2.")), mode != "head", "{changed:?}");
        assert!(world.ok(&arguments).contains("finished already"));
    }
    // A rate that ruins everything: the start is kept.
    let ruin = common
        .replace("c.safetensors", "runs/post-train_full_all_rate1e-2_epochs3_batch32_validation0.2_seed0.safetensors");
    let ruin = ruin.replace("--out runs", "--out ruin");
    world.ok(&format!("post-train {ruin} --mode full --epochs 1 --learning-rate 1 --json x.json"));
    let record = world.json("x.json");
    assert_eq!(
        (record["chosen"]["epoch"].as_u64(), &record["test_accuracy"][0]),
        (Some(0), &record["test_accuracy_before"])
    );
    world.ok("report --runs runs --out page");
    let table = world.json("page/comparisons.json");
    assert_eq!(table.as_array().unwrap().len(), 2, "head and tail against full: {table}");
}

#[test]
fn one_layer_is_solved_for_its_targets() {
    let world = World::new();
    world.ok("pretrain --model small.toml --data idx:data --classes 3 --epochs 1 --batch 32 --out c.safetensors");
    world.targets("c.safetensors", "t");
    let common =
        "post-train --checkpoint c.safetensors --data idx:data --classes 3 --validation 0.2 --mode closed-form";
    for stage in ["conv1", "conv2"] {
        world.ok(&format!("{common} --targets t --stage {stage} --out runs --json x.json"));
        let record = world.json("x.json");
        let candidates = record["validation_accuracy"].as_array().unwrap();
        assert_eq!((candidates.len(), record["damping"].as_array().unwrap().len()), (16, 16), "{record}");
        let kept = number(&record["chosen"]["validation_accuracy"]);
        assert!(candidates.iter().all(|candidate| number(candidate) <= kept), "{record}");
        assert!(record["chosen"]["epoch"].as_u64().unwrap() > 0, "{record}");
        let name = format!("runs/post-train_closed-form_{stage}_validation0.2_seed0.safetensors");
        world.ok(&format!("eval --checkpoint {name} --data idx:data --classes 3 --json e.json"));
        assert_eq!(world.json("e.json")["test_accuracy"], record["test_accuracy"][0]);
    }
    world.fails(&format!("{common} --stage conv1 --out runs"), &["--targets"]);
}

#[test]
fn targets_may_be_nearest_in_the_metric_of_the_features() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let arguments = targets_arguments("c.safetensors", "t");
    world.ok(&format!("{arguments} --json euclidean.json"));
    let manifest = fs::read_to_string(world.path("t/manifest.json")).unwrap();
    assert!(!manifest.contains("metric"), "manifests with the Euclidean metric are what they were: {manifest}");
    let other = format!("{arguments} --metric mahalanobis");
    world.fails(&other, &["other settings", "metric"]);
    world.ok(&format!("{} --json mahalanobis.json", other.replace("--out t", "--out m")));
    let [euclidean, mahalanobis] = ["euclidean", "mahalanobis"].map(|name| world.json(&format!("{name}.json")));
    assert_eq!(mahalanobis["metric"], "mahalanobis");
    for (own, other) in mahalanobis["stages"].as_array().unwrap().iter().zip(euclidean["stages"].as_array().unwrap()) {
        assert!(number(&own["frozen_rest_accuracy"]) >= 0.999, "{own}");
        assert!(number(&own["distance_relative"]) > number(&other["distance_relative"]), "{own} {other}");
    }
    // Whoever reads a store takes them as they are, and the number of threads changes nothing.
    world.ok(&format!("{} --threads 1", other.replace("--threads 2", "").replace("--out t", "--out m1")));
    let shards = |folder: &str| {
        contents(&world.path(folder)).into_iter().filter(|(name, _)| name.starts_with("shard")).collect::<Vec<_>>()
    };
    assert_eq!(shards("m"), shards("m1"));
    let refresh = post_train_arguments("c.safetensors", "m", "0.3", "runs") + " --policy refresh --json x.json";
    world.ok(&refresh);
    assert_eq!(world.json("x.json")["settings"]["metric"], "mahalanobis");
    for extra in ["--targets point", "--targets layer-wise", "--embedding one-hot"] {
        world.fails(&format!("{other} {extra} --force"), &["--metric = mahalanobis", "attainable"]);
    }
}
