//! The questions of `fbp analyse`: one file for each.

mod repair;
mod stages;

use clap::{Args, Subcommand};

use crate::common::{CommonArgs, Out};
use crate::error::CliError;

/// Ask what the targets tell about a network, and what its repair costs
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  cargo fbp analyse stages --model simple-cnn-mnist-v2 --data fashion-mnist \
    --epochs 10 --out analysis/")]
pub(crate) struct AnalyseArgs {
    #[command(subcommand)]
    question: Question,
}

#[derive(Clone, Debug, Subcommand)]
enum Question {
    Stages(stages::StagesArgs),
    Repair(repair::RepairArgs),
}

impl AnalyseArgs {
    /// What is typed to run it.
    pub(crate) fn name(&self) -> &'static str {
        match self.question {
            Question::Stages(_) => "analyse stages",
            Question::Repair(_) => "analyse repair",
        }
    }
}

pub(crate) fn run(args: &AnalyseArgs, common: &CommonArgs, out: Out<'_>) -> Result<(), CliError> {
    match &args.question {
        Question::Stages(args) => args.run(common, out),
        Question::Repair(args) => args.run(common, out),
    }
}
