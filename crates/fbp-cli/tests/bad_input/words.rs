//! What is said, for people who have not read the code, and what can be looked up.

use std::fs;

use fbp_train::sweep::{FORMAT, SweepConfig};

use crate::common::{World, post_train_arguments};

const DATA: &str = "--data idx:data --classes 3";

/// A command line that fails, and its message.
fn message(world: &World, arguments: &str) -> String {
    let output = world.command(arguments).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "fbp {arguments}: {error}");
    let start = error.find("error: ").unwrap_or_else(|| panic!("fbp {arguments}: {error}"));
    error[start..].trim_end().strip_prefix("error: ").unwrap().to_owned()
}

#[test]
fn messages_say_what_was_given_what_is_possible_and_what_to_do() {
    let world = World::new();
    world.ok(&format!("pretrain --model small.toml {DATA} --epochs 1 --batch 32 --out c.safetensors"));
    world.targets("c.safetensors", "t");
    let joint = post_train_arguments("c.safetensors", "t", "0.3", "runs");
    fs::create_dir(world.path("folder")).unwrap();
    fs::write(world.path("bad.toml"), "name = 3\n").unwrap();
    fs::write(
        world.path("key.toml"),
        fs::read_to_string(world.path("small.toml")).unwrap().replace("kernel = 3", "size = 3"),
    )
    .unwrap();
    fs::write(world.path("sweep.toml"), "seeds = [1]\ndatum = 3\n").unwrap();
    let large = fs::read_to_string(world.path("small.toml")).unwrap().replace("[1, 12, 12]", "[3, 16, 16]");
    fs::write(world.path("large.toml"), large).unwrap();
    let pretrain =
        |model: &str, more: &str| format!("pretrain --model {model} {DATA} --epochs 1 --out x.safetensors {more}");
    let table = [
        (
            format!("{joint} --policy live"),
            "--policy = live can be had for the last stage alone, out: choose static (computed once) or refresh (before \
             every epoch) for conv1, or the stage out",
        ),
        (
            pretrain("small.toml", "").replace("x.safetensors", "folder"),
            "--out = folder is a folder: name the file of the checkpoint, for example NAME.safetensors in it",
        ),
        (
            joint.replace("--targets t", ""),
            "--targets is missing: --mode joint needs targets: make them with `fbp targets` and name their folder here \
             (--alpha 0 needs none)",
        ),
        (
            joint.replace("joint", "tail").replace("--alpha 0.3", "").replace("--stage conv1", ""),
            "--stage is missing: the mode tail trains the stages above one; name it: conv1, conv2",
        ),
        (
            joint.replace("--mode joint", "--mode head").replace("--stage conv1", ""),
            "--alpha = 0.3 is a weight for --mode joint alone: with --mode head leave it out",
        ),
        (pretrain("small.toml", "--learning-rate 0"), "--learning-rate = 0 is out of range: it takes (0, 1]"),
        (
            pretrain("large.toml", ""),
            "the data idx:data does not fit the network small: its images are [1, 12, 12], and the network takes \
             [3, 16, 16] (channels, height, width); choose others with --data, or another network",
        ),
        (
            pretrain("small.toml", "").replace("--classes 3", "--classes 5"),
            "the data idx:data does not fit the network small: it has 5 classes, and the network tells 3 apart; choose \
             others with --data, or another network",
        ),
        (
            joint.replace("joint", "head").replace("--alpha 0.3", ""),
            "--stage = conv1 has no meaning for the modes full and head, which know what to train: leave it out",
        ),
        (
            joint.replace("conv1", "conv9"),
            "there is no stage \"conv9\" to choose here: this network has conv1, conv2, out",
        ),
    ];
    for (arguments, expected) in table {
        assert_eq!(message(&world, &arguments), expected, "fbp {arguments}");
    }
    // Of TOML files the place is shown, in several lines.
    for (arguments, parts) in [
        (pretrain("bad.toml", ""), &["bad.toml describes no network", "\n1 | name = 3\n", "^", "string"][..]),
        (
            pretrain("key.toml", ""),
            &["key.toml describes no network", "stage conv1, layer 0 (conv2d)", "size", "kernel"],
        ),
        ("sweep --config sweep.toml --out s".into(), &["sweep sweep.toml", "\n2 | datum = 3\n", "^", "fbp help sweep"]),
    ] {
        let message = message(&world, &arguments);
        for part in parts {
            assert!(message.contains(part), "fbp {arguments}: {part:?} is not in {message}");
        }
    }
}

