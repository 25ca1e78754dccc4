//! Tasks of this repository: `cargo xtask demo | fetch | bench | check | fuzz | modules`.
//!
//! This program links no crate of the workspace: it starts programs and reads the files that they write.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to the person who started it")]

mod bench;
mod check;
mod command;
mod demo;
mod error;
mod fetch;
mod fuzz;
#[cfg(test)]
mod http;
mod layering;
mod manifest;
mod mini;
mod modules;
mod shapes;
mod sources;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Bench(Box<bench::Arguments>),
    Check(check::Arguments),
    Demo(demo::Arguments),
    Fetch(fetch::Arguments),
    Fuzz(fuzz::Arguments),
    Modules(modules::Arguments),
    #[command(hide = true)]
    MakeMini(mini::Arguments),
    #[command(hide = true)]
    MakeShapes(shapes::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Check(arguments) => check::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Fetch(arguments) => fetch::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Modules(arguments) => modules::run(&arguments),
        Task::MakeMini(arguments) => mini::run(&arguments),
        Task::MakeShapes(arguments) => shapes::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.with_sources());
            ExitCode::FAILURE
        }
    }
}
