//! Sweeps: what is listed is run, once; a killed sweep goes on; bad descriptions are named; the summary adds up.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use std::fs;
use std::path::Path;

use common::{World, contents, run_with_kills, timeless};
use serde_json::Value;

/// 2 starts × 2 seeds × (α = 0 of two stages, α = 0.3 of two stages with two margins, two learning rates, head, one layer,
/// all segments).
const SWEEP: &str = r#"
data = { name = "idx:data", classes = 3 }
model = "small.toml"
seeds = [1, 2]

[[starts]]
name = "short"
epochs = 2
batch = 32
learning_rate = 0.003

[[starts]]
name = "file"
checkpoint = "c.safetensors"

[[runs]]
mode = "joint"
stage = ["conv1", "out"]
alpha = [0, 0.3]
margin = [0, 1]
epochs = 2
batch = 32
learning_rate = 1e-3

[[runs]]
mode = "full"
epochs = 2
batch = 32
learning_rate = [1e-3, 1e-2]
schedule = "cosine"

[[runs]]
mode = ["head", "closed-form"]
stage = "conv2"

[[runs]]
mode = "hierarchical"
stage = "conv1+conv2"
epochs = 2
batch = 32
learning_rate = 1e-3
"#;
const RUNS: usize = 2 * 2 * (2 + 4 + 2 + 1 + 1 + 1);
const RUN: &str = "sweep --config sweep.toml --threads 2 --out";

fn world(description: &str) -> World {
    let world = World::new();
    fs::write(world.path("sweep.toml"), description).unwrap();
    world
}

fn records(world: &World, folder: &str, start: &str) -> Vec<Value> {
    let folder = world.path(folder).join("runs").join(start);
    contents(&folder).iter().map(|(_, text)| serde_json::from_slice(text).unwrap()).collect()
}

/// Every file below a folder, JSON without times.
fn tree(folder: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            tree(&path, files);
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".json") {
            files.push((name, timeless(serde_json::from_slice(&bytes).unwrap()).to_string().into_bytes()));
        } else if !name.starts_with("summary.") {
            files.push((name, bytes));
        }
    }
}

fn everything(world: &World, folder: &str) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    tree(&world.path(folder), &mut files);
    files
}

#[test]
fn a_killed_sweep_ends_with_the_bytes_of_an_uninterrupted_one() {
    let world = world(SWEEP);
    world.pretrain("c.safetensors");
    world.ok(&format!("{RUN} whole"));
    assert_eq!(records(&world, "whole", "short").len() + records(&world, "whole", "file").len(), RUNS);
    // Targets are removed when no run needs them.
    assert!(!world.path("whole/targets").exists());
    let whole = everything(&world, "whole");
    let mut kills = 0;
    for seed in 0..2 {
        let _ = fs::remove_dir_all(world.path("cut"));
        kills += run_with_kills(&world, &format!("{RUN} cut"), seed, || {
            // What has a record's name is a whole record.
            for start in ["short", "file"] {
                if world.path("cut").join("runs").join(start).exists() {
                    let folder = world.path("cut").join("runs").join(start);
                    for (_, text) in contents(&folder).iter().filter(|(name, _)| name.ends_with(".json")) {
                        serde_json::from_slice::<Value>(text).unwrap();
                    }
                }
            }
        });
        let cut = everything(&world, "cut");
        let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&cut), names(&whole));
        for ((name, cut), (_, whole)) in cut.iter().zip(&whole) {
            assert!(cut == whole, "{name}: {} / {}", String::from_utf8_lossy(cut), String::from_utf8_lossy(whole));
        }
    }
    assert!(kills > 3, "{kills} kills");
    // The number of runs at a time changes nothing.
    world.ok("sweep --config sweep.toml --threads 1 --out single");
    assert!(everything(&world, "single") == whole);
}

