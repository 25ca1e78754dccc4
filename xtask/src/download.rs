//! The program that `cargo xtask fetch` downloads with: `download URL LIMIT PATH`. A program of its own, so that all other tasks are
//! built without what speaks TLS.

#![expect(clippy::print_stderr, reason = "it tells the task that started it why it stopped")]

mod http;

use std::fs::File;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let [url, limit, path] = arguments else { return Err("usage: download URL LIMIT PATH".into()) };
    let limit = limit.parse().map_err(|_| format!("{limit} is no number of bytes"))?;
    let mut file = File::create(path).map_err(|error| format!("{path}: {error}"))?;
    http::get(url, limit, &mut file)
}
