//! The command line: one file for each command. Nothing here prints; the caller gives the streams.

mod analyse;
mod eval;
mod explain;
mod post_train;
mod pretrain;
mod progress;
mod repair;
mod report;
mod sweep;
mod targets;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::TrainError;
use crate::atomic::{folder_of, prepare_folder};
use crate::input;
use crate::json::write_json;

/// Computes what the features of a network should have been, and trains with it.
#[derive(Debug, Parser)]
#[command(name = "fbp", version, arg_required_else_help = true)]
#[command(after_help = "Example, the whole way:\n  \
    cargo fbp pretrain --model simple-cnn-mnist-v2 --data fashion-mnist --epochs 5 --out c.safetensors\n  \
    cargo fbp targets --checkpoint c.safetensors --data fashion-mnist --margin 1 --out t/\n  \
    cargo fbp post-train --checkpoint c.safetensors --targets t/ --data fashion-mnist --stage conv1 --alpha 0.3 --out runs/\n  \
    cargo fbp report --runs runs/ --out runs/\n\n\
    RUST_LOG=info (or debug) shows what happens inside.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pretrain(pretrain::PretrainArgs),
    Targets(targets::TargetsArgs),
    PostTrain(post_train::PostTrainArgs),
    Eval(eval::EvalArgs),
    Explain(explain::ExplainArgs),
    Analyse(analyse::AnalyseArgs),
    Repair(repair::RepairArgs),
    Sweep(sweep::SweepArgs),
    Report(report::ReportArgs),
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
struct CommonArgs {
    /// Worker threads; all cores by default
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Seed of everything random: starting weights and the order of the samples
    #[arg(long, global = true, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write the result as JSON
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl CommonArgs {
    /// Writes the result where `--json` says.
    /// Finds out before the work whether its result can be written, and refuses to replace anything but a result.
    fn check_json(&self) -> Result<(), TrainError> {
        let Some(path) = &self.json else { return Ok(()) };
        prepare_folder(&folder_of(path))?;
        match std::fs::read(path) {
            Ok(text) if serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_err() => {
                let range = "a new file or one with an earlier result; this one holds something else";
                Err(TrainError::Parameter { name: "--json", value: path.display().to_string(), range })
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainError::writing(path)(error)),
            _ => Ok(()),
        }
    }

    fn write_json<R: serde::Serialize>(&self, result: &R) -> Result<(), TrainError> {
        self.json.as_deref().map_or(Ok(()), |path| write_json(path, result))
    }
}

/// Where a command writes its results for people to read.
type Out<'a> = &'a mut (dyn Write + Send);

/// Runs one command; its result goes to `out`, its progress to the standard error stream.
///
/// # Errors
/// Everything that keeps a command from doing what was asked.
pub fn run(cli: Cli, out: Out<'_>) -> Result<(), TrainError> {
    cli.common.check_json()?;
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = cli.common.threads {
        pool = pool.num_threads(usize::from(threads));
    }
    let pool = pool.build()?;
    let Cli { command, common } = cli;
    pool.install(|| match command {
        Command::Pretrain(args) => pretrain::run(&args, &common, out),
        Command::Targets(args) => targets::run(&args, &common, out),
        Command::PostTrain(args) => post_train::run(&args, &common, out),
        Command::Eval(args) => eval::run(&args, &common, out),
        Command::Explain(args) => explain::run(&args, &common, out),
        Command::Analyse(args) => analyse::run(&args, &common, out),
        Command::Repair(args) => repair::run(&args, &common, out),
        Command::Sweep(args) => sweep::run(&args, &common, out),
        Command::Report(args) => report::run(&args, &common, out),
    })
}

/// Writes a line of the result.
fn say(out: Out<'_>, line: std::fmt::Arguments<'_>) -> Result<(), TrainError> {
    match out.write_fmt(format_args!("{line}\n")) {
        // The reader of a pipe has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(TrainError::writing("standard output")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = format!("cargo fbp {} ", command.get_name());
            assert!(help.contains(&example), "{}: {help}", command.get_name());
        }
    }
}
