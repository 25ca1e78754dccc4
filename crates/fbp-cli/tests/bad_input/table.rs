//! Every command against everything that can be odd about its outputs: what it says, and its exit status.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use fbp_train::atomic::FolderLock;
use fbp_train::outputs::OutputLock;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};

use crate::common::{World, post_train_arguments};

/// What a command writes at `OUT`.
#[derive(Clone, Copy)]
enum Writes {
    /// Nothing: its result goes to `--json`.
    Json,
    /// A file that ends in .safetensors, and perhaps its record.
    Files,
    /// A folder, and a file in it that another command may have left there.
    Folder(&'static str),
    /// A folder that runs share, of which one file is locked and not the whole.
    Runs(&'static str),
}

struct Case {
    arguments: &'static str,
    writes: Writes,
    /// What a second run says.
    again: &'static str,
    /// A part of the arguments and what it is replaced by to name something that is not there.
    unknown: [&'static str; 2],
    /// What is then said, and the exit status.
    names: (&'static str, i32),
}

const RUN: &str = "post-train_head_out_seed0.safetensors";

/// In the order of `fbp --help`.
const CASES: &[Case] = &[
    Case {
        arguments: "import c.safetensors --model small.toml --preprocess 0.5/0.5 --out OUT",
        writes: Writes::Files,
        again: "small with",
        unknown: ["small.toml", "nonsense"],
        names: ("`fbp models` describes them", 1),
    },
    Case {
        arguments: "pretrain --model small.toml --data idx:data --classes 3 --epochs 1 --batch 64 --out OUT",
        writes: Writes::Files,
        again: "finished already",
        unknown: ["small.toml", "nonsense"],
        names: ("`fbp models` describes them", 1),
    },
    Case {
        arguments: "targets --checkpoint c.safetensors --data idx:data --classes 3 --train-size 30 --out OUT",
        writes: Writes::Folder("report.json"),
        again: "30 images",
        unknown: ["idx:data", "nonsense"],
        names: ("known are fashion-mnist", 1),
    },
    Case {
        arguments: "post-train --checkpoint c.safetensors --data idx:data --classes 3 --mode head --out OUT",
        writes: Writes::Runs(RUN),
        again: "finished already",
        unknown: ["head", "tail --stage nonsense"],
        names: ("this network has conv1, conv2", 1),
    },
    Case {
        arguments: "eval --checkpoint c.safetensors --data idx:data --classes 3",
        writes: Writes::Json,
        again: "test accuracy",
        unknown: ["c.safetensors", "nonsense.safetensors"],
        names: ("nonsense.safetensors", 1),
    },
    Case {
        arguments: "predict --checkpoint c.safetensors --inputs x.safetensors --features conv1 --out OUT",
        writes: Writes::Files,
        again: "2 inputs",
        unknown: ["conv1", "nonsense"],
        names: ("conv1, conv2, out", 1),
    },
    Case {
        arguments: "explain --checkpoint c.safetensors --data idx:data --classes 3 --samples 3 --stage conv2 --out OUT",
        writes: Writes::Folder("explain.html"),
        again: "--samples 3",
        unknown: ["conv2", "nonsense"],
        names: ("this network has input, conv1, conv2", 1),
    },
    Case {
        arguments: "analyse stages --checkpoint c.safetensors --data idx:data --classes 3 --limit 20 --out OUT",
        writes: Writes::Folder("stages.md"),
        again: "conv1: Pearson",
        unknown: ["idx:data", "nonsense"],
        names: ("known are fashion-mnist", 1),
    },
    Case {
        arguments: "analyse repair --checkpoint c.safetensors --data idx:data --classes 3 --train-size 60 --samples 3 \
                    --stage out --margin 1 --ridge 0.1 --slack 1 --out OUT",
        writes: Writes::Folder("repair.md"),
        again: "repair of out",
        unknown: ["--stage out", "--stage nonsense"],
        names: ("the stages are conv1, conv2, out", 1),
    },
    Case {
        arguments: "repair --checkpoint c.safetensors --data idx:data --classes 3 --samples 3,5 --stage out --out OUT",
        writes: Writes::Files,
        again: "finished already",
        unknown: ["--stage out", "--stage nonsense"],
        names: ("the stages are conv1, conv2, out", 1),
    },
    Case {
        arguments: "export --checkpoint c.safetensors --out OUT",
        writes: Writes::Files,
        again: "tensors of small",
        unknown: ["c.safetensors", "nonsense.safetensors"],
        names: ("nonsense.safetensors", 1),
    },
    Case {
        arguments: "sweep --config sweep.toml --out OUT",
        writes: Writes::Folder("summary.csv"),
        again: "0 comparisons",
        unknown: ["sweep.toml", "nonsense.toml"],
        names: ("cannot read nonsense.toml", 1),
    },
    Case {
        arguments: "report --runs runs --out OUT",
        writes: Writes::Folder("comparisons.csv"),
        again: "1 post-training runs",
        unknown: ["--runs runs", "--runs nonsense"],
        names: ("cannot read nonsense", 1),
    },
    Case {
        arguments: "models",
        writes: Writes::Json,
        again: "simple-cnn-mnist-v2",
        unknown: ["models", "models nonsense"],
        names: ("`fbp models` describes them", 1),
    },
    Case {
        arguments: "layers",
        writes: Writes::Json,
        again: "conv2d",
        unknown: ["layers", "layers nonsense"],
        names: ("it can be conv2d", 1),
    },
    Case {
        arguments: "completions bash",
        writes: Writes::Json,
        again: "fbp",
        unknown: ["bash", "nonsense"],
        names: ("possible values", 2),
    },
];

const SWEEP: &str = r#"
data = { name = "idx:data", classes = 3 }
seeds = [0]
starts = [{ name = "file", checkpoint = "c.safetensors" }]
runs = [{ mode = "head" }]
"#;

/// What happened, for a message.
struct Ran {
    text: String,
    code: Option<i32>,
    stdout: String,
}

impl Ran {
    fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(!stderr.contains("panicked"), "{stderr}");
        Self { text: format!("{stdout}{stderr}"), code: status.code(), stdout }
    }

    fn expect(&self, code: i32, part: &str, what: &str) {
        assert_eq!(self.code, Some(code), "{what}: {}", self.text);
        assert!(self.text.contains(part), "{what}: {part:?} is not in {}", self.text);
    }
}

impl Case {
    /// The name of the command: its first words.
    fn name(&self) -> String {
        let words: Vec<&str> =
            self.arguments.split(' ').take_while(|word| !word.starts_with('-') && !word.contains('.')).collect();
        words.join(" ").replace(" bash", "")
    }

    /// The command with its outputs at a path, which may hold blanks.
    fn command(&self, world: &World, out: &Path) -> Command {
        let mut command = world.command("");
        let out = match self.writes {
            Writes::Files | Writes::Json => out.with_extension("safetensors"),
            Writes::Folder(_) | Writes::Runs(_) => out.to_owned(),
        };
        for word in self.arguments.split_whitespace() {
            if word == "OUT" {
                command.arg(&out)
            } else {
                command.arg(word)
            };
        }
        if matches!(self.writes, Writes::Json) {
            command.arg("--json").arg(self.place(&out));
        }
        command
    }

    /// The file that the command writes and another may have left there.
    fn place(&self, out: &Path) -> PathBuf {
        match self.writes {
            Writes::Json => out.with_extension("json"),
            Writes::Files => out.with_extension("safetensors"),
            Writes::Folder(name) | Writes::Runs(name) => out.join(name),
        }
    }
}

fn world() -> World {
    let world = World::new();
    world.ok("pretrain --model small.toml --data idx:data --classes 3 --epochs 1 --batch 32 --out c.safetensors");
    world.ok(&post_train_arguments("c.safetensors", "t", "0", "runs")
        .replace("--targets t", "")
        .replace("3 --b", "1 --b"));
    fs::write(world.path("sweep.toml"), SWEEP).unwrap();
    let inputs = [0_u8; 2 * 12 * 12 * size_of::<f32>()];
    let view = TensorView::new(Dtype::F32, vec![2, 1, 12, 12], &inputs).unwrap();
    fs::write(world.path("x.safetensors"), serialize([("inputs", view)], None).unwrap()).unwrap();
    world
}

/// A folder in which this process, be it of the super-user, can make no file.
fn read_only(world: &World) -> PathBuf {
    let folder = world.path("read-only");
    fs::create_dir_all(&folder).unwrap();
    let mut permissions = fs::metadata(&folder).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&folder, permissions).unwrap();
    if fs::write(folder.join("probe"), "").is_ok() { PathBuf::from("/proc/self") } else { folder }
}

/// One line of the table: what a command said in each column, and its exit status.
struct Line<'a> {
    world: &'a World,
    case: &'a Case,
    number: usize,
    cells: Vec<String>,
}

impl Line<'_> {
    fn out(&self, what: &str) -> PathBuf {
        self.world.path(&format!("{what}{}", self.number))
    }

