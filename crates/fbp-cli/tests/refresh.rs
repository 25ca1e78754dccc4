//! Targets that are computed again before every epoch.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use std::path::Path;

use common::{World, post_train_arguments, timeless};
use serde_json::Value;

/// Runs with targets of one policy; the stage and the mode are those of `change`.
fn run(world: &World, policy: &str, change: impl Fn(String) -> String, out: &str) -> Value {
    let arguments = change(post_train_arguments("c.safetensors", "t", "0.3", out));
    world.ok(&format!("{arguments} --policy {policy} --json {out}.json"));
    world.json(&format!("{out}.json"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn the_first_epoch_has_static_targets_and_later_ones_have_others() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.targets("c.safetensors", "t");
    let compare = |change: &dyn Fn(String) -> String, name: &str| {
        let fixed = run(&world, "static", change, &format!("static-{name}"));
        let fresh = run(&world, "refresh", change, &format!("refresh-{name}"));
        assert_eq!(fresh["settings"]["policy"], "refresh");
        for list in ["target_distance", "cross_entropy", "weight", "test_accuracy", "validation_accuracy"] {
            assert_eq!(fixed[list].get(0), fresh[list].get(0), "{name}: {list}");
        }
        let [fixed, fresh] = [fixed, fresh].map(|record| numbers(&record["target_distance"]));
        assert!((1..3).all(|epoch| fresh[epoch] != fixed[epoch]), "{name}: {fresh:?} {fixed:?}");
    };
    compare(&|text| text.replace("--mode joint", "--mode local").replace("--alpha 0.3", ""), "local");
    for stage in ["conv1", "conv2", "out"] {
        compare(&|text| text.replace("conv1", stage), stage);
    }
}

#[test]
fn refreshed_targets_of_clothes_are_nearer_to_the_features_than_static_ones() {
    let world = World::new();
    let datasets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets");
    let data = format!("--data fashion-mnist-mini --data-dir {} --train-size 2000", datasets.display());
    world.ok(&format!(
        "pretrain --model simple-cnn-mnist-v2 {data} --epochs 12 --batch 64 --learning-rate 3e-3 --out c.safetensors"
    ));
    world.ok(&format!("targets --checkpoint c.safetensors {data} --out t"));
    let distances = |policy: &str| {
        world.ok(&format!(
            "post-train --checkpoint c.safetensors --targets t {data} --mode local --stage conv1 --epochs 4 --batch 64 \
             --learning-rate 1e-3 --policy {policy} --out {policy} --json x.json"
        ));
        numbers(&world.json("x.json")["target_distance"])
    };
    let (fixed, fresh) = (distances("static"), distances("refresh"));
    assert_eq!(fixed[0], fresh[0]);
    // The first epoch moves the features by less than the noise of its batches: static targets are near already.
    assert!((2..4).all(|epoch| fresh[epoch] < fixed[epoch]), "{fresh:?} {fixed:?}");
}

#[test]
fn equal_settings_give_equal_runs_with_refreshed_targets() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.targets("c.safetensors", "t");
    let [once, again] = ["once", "again"].map(|out| timeless(run(&world, "refresh", |text| text, out)));
    assert_eq!(once, again);
}

#[test]
fn sweeps_tell_policies_apart() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let sweep = r#"
data = { name = "idx:data", classes = 3 }
seeds = [1, 2]

[[starts]]
name = "file"
checkpoint = "c.safetensors"

[[runs]]
mode = "joint"
stage = "conv1"
alpha = [0, 0.3]
policy = ["static", "refresh"]
epochs = 2
batch = 32
learning_rate = 1e-3
"#;
    std::fs::write(world.path("sweep.toml"), sweep).unwrap();
    let dry = world.ok("sweep --config sweep.toml --threads 2 --out out --dry-run");
    // Without a distance the policy makes no difference.
    assert!(dry.contains("6 runs (") && dry.matches("attainable, refresh").count() == 2, "{dry}");
    world.ok("sweep --config sweep.toml --threads 2 --out out --json rows.json");
    let rows = world.json("rows.json");
    let policies: Vec<_> = rows.as_array().unwrap().iter().map(|row| (&row["policy"], &row["seeds"])).collect();
    assert_eq!(policies.len(), 2, "{rows}");
    assert!(policies.iter().all(|(_, seeds)| **seeds == 2) && policies[0].0 != policies[1].0, "{rows}");
    let table = std::fs::read_to_string(world.path("out/summary.csv")).unwrap();
    assert_eq!(table.matches("refresh").count(), 1, "{table}");
    std::fs::write(world.path("sweep.toml"), sweep.replace("\"joint\"", "\"hierarchical\"").replace("alpha", "#"))
        .unwrap();
    world.fails("sweep --config sweep.toml --threads 2 --out x", &["table 1", "policy = refresh"]);
}

#[test]
fn refreshed_targets_are_for_joint_and_local_alone() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.targets("c.safetensors", "t");
    let arguments = post_train_arguments("c.safetensors", "t", "0.3", "runs") + " --policy refresh";
    let others = ["hierarchical", "closed-form"];
    for mode in others {
        let arguments = arguments.replace("joint", mode).replace("--alpha 0.3", "");
        world.fails(&arguments, &["--policy = refresh", "joint and local"]);
    }
}
