//! Disks that are full and folders that vanish: one sentence that says so, an exit status that is not 0, and what was there stays
//! whole.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{World, contents};

const DATA: &str = "--checkpoint c.safetensors --data idx:data --classes 3 --threads 1";

/// Runs a command with a limit on the size of files, in blocks of 512 bytes, which stands for a full disk: writes fail half-way.
/// It must fail with one message that contains all of `parts`; all that it said.
fn fails_on_full_disk(world: &World, arguments: &str, blocks: usize, parts: &[&str]) -> String {
    let program = world.command(arguments);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\""), "sh"]).arg(program.get_program());
    let Output { status, stderr, .. } = shell.args(program.get_args()).current_dir(world.path("")).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "fbp {arguments}: {said}");
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && parts.iter().all(|part| errors[0].contains(part)), "fbp {arguments}: {said}");
    said
}

#[test]
fn results_stay_whole_where_new_ones_have_no_place() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let values = [0_u8; 4 * 144 * 5];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![5, 144], &values).unwrap();
    fs::write(world.path("x.safetensors"), safetensors::serialize([("inputs", view)], None).unwrap()).unwrap();
    let sweep = |rates: &str| {
        format!(
            "data = {{ name = \"idx:data\", classes = 3 }}\nseeds = [1]\n\
             starts = [{{ name = \"file\", checkpoint = \"c.safetensors\" }}]\n\
             runs = [{{ mode = \"full\", epochs = 1, learning_rate = {rates} }}]\n"
        )
    };
    fs::write(world.path("one.toml"), sweep("1e-3")).unwrap();
    fs::write(world.path("two.toml"), sweep("[1e-3, 1e-4]")).unwrap();
    // What makes a result, and what would replace or extend it.
    let model = "pretrain --model small.toml --data idx:data --classes 3 --epochs 1 --batch 64 --out OUT/p.safetensors";
    let table = [
        (model.to_owned(), format!("{model} --seed 1 --force")),
        (
            format!("post-train {DATA} --mode full --epochs 1 --out OUT"),
            format!("post-train {DATA} --mode full --epochs 2 --out OUT"),
        ),
        (format!("post-train {DATA} --mode head --out OUT"), format!("post-train {DATA} --mode head --out OUT --force")),
        (
            format!("targets {DATA} --train-size 60 --out OUT"),
            format!("targets {DATA} --train-size 60 --out OUT/other"),
        ),
        (
            format!("repair {DATA} --samples 3 --stage out --out OUT/r.safetensors"),
            format!("repair {DATA} --samples 4 --stage out --force --out OUT/r.safetensors"),
        ),
        (
            format!("compress {DATA} --prune 0.5 --calibrate 50 --out OUT/q.safetensors"),
            format!("compress {DATA} --prune 0.6 --calibrate 50 --force --out OUT/q.safetensors"),
        ),
        (
            format!("explain {DATA} --samples 3 --out OUT"),
            format!("explain {DATA} --samples 4 --force --out OUT"),
        ),
        (format!("eval {DATA} --json OUT/e.json"), format!("eval {DATA} --seed 1 --json OUT/e.json")),
        (
            "predict --checkpoint c.safetensors --inputs x.safetensors --out OUT/y.safetensors".into(),
            "predict --checkpoint c.safetensors --inputs x.safetensors --features conv1 --force --out OUT/y.safetensors"
                .into(),
        ),
        ("sweep --config one.toml --threads 1 --out OUT".into(), "sweep --config two.toml --threads 1 --out OUT".into()),
    ];
    for (number, (first, second)) in table.iter().enumerate() {
        let out = format!("out{number}");
        fs::create_dir(world.path(&out)).unwrap();
        world.ok(&first.replace("OUT", &out));
        let before = all_files(&world.path(&out));
        // Not even the first file has a place.
        let said = fails_on_full_disk(&world, &second.replace("OUT", &out), 1, &["cannot write", "enough space"]);
        assert_eq!(all_files(&world.path(&out)), before, "fbp {second}: {said}");
        // With a place it is done, whatever the attempt has left.
        world.ok(&second.replace("OUT", &out));
    }
}