    fn run(&self, what: &str) -> Ran {
        Ran::of(&mut self.case.command(self.world, &self.out(what)))
    }

    /// Runs the command in a column of the table.
    fn expect(&mut self, ran: &Ran, code: i32, part: &str, column: &str) {
        ran.expect(code, part, &format!("{}, {column}", self.case.name()));
        self.note(ran.code, &ran.text);
    }

    fn note(&mut self, code: Option<i32>, text: &str) {
        let folder = self.world.path("").display().to_string();
        let spoken = text.lines().rfind(|line| line.starts_with("error: ")).or(text.trim_end().lines().last());
        let line = spoken.unwrap_or("nothing").replace(&folder, "").replace('|', "\\|");
        let short: String = line.chars().take(160).collect();
        self.cells.push(format!("{}: {short}", code.map_or("?".into(), |code| code.to_string())));
    }

    fn outputs_that_are_in_the_way(&mut self, locked_out: &Path) {
        let (case, name) = (self.case, self.case.name());
        let ran = Ran::of(&mut case.command(self.world, &locked_out.join("x")));
        self.expect(&ran, 1, "cannot write", "read-only output");

        let place = case.place(&self.out("foreign"));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, "mine").unwrap();
        self.expect(&self.run("foreign"), 1, "not a result", "foreign file");
        assert_eq!(fs::read_to_string(&place).unwrap(), "mine", "{name}");