#[test]
fn what_is_done_is_not_done_again_and_what_is_written_twice_is_done_once() {
    let twice = SWEEP.replace("seeds = [1, 2]", "seeds = [2, 2]").replace("margin = [0, 1]", "margin = [1, 1.0]");
    let world = world(&twice);
    world.pretrain("c.safetensors");
    let dry = world.ok(&format!("{RUN} out --dry-run"));
    assert!(!world.path("out").exists());
    // 2 starts × (4 + 2 + 3), each written down once more for the seed, and some for the margin.
    assert!(dry.lines().last().unwrap().starts_with("18 runs ("), "{dry}");
    assert!(dry.contains("0 done, 18 to do"), "{dry}");
    assert_eq!(dry.lines().count(), 19);
    world.ok(&format!("{RUN} out"));
    let before: Vec<_> = contents(&world.path("out/runs/file"));
    assert_eq!(before.len(), 9);
    let time = |name: &str| fs::metadata(world.path("out/runs/file").join(name)).unwrap().modified().unwrap();
    let times: Vec<_> = before.iter().map(|(name, _)| time(name)).collect();
    fs::remove_file(world.path("out/runs/file").join(&before[3].0)).unwrap();
    let dry = world.ok(&format!("{RUN} out --dry-run"));
    assert!(dry.contains("17 done, 1 to do"), "{dry}");
    assert!(dry.lines().any(|line| line.starts_with("to do") && line.contains(before[3].0.trim_end_matches(".json"))));
    world.ok(&format!("{RUN} out"));
    assert_eq!(contents(&world.path("out/runs/file")).len(), 9);
    for (index, ((name, _), before)) in before.iter().zip(times).enumerate() {
        assert_eq!(time(name) == before, index != 3, "{name}");
    }
    // Checkpoints that are wanted later are made by doing the runs again.
    fs::write(world.path("sweep.toml"), format!("keep_checkpoints = true\n{twice}")).unwrap();
    assert!(world.ok(&format!("{RUN} out --dry-run")).contains("0 done, 18 to do"));
    world.ok(&format!("{RUN} out"));
    assert_eq!(contents(&world.path("out/runs/file")).len(), 18);
    assert!(world.ok(&format!("{RUN} out --dry-run")).contains("18 done, 0 to do"));
    // Other data belong into another folder.
    fs::write(world.path("sweep.toml"), twice.replace("classes = 3", "classes = 3, train_size = 300")).unwrap();
    world.fails(&format!("{RUN} out"), &["sweep.json", "other settings", "data_sha256"]);
}

#[test]
fn the_summary_compares_by_seed_and_takes_the_learning_rate_that_validates_best() {
    let world = world(SWEEP);
    world.pretrain("c.safetensors");
    world.ok(&format!("{RUN} out --json rows.json"));
    let rows = world.json("out/summary.json");
    assert_eq!(rows, world.json("rows.json"));
    let records = records(&world, "out", "short");
    let select = |mode: &str, stage: &str, alpha: Option<f64>, margin: Option<f64>, seed: u64| -> Vec<&Value> {
        let fits = |record: &&Value| {
            let settings = &record["settings"];
            settings["mode"] == mode
                && settings["stage"] == stage
                && settings["alpha"].as_f64() == alpha
                && settings["margin"].as_f64() == margin
                && settings["seed"] == seed
        };
        records.iter().filter(fits).collect()
    };
    let test = |record: &Value| record["chosen"]["test_accuracy"].as_f64().unwrap();
    let validation = |record: &Value| record["chosen"]["validation_accuracy"].as_f64().unwrap();
    let rate = |record: &Value| record["settings"]["learning_rate"].as_f64().unwrap();
    let best = |seed| {
        let runs = select("full", "all", None, None, seed);
        assert_eq!(runs.len(), 2);
        let best = runs.into_iter().reduce(|a, b| match (validation(a), validation(b)) {
            (a_is, b_is) if a_is > b_is => a,
            (a_is, b_is) if a_is == b_is && rate(a) < rate(b) => a,
            _ => b,
        });
        best.unwrap()
    };
    let tuned = |seed| test(best(seed));
    let row = |mode: &str, stage: &str, margin: Option<f64>, against: &str| {
        let fits = |row: &&Value| {
            row["start"] == "short"
                && row["mode"] == mode
                && row["stage"] == stage
                && row["margin"].as_f64() == margin
                && row["against"] == against
                && row["alpha"].as_f64().is_none_or(|alpha| alpha > 0.0)
        };
        let found: Vec<_> = rows.as_array().unwrap().iter().filter(fits).collect();
        assert_eq!(found.len(), 1, "{mode} {stage} {margin:?} {against}: {found:?}");
        found[0].clone()
    };
    let joint = |seed, alpha, margin| test(select("joint", "conv1", Some(alpha), margin, seed)[0]);
    let mean = |difference: &dyn Fn(u64) -> f64| 100.0 * (difference(1) + difference(2)) / 2.0;
    let close = |row: &Value, expected: f64| {
        assert!((row["mean_pp"].as_f64().unwrap() - expected).abs() < 1e-9, "{row} {expected}");
        assert_eq!(row["seeds"], 2);
        assert!(row["p_t_holm"].as_f64() >= row["p_t"].as_f64());
    };
    let plain = row("joint", "conv1", Some(1.0), "plain");
    close(&plain, mean(&|seed| joint(seed, 0.3, Some(1.0)) - joint(seed, 0.0, None)));
    let against_tuned = row("joint", "conv1", Some(0.0), "tuned");
    close(&against_tuned, mean(&|seed| joint(seed, 0.3, Some(0.0)) - tuned(seed)));
    // Of two rates each is an end, so that one of them is named where both seeds agree.
    let expected = match (rate(best(1)), rate(best(2))) {
        (one, other) if one != other => Value::Null,
        (one, _) if one > 5e-3 => "largest".into(),
        _ => "smallest".into(),
    };
    assert_eq!(against_tuned["rate_edge_against"], expected);
    assert_eq!(plain["rate_edge_against"], Value::Null);
    let head = |seed| test(select("head", "out", None, None, seed)[0]);
    close(&row("head", "out", None, "tuned"), mean(&|seed| head(seed) - tuned(seed)));
    for extension in ["csv", "md"] {
        let table = fs::read_to_string(world.path(&format!("out/summary.{extension}"))).unwrap();
        let heading = if extension == "md" { 2 } else { 1 };
        assert_eq!(table.lines().count(), rows.as_array().unwrap().len() + heading);
    }
    // The summary of what is there is the same without running anything.
    let before = fs::read(world.path("out/summary.json")).unwrap();
    world.ok("sweep --summary out");
    assert_eq!(fs::read(world.path("out/summary.json")).unwrap(), before);
    world.fails("sweep --summary data", &["no runs of a sweep", "fbp sweep"]);
}

