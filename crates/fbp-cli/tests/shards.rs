//! Work that several processes share: put together it is what one process would have made, whatever was killed on the way, and
//! what is missing or does not belong is told.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::{World, contents, targets_arguments, timeless};

/// Runs a command in three processes at the same time, kills one after a while and starts it again.
fn in_shards(world: &World, command: &str, kill_after: Duration) {
    let start = |index: usize| {
        let mut command = world.command(&format!("{command} --shard {index}/3"));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut children: Vec<_> = (1..=3).map(start).collect();
    std::thread::sleep(kill_after);
    let _ = children[1].kill();
    children[1].wait().unwrap();
    children[1] = start(2);
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Files of a folder and of those below it, records without their times.
fn results(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(results(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let bytes = match name.ends_with(".json") {
            true => timeless(serde_json::from_slice(&bytes).unwrap()).to_string().into_bytes(),
            false => bytes,
        };
        found.push((name, bytes));
    }
    found.sort();
    found
}

fn assert_alike(world: &World, [one, other]: [&str; 2]) {
    let [one, other] = [one, other].map(|name| results(&world.path(name)));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for ((name, one), (_, other)) in one.iter().zip(&other) {
        assert!(one == other, "{name}: {} {}", String::from_utf8_lossy(one), String::from_utf8_lossy(other));
    }
}

#[test]
fn targets_of_three_processes_are_those_of_one() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.targets("c.safetensors", "whole");
    for wait in [5, 60, 200] {
        in_shards(&world, &targets_arguments("c.safetensors", "t"), Duration::from_millis(wait));
        let said = world.ok("merge t --json t.json");
        assert!(said.contains("400 images"), "{said}");
        assert_alike(&world, ["t", "whole"]);
        // It is closed, and stays so.
        let before = contents(&world.path("t"));
        world.ok("merge t");
        world.ok(&format!("{} --shard 2/3", targets_arguments("c.safetensors", "t")));
        assert_eq!(contents(&world.path("t")), before);
        std::fs::remove_dir_all(world.path("t")).unwrap();
    }
}

#[test]
fn shards_of_targets_that_make_no_whole_are_told() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let shard = |shard: &str, margin: &str| {
        targets_arguments("c.safetensors", "t").replace("--margin 1", margin) + &format!(" --shard {shard}")
    };
    world.fails("merge .", &["there are none of"]);
    world.ok(&shard("1/3", "--margin 1"));
    world.ok(&shard("3/3", "--margin 1"));
    world.fails("merge t", &["6 of 17 files are missing", "shard-00001.safetensors", "--shard"]);
    world.fails(&shard("2/3", "--margin 2"), &["other settings", "margin: 1.0, now 2.0"]);
    // Other shares of the same files are no harm: what is there is not made again.
    world.ok(&shard("2/2", "--margin 1"));
    world.ok(&shard("1/2", "--margin 1"));
    std::fs::copy(world.path("t/shard-00000.safetensors"), world.path("t/shard-00099.safetensors")).unwrap();
    world.fails("merge t", &["shard-00099.safetensors", "none of the store's"]);
    std::fs::remove_file(world.path("t/shard-00099.safetensors")).unwrap();
    std::fs::write(world.path("t/shard-00003.safetensors"), "damaged").unwrap();
    world.fails("merge t", &["1 of 17 files are missing or damaged", "shard-00003"]);
    world.ok(&shard("2/2", "--margin 1"));
    world.ok("merge t");
    world.targets("c.safetensors", "whole");
    assert_alike(&world, ["t", "whole"]);
    let slurm = world
        .command(&shard("slurm", "--margin 1"))
        .env("SLURM_ARRAY_TASK_ID", "2")
        .env("SLURM_ARRAY_TASK_COUNT", "4")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&slurm.stdout).contains("shard 2/4"), "{slurm:?}");
}

#[test]
fn evaluations_are_added_in_the_order_of_the_shards() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let eval = "eval --checkpoint c.safetensors --data idx:data --classes 3 --top-k 2 --noise 0.1 --seed 3";
    world.ok(&format!("{eval} --json one.json"));
    in_shards(&world, &format!("{eval} --out e"), Duration::from_millis(20));
    std::fs::remove_file(world.path("e/eval-shard-2-of-3.json")).unwrap();
    world.fails("merge e", &["2 of 3 are there", "--shard 2/3"]);
    world.fails(
        &format!("{eval} --noise 0.2 --out e --shard 2/3").replacen("--noise 0.1 ", "", 1),
        &["other settings", "noise"],
    );
    world.fails(&format!("{eval} --out e --shard 2/4"), &["other settings", "shards: 3, now 4"]);
    world.ok(&format!("{eval} --out e --shard 2/3"));
    world.ok("merge e --json merged.json");
    assert_eq!(contents(&world.path("e")).len(), 1);
    let (one, merged) = (world.json("one.json"), world.json("merged.json"));
    for part in ["train", "test"] {
        let [one, merged] = [&one[part], &merged[part]];
        for exact in ["samples", "accuracy", "top_k", "per_class", "confusion"] {
            assert_eq!(one[exact], merged[exact], "{part} {exact}");
        }
        // Sums of sums are rounded otherwise: one rounding for every sample.
        let [a, b] = [one, merged].map(|value| common::number(&value["loss"]));
        assert!((a - b).abs() <= 400.0 * f64::EPSILON * a, "{a} {b}");
    }
    assert_eq!(one["checkpoint_sha256"], merged["checkpoint_sha256"]);
}

