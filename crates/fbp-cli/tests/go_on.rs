//! A training that is stopped or killed at any moment goes on by itself when it is started again, and ends with the same bits
//! as one that never was.
//!
//! Every test kills a few times; `FBP_KILLS=100` asks for that many of each command.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{World, contents, run_with_kills, timeless};

/// A network with everything that training leaves behind besides weights: statistics of batches, and random numbers.
const MODEL: &str = r#"
name = "statistics"
input = [1, 12, 12]
classes = 3

[[stages]]
name = "conv1"
layers = [{ type = "conv2d", out_channels = 3, kernel = 3 }, { type = "batch_norm" }, { type = "relu" },
          { type = "max_pool2d", kernel = 2 }]

[[stages]]
name = "conv2"
layers = [{ type = "conv2d", out_channels = 4, kernel = 2 }, { type = "relu" }, { type = "max_pool2d", kernel = 2 }]

[[stages]]
name = "out"
layers = [{ type = "flatten" }, { type = "dropout", p = 0.2 }, { type = "linear", out_features = 3 }]
"#;

const PRETRAIN: &str = "pretrain --model statistics.toml --data idx:data --classes 3 --batch 32 --learning-rate 0.003 \
                        --schedule cosine --keep best --augment crop --seed 3 --threads 1";
const POST_TRAIN: &str = "post-train --checkpoint c.safetensors --data idx:data --classes 3 --epochs 4 --batch 32 \
                          --learning-rate 0.002 --seed 5 --threads 2";

fn world() -> World {
    let world = World::new();
    std::fs::write(world.path("statistics.toml"), MODEL).unwrap();
    world.ok(&format!("{PRETRAIN} --epochs 3 --out c.safetensors"));
    world
}

fn with_targets() -> World {
    let world = world();
    world.ok("targets --checkpoint c.safetensors --data idx:data --classes 3 --margin 1 --threads 2 --out t");
    world
}

/// Kills that each command should see at least.
fn wanted_kills() -> usize {
    std::env::var("FBP_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(3)
}

/// Checkpoints as they are, records without their times; and nothing else, above all no state.
fn results(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let plain = |(name, bytes): (String, Vec<u8>)| match name.ends_with(".json") {
        true => (name, timeless(serde_json::from_slice(&bytes).unwrap()).to_string().into_bytes()),
        false => (name, bytes),
    };
    contents(folder).into_iter().map(plain).collect()
}

/// Runs a command that writes to the folder that takes the place of OUT, once without and then with kills, until there were
/// enough of them.
fn ends_alike(world: &World, command: &str) {
    let to = |folder: &str| format!("{command} --checkpoint-every 1").replace("OUT", folder);
    std::fs::create_dir(world.path("whole")).unwrap();
    world.ok(&command.replace("OUT", "whole"));
    let expected = results(&world.path("whole"));
    // Kills before the first step prove little: at least a third of them has to leave a state.
    let (mut kills, mut kept, mut seed) = (0, 0, 0);
    while kills < wanted_kills() || 3 * kept < wanted_kills() {
        std::fs::create_dir(world.path("cut")).unwrap();
        kills += run_with_kills(world, &to("cut"), seed, || kept += usize::from(!states(world, "cut").is_empty()));
        // Says that it is finished, whatever the last kill left.
        world.ok(&to("cut"));
        let found = results(&world.path("cut"));
        let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "{command}");
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert!(found == expected, "{command}: {name}:\n{}\n{}", text(found), text(expected));
        }
        std::fs::remove_dir_all(world.path("cut")).unwrap();
        seed += 1;
    }
    std::fs::remove_dir_all(world.path("whole")).unwrap();
}

#[test]
fn killed_pretraining_goes_on() {
    ends_alike(&world(), &format!("{PRETRAIN} --epochs 4 --out OUT/p.safetensors"));
}

#[test]
fn killed_joint_training_goes_on() {
    let world = with_targets();
    for options in
        ["--stage conv1 --keep best --ema 0.9", "--stage conv2 --policy refresh", "--stage out --policy live"]
    {
        ends_alike(&world, &format!("{POST_TRAIN} --targets t --mode joint {options} --out OUT"));
    }
    ends_alike(&world, &format!("{POST_TRAIN} --targets t --mode local --stage conv1 --out OUT"));
}

#[test]
fn killed_fine_tuning_goes_on() {
    let world = world();
    ends_alike(&world, &format!("{POST_TRAIN} --mode full --augment crop,flip --ema 0.8 --out OUT"));
    ends_alike(&world, &format!("{POST_TRAIN} --mode tail --stage conv1 --out OUT"));
}

#[test]
fn killed_segments_go_on() {
    ends_alike(&with_targets(), &format!("{POST_TRAIN} --targets t --mode hierarchical --out OUT"));
}

/// A running command; it is ended with the test.
struct Running(Child);

impl Running {
    fn new(world: &World, arguments: &str) -> Self {
        Self(world.command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap().success());
    }

    /// Exit status, none if a signal was the end, and what was said.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.0.stderr.take().unwrap(), &mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} is not there", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn states(world: &World, folder: &str) -> Vec<PathBuf> {
    let is_state = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().contains(".state-");
    let files = std::fs::read_dir(world.path(folder)).unwrap().map(|entry| entry.unwrap().path());
    files.filter(is_state).collect()
}

