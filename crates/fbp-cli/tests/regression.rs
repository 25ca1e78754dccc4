//! Data with outputs in place of labels: the whole way, and what is refused before it starts.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use std::fs;

use common::{World, number};
use fbp_train::data::{DataBundle, Dataset, Normalization, Outputs, to_tensors};
use serde_json::Value;

const MODEL: &str = r#"
name = "steps"
input = [3, 1, 1]
classes = 4

[[stages]]
name = "fc1"
layers = [{ type = "flatten" }, { type = "linear", out_features = 24 }, { type = "relu" }]

[[stages]]
name = "fc2"
layers = [{ type = "linear", out_features = 20 }, { type = "relu" }]

[[stages]]
name = "out"
layers = [{ type = "linear", out_features = 4 }]
"#;

const TRAIN: usize = 300;
const TEST: usize = 80;
const TOLERANCE: f64 = 0.05;

/// Two poses of a point that is pushed: a smooth map of three numbers with a kink.
fn part(samples: usize, seed: usize) -> Dataset {
    let draw = |k: usize| ((k * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0;
    let inputs: Vec<f32> = (0..3 * samples).map(draw).collect();
    let outputs = inputs.chunks(3).flat_map(|x| {
        let speed = (1.0 + x[0]).max(0.6);
        let turn = 0.5 * x[1] * speed + 0.2 * x[2] * x[2];
        [speed, turn, 2.0 * speed - 0.3 * turn * turn, 2.5 * turn]
    });
    let outputs = Outputs::new(outputs.collect(), 4, Some(2)).unwrap();
    Dataset::of_inputs_with_outputs("steps", fbp_linalg::FeatureShape::vector(3), inputs, outputs).unwrap()
}

fn world() -> World {
    let world = World::new();
    let (train, test) = (part(TRAIN, 1), part(TEST, 2));
    let data = DataBundle::new(train, test, Normalization::none(3).unwrap(), "steps");
    fs::write(world.path("steps.safetensors"), to_tensors(&data).unwrap()).unwrap();
    fs::write(world.path("steps.toml"), MODEL).unwrap();
    world
}

const DATA: &str = "--data tensors:steps.safetensors";

fn pretrain(world: &World, more: &str, out: &str) {
    world.ok(&format!(
        "pretrain --model steps.toml {DATA} --epochs 30 --batch 32 --learning-rate 0.01 --schedule cosine --threads 2 {more} \
         --out {out}"
    ));
}

#[test]
fn from_outputs_to_a_report() {
    let world = world();
    pretrain(&world, "--keep best", "c.safetensors");
    let record = world.json("c.json");
    let validation: Vec<f64> = record["validation_rmse"].as_array().unwrap().iter().map(number).collect();
    // The best epoch is the one with the smallest error.
    let best = validation.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(validation[record["epoch"].as_u64().unwrap() as usize - 1], best);
    assert!(best < 0.5 * validation[0] && record["test_accuracy"].is_null(), "{record}");
    let errors = &record["test_errors"];
    assert_eq!(number(&errors["rmse"]), number(&record["test_rmse"]));
    assert!(number(&errors["ade"]) > number(&errors["mae"]) && number(&errors["fde"]) > 0.0, "{errors}");

    let text = world.ok(&format!(
        "targets --checkpoint c.safetensors {DATA} --tolerance {TOLERANCE} --shard-size 100 --threads 2 --out t --json t.json"
    ));
    assert!(text.contains("within tolerance") && text.contains("tolerance 0.05"), "{text}");
    let targets = world.json("t.json");
    assert_eq!((number(&targets["tolerance"]), targets["embedding"].as_str()), (TOLERANCE, Some("tolerance")));
    let stages = targets["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 2);
    for stage in stages {
        assert!(number(&stage["frozen_rest_accuracy"]) >= 0.999 && stage["unattained"] == 0, "{stage}");
        let kept = stage["satisfied_before"].as_u64().unwrap();
        assert!(kept > 0 && kept < TRAIN as u64, "{stage}");
    }
    // The same by the network's own layers.
    world.ok(&format!("eval --checkpoint c.safetensors {DATA} --targets t --json e.json"));
    let eval = world.json("e.json");
    assert_eq!((number(&eval["test_rmse"]), &eval["test_errors"]), (number(&record["test_rmse"]), errors));
    for rest in eval["frozen_rest"].as_array().unwrap() {
        assert!(number(&rest["accuracy"]) >= 0.995, "{rest}");
    }

    let start = format!("post-train --checkpoint c.safetensors {DATA} --epochs 3 --batch 32 --threads 2 --out runs");
    for run in [
        "--mode full",
        "--mode full --loss smooth-l1",
        "--mode head",
        "--mode tail --stage fc1",
        "--mode joint --stage fc1 --targets t --learning-rate 1e-3",
        "--mode joint --stage out --targets t --policy live --learning-rate 1e-3",
        "--mode local --stage fc2 --targets t --learning-rate 1e-3 --policy refresh",
        "--mode hierarchical --targets t",
        "--mode closed-form --stage fc2 --targets t",
    ] {
        world.ok(&format!("{start} {run} --json run.json"));
        let run = world.json("run.json");
        let (before, chosen) = (number(&run["test_rmse_before"]), number(&run["chosen"]["test_rmse"]));
        assert_eq!(before, number(&record["test_rmse"]));
        // What keeps the best state by its error on the validation part ends near the start or below it.
        assert!(chosen < 2.0 * before && run["test_accuracy"].is_null(), "{run}");
    }
    world.ok(&format!(
        "repair --checkpoint c.safetensors {DATA} --samples worst:10 --tolerance {TOLERANCE} --stage fc2 --max-drawdown 30 \
         --rival --out runs/r.safetensors"
    ));
    let repair = world.json("runs/r.json");
    let [before, after] = ["cases_before", "cases_after"].map(|name| number(&repair["errors"][name]["ade"]));
    assert!(number(&repair["efficacy"]) > 0.5 && after < 0.7 * before, "{repair}");
    let others = ["others_before", "others_after"].map(|name| &repair["errors"][name]);
    assert_eq!(others[0]["samples"].as_u64().unwrap() as usize, TRAIN + TEST - 10);
    assert!(number(&others[1]["rmse"]) < 1.4 * number(&others[0]["rmse"]), "{repair}");

    world.ok(&format!(
        "explain --checkpoint c.safetensors {DATA} --samples worst:2 --tolerance {TOLERANCE} --out why --json why.json"
    ));
    let page = fs::read_to_string(world.path("why/explain.html")).unwrap();
    assert!(page.contains("<svg class=\"path\"") && page.contains("<svg class=\"units\""), "{page}");
    world.ok("report --runs runs --out report");
    let page = fs::read_to_string(world.path("report/report.html")).unwrap();
    assert!(page.contains("test RMSE") && page.contains("within tolerance") && page.contains("<svg class=\"path\""));
    let summary: Value = serde_json::from_slice(&fs::read(world.path("report/summary.json")).unwrap()).unwrap();
    assert!(summary["post_train"][0]["test_rmse"].is_array() && summary["repairs"][0]["errors"].is_object());
}

#[test]
fn errors_that_fall_are_gains_in_sweeps() {
    let world = world();
    fs::write(
        world.path("sweep.toml"),
        "model = \"steps.toml\"\nseeds = [0, 1, 2]\n[data]\nname = \"tensors:steps.safetensors\"\n\
         [[starts]]\nname = \"short\"\nepochs = 5\nbatch = 32\nlearning_rate = 0.01\n\
         [[runs]]\nmode = \"full\"\nepochs = 5\nbatch = 32\nlearning_rate = [1e-6, 1e-2]\n\
         [[runs]]\nmode = \"local\"\nstage = \"fc2\"\ntolerance = 0.05\nepochs = 2\nbatch = 32\nlearning_rate = 1e-3\n",
    )
    .unwrap();
    world.ok("sweep --config sweep.toml --out s --threads 2 --json s.json");
    let rows = world.json("s.json");
    let rows = rows.as_array().unwrap();
    let row = rows.iter().find(|row| row["mode"] == "local").unwrap_or_else(|| panic!("{rows:?}"));
    assert_eq!(number(&row["tolerance"]), 0.05);
    for row in rows {
        let [own, other] = ["rmse", "rmse_against"].map(|name| number(&row[name]));
        let gain = number(&row["mean_pp"]);
        // Means of ratios and ratios of means have one sign where they are not near zero.
        assert!((own < other) == (gain > 0.0) || gain.abs() < 5.0, "{row}");
    }
    // Of two rates the one that learns is tuned fine-tuning: its error is far below that of the start.
    let tuned = rows.iter().find(|row| row["against"].as_str().unwrap().starts_with("tuned")).unwrap();
    assert!(number(&tuned["rmse_against"]) < 0.8 * number(&tuned["rmse_before"]), "{tuned}");
}

#[test]
fn what_outputs_cannot_have_is_refused_before_it_starts() {
    let world = world();
    pretrain(&world, "", "c.safetensors");
    let on = |command: &str| format!("{command} --checkpoint c.safetensors {DATA}");
    let post_train = |mode: &str| format!("{} --mode {mode} --out runs", on("post-train"));
    world.fails(&post_train("head --loss smooth-l1"), &["--loss = smooth-l1", "head", "tail"]);
    world.fails(&post_train("full --loss cross-entropy"), &["--loss = cross-entropy", "mse"]);
    assert!(!world.path("runs").exists() || fs::read_dir(world.path("runs")).unwrap().count() == 0);
    world.fails(&format!("{} --out t", on("targets")), &["--tolerance is missing"]);
    world.fails(&format!("{} --tolerance 0 --out t", on("targets")), &["--tolerance = 0"]);
    world.fails(
        &format!("{} --samples worst:3 --stage out --out r.safetensors", on("repair")),
        &["--tolerance is missing"],
    );
    let repair = format!("{} --tolerance 0.05 --stage out --out r.safetensors", on("repair"));
    world.fails(&format!("{repair} --samples class:0"), &["class:0", "worst:N"]);
    world.fails(&format!("{} --confusion", on("eval")), &["--confusion", "outputs"]);
    world.fails(&format!("{} --noise 0.1", on("eval")), &["noise"]);
    world.fails(&format!("{} --out a", on("analyse stages")), &["outputs", "classes"]);
    // And what labels cannot have.
    world.pretrain("l.safetensors");
    let labels = "--checkpoint l.safetensors --data idx:data --classes 3";
    world.fails(&format!("targets {labels} --tolerance 0.1 --out t"), &["--tolerance = 0.1", "labels"]);
    world.fails(&format!("targets {labels} --embedding tolerance --out t"), &["--embedding = tolerance"]);
    world.fails(
        "pretrain --model small.toml --data idx:data --classes 3 --loss mse --out x.safetensors",
        &["--loss = mse"],
    );
    // Three outputs of the network, four of the data.
    let three = MODEL.replace("classes = 4", "classes = 3").replace("out_features = 4", "out_features = 3");
    fs::write(world.path("three.toml"), three).unwrap();
    world.fails(&format!("pretrain --model three.toml {DATA} --out x.safetensors"), &["4 outputs", "gives 3"]);
}

#[test]
fn faulty_files_are_told_in_one_sentence() {
    let world = world();
    let train = |file: &str| format!("pretrain --model steps.toml --data tensors:{file} --out x.safetensors");
    let good = fs::read(world.path("steps.safetensors")).unwrap();
    fs::write(world.path("cut.safetensors"), &good[..good.len() / 2]).unwrap();
    world.fails(&train("cut.safetensors"), &["cut.safetensors", "safetensors file"]);
    world.fails(&train("absent.safetensors"), &["absent.safetensors"]);
    let tensors = safetensors::SafeTensors::deserialize(&good).unwrap();
    let with = |name: &str, place: usize, value: f32| {
        let mut bytes: Vec<u8> = tensors.tensor(name).unwrap().data().to_vec();
        bytes[4 * place..4 * place + 4].copy_from_slice(&value.to_le_bytes());
        let views = tensors.tensors().into_iter().map(|(own, view)| {
            let data = if own == name { bytes.clone() } else { view.data().to_vec() };
            (own, (view.dtype(), view.shape().to_vec(), data))
        });
        let owned: Vec<_> = views.collect();
        let views = owned.iter().map(|(own, (dtype, shape, data))| {
            (own.as_str(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        fs::write(world.path("nan.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    };
    with("outputs", 4 * 17 + 1, f32::NAN);
    world.fails(&train("nan.safetensors"), &["outputs of sample 17", "not finite"]);
    with("test_inputs", 3 * 5, f32::INFINITY);
    world.fails(&train("nan.safetensors"), &["input 5", "not finite"]);
}

#[test]
fn a_data_set_can_be_written_and_read_back() {
    let world = world();
    world.ok("write-data --data idx:data --classes 3 --out images.safetensors");
    world.ok("write-data --data idx:data --classes 3 --out images.safetensors");
    world.fails("write-data --data tensors:steps.safetensors --out images.safetensors", &["--force"]);
    let text = world.ok(&format!("write-data {DATA} --out again.safetensors"));
    assert!(text.contains("300 training and 80 test"), "{text}");
    let read = |name: &str| fs::read(world.path(name)).unwrap();
    assert_eq!(read("again.safetensors"), read("steps.safetensors"));
    // Images as tensors train as they do from their own files.
    for (data, out) in [("idx:data", "a"), ("tensors:images.safetensors", "b")] {
        world.ok(&format!(
            "pretrain --model small.toml --data {data} --classes 3 --epochs 1 --seed 1 --threads 1 --out {out}.safetensors"
        ));
    }
    let (a, b) = (world.json("a.json"), world.json("b.json"));
    assert_eq!((&a["train_loss"], &a["test_accuracy"]), (&b["train_loss"], &b["test_accuracy"]));
}
