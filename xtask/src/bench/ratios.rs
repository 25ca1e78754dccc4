//! `cargo xtask bench ratios`: accuracy of every solver on random problems.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::context::Context;
use super::{Arguments, target_folder};
use crate::error::TaskError;
use crate::fetch::write_whole;
use crate::workspace;

/// The benchmark that measures errors, not times.
pub(super) const NAME: &str = "ratios";

/// Runs the program and adds the context to what it found, also where a rule is broken.
pub(super) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    let number = |name: &str, value: Option<u64>| value.map(|value| [format!("--{name}"), value.to_string()]);
    let solver = arguments.solver.as_ref().map(|solver| ["--solver".to_owned(), solver.clone()]);
    let flags = [number("cases", arguments.cases), number("seed", arguments.seed), solver];
    let flags: Vec<String> = flags.into_iter().flatten().flatten().collect();
    let whole = flags.is_empty() && !arguments.quick;
    let folder = target_folder()?.join("bench-results");
    fs::create_dir_all(&folder).map_err(TaskError::at(&folder))?;
    let context = Context::collect()?;
    let path = folder.join("ratios.json");
    // What an earlier run left must not be taken for the result of one that stopped.
    if path.exists() {
        fs::remove_file(&path).map_err(TaskError::at(&path))?;
    }
    let quick = if arguments.quick && arguments.cases.is_none() { vec!["--cases", "200"] } else { Vec::new() };
    let child = super::cargo_bench(NAME).args(quick).args(flags.iter().map(String::as_str));
    let outcome = child.env("FBP_RESULTS", &folder.display().to_string()).run();
    if path.exists() {
        add_context(&path, &context)?;
        let kept = if whole { workspace::root().join("benches/results/ratios.json") } else { path.clone() };
        if whole {
            let text = fs::read(&path).map_err(TaskError::at(&path))?;
            write_whole(&kept, &text)?;
        }
        println!("kept in {}", kept.display());
    }
    outcome
}

/// Adds processor, cores, compiler, commit and date.
fn add_context(path: &Path, context: &Context) -> Result<(), TaskError> {
    let malformed =
        |error: serde_json::Error| TaskError::Malformed { path: path.to_owned(), reason: error.to_string() };
    let text = fs::read_to_string(path).map_err(TaskError::at(path))?;
    let mut value: Value = serde_json::from_str(&text).map_err(malformed)?;
    value["context"] = serde_json::to_value(context).map_err(malformed)?;
    let mut text = serde_json::to_string_pretty(&value).map_err(malformed)?;
    text.push('\n');
    write_whole(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_is_added_to_what_the_program_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ratios.json");
        fs::write(&path, "{ \"bench\": \"ratios\", \"solvers\": [] }").unwrap();
        add_context(&path, &Context::collect().unwrap()).unwrap();
        let value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(value["bench"], "ratios");
        assert!(value["context"]["cores"].as_u64().unwrap() >= 1);
        fs::write(&path, "no JSON").unwrap();
        assert!(matches!(add_context(&path, &Context::collect().unwrap()), Err(TaskError::Malformed { .. })));
    }
}
