//! Segments that are trained at the same time, averaged weights, targets of the output, and data that lack something.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use common::{World, number, post_train_arguments, timeless};

const SEGMENTS: &str = "post-train --checkpoint c.safetensors --targets t --data idx:data --classes 3 --mode hierarchical \
                        --epochs 4 --batch 32 --learning-rate 0.002 --seed 5";

#[test]
fn segments_are_trained_alike_whether_one_after_the_other_or_at_the_same_time() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.targets("c.safetensors", "t");
    for threads in [1, 2, 3] {
        world.ok(&format!("{SEGMENTS} --threads {threads} --out r{threads} --json r{threads}.json"));
    }
    let one = world.json("r1.json");
    for other in ["r2.json", "r3.json"] {
        assert_eq!(one["checkpoint_sha256_after"], world.json(other)["checkpoint_sha256_after"]);
        assert_eq!(timeless(one["segments"].clone()), timeless(world.json(other)["segments"].clone()));
    }
    assert_eq!(one["settings"]["stage"], "conv1+conv2");
    let segments = one["segments"].as_array().unwrap();
    assert_eq!(segments.len(), 3);
    for (segment, last) in segments.iter().zip(["conv1", "conv2", "out"]) {
        assert_eq!(segment["last_stage"], last);
        let loss = segment["loss"].as_array().unwrap();
        assert_eq!((loss.len(), segment["validation_accuracy"].as_array().unwrap().len()), (4, 4));
        assert!(number(&loss[3]) < number(&loss[0]), "{last} learns: {loss:?}");
    }
    // What is put together is at least as good on the validation part as the start, and segments that did not help
    // are not in it.
    let start_only = segments.iter().all(|segment| segment["accepted"] == false);
    assert_eq!(one["chosen"]["epoch"] == 0, start_only);
    assert_eq!(one["test_accuracy"].as_array().unwrap().len(), 1);
    let checkpoint = |name: &str| std::fs::read(world.path(name)).unwrap();
    let result = one["checkpoint"].as_str().unwrap();
    assert_eq!(checkpoint(&format!("r1/{result}")) == checkpoint("c.safetensors"), start_only);
}

#[test]
fn a_network_is_cut_where_it_is_told_and_the_last_segment_may_have_live_targets() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.targets("c.safetensors", "t");
    world.ok(&format!("{SEGMENTS} --stage conv2 --keep last --policy live --out live --json live.json"));
    let live = world.json("live.json");
    let names: Vec<_> = live["segments"].as_array().unwrap().iter().map(|segment| &segment["last_stage"]).collect();
    assert_eq!(names, ["conv2", "out"]);
    assert!(live["segments"].as_array().unwrap().iter().all(|segment| segment["accepted"] == true));
    world.ok(&format!("{SEGMENTS} --stage conv2 --keep last --out ce --json ce.json"));
    assert_ne!(live["segments"][1]["loss"], world.json("ce.json")["segments"][1]["loss"]);
    assert_eq!(live["segments"][0]["loss"], world.json("ce.json")["segments"][0]["loss"]);
    world.fails(&format!("{SEGMENTS} --stage conv2+out --out x"), &["\"out\"", "conv1, conv2"]);
    world.fails(&format!("{SEGMENTS} --stage conv2 --out x").replace("--targets t", ""), &["--targets"]);
}

#[test]
fn the_output_has_targets_static_and_live() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.targets("c.safetensors", "t");
    let of_output = |alpha: &str, out: &str| {
        post_train_arguments("c.safetensors", "t", alpha, out).replace("conv1", "out") + &format!(" --json {out}.json")
    };
    let still = |out: &str| of_output("0.3", out).replace("--learning-rate 0.001", "--learning-rate 1e-12");
    world.ok(&of_output("0.3", "static"));
    world.ok(&format!("{} --policy live", of_output("0.3", "live")));
    world.ok(&still("static-still"));
    world.ok(&format!("{} --policy live", still("live-still")));
    world.ok(&of_output("0", "plain"));
    let distance = |name: &str| number(&world.json(name)["target_distance"][2]);
    // While the network stays what it is, both are the same; then only one of them moves with it.
    let (fixed, live) = (distance("static-still.json"), distance("live-still.json"));
    assert!(fixed > 0.0 && (fixed - live).abs() < 1e-3 * fixed, "{fixed} {live}");
    assert_ne!(distance("live.json"), distance("static.json"));
    assert!(world.json("plain.json")["target_distance"].as_array().unwrap().is_empty());
    assert_eq!(world.json("live.json")["settings"]["policy"], "live");
}

#[test]
fn averaged_weights_are_between_the_start_and_the_end() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let run = |extra: &str, out: &str| {
        world.ok(&format!(
            "post-train --checkpoint c.safetensors --data idx:data --classes 3 --mode full --keep last --epochs 2 --batch 32 \
             --learning-rate 0.003 --threads 1 --out {out} --json {out}.json {extra}"
        ));
        world.json(&format!("{out}.json"))
    };
    let (plain, slow, fast) = (run("", "plain"), run("--ema 0.999999", "slow"), run("--ema 0.5", "fast"));
    // An average that hardly moves is as good as the start; one that forgets quickly is near the end.
    assert_eq!(slow["test_accuracy"][0], slow["test_accuracy_before"]);
    assert_eq!(plain["cross_entropy"], fast["cross_entropy"]);
    assert_ne!(plain["checkpoint_sha256_after"], fast["checkpoint_sha256_after"]);
    assert!((number(&plain["test_accuracy"][0]) - number(&fast["test_accuracy"][0])).abs() < 0.1);
}

#[test]
fn data_that_lack_something_are_data_of_their_own() {
    let world = World::new();
    let pretrain = |extra: &str, out: &str| {
        world.ok(&format!(
            "pretrain --model small.toml --data idx:data --classes 3 --epochs 1 --batch 32 {extra} --out {out}.safetensors"
        ));
        world.json(&format!("{out}.json"))["settings"]["data"].clone()
    };
    let whole = pretrain("", "whole");
    let dropped = pretrain("--drop-class 2:0.5 --drop-class 0:0.25", "dropped");
    let noisy = pretrain("--label-noise 0.2", "noisy");
    let other = pretrain("--label-noise 0.2 --data-seed 1 --seed 9", "other");
    let recovered = pretrain("--drop-class 2:0.5 --recover-class 2", "recovered");
    assert_eq!(whole, recovered);
    assert!(number(&dropped["samples"]) < number(&whole["samples"]) && noisy["samples"] == whole["samples"]);
    assert!(noisy["sha256"] != whole["sha256"] && other["sha256"] != noisy["sha256"]);
    assert_eq!(other["name"], "idx:data, label-noise 0.2, data-seed 1");
    world.targets("whole.safetensors", "t");
    world.fails(
        &(post_train_arguments("whole.safetensors", "t", "0.3", "runs") + " --drop-class 1:0.5"),
        &["other samples", "--data"],
    );
    world
        .fails("eval --checkpoint whole.safetensors --data idx:data --classes 3 --drop-class 3:0.5", &["--drop-class"]);
    world.fails("eval --checkpoint whole.safetensors --data idx:data --classes 3 --noise -1", &["--noise", "[0, 10]"]);
    let eval = |noise: &str| {
        world.ok(&format!(
            "eval --checkpoint whole.safetensors --data idx:data --classes 3 --noise {noise} --json eval.json"
        ));
        number(&world.json("eval.json")["test_accuracy"])
    };
    assert!(eval("0") > eval("5"));
}