#[test]
fn explanations_of_three_processes_are_that_of_one() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let explain = "explain --checkpoint c.safetensors --data idx:data --classes 3 --samples wrong:7 --threads 1 --out";
    world.ok(&format!("{explain} whole"));
    in_shards(&world, &format!("{explain} x"), Duration::from_millis(30));
    world.ok("merge x");
    assert_alike(&world, ["x", "whole"]);
}

#[test]
fn a_sweep_of_three_processes_is_that_of_one() {
    let world = World::new();
    std::fs::write(
        world.path("sweep.toml"),
        "data = { name = \"idx:data\", classes = 3 }\nmodel = \"small.toml\"\nseeds = [1, 2]\n\
         [[starts]]\nname = \"short\"\nepochs = 2\nbatch = 32\nlearning_rate = 0.003\n\
         [[runs]]\nmode = \"joint\"\nstage = \"conv1\"\nalpha = [0, 0.3]\nepochs = 2\nbatch = 32\nlearning_rate = 1e-3\n\
         [[runs]]\nmode = \"full\"\nepochs = 2\nbatch = 32\nlearning_rate = [1e-3, 1e-2]\n",
    )
    .unwrap();
    let sweep = "sweep --config sweep.toml --threads 1 --out";
    world.ok(&format!("{sweep} whole"));
    world.ok(&format!("{sweep} s --shard 1/3"));
    world.fails("merge s", &["of 8 runs are not there", "--shard"]);
    in_shards(&world, &format!("{sweep} s"), Duration::from_millis(150));
    world.ok("merge s");
    let without_summary = |name: &str| {
        let files = results(&world.path(name)).into_iter();
        files.filter(|(name, _)| !name.starts_with("summary.")).collect::<Vec<_>>()
    };
    assert_eq!(without_summary("s"), without_summary("whole"));
    assert!(world.path("s/summary.md").exists());
    world.fails("merge s", &["there are none of"]);
}

#[test]
fn sums_of_three_processes_solve_as_those_of_one_in_their_order() {
    let world = World::new();
    world.pretrain("c.safetensors");
    world.targets("c.safetensors", "t");
    let solve =
        "post-train --checkpoint c.safetensors --data idx:data --classes 3 --targets t --mode closed-form --threads 1";
    for stage in ["conv1", "conv2"] {
        let run = |out: &str| format!("{solve} --stage {stage} --out {out}");
        world.ok(&format!("{} --shard 3/3", run("s")));
        world.fails(&run("s"), &["1 of 3 are there, 1/3 is the first that is missing", "--shard 1/3"]);
        world.fails("merge s", &["the same command without --shard"]);
        world.fails(&format!("{} --shard 2/4", run("s")), &["other settings", "shards: 3, now 4"]);
        in_shards(&world, &run("s"), Duration::from_millis(25));
        assert!(world.ok(&format!("{} --shard 2/3", run("s"))).contains("is there already"));
        world.ok(&run("s"));
        for shard in ["1/3", "2/3", "3/3"] {
            world.ok(&format!("{} --shard {shard}", run("one")));
        }
        world.ok(&run("one"));
        // Nothing is left of the sums.
        assert!(contents(&world.path("s")).iter().all(|(name, _)| !name.contains("-sums-")));
        assert_alike(&world, ["s", "one"]);

        // Of one sum the roundings differ, and nothing else.
        world.ok(&run("plain"));
        let name = format!("post-train_closed-form_{stage}_seed0");
        let [one, plain] = ["one", "plain"].map(|folder| world.json(&format!("{folder}/{name}.json")));
        assert_eq!((&one["settings"], &one["chosen"]["epoch"]), (&plain["settings"], &plain["chosen"]["epoch"]));
        let weights = |folder: &str| {
            let bytes = std::fs::read(world.path(&format!("{folder}/{name}.safetensors"))).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let of = |name: &str| {
                let view = tensors.tensor(name).unwrap();
                view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<_>>()
            };
            of(&format!("{stage}.0.weight"))
        };
        for (one, plain) in weights("one").iter().zip(weights("plain")) {
            // Sums of 360 samples in double precision, solved with a condition of up to a thousand.
            assert!((one - plain).abs() <= 1e-5 * (1.0 + plain.abs()), "{one} {plain}");
        }
        for folder in ["s", "one", "plain"] {
            std::fs::remove_dir_all(world.path(folder)).unwrap();
        }
    }
    let other = format!("{solve} --stage conv1 --out s --shard 1/3").replace("closed-form", "local");
    world.fails(&other, &["--shard = 1/3", "closed-form"]);
}
