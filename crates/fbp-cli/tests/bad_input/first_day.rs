//! What a new user met: results that replaced others, pipes, names that collided, defaults, and limits of repairs.

use std::fs;
use std::process::Command;

use crate::common::{World, number, post_train_arguments, targets_arguments};

const DATA: &str = "--data idx:data --classes 3 --threads 2";

fn pretrain(world: &World, out: &str) {
    world.ok(&format!("pretrain --model small.toml {DATA} --epochs 1 --batch 32 --out {out}.safetensors"));
}

#[test]
fn no_result_replaces_another_file() {
    let world = World::new();
    pretrain(&world, "c");
    let record = fs::read(world.path("c.json")).unwrap();
    let eval = format!("eval --checkpoint c.safetensors {DATA} --json");
    world.fails(&format!("{eval} c.json"), &["c.json", "not a result of `fbp eval --json`", "another --json file"]);
    assert_eq!(fs::read(world.path("c.json")).unwrap(), record);
    // Neither may it replace the result of another command, nor a record that looks like its own result.
    world.ok("models --json m.json");
    world.fails(&format!("{eval} m.json"), &["m.json", "not a result"]);
    let again = format!("pretrain --model small.toml {DATA} --epochs 1 --batch 32 --out d.safetensors --json");
    world.fails(&format!("{again} c.json"), &["c.json", "not a result"]);
    // Two results of one run in one file are refused before anything is there.
    world.fails(&format!("{again} d.json"), &["d.json would hold", "--json", "record"]);
    world.fails(&format!("{again} ./d.safetensors"), &["would hold"]);
    assert!(!world.path("d.safetensors").exists());
    let explain = format!("explain --checkpoint c.safetensors {DATA} --samples 3 --out e --json e/explain.json");
    world.fails(&explain, &["e/explain.json would hold"]);
    world.ok(&format!("{eval} e.json"));
    world.ok(&format!("{eval} e.json"));
    assert_eq!(world.json("e.json")["test_accuracy"], world.json("c.json")["test_accuracy"]);

    // A repair neither replaces the checkpoint that it starts from, nor does it take that one's record for its own.
    let repair = format!("repair --checkpoint c.safetensors {DATA} --samples 3 --stage out --force --out");
    world.fails(&format!("{repair} c.safetensors"), &["--out = c.safetensors would replace the checkpoint"]);
    world.fails(&format!("{repair} data"), &["--out = data is a folder"]);
    let repair = repair.replace(" --force", "");
    fs::write(world.path("r.json"), &record).unwrap();
    world.fails(&format!("{repair} r.safetensors"), &["r.json", "not a result of `fbp repair`", "--out", "--force"]);

    // Targets keep files that belong to no store, and a sweep keeps folders that are not its own.
    fs::create_dir_all(world.path("page")).unwrap();
    fs::write(world.path("page/report.json"), "mine").unwrap();
    world.fails(&targets_arguments("c.safetensors", "page"), &["page/report.json", "not a result of `fbp targets`"]);
    assert_eq!(fs::read_to_string(world.path("page/report.json")).unwrap(), "mine");
    let sweep = "data = { name = \"idx:data\", classes = 3 }\nseeds = [0]\n\
                 starts = [{ name = \"f\", checkpoint = \"c.safetensors\" }]\n\
                 runs = [{ mode = \"local\", stage = \"conv2\", epochs = 1 }]\n";
    fs::write(world.path("sweep.toml"), sweep).unwrap();
    fs::create_dir_all(world.path("study/targets/mine")).unwrap();
    world.ok("sweep --config sweep.toml --threads 2 --out study");
    let left = fs::read_dir(world.path("study/targets")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["mine"]);

    // Copies of the origin in a folder of runs.
    fs::create_dir_all(world.path("runs")).unwrap();
    fs::write(world.path("runs/pretrain.json"), "{\"mine\": 1}").unwrap();
    let run = format!("post-train --checkpoint c.safetensors {DATA} --mode head --out runs");
    world.fails(&run, &["runs/pretrain.json", "not a result of `fbp post-train`"]);
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_written_and_never_read() {
    let world = World::new();
    pretrain(&world, "c");
    let shell = |script: &str| {
        let program = world.command("");
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(program.get_program()).current_dir(world.path(""));
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let eval = format!("\"$1\" eval --checkpoint c.safetensors {DATA} --json");
    let scripts = [
        format!("{eval} - | cat"),
        format!("{eval} /dev/stdout | cat"),
        format!("{eval} /dev/stdout > f && cat f"),
        format!("{eval} /dev/fd/3 3>f >/dev/null && cat f"),
        format!("mkfifo p && (cat p > f & {eval} p >/dev/null && wait) && cat f"),
        format!("{eval} e.json >/dev/null && cat e.json"),
    ];
    for script in scripts {
        let result: serde_json::Value =
            serde_json::from_str(&shell(&script)).unwrap_or_else(|e| panic!("{script}: {e}"));
        assert_eq!(result["test_accuracy"], world.json("c.json")["test_accuracy"], "{script}");
    }
    shell(&format!("{eval} /dev/null"));
    shell(&format!("{eval} - | true"));
    // A link stays one.
    shell(&format!("ln -s e.json link && {eval} link && test -L link"));
    world.fails(&format!("eval --checkpoint c.safetensors {DATA} --json data"), &["--json = data is a folder"]);
}

#[test]
fn runs_that_differ_share_a_folder_and_force_makes_them_again() {
    let world = World::new();
    pretrain(&world, "c");
    let run = |more: &str| {
        world.ok(&format!("post-train --checkpoint c.safetensors {DATA} --epochs 1 --out runs --json r.json {more}"));
        world.json("r.json")
    };
    let full = run("--mode full");
    assert_eq!((&full["settings"]["schedule"], number(&full["settings"]["learning_rate"])), (&"cosine".into(), 1e-3));
    run("--mode full --learning-rate 5e-5");
    let published = run("--mode joint --alpha 0");
    assert_eq!(published["settings"]["stage"], "out", "all stages are trained");
    assert_eq!(number(&published["settings"]["learning_rate"]), 5e-5);
    assert_eq!(run("--mode joint --alpha 0 --stage all"), published, "all and nothing mean the same");
    for name in ["full_all_epochs1_seed0", "full_all_rate5e-5_epochs1_seed0", "joint_out_alpha0_epochs1_seed0"] {
        assert!(world.path(&format!("runs/post-train_{name}.json")).exists(), "{name}");
    }
    let again = format!("post-train --checkpoint c.safetensors {DATA} --epochs 1 --out runs --mode full");
    assert!(world.ok(&again).contains("finished already"));
    assert!(!world.ok(&format!("{again} --force")).contains("finished already"));
    // A run that an earlier version named otherwise is found.
    for extension in ["json", "safetensors"] {
        let path = |name: &str| world.path(&format!("runs/post-train_full_all{name}.{extension}"));
        fs::rename(path("_epochs1_seed0"), path("_seed0")).unwrap();
    }
    let record = fs::read_to_string(world.path("runs/post-train_full_all_seed0.json")).unwrap();
    let renamed = record.replace("post-train_full_all_epochs1_seed0", "post-train_full_all_seed0");
    fs::write(world.path("runs/post-train_full_all_seed0.json"), renamed).unwrap();
    assert!(world.ok(&again).contains("post-train_full_all_seed0.json is finished already"));
    let explain = format!("explain --checkpoint c.safetensors {DATA} --samples 3 --out e --stage all");
    world.ok(&explain);
    assert_eq!(world.json("e/explain.json")["settings"]["stages"], serde_json::json!([]));
    for command in ["pretrain", "targets", "repair"] {
        let arguments = match command {
            "pretrain" => format!("pretrain --model small.toml {DATA} --epochs 1 --batch 32 --out c.safetensors"),
            "targets" => targets_arguments("c.safetensors", "t"),
            _ => format!("repair --checkpoint c.safetensors {DATA} --samples 3 --stage out --out q.safetensors"),
        };
        world.ok(&arguments);
        assert!(!world.ok(&format!("{arguments} --force")).contains("finished already"), "{command}");
    }
}

#[test]
fn a_repair_says_what_bound_it_and_can_be_bounded() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let repair = format!("repair --checkpoint c.safetensors {DATA} --samples wrong:20 --stage out --max-drawdown 0");
    let text = world.ok(&format!("{repair} --out r.safetensors"));
    let record = world.json("r.json");
    assert!(number(&record["efficacy"]) < 0.99, "{record}");
    let last = text.lines().last().unwrap();
    assert!(last.contains("--max-drawdown") && last.contains("the cheapest"), "{text}");
    // The least that was seen to be lost for the most samples right.
    let measures: Vec<(f64, f64)> = record["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|state| (number(&state["efficacy"]), number(&state["drawdown_validation"])))
        .collect();
    let most = measures.iter().map(|measure| measure.0).fold(0.0, f64::max);
    let least = measures.iter().filter(|measure| measure.0 == most).map(|measure| measure.1).fold(1.0, f64::min);
    let expected = format!("{:.1} % right loses {:.2} pp", 100.0 * most, 100.0 * least);
    assert!(last.contains(&expected), "{expected}: {last}");
    // Who asks for a share gets a status that tells, also from a run that is finished already.
    for _ in 0..2 {
        let mut command = world.command(&format!("{repair} --efficacy 0.99 --out s.safetensors"));
        assert_eq!(command.output().unwrap().status.code(), Some(3));
    }
    assert!(world.path("s.safetensors").exists());
    world.ok(&format!("{repair} --efficacy 0 --out zero.safetensors"));

    world.ok(&format!("{repair} --limit 5 --out few.safetensors"));
    let few = world.json("few.json");
    let samples = few["samples"].as_array().unwrap();
    assert!(samples.len() == 5 && samples.iter().all(|s| record["samples"].as_array().unwrap().contains(s)), "{few}");
    world.fails(&format!("{repair} --limit 0 --out x.safetensors"), &["--limit = 0", "1 or more"]);
    // A time that is over at once leaves the start, and says so.
    // A last layer is refitted as well, and has fewer solves.
    for (stage, most) in [("out", 8), ("conv2", 28)] {
        let repair = repair.replace("--stage out", &format!("--stage {stage}"));
        let text = world.ok(&format!("{repair} --time 0.000001s --out short{stage}.safetensors"));
        let short = world.json(&format!("short{stage}.json"));
        assert_eq!((&short["candidates"], &short["time_over"]), (&serde_json::json!([]), &true.into()), "{short}");
        assert_eq!((number(&short["change_relative"]), number(&short["efficacy"])), (0.0, 0.0), "{short}");
        assert_eq!(short["test_accuracy_before"], short["test_accuracy_after"]);
        assert!(
            text.contains("--time ended the search") && text.contains(&format!("0 of up to {most} solves:")),
            "{text}"
        );
        assert!(text.lines().last().unwrap().contains("the time was over"), "{text}");
    }
    assert_eq!(record["time_over"], serde_json::Value::Null, "a whole search says nothing of time");
    world.fails(&format!("{repair} --time soon --out x.safetensors"), &["--time = soon", "15m"]);
    world.ok(&format!(
        "analyse repair --checkpoint c.safetensors {DATA} --samples wrong:6 --limit 2 --stage out --margin 1 --ridge 0.1 \
         --slack 1 --out a"
    ));
    assert!(world.json("a/repair.json").as_array().unwrap().iter().all(|point| point["count"] == 2));
}

#[test]
fn what_cannot_be_done_is_refused_before_data_are_loaded() {
    let world = World::new();
    let toml = fs::read_to_string(world.path("small.toml")).unwrap();
    let grouped = toml.replace("out_channels = 4, kernel = 2", "out_channels = 6, kernel = 2, groups = 3");
    fs::write(world.path("grouped.toml"), grouped).unwrap();
    world.ok(&format!("pretrain --model grouped.toml {DATA} --epochs 1 --out g.safetensors"));
    fs::remove_dir_all(world.path("data")).unwrap();
    let parts = ["--stage = conv2", "groups = 1", "conv1, out"];
    world.fails(
        &format!("repair --checkpoint g.safetensors {DATA} --samples 3 --stage conv2 --out r.safetensors"),
        &parts,
    );
    let analyse = format!("analyse repair --checkpoint g.safetensors {DATA} --samples 3 --stage conv2 --out a");
    world.fails(&analyse, &parts);
    let closed = format!("post-train --checkpoint g.safetensors {DATA} --mode closed-form --targets t --out r --stage");
    world.fails(&format!("{closed} conv2"), &parts);
    world.fails(
        &post_train_arguments("g.safetensors", "t", "0.3", "r").replace("--targets t", ""),
        &["--targets is missing"],
    );
}