        self.run("twice").expect(0, case.again.trim_start_matches("finished already"), &format!("{name}, first run"));
        self.expect(&self.run("twice"), 0, case.again, "second run");

        let place = case.place(&self.out("busy"));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        {
            let is_folder = matches!(case.writes, Writes::Folder(_));
            let _folder = is_folder.then(|| FolderLock::acquire(&self.out("busy")).unwrap());
            let _file = (!is_folder).then(|| OutputLock::acquire(&place).unwrap());
            self.expect(&self.run("busy"), 1, "another process is writing", "two at once");
        }
        self.run("busy").expect(0, "", &format!("{name}, after the other one"));
    }

    fn other_ways_out(&mut self) {
        let (case, world, name) = (self.case, self.world, self.case.name());
        let mut command = match case.writes {
            Writes::Json => world.command(case.arguments),
            _ => case.command(world, &self.out("json")),
        };
        let ran = Ran::of(command.args(["--json", "-"]));
        ran.expect(0, "", &format!("{name}, --json -"));
        let result: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(result["result_of"], name.as_str());
        assert!(!world.path("-").exists(), "{name}");
        self.note(ran.code, "the JSON alone");

        let mut command = case.command(world, &self.out("pipe"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        let error = String::from_utf8(stderr).unwrap();
        assert!(status.success() && !error.contains("panicked"), "{name}, closed pipe: {error}");
        self.note(status.code(), "no error");

        self.expect(&self.run("with a blank/and another "), 0, "", "blanks");
        assert!(world.path("with a blank").exists(), "{name}");

        let arguments = case.arguments.replacen(case.unknown[0], case.unknown[1], 1).replace("OUT", "no");
        let (part, code) = case.names;
        self.expect(&Ran::of(&mut world.command(&arguments)), code, part, "unknown name");
        assert!(!world.path("no").exists() && !world.path("no.json").exists(), "{name}");
    }
}

/// Prints the table, which `--nocapture` shows.
#[test]
fn every_command_says_what_is_odd_and_ends_with_a_sensible_status() {
    let world = world();
    let locked_out = read_only(&world);
    println!(
        "| command | read-only output | foreign file | same run twice | two at once | `--json -` | closed pipe | blanks | unknown name |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (number, case) in CASES.iter().enumerate() {
        let mut line = Line { world: &world, case, number, cells: Vec::new() };
        line.outputs_that_are_in_the_way(&locked_out);
        line.other_ways_out();
        println!("| {} | {} |", case.name(), line.cells.join(" | "));
    }
    // Help has no outputs.
    Ran::of(&mut world.command("help predict")).expect(0, "--inputs", "help");
    Ran::of(&mut world.command("help nonsense")).expect(2, "nonsense", "help, unknown name");
    let mut child = world.command("help sweep").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let Output { stderr, .. } = child.wait_with_output().unwrap();
    assert!(!String::from_utf8(stderr).unwrap().contains("panicked"), "help, closed pipe");
}

#[cfg(unix)]
#[test]
fn an_interrupted_command_leaves_nothing_half_done_and_the_next_one_ends_well() {
    use std::os::unix::process::ExitStatusExt;

    let world = world();
    for (number, case) in CASES.iter().enumerate() {
        let (name, out) = (case.name(), world.path(&format!("cut{number}/out")));
        let mut child = case.command(&world, &out).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60));
        Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status().unwrap();
        let status = child.wait().unwrap();
        // Training, targets, sweeps and repairs end by themselves after their step.
        let stopped = status.signal() == Some(2) || status.code() == Some(130);
        assert!(status.success() || stopped, "{name}: {status}");
        Ran::of(&mut case.command(&world, &out)).expect(0, "", &format!("{name}, after an interrupt"));
        let left = fs::read_dir(world.path(&format!("cut{number}"))).unwrap().map(|entry| entry.unwrap().file_name());
        let parts: Vec<_> = left.filter(|name| name.to_string_lossy().ends_with(".part")).collect();
        assert!(parts.is_empty(), "{name}: {parts:?}");
    }
}
