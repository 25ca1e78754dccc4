//! Rules that a look at the text of a file decides.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::TaskError;
use crate::workspace;

const MAX_LINES: usize = 600;

/// File names that say nothing about what is in the file.
const EMPTY_NAMES: [&str; 4] = ["utils.rs", "util.rs", "helpers.rs", "base.rs"];

/// What must not stand in Rust code. Written in halves, so that this file passes its own check.
const IN_CODE: [(&str, &str); 5] = [
    (concat!("to", "do!("), "finish it"),
    (concat!("unimple", "mented!("), "finish it"),
    (concat!("db", "g!("), "remove it"),
    (concat!("#[ign", "ore"), "a test runs or is deleted"),
    (concat!("```ign", "ore"), "an example runs: use `no_run` or `text` where it cannot"),
];

/// What must not stand in any setting.
const IN_SETTINGS: [(&str, &str); 1] =
    [(concat!("target-", "cpu"), "kernels choose instructions at run time, so that one build runs anywhere")];

/// Reads every source file and every setting.
pub(crate) fn check() -> Result<(), TaskError> {
    let root = workspace::root();
    let mut files = Vec::new();
    for part in ["crates", "benches", "xtask", ".cargo", ".ci", ".github", "Cargo.toml"] {
        collect(&root.join(part), &mut files)?;
    }
    let mut findings = Vec::new();
    for path in files {
        let place = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        let text = fs::read_to_string(&path).map_err(TaskError::at(&path))?;
        findings.extend(check_text(&path, &text).into_iter().map(|finding| format!("{place}{finding}")));
    }
    if findings.is_empty() { Ok(()) } else { Err(TaskError::Rules { step: "sources", findings }) }
}

/// Source files and settings below a folder, in order of their names.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), TaskError> {
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(TaskError::at(path))?;
        let mut below: Vec<_> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(TaskError::at(path))?;
        below.sort();
        let skipped = |path: &PathBuf| path.ends_with("target") || path.ends_with("results");
        return below.iter().filter(|path| !skipped(path)).try_for_each(|path| collect(path, files));
    }
    let is_text = path.extension().is_some_and(|kind| ["rs", "toml", "yml", "yaml"].iter().any(|text| kind == *text));
    if is_text || path.ends_with(".ci/run") {
        files.push(path.to_owned());
    }
    Ok(())
}

/// Findings in one file, each starting with what stands behind the file name: `: …` or `:LINE: …`.
fn check_text(path: &Path, text: &str) -> Vec<String> {
    let is_code = path.extension().is_some_and(|kind| kind == "rs");
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if is_code && lines > MAX_LINES {
        findings.push(format!(": {lines} lines, at most {MAX_LINES}: split it by what its parts do"));
    }
    if path.file_name().is_some_and(|name| EMPTY_NAMES.iter().any(|empty| name == *empty)) {
        findings.push(": name the file after what is in it".to_owned());
    }
    let forbidden = if is_code { &IN_CODE[..] } else { &IN_SETTINGS[..] };
    for (number, line) in text.lines().enumerate() {
        for (what, advice) in forbidden.iter().filter(|(what, _)| line.contains(what)) {
            findings.push(format!(":{}: `{what}`: {advice}", number + 1));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_keeps_the_rules() {
        check().unwrap();
    }

    #[test]
    fn forbidden_text_is_found_with_its_line() {
        for (what, _) in IN_CODE {
            let found = check_text(Path::new("src/a.rs"), &format!("fn a() {{\n    {what}x)\n}}\n"));
            assert!(found.len() == 1 && found[0].starts_with(":2: "), "{what}: {found:?}");
        }
        for (what, _) in IN_SETTINGS {
            assert_eq!(check_text(Path::new(".cargo/config.toml"), &format!("x = \"{what}=native\"")).len(), 1);
        }
    }

    #[test]
    fn long_files_and_empty_names_are_found() {
        assert!(check_text(Path::new("src/a.rs"), &"//\n".repeat(MAX_LINES)).is_empty());
        assert_eq!(check_text(Path::new("src/a.rs"), &"//\n".repeat(MAX_LINES + 1)).len(), 1);
        assert_eq!(check_text(Path::new("src/utils.rs"), "//").len(), 1);
    }
}