/// Names and contents of all files of a folder and those below it; folders without files are nothing.
fn all_files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        match path.is_dir() {
            true => found.extend(all_files(&path)),
            false => found.push((path.display().to_string(), fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

/// A running command; it is ended with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command, and waits for a file of which the name contains `name`.
fn start(world: &World, arguments: &str, (folder, name): (&str, &str)) -> Running {
    let child = world.command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (running, begun) = (Running(child), Instant::now());
    let is_there = || {
        let entries = fs::read_dir(world.path(folder)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).any(|found| found.to_string_lossy().contains(name))
    };
    while !is_there() {
        assert!(begun.elapsed() < Duration::from_secs(60), "fbp {arguments}: there is no {name}");
        std::thread::sleep(Duration::from_millis(2));
    }
    running
}

fn end(mut running: Running) -> (Option<i32>, String) {
    let mut said = String::new();
    std::io::Read::read_to_string(&mut running.0.stderr.take().unwrap(), &mut said).unwrap();
    (running.0.wait().unwrap().code(), said)
}

#[test]
fn a_training_outlives_a_full_disk() {
    let world = World::new();
    let pretrain = |out: &str| {
        format!(
            "pretrain --model small.toml --data idx:data --classes 3 --epochs 60 --batch 32 --threads 1 --checkpoint-every 3 \
             --out {out}/p.safetensors"
        )
    };
    for folder in ["whole", "s"] {
        fs::create_dir(world.path(folder)).unwrap();
    }
    world.ok(&pretrain("whole"));
    let running = start(&world, &pretrain("s"), ("s", ".state-1"));
    assert!(Command::new("kill").args(["-INT", &running.0.id().to_string()]).status().unwrap().success());
    assert_eq!(end(running).0, Some(130));
    let states = contents(&world.path("s"));
    assert_eq!(states.len(), 2);
    let said = fails_on_full_disk(&world, &pretrain("s"), 1, &["cannot write s/p.json", "enough space"]);
    assert!(said.contains("the state of the training is not kept this time"), "{said}");
    assert_eq!(contents(&world.path("s")), states, "what was kept stays");
    world.ok(&pretrain("s"));
    let weights = |folder: &str| fs::read(world.path(&format!("{folder}/p.safetensors"))).unwrap();
    assert_eq!(weights("s"), weights("whole"));
    assert_eq!(contents(&world.path("s")).len(), 2, "the result and its record");
}

#[test]
fn a_folder_that_vanishes_is_told() {
    let world = World::new();
    world.pretrain("c.safetensors");
    let sweep = "data = { name = \"idx:data\", classes = 3 }\nseeds = [1, 2, 3]\n\
                 starts = [{ name = \"file\", checkpoint = \"c.safetensors\" }]\n\
                 runs = [{ mode = \"full\", epochs = 60, learning_rate = [1e-3, 1e-4] }]\n";
    fs::write(world.path("sweep.toml"), sweep).unwrap();
    for (arguments, (folder, name)) in [
        (
            "pretrain --model small.toml --data idx:data --classes 3 --epochs 200 --threads 1 --checkpoint-every 1 \
             --out v/p.safetensors"
                .to_owned(),
            ("v", ".state-1"),
        ),
        (format!("post-train {DATA} --mode full --epochs 200 --checkpoint-every 1 --out v"), ("v", ".state-1")),
        (format!("targets {DATA} --shard-size 1 --out v"), ("v", "shard-00000")),
        ("sweep --config sweep.toml --threads 1 --out v".to_owned(), ("v/runs/file", "post-train_")),
    ] {
        let running = start(&world, &arguments, (folder, name));
        // New files may come in between.
        while world.path("v").exists() {
            let _ = fs::remove_dir_all(world.path("v"));
        }
        let (code, said) = end(running);
        assert_eq!(code, Some(1), "fbp {arguments}: {said}");
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        // A sweep also lists what is in the folder before it writes there.
        let has_path =
            errors.iter().any(|error| ["cannot write v", "cannot read v"].iter().any(|text| error.contains(text)));
        let is_told = errors.len() == 1 && has_path && errors[0].contains("No such file");
        assert!(is_told, "fbp {arguments}: {said}");
        // A file that was being written may have come with a new folder.
        let _ = fs::remove_dir_all(world.path("v"));
    }
}
