//! Accuracy of every solver on random problems: residuals, optimality and honesty of the reports.
//!
//! Writes `ratios.json` to the folder that `FBP_RESULTS` names, if it names one. Arguments: `--cases 10000` per solver,
//! `--seed 1`, `--solver NAME`. Ends in failure if a rule is broken.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to the person who started it")]

mod suite;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;
use std::{env, fs};

use serde_json::{Value, json};

struct Options {
    cases: u64,
    seed: u64,
    solver: Option<String>,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut options = Self { cases: 10_000, seed: 1, solver: None };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--cases" => options.cases = value()?.parse()?,
                "--seed" => options.seed = value()?.parse()?,
                "--solver" => options.solver = Some(value()?),
                // Cargo's flag, which means nothing here.
                "--bench" => {}
                other => return Err(format!("{other:?} is no argument of this program").into()),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(violations) if violations.is_empty() => ExitCode::SUCCESS,
        Ok(violations) => {
            violations.iter().for_each(|violation| eprintln!("{violation}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Vec<String>, Box<dyn Error>> {
    let options = Options::parse()?;
    let solvers: Vec<&suite::Solver> = match &options.solver {
        None => suite::SOLVERS.iter().collect(),
        Some(name) => {
            let names: Vec<_> = suite::SOLVERS.iter().map(|solver| solver.name).collect();
            vec![suite::find(name).ok_or_else(|| format!("no solver {name:?}; there are {}", names.join(", ")))?]
        }
    };
    let (mut results, mut violations) = (Vec::new(), Vec::new());
    for solver in solvers {
        let start = Instant::now();
        let summary = suite::run(solver, options.cases, options.seed);
        println!("{}\n({:.1} s)\n", summary.text(), start.elapsed().as_secs_f64());
        violations.extend(summary.violations());
        results.push(summary.json());
    }
    if let Some(folder) = env::var_os("FBP_RESULTS") {
        let path = Path::new(&folder).join("ratios.json");
        let value: Value = json!({ "bench": "ratios", "solvers": results });
        fs::write(&path, serde_json::to_string_pretty(&value)? + "\n")?;
    }
    Ok(violations)
}