/// A pretraining that is stopped in its middle, with both generations of its state.
fn stopped(world: &World, signal: &str) -> (Option<i32>, String) {
    let _ = std::fs::remove_dir_all(world.path("s"));
    std::fs::create_dir(world.path("s")).unwrap();
    let running = Running::new(world, &format!("{PRETRAIN} --epochs 60 --checkpoint-every 3 --out s/p.safetensors"));
    wait_for(&world.path("s/p.safetensors.state-1"));
    running.signal(signal);
    running.end()
}

#[test]
fn signals_end_training_after_its_step_and_it_goes_on() {
    let world = world();
    let go_on = format!("{PRETRAIN} --epochs 60 --out s/p.safetensors");
    std::fs::create_dir(world.path("whole")).unwrap();
    world.ok(&go_on.replace("s/", "whole/"));
    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        let (found, said) = stopped(&world, signal);
        assert_eq!(found, Some(status), "{said}");
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("stopped as asked: ") && last.contains("the same command goes on"), "{said}");
        assert_eq!(states(&world, "s").len(), 2);
        world.ok(&go_on);
        assert_eq!(results(&world.path("s")), results(&world.path("whole")), "{signal}");
    }
}

#[test]
fn a_damaged_state_is_replaced_by_the_one_before_it() {
    let world = world();
    let go_on = format!("{PRETRAIN} --epochs 60 --out s/p.safetensors");
    std::fs::create_dir(world.path("whole")).unwrap();
    world.ok(&go_on.replace("s/", "whole/"));
    let damage: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.clear(),
        |bytes| bytes[100] ^= 1,
        |bytes| *bytes = vec![0xff; 80],
    ];
    for (which, damage) in damage.into_iter().enumerate() {
        stopped(&world, "-INT");
        let files = states(&world, "s");
        // One of them, then both.
        for file in &files[..1 + which % 2] {
            let mut bytes = std::fs::read(file).unwrap();
            damage(&mut bytes);
            std::fs::write(file, bytes).unwrap();
        }
        let (status, said) = Running::new(&world, &go_on).end();
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains("is damaged"), "{said}");
        assert_eq!(said.contains("starts from its beginning"), which % 2 == 1, "{said}");
        assert_eq!(said.contains("goes on after"), which % 2 == 0, "{said}");
        assert_eq!(results(&world.path("s")), results(&world.path("whole")));
    }
}

#[test]
fn a_state_of_other_settings_is_not_gone_on_from() {
    let world = world();
    stopped(&world, "-TERM");
    let other = format!("{PRETRAIN} --epochs 2 --out s/p.safetensors");
    world.fails(&other, &["p.safetensors.state-", "made with other settings", "epochs: 60, now 2", "--force"]);
    assert_eq!(states(&world, "s").len(), 2);
    world.ok(&format!("{other} --force"));
    assert!(states(&world, "s").is_empty());
}

#[test]
fn a_second_process_is_told_of_the_first() {
    let world = world();
    std::fs::create_dir(world.path("s")).unwrap();
    let command = format!("{PRETRAIN} --epochs 2000 --checkpoint-every 1 --out s/p.safetensors");
    let running = Running::new(&world, &command);
    wait_for(&world.path("s/p.safetensors.state-0"));
    world.fails(&command, &["another process is writing to", "p.safetensors"]);
    running.signal("-INT");
    assert_eq!(running.end().0, Some(130));
}

/// Stops a command at moments all over its run, until it has caught the signal; what it says then.
fn stop(world: &World, arguments: &str, out: &str, (signal, status): (&str, i32)) -> String {
    let mut longest = Duration::from_millis(5);
    for attempt in 1..=600 {
        let _ = std::fs::remove_dir_all(world.path(out));
        let running = Running::new(world, arguments);
        // Multiples of the golden ratio fill the run evenly, however many it takes.
        std::thread::sleep(longest.mul_f64((f64::from(attempt) * 0.618_034).fract()));
        running.signal(signal);
        match running.end() {
            // Before it listened: later moments belong to its run as well.
            (None, _) => longest = (longest * 5 / 4).min(Duration::from_secs(2)),
            // After it was done.
            (Some(0), _) => longest = (longest * 4 / 5).max(Duration::from_millis(5)),
            (found, said) => {
                assert_eq!(found, Some(status), "{arguments}: {said}");
                return said;
            }
        }
    }
    panic!("{arguments} has never caught a signal");
}

#[test]
fn signals_end_targets_sweeps_and_repairs() {
    let world = world();
    let targets = "targets --checkpoint c.safetensors --data idx:data --classes 3 --shard-size 1 --threads 1 --out tt";
    let said = stop(&world, targets, "tt", ("-INT", 130));
    assert!(said.contains("shards that are done are kept"), "{said}");
    world.ok(targets);
    let sweep = "data = { name = \"idx:data\", classes = 3 }\nseeds = [1, 2, 3]\n[[starts]]\nname = \"file\"\n\
                 checkpoint = \"c.safetensors\"\n[[runs]]\nmode = \"full\"\nepochs = 30\nbatch = 32\n\
                 learning_rate = [1e-3, 1e-4]\n";
    std::fs::write(world.path("sweep.toml"), sweep).unwrap();
    let said = stop(&world, "sweep --config sweep.toml --out study --threads 1", "study", ("-TERM", 143));
    assert!(said.contains("the same command goes on"), "{said}");
    let repair = "repair --checkpoint c.safetensors --data idx:data --classes 3 --samples wrong:40 --stage conv2 --threads 1 \
                  --out rr/r.safetensors";
    let said = stop(&world, repair, "rr", ("-INT", 130));
    assert!(said.contains("the same command starts it again"), "{said}");
    assert!(!world.path("rr/r.safetensors").exists());
}
