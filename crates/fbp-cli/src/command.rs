//! The command line. Nothing here prints; the caller gives the streams.

use clap::{Parser, Subcommand};

use crate::common::{CommonArgs, Out};
use crate::error::CliError;
use crate::{analyse, eval, explain, export, import, post_train, predict, pretrain, repair, report, sweep, targets};

/// Computes what the features of a network should have been, and trains with it.
#[derive(Debug, Parser)]
#[command(name = "fbp", version, arg_required_else_help = true)]
#[command(after_help = "Example, the whole way:\n  \
    cargo fbp pretrain --model simple-cnn-mnist-v2 --data fashion-mnist --epochs 5 --out c.safetensors\n  \
    cargo fbp targets --checkpoint c.safetensors --data fashion-mnist --margin 1 --out t/\n  \
    cargo fbp post-train --checkpoint c.safetensors --targets t/ --data fashion-mnist --stage conv1 --alpha 0.3 --out runs/\n  \
    cargo fbp report --runs runs/ --out runs/\n\n\
    RUST_LOG=info (or debug) shows what happens inside.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: CommonArgs,
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
    Export(export::ExportArgs),
    Sweep(sweep::SweepArgs),
    Report(report::ReportArgs),
}

/// Runs one command; its result goes to `out`, its progress to the standard error stream.
///
/// # Errors
/// Everything that keeps a command from doing what was asked.
pub(crate) fn run(cli: Cli, out: Out<'_>) -> Result<(), CliError> {
    cli.common.check_json()?;
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = cli.common.threads {
        pool = pool.num_threads(usize::from(threads));
    }
    let pool = pool.build()?;
    let Cli { command, common } = cli;
    pool.install(|| match command {
        Command::Import(args) => import::run(&args, &common, out),
        Command::Export(args) => export::run(&args, &common, out),
        Command::Predict(args) => predict::run(&args, &common, out),
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