#[test]
fn different_runs_are_not_mixed() {
    let description = r#"
data = { name = "idx:data", classes = 3 }
model = "small.toml"
seeds = [1, 2]
starts = [{ name = "short", epochs = 1, batch = 32 }]
runs = [{ mode = "joint", stage = "out", alpha = [0, 0.3], epochs = 1, batch = 32 }]
"#;
    let world = world(description);
    world.ok(&format!("{RUN} out"));
    let rows = world.json("out/summary.json").as_array().unwrap().len();
    let joint: Vec<_> =
        records(&world, "out", "short").into_iter().filter(|record| record["settings"]["alpha"] == 0.3).collect();
    assert_eq!(joint.len(), 2);
    let copy = |record: &Value, name: &str, key: &str, value: &str| {
        let mut record = record.clone();
        record["settings"][key] = value.into();
        fs::write(world.path(&format!("out/runs/short/post-train_{name}.json")), record.to_string()).unwrap();
    };
    // Another embedding is another way of training, and not the same runs once more.
    copy(&joint[0], "other0", "embedding", "one-hot");
    copy(&joint[1], "other1", "embedding", "one-hot");
    world.ok("sweep --summary out");
    assert_eq!(world.json("out/summary.json").as_array().unwrap().len(), 2 * rows);
    let table = fs::read_to_string(world.path("out/summary.csv")).unwrap();
    assert_eq!(table.matches("one-hot").count(), rows, "{table}");
    // Runs from a start that was changed are not mixed with the others.
    copy(&joint[0], "changed", "checkpoint_sha256", &"0".repeat(64));
    let seed = format!("start of seed {}", joint[0]["settings"]["seed"]);
    world.fails("sweep --summary out", &["short", "other settings", &seed, "000000000000…"]);
}

#[test]
fn starts_lack_what_runs_are_given_back() {
    let lacking = "classes = 3, drop_class = [\"1:0.8\"], recover_class = [1], label_noise = 0.1";
    let world = world(&SWEEP.replace("classes = 3", lacking).replace("seeds = [1, 2]", "seeds = [1]"));
    world.pretrain("c.safetensors");
    world.ok(&format!("{RUN} out"));
    let start = contents(&world.path("out/starts")).into_iter().find(|(name, _)| name.ends_with(".json")).unwrap().1;
    let start: Value = serde_json::from_slice(&start).unwrap();
    let data = &start["settings"]["data"];
    assert_eq!(data["name"], "idx:data, drop-class 1:0.8, label-noise 0.1");
    for record in records(&world, "out", "short") {
        let own = &record["settings"]["data"];
        assert_eq!(own["name"], "idx:data, label-noise 0.1");
        assert!(own["samples"] == 400 && data["samples"].as_u64().unwrap() < 320);
        assert_eq!(record["settings"]["checkpoint_sha256"], start["checkpoint_sha256"]);
    }
}

