//! Which lines of every reader the cases reach.

#![expect(clippy::print_stdout, reason = "a task talks to the person who started it")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::Child;
use crate::error::TaskError;
use crate::workspace;

/// Fuzzes the named reader, or all of them, with counters in the crates that read files, and prints the share of its lines that
/// were reached.
pub(super) fn run(name: Option<&str>, arguments: &[&str]) -> Result<(), TaskError> {
    let tools = Tools::find()?;
    let folder = workspace::root().join("target/fuzz");
    fs::create_dir_all(&folder).map_err(TaskError::at(&folder))?;
    let program = build(&folder)?;
    let fuzzer = |counted: &Path| Child::new(&program).env("LLVM_PROFILE_FILE", &counted.display().to_string());
    // Without a place it would write its counters into the working folder.
    let unused = folder.join("unused.profraw");
    let list = fuzzer(&unused).args(["--list"]).output()?;
    let readers = list.lines().filter_map(|line| line.split_once(' '));
    let mut chosen = readers.filter(|(reader, _)| name.is_none_or(|name| name == *reader)).peekable();
    if chosen.peek().is_none() {
        // Which there are, it says itself.
        return fuzzer(&unused).args(name).run();
    }
    for (reader, sources) in chosen {
        let counted = folder.join(format!("{reader}.profraw"));
        fuzzer(&counted).args(arguments).args([reader]).run()?;
        let summary = tools.summary(&program, &counted, sources)?;
        fs::remove_file(&counted).map_err(TaskError::at(&counted))?;
        println!("{summary}");
    }
    Ok(())
}

/// Passes a flag to the compiler for the crates that read files. In those that compute, counters would take minutes of building.
const WRAPPER: &str = r#"#!/bin/sh
case " $* " in
*" --crate-name fbp_models "* | *" --crate-name fbp_train "* | *" --crate-name fbp_fuzz "*) exec "$@" -C instrument-coverage ;;
*) exec "$@" ;;
esac
"#;

/// Builds the fuzzer with counters; what other people wrote is not built again.
fn build(folder: &Path) -> Result<PathBuf, TaskError> {
    let wrapper = folder.join("rustc-that-counts");
    write_script(&wrapper, WRAPPER).map_err(TaskError::at(&wrapper))?;
    let target = workspace::root().join("target");
    let [wrapper, target_name] = [&wrapper, &target].map(|path| path.display().to_string());
    Child::cargo()
        .args(["build", "--package", "fbp-fuzz", "--target-dir", &target_name])
        .env("RUSTC_WORKSPACE_WRAPPER", &wrapper)
        .run()?;
    // The next build without counters takes its place.
    let (built, kept) = (target.join("debug/fbp-fuzz"), folder.join("fbp-fuzz-that-counts"));
    fs::copy(&built, &kept).map_err(TaskError::at(&built))?;
    Ok(kept)
}

fn write_script(path: &Path, text: &str) -> std::io::Result<()> {
    fs::write(path, text)?;
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// The programs of LLVM that belong to the compiler.
struct Tools {
    folder: PathBuf,
}

impl Tools {
    fn find() -> Result<Self, TaskError> {
        let library = Child::new("rustc").args(["--print", "target-libdir"]).output()?;
        let folder = Path::new(library.trim()).with_file_name("bin");
        if folder.join("llvm-cov").exists() && folder.join("llvm-profdata").exists() {
            return Ok(Self { folder });
        }
        Err(TaskError::Refused(format!(
            "{} has no llvm-cov and llvm-profdata, which count lines: rustup component add llvm-tools",
            folder.display()
        )))
    }

    /// Reached lines of some files, in words.
    fn summary(&self, program: &Path, counted: &Path, sources: &str) -> Result<String, TaskError> {
        let merged = counted.with_extension("profdata");
        let [program, counted, merged] = [program, counted, &merged].map(|path| path.display().to_string());
        Child::new(self.folder.join("llvm-profdata")).args(["merge", "--sparse", &counted, "-o", &merged]).run()?;
        let profile = format!("--instr-profile={merged}");
        let text = Child::new(self.folder.join("llvm-cov"))
            .args(["export", "--summary-only", &profile, &program])
            .args(sources.split(' '))
            .output()?;
        let told: Value = serde_json::from_str(&text)
            .map_err(|error| TaskError::Content { what: "what llvm-cov wrote".into(), reason: error.to_string() })?;
        let files = told["data"][0]["files"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(files.iter().map(file_line).collect::<Vec<_>>().join("\n"))
    }
}

fn file_line(file: &Value) -> String {
    let name = file["filename"].as_str().unwrap_or_default();
    let root = workspace::root();
    let name = Path::new(name).strip_prefix(&root).map_or(name.into(), |name| name.display().to_string());
    let lines = &file["summary"]["lines"];
    let [covered, count] = ["covered", "count"].map(|key| lines[key].as_u64().unwrap_or_default());
    format!("    {name:48} {covered:4} of {count:4} lines, {:5.1} %", 100.0 * covered as f64 / count.max(1) as f64)
}