#[test]
fn gains_are_called_gains_and_columns_say_what_they_count() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let text = world.targets("c.safetensors", "t");
    assert!(text.contains("2nd try") && !text.contains("second attempt"), "{text}");
    assert!(text.lines().skip(1).all(|line| line.chars().count() <= 80), "{text}");
    let repair =
        world.ok(&format!("repair --checkpoint c.safetensors {DATA} --samples 3 --stage out --out r.safetensors"));
    assert!(repair.contains("test accuracy +") || repair.contains("test accuracy -"), "{repair}");
    assert!(!repair.lines().next().unwrap().contains("drawdown"), "{repair}");
    for command in ["analyse repair", "post-train"] {
        let help = world.ok(&format!("{command} --help"));
        assert!(!help.contains("rivals"), "{help}");
    }
}

#[test]
fn networks_layers_and_the_format_of_sweeps_can_be_looked_up() {
    let world = World::new();
    let models = world.ok("models --json m.json");
    assert!(models.lines().any(|line| line.contains("simple-cnn-mnist-v2 ") && line.contains("796")), "{models}");
    assert!(models.lines().all(|line| line.chars().count() <= 80), "{models}");
    let rows = world.json("m.json");
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == "cnn-mnist-large").unwrap();
    assert_eq!((&row["parameters"], &row["stages"][2]), (&26_474.into(), &"fc1".into()));
    // A description is one that the program takes.
    fs::write(world.path("net.toml"), world.ok("models simple-cnn-mnist-v1")).unwrap();
    world.fails(&format!("pretrain --model net.toml {DATA} --out x.safetensors"), &["[1, 28, 28]"]);

    let layers = world.ok("layers");
    assert!(layers.lines().all(|line| line.chars().count() <= 80), "{layers}");
    assert!(layers.contains("conv2d") && layers.contains("padding = 0") && layers.contains("rms_norm"), "{layers}");
    let layer = world.ok("layers max_pool2d");
    let (_, example) = layer.split_once("\n\n").unwrap();
    let (_, example) = example.split_once("name = ").unwrap();
    fs::write(world.path("example.toml"), format!("name = {example}")).unwrap();
    world.fails(&format!("pretrain --model example.toml {DATA} --out x.safetensors"), &["[2, 6, 6]"]);

    let help = world.ok("help sweep");
    assert!(help.contains("[[starts]]") && help.contains("threads_per_run"), "{help}");
    let description = FORMAT.split("```").nth(1).unwrap().strip_prefix("toml\n").unwrap();
    SweepConfig::parse(description, "format.toml".as_ref()).unwrap();
    for (table, text) in [("", "[[?]]"), ("[[starts]]\n", "starts"), ("[[runs]]\n", "runs")] {
        let unknown = format!("data = {{ name = \"x\" }}\nseeds = [0]\n{table}no_such_key = 1\n");
        let error = SweepConfig::parse(&unknown, "x.toml".as_ref()).unwrap_err().to_string();
        let (_, known) = error.split_once("expected one of").unwrap_or_else(|| panic!("{text}: {error}"));
        let known = known.lines().next().unwrap();
        for key in known.split('`').skip(1).step_by(2) {
            assert!(FORMAT.contains(key), "{key} of {text} is not explained");
        }
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(world.ok(&format!("completions {shell}")).contains("post-train"), "{shell}");
    }
}
