//! Pages that people read: explanations, analyses and reports.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop at the first error")]

mod check;
#[path = "../common/mod.rs"]
mod common;
mod explain;

use std::fs;

use check::{assert_axes_count, assert_reads_well, assert_self_contained};
use common::{World, number, post_train_arguments, run_name};
use serde_json::Value;

const DATA: &str = "--data idx:data --classes 3 --threads 2";

#[test]
fn distance_and_loss_are_measured_over_a_training_and_over_checkpoints() {
    let world = World::new();
    let training = "--model small.toml --epochs 4 --batch 32 --learning-rate 0.003 --seed 3";
    let analyse = format!("analyse stages {training} {DATA} --out a");
    let text = world.ok(&format!("{analyse} --json a.json"));
    assert!(text.contains("conv1: Pearson") && text.contains("over samples"), "{text}");
    let analysis = world.json("a/stages.json");
    assert_eq!(analysis, world.json("a.json"));
    let points = analysis["checkpoints"].as_array().unwrap();
    assert_eq!((points.len(), &points[0]["name"], &points[3]["name"]), (4, &"epoch 1".into(), &"epoch 4".into()));
    assert!(number(&points[3]["loss"]) < number(&points[0]["loss"]), "{analysis}");
    for stage in analysis["over_checkpoints"].as_array().unwrap() {
        assert_eq!((&stage["distance"]["pairs"], &stage["steps"]["pairs"]), (&4.into(), &3.into()));
        let (value, interval) = (number(&stage["distance"]["pearson"]), &stage["distance"]["pearson_interval"]);
        assert!(number(&interval[0]) <= value && value <= number(&interval[1]), "{stage}");
    }
    // A sample that is far from its target at the output has a large loss: one follows from the other.
    let output = points[3]["stages"].as_array().unwrap().last().unwrap();
    assert!(number(&output["over_samples"]["spearman"]) > 0.8, "{output}");
    let table = fs::read_to_string(world.path("a/stages.md")).unwrap();
    assert!(table.contains("| conv2 |") && table.contains("| epoch 4 |"), "{table}");
    let plot = fs::read_to_string(world.path("a/stages.svg")).unwrap();
    assert!(plot.starts_with("<svg width=\"960\" height=\"500\"") && plot.matches("circle").count() > 30);

    // The checkpoint of the same training has the same measures.
    world.pretrain("c.safetensors");
    world.ok("pretrain --model small.toml --data idx:data --classes 3 --epochs 1 --batch 32 --out d.safetensors");
    let given = format!("analyse stages --checkpoint d.safetensors --checkpoint c.safetensors {DATA} --seed 3 --out b");
    world.ok(&given);
    let of_checkpoints = world.json("b/stages.json");
    assert_eq!(of_checkpoints["checkpoints"][1]["loss"], points[3]["loss"]);
    assert_eq!(of_checkpoints["checkpoints"][1]["stages"], points[3]["stages"]);
    assert_eq!(of_checkpoints["over_checkpoints"][0]["distance"]["pearson_interval"], Value::Null);

    world.ok(&analyse);
    world.fails(&analyse.replace("--epochs 4", "--epochs 3"), &["other settings", "epochs: 4, now 3", "--force"]);
    fs::create_dir(world.path("e")).unwrap();
    fs::write(world.path("e/stages.md"), "mine").unwrap();
    world.fails(&analyse.replace("--out a", "--out e"), &["stages.md", "not a result", "--force"]);
    assert_eq!(fs::read_to_string(world.path("e/stages.md")).unwrap(), "mine");
    world.fails(&format!("{given} --limit 2 --force"), &["--limit", "3 to"]);
    world.fails(&format!("{given} --margin -1 --force"), &["--margin"]);
    let toml = fs::read_to_string(world.path("small.toml")).unwrap();
    fs::write(world.path("other.toml"), toml.replace("out_channels = 4", "out_channels = 5")).unwrap();
    world.ok("pretrain --model other.toml --data idx:data --classes 3 --epochs 1 --out o.safetensors");
    world.fails(&format!("{given} --checkpoint o.safetensors --force"), &["o.safetensors", "different networks"]);
}

