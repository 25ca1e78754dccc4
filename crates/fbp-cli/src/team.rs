//! Commands that several processes do together.

use std::sync::Arc;

use clap::{Parser, Subcommand};
use fbp_train::TrainError;
use fbp_train::collective::{Collective, CollectiveError, threads};

use crate::common::{CommonOptions, Out};
use crate::error::CliError;
use crate::{post_train, pretrain, targets};

/// Does the work of fbp with several processes on one or more machines, started by mpirun or srun.
///
/// targets: each rank makes its share of the shards. pretrain, and post-train --mode full: each rank has its slice of every batch.
/// post-train --mode hierarchical: each rank trains the segments that are dealt to it. Arguments are those of fbp; the first rank
/// prints and writes the results.
#[derive(Debug, Parser)]
#[command(name = "fbp-mpi", version, arg_required_else_help = true)]
#[command(
    after_help = "Example:\n  mpirun -n 4 fbp-mpi pretrain --model resnet20-mnist --data fashion-mnist --threads 8 \
    --out c.safetensors"
)]
pub(crate) struct TeamCli {
    #[command(subcommand)]
    command: TeamCommand,
    #[command(flatten)]
    common: CommonOptions,
    /// One process in place of N: as many threads do what N processes would do, to the same bits; --threads are for each of them
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    slices: Option<u16>,
}

#[derive(Debug, Subcommand)]
enum TeamCommand {
    Targets(targets::TargetsArgs),
    Pretrain(pretrain::PretrainArgs),
    PostTrain(post_train::PostTrainArgs),
}

impl TeamCommand {
    fn name(&self) -> &'static str {
        match self {
            Self::Targets(_) => "targets",
            Self::Pretrain(_) => "pretrain",
            Self::PostTrain(_) => "post-train",
        }
    }
}

/// Does the work of one rank, or of all ranks that are threads of one process.
///
/// # Errors
/// Everything that keeps the command from doing what was asked.
pub(crate) fn run(cli: &TeamCli, team: Arc<dyn Collective>) -> Result<(), CliError> {
    let Some(slices) = cli.slices else { return run_rank(cli, team) };
    if team.size() > 1 {
        let reason =
            "is for one process, which then does what several would do: leave it out, or leave out mpirun".into();
        return Err(TrainError::Setting { name: "slices", value: slices.to_string(), reason }.into());
    }
    let ended: Vec<_> = std::thread::scope(|scope| {
        let start = |rank| scope.spawn(move || run_rank(cli, Arc::new(rank)));
        let ranks: Vec<_> = threads(usize::from(slices)).into_iter().map(start).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut errors: Vec<CliError> = ended.into_iter().filter_map(Result::err).collect();
    // Whoever ends first takes the others along: what they say is no cause.
    let cause = errors.iter().position(|error| !is_left(error)).unwrap_or(0);
    if errors.is_empty() { Ok(()) } else { Err(errors.swap_remove(cause)) }
}

fn is_left(error: &CliError) -> bool {
    matches!(error, CliError::Train(TrainError::Collective(CollectiveError::Left)))
}

fn run_rank(cli: &TeamCli, team: Arc<dyn Collective>) -> Result<(), CliError> {
    let pool = cli.common.pool()?;
    let common = cli.common.open_for(cli.command.name(), team)?;
    let (mut stdout, mut stderr, mut nowhere) = (std::io::stdout(), std::io::stderr(), std::io::sink());
    let out: Out<'_> = match (common.is_first(), common.json.is_stdout()) {
        (false, _) => &mut nowhere,
        (true, true) => &mut stderr,
        (true, false) => &mut stdout,
    };
    pool.install(|| match &cli.command {
        TeamCommand::Targets(args) => targets::run(args, &common, out),
        TeamCommand::Pretrain(args) => pretrain::run(args, &common, out),
        TeamCommand::PostTrain(args) => post_train::run(args, &common, out),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        TeamCli::command().debug_assert();
    }
}
