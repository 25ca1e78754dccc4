//! The command line. Nothing here prints; the caller gives the streams.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::common::{CommonOptions, Out};
use crate::error::CliError;
use crate::{
    adapt, analyse, compress, eval, explain, export, import, look_up, merge, post_train, predict, pretrain, repair,
    report, sweep, targets, write_data,
};

/// Computes what the features of a network should have been, and trains with it.
#[derive(Debug, Parser)]
#[command(name = "fbp", version, arg_required_else_help = true)]
#[command(after_help = "Example, the whole way:\n  \
    cargo fbp pretrain --model simple-cnn-mnist-v2 --data fashion-mnist --epochs 5 --out c.safetensors\n  \
    cargo fbp targets --checkpoint c.safetensors --data fashion-mnist --margin 1 --out t/\n  \
    cargo fbp post-train --checkpoint c.safetensors --targets t/ --data fashion-mnist --stage conv1 --alpha 0.3 --out runs/\n  \
    cargo fbp report --runs runs/ --out runs/\n\n\
    Exit status: 0 if it did what was asked, 1 with an error in words, 2 for a command line that cannot be understood, 130 and \
    143 if SIGINT (Ctrl-C) and SIGTERM ended it after its step, and what it did is kept; see also fbp repair.\n\n\
    RUST_LOG=info (or debug) shows what happens inside.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: CommonOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    Import(import::ImportArgs),
    Pretrain(pretrain::PretrainArgs),
    Targets(targets::TargetsArgs),
    PostTrain(post_train::PostTrainArgs),
    Eval(eval::EvalArgs),
    Predict(predict::PredictArgs),
    Explain(explain::ExplainArgs),
    Analyse(analyse::AnalyseArgs),
    Repair(repair::RepairArgs),
    Compress(compress::CompressArgs),
    Adapt(adapt::AdaptArgs),
    Export(export::ExportArgs),
    Sweep(sweep::SweepArgs),
    Merge(merge::MergeArgs),
    Report(report::ReportArgs),
    WriteData(write_data::WriteDataArgs),
    Models(look_up::ModelsArgs),
    Layers(look_up::LayersArgs),
    Completions(look_up::CompletionsArgs),
}

impl Command {
    /// What is typed to run it.
    fn name(&self) -> &'static str {
        match self {
            Self::Import(_) => "import",
            Self::Export(_) => "export",
            Self::Predict(_) => "predict",
            Self::Pretrain(_) => "pretrain",
            Self::Targets(_) => "targets",
            Self::PostTrain(_) => "post-train",
            Self::Eval(_) => "eval",
            Self::Explain(_) => "explain",
            Self::Analyse(args) => args.name(),
            Self::Repair(_) => "repair",
            Self::Compress(_) => "compress",
            Self::Adapt(_) => "adapt",
            Self::Sweep(_) => "sweep",
            Self::Merge(_) => "merge",
            Self::Report(_) => "report",
            Self::WriteData(_) => "write-data",
            Self::Models(_) => "models",
            Self::Layers(_) => "layers",
            Self::Completions(_) => "completions",
        }
    }
}

/// Runs one command and gives its exit status; its result goes to `out`, its progress to the standard error stream.
///
/// # Errors
/// Everything that keeps a command from doing what was asked.
pub(crate) fn run(cli: Cli, out: Out<'_>) -> Result<ExitCode, CliError> {
    let Cli { command, common } = cli;
    let pool = common.pool()?;
    let common = common.open(command.name())?;
    let mut stderr = std::io::stderr();
    // The standard output is for the result alone if it goes there.
    let out: Out<'_> = if common.json.is_stdout() { &mut stderr } else { out };
    let run = || {
        let done = match command {
            // Its status tells more.
            Command::Repair(args) => return repair::run(&args, &common, out),
            Command::Compress(args) => compress::run(&args, &common, out),
            Command::Adapt(args) => adapt::run(&args, &common, out),
            Command::Import(args) => import::run(&args, &common, out),
            Command::Export(args) => export::run(&args, &common, out),
            Command::Predict(args) => predict::run(&args, &common, out),
            Command::Pretrain(args) => pretrain::run(&args, &common, out),
            Command::Targets(args) => targets::run(&args, &common, out),
            Command::PostTrain(args) => post_train::run(&args, &common, out),
            Command::Eval(args) => eval::run(&args, &common, out),
            Command::Explain(args) => explain::run(&args, &common, out),
            Command::Analyse(args) => analyse::run(&args, &common, out),
            Command::Sweep(args) => sweep::run(&args, &common, out),
            Command::Merge(args) => merge::run(&args, &common, out),
            Command::Report(args) => report::run(&args, &common, out),
            Command::WriteData(args) => write_data::run(&args, &common, out),
            Command::Models(args) => look_up::models(&args, &common, out),
            Command::Layers(args) => look_up::layers(&args, &common, out),
            Command::Completions(args) => look_up::completions(&args, Cli::command(), &common, out),
        };
        done.map(|()| ExitCode::SUCCESS)
    };
    pool.install(run)
}

#[cfg(test)]
mod tests {
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