#[test]
fn a_report_compares_fairly_and_shows_repairs() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.targets("c.safetensors", "t");
    for seed in ["5", "6", "7"] {
        for alpha in ["0", "0.3"] {
            world.ok(&post_train_arguments("c.safetensors", "t", alpha, "runs/joint")
                .replace("--seed 5", &format!("--seed {seed}")));
        }
        for rate in ["0.001", "0.01"] {
            world.ok(&format!(
                "post-train --checkpoint c.safetensors {DATA} --mode full --epochs 3 --batch 32 --learning-rate {rate} \
                 --seed {seed} --out runs/full{rate}"
            ));
        }
    }
    world.ok(&format!(
        "repair --checkpoint c.safetensors {DATA} --validation 0.2 --samples wrong:6 --max-drawdown 20 --stage conv2 \
         --rival --out runs/repaired.safetensors"
    ));
    world.ok(&format!("eval --checkpoint c.safetensors {DATA} --json runs/clean.json"));
    world.ok(&format!("eval --checkpoint c.safetensors {DATA} --noise 0.3 --json runs/noisy.json"));
    // A run of the future has more fields than this program knows.
    let name = &format!("runs/joint/{}.json", run_name("joint_conv1_alpha0.3"));
    let mut record = world.json(name);
    record["settings"]["of_the_future"] = 1.into();
    record["of_the_future"] = serde_json::json!({"a": [1, 2]});
    fs::write(world.path(name), record.to_string()).unwrap();
    let text = world.ok("report --runs runs --out page --json s.json");
    assert!(text.contains("12 post-training runs, 1 repairs"), "{text}");
    let summary = world.json("s.json");
    assert_eq!(summary["post_train"].as_array().unwrap().len(), 12);
    assert_eq!(summary["repairs"][0]["samples"], 6);
    assert_eq!(summary["targets"]["stages"][0]["name"], "conv1");
    let comparisons = world.json("page/comparisons.json");
    let comparisons = comparisons.as_array().unwrap();
    // The targets against fine-tuning of the same layers, and against all of the network at its best rate.
    assert_eq!(comparisons.len(), 2, "{comparisons:?}");
    assert!(comparisons.iter().all(|row| row["seeds"] == 3 && row["alpha"] == 0.3), "{comparisons:?}");

    let record = world.json("runs/repaired.json");
    let weights = &record["weights"];
    let squares: f64 = weights["by_output"].as_array().unwrap().iter().map(|output| number(&output[0]).powi(2)).sum();
    let before: f64 = weights["by_output"].as_array().unwrap().iter().map(|output| number(&output[1]).powi(2)).sum();
    assert!(((squares / before).sqrt() - number(&record["change_relative"])).abs() < 1e-9, "{record}");
    assert_eq!(record["examples"].as_array().unwrap().len(), 4);
    for example in record["examples"].as_array().unwrap() {
        assert_ne!(example["predicted"], example["label"], "{example}");
        assert_eq!(example["features"][0]["stage"], "conv2");
    }

    let page = fs::read_to_string(world.path("page/report.html")).unwrap();
    assert_self_contained(&page);
    for part in [
        "fine-tuning at that learning rate",
        "fine-tuning, tuned",
        "the targets, tuned",
        "against tuned fine-tuning",
        "Accuracy against time",
        "fine-tuning on the same images",
        "They show where a network went wrong.",
        "Single weights that changed most",
        "Accuracy under noise",
        "noise 0.3",
        "<svg",
        "data:image/png;base64,",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert_axes_count(&page);
    assert_reads_well(&page, &world.path(""));
}

#[test]
fn pages_say_no_more_than_there_is() {
    let world = World::new();
    world.pretrain("c.safetensors");
    // A repair alone.
    world.ok(&format!(
        "repair --checkpoint c.safetensors {DATA} --validation 0.2 --samples wrong:3 --max-drawdown 20 --stage out \
         --out repairs/r.safetensors"
    ));
    world.ok("report --runs repairs --out page");
    let page = fs::read_to_string(world.path("page/report.html")).unwrap();
    assert_self_contained(&page);
    assert!(page.contains("What one layer should have given") && page.contains("<b>1</b>repair<"), "{page:.4000}");
    for missing in ["They show where", "They also tell", "post-training", "For comparison stands", "repairs<"] {
        assert!(!page.contains(missing), "{missing}");
    }
    assert_reads_well(&page, &world.path(""));

    // One seed has no spread, and runs on other data than the first training are called by their own.
    fs::create_dir(world.path("other")).unwrap();
    for entry in fs::read_dir(world.path("data")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), world.path("other").join(entry.file_name())).unwrap();
    }
    world.ok(&format!("pretrain --model small.toml {DATA} --train-size 300 --epochs 2 --batch 32 --out d.safetensors"));
    let elsewhere = "--data idx:other --classes 3 --threads 2 --train-size 360";
    world.ok(&format!("targets --checkpoint d.safetensors {elsewhere} --out t"));
    for mode in ["joint --stage conv1 --targets t --alpha 0.3 --epochs 2", "full --epochs 2"] {
        world.ok(&format!("post-train --checkpoint d.safetensors {elsewhere} --batch 32 --mode {mode} --out runs"));
    }
    world.ok(&format!("post-train --checkpoint d.safetensors {DATA} --batch 32 --mode full --epochs 2 --out same"));
    world.ok("report --runs runs --runs same --out mixed --json s.json");
    let page = fs::read_to_string(world.path("mixed/report.html")).unwrap();
    assert_self_contained(&page);
    assert_axes_count(&page);
    for part in [
        "<h2>small on idx:data</h2>",
        "<h2>small on idx:other</h2>",
        "2 epochs of pretraining on idx:data",
        "1 pair, so without an interval",
        "1 × 1 seed",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for missing in ["± 0.00", "standard deviation over the seeds", "Bands:"] {
        assert!(!page.contains(missing), "{missing}");
    }
    let comparisons = world.json("mixed/comparisons.json");
    let comparisons = comparisons.as_array().unwrap();
    // The run on idx:data is compared with nothing.
    assert_eq!(comparisons.len(), 1, "{comparisons:?}");
    assert_eq!((&comparisons[0]["data"], &comparisons[0]["ci_low"]), (&"idx:other".into(), &Value::Null));
    assert_reads_well(&page, &world.path(""));
}
