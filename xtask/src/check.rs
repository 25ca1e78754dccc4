//! `cargo xtask check`: everything that must hold before a change goes in, cheapest first.

use std::time::Instant;

use clap::Args;

use crate::bench::target_folder;
use crate::command::Child;
use crate::error::TaskError;
use crate::{layering, modules, sources};

/// Check what must hold before a change goes in, cheapest first
///
/// The first failure stops the check and names the command that failed.
#[derive(Args)]
#[command(after_help = "Example: cargo xtask check --fast")]
pub(crate) struct Arguments {
    /// Leave out what takes long: documentation, single features, examples and tests
    #[arg(long)]
    fast: bool,
}

/// A named part of the check.
struct Step {
    name: String,
    work: Work,
}

enum Work {
    Look(fn() -> Result<(), TaskError>),
    Run(Box<Child>),
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    let steps = steps(arguments.fast)?;
    let (count, start) = (steps.len(), Instant::now());
    for (index, Step { name, work }) in steps.into_iter().enumerate() {
        let begun = Instant::now();
        println!("[{}/{count}] {name}", index + 1);
        match work {
            Work::Look(look) => look()?,
            Work::Run(child) => {
                println!("      {}", child.line());
                child.run()?;
            }
        }
        println!("      passed in {:.1} s", begun.elapsed().as_secs_f64());
    }
    println!("check passed: {count} steps in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// All steps, cheapest first.
fn steps(fast: bool) -> Result<Vec<Step>, TaskError> {
    let look = |name: &str, look| Step { name: name.to_owned(), work: Work::Look(look) };
    let mut steps = vec![
        look("layering: which crate uses which", layering::check),
        look("modules: which module uses which", modules::check),
        look("sources: file length, unfinished code, settings", sources::check),
        cargo("format", &["fmt", "--all", "--", "--check"]),
        cargo("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ];
    if fast {
        return Ok(steps);
    }
    let doc = Child::cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    steps.push(Step { name: "documentation".to_owned(), work: Work::Run(Box::new(doc)) });
    steps.extend(single_features()?);
    steps.push(cargo("downloads", &["check", "--package", "xtask", "--features", "download"]));
    steps.extend(examples()?);
    steps.push(cargo("tests", &["test", "--workspace"]));
    Ok(steps)
}

fn cargo(name: &str, arguments: &[&str]) -> Step {
    Step { name: name.to_owned(), work: Work::Run(Box::new(Child::cargo().args(arguments))) }
}

/// One step per library crate and feature: it must build on its own, without what other crates switch on.
fn single_features() -> Result<Vec<Step>, TaskError> {
    let mut steps = Vec::new();
    for (path, manifest) in layering::manifests()? {
        let Some(package) = layering::package_name(&manifest) else { continue };
        if !layering::folder(&path).join("src/lib.rs").is_file() {
            continue;
        }
        let alone = ["check", "--package", package, "--no-default-features"];
        steps.push(cargo(&format!("{package} without features"), &alone));
        for feature in layering::features(&manifest) {
            let arguments = [&alone[..], &["--features", feature]].concat();
            steps.push(cargo(&format!("{package} with {feature} alone"), &arguments));
        }
    }
    Ok(steps)
}

/// Builds the examples of all library crates with the features of the tests, and then runs one after the other: each must
/// end with 0.
fn examples() -> Result<Vec<Step>, TaskError> {
    let (mut features, mut runs) = (Vec::new(), Vec::new());
    let folder = target_folder()?.join("debug").join("examples");
    for (path, manifest) in layering::manifests()? {
        let Some(package) = layering::package_name(&manifest) else { continue };
        features.extend(layering::features(&manifest).iter().map(|feature| format!("{package}/{feature}")));
        for name in layering::examples(&path)? {
            let binary = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
            let name = format!("example {name} of {package}");
            runs.push(Step { name, work: Work::Run(Box::new(Child::new(binary))) });
        }
    }
    let mut steps = vec![cargo("examples", &["build", "--workspace", "--examples", "--features", &features.join(",")])];
    steps.extend(runs);
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(fast: bool) -> Vec<String> {
        let steps = steps(fast).unwrap();
        let line = |step: &Step| match &step.work {
            Work::Look(_) => step.name.clone(),
            Work::Run(child) => child.line(),
        };
        steps.iter().map(line).collect()
    }

    #[test]
    fn the_check_ends_with_the_tests_of_the_workspace() {
        let lines = lines(false);
        assert!(lines.last().unwrap().ends_with("cargo test --workspace"), "{lines:?}");
        for wanted in [
            "fmt --all -- --check",
            "clippy --workspace --all-targets -- -D warnings",
            "RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps",
            "check --package fbp-linalg --no-default-features --features testkit",
            "check --package fbp-inverse --no-default-features --features testkit",
            "check --package fbp-train --no-default-features",
            "check --package xtask --features download",
        ] {
            assert!(lines.iter().any(|line| line.contains(wanted)), "{wanted}: {lines:?}");
        }
    }

    #[test]
    fn the_fast_check_builds_no_test() {
        assert_eq!(lines(true).len(), 5);
        assert!(lines(true).iter().all(|line| !line.contains("test")));
    }
}