#[test]
fn bad_descriptions_are_named() {
    let world = world(SWEEP);
    world.pretrain("c.safetensors");
    let with = |from: &str, to: &str, parts: &[&str]| {
        assert!(SWEEP.contains(from), "{from}");
        fs::write(world.path("sweep.toml"), SWEEP.replacen(from, to, 1)).unwrap();
        world.fails(&format!("{RUN} out"), parts);
        assert!(!world.path("out").exists(), "{to}");
    };
    with("alpha = [0", "alhpa = [0", &["sweep.toml", "line 19", "alhpa", "learning_rate"]);
    with("name = \"short\"\nepochs", "name = \"short\"\nepoch", &["line 8", "epoch"]);
    with("classes = 3", "colours = 3", &["line 2", "colours"]);
    with("seeds = [1, 2]", "seeds = 3", &["line 4", "list of seeds"]);
    with("seeds = [1, 2]", "seeds = []", &["[[runs]] table 1", "no runs"]);
    with("seeds = [1, 2]", "seeds = { from = 0, count = 1000000000 }", &["runs are more than 100000"]);
    with("seeds = [1, 2]", "seeds = { from = 0, count = 18446744073709551615 }", &["sweep.toml"]);
    with("mode = \"joint\"", "mode = \"join\"", &["join", "joint", "closed-form"]);
    with("alpha = [0, 0.3]", "alpha = []", &["[[runs]] table 1", "at least one value"]);
    with("alpha = [0, 0.3]", "alpha = [0, -0.3]", &["table 1", "alpha = -0.3"]);
    with("alpha = [0, 0.3]", "alpha = [0, inf]", &["table 1", "alpha = inf"]);
    with("margin = [0, 1]", "margin = [0, nan]", &["table 1", "margin = NaN"]);
    with("margin = [0, 1]", "margin = \"much\"", &["line 20", "much"]);
    with("learning_rate = 1e-3", "learning_rate = nan", &["table 1", "learning_rate = NaN", "(0, 1]"]);
    with("learning_rate = 0.003", "learning_rate = nan", &["start \"short\"", "learning_rate = NaN"]);
    with("epochs = 2\nbatch = 32\nlearning_rate = [", "epochs = 0\nlearning_rate = [", &["table 2", "epochs = 0"]);
    with("batch = 32\nlearning_rate = 1e-3", "batch = -1", &["line 22", "-1"]);
    with("batch = 32\nlearning_rate = 1e-3", "batch = 0", &["table 1", "batch = 0"]);
    with("stage = [\"conv1\", \"out\"]", "stage = \"conv9\"", &["table 1", "conv9", "conv1, conv2, out"]);
    with("stage = [\"conv1\", \"out\"]", "policy = \"live\"\nstage = \"conv1\"", &["table 1", "policy = live"]);
    with("schedule = \"cosine\"", "alpha = 0.3", &["table 2", "alpha has no meaning"]);
    with("schedule = \"cosine\"", "starts = [\"long\"]", &["\"long\"", "short, file"]);
    with("name = \"file\"", "name = \"short\"", &["\"short\"", "two of this name"]);
    with("name = \"file\"", "name = \"../up\"", &["../up", "letters, digits"]);
    with("name = \"file\"", "name = \"file\"\nepochs = 3", &["\"file\"", "epochs", "checkpoint"]);
    with("c.safetensors", "none.safetensors", &["none.safetensors"]);
    with("model = \"small.toml\"", "", &["\"short\"", "model"]);
    with("model = \"small.toml\"", "model = \"nonsense\"", &["nonsense", "simple-cnn-mnist-v2"]);
    with("model = \"small.toml\"", "model = \"small.toml\"\nvalidation = 1.5", &["validation = 1.5"]);
    with("model = \"small.toml\"", "model = \"small.toml\"\nthreads_per_run = 0", &["threads_per_run = 0"]);
    with("idx:data", "idx:nothing", &["nothing"]);
    with("classes = 3", "classes = 3, drop_class = [\"1\"]", &["line 2", "CLASS:SHARE"]);
    with("classes = 3", "classes = 3, drop_class = [\"3:0.5\"]", &["drop_class = 3", "classes"]);
    with("classes = 3", "classes = 3, label_noise = nan", &["label_noise = NaN"]);
    with("conv1+conv2", "conv1+out", &["table 4", "\"out\"", "conv1, conv2"]);
    let long = format!("seeds = {:?}", vec![7; 700]);
    let lists = "mode = \"joint\"\nweight_decay = ".to_owned() + &format!("{:?}", vec![0.1; 700]);
    let both = SWEEP.replace("seeds = [1, 2]", &long).replace("mode = \"joint\"", &lists);
    fs::write(world.path("sweep.toml"), both).unwrap();
    world.fails(&format!("{RUN} out"), &["runs are more than 100000"]);
    fs::write(world.path("sweep.toml"), "data = {").unwrap();
    world.fails(&format!("{RUN} out"), &["sweep.toml", "line 1"]);
    world.fails("sweep --config none.toml --out out", &["none.toml"]);
    fs::write(world.path("sweep.toml"), SWEEP).unwrap();
    fs::write(world.path("file"), "x").unwrap();
    world.fails(&format!("{RUN} file/out"), &["cannot write", "file/out"]);
}
