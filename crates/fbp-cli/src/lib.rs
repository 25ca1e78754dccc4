#![doc = include_str!("../README.md")]

mod adapt;
mod analyse;
mod choices;
mod command;
mod common;
mod compress;
mod data;
mod error;
mod eval;
mod explain;
mod export;
mod image_size;
mod import;
mod json_output;
mod look_up;
mod merge;
mod post_train;
mod predict;
mod preprocess;
mod pretrain;
mod progress;
mod repair;
mod report;
mod signals;
mod sweep;
mod table;
mod targets;
mod team;
mod write_data;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};
use fbp_train::collective::Collective;
use tracing_subscriber::EnvFilter;

use crate::command::Cli;
use crate::team::TeamCli;

/// To be called first in `main`, before anything else that could start threads: keeps candle from running its own threads beside those of this program.
///
/// candle adds up gradients on a pool of threads that wait in busy loops. Where the cores are taken, by another run of a
/// sweep above all, an addition then waits for a thread that is not scheduled: an epoch of joint training on
/// Fashion-MNIST took 1.7 s on a busy machine of two cores, and 0.6 s without that pool.
#[expect(unsafe_code, reason = "candle takes this setting from the environment alone")]
pub fn prepare_process() {
    const VARIABLE: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: called first in every program, when there is no other thread that could read the environment.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
}

fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false).init();
}

/// The program `fbp`, with the arguments of this process, after [`prepare_process`].
pub fn fbp() -> ExitCode {
    start_log();
    let mut command = Cli::command();
    command.build();
    let mut matches = command.clone().get_matches();
    let typed = typed(&command, &matches).clone();
    let cli = Cli::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit());
    match command::run(cli, &mut std::io::stdout()) {
        Ok(code) => code,
        Err(error) => {
            // Nothing is left to do if even this cannot be written.
            let is_stop = error.is_stop();
            let head = if is_stop { "" } else { "error: " };
            let _ = writeln!(std::io::stderr().lock(), "{head}{}", error.text(&typed));
            let signal = signals::came().filter(|_| is_stop);
            signal.map_or(ExitCode::FAILURE, |signal| ExitCode::from(signals::exit_status(signal)))
        }
    }
}

/// How one rank of a program on several machines has ended.
#[derive(Debug)]
pub enum RankEnd {
    /// As it should, or stopped as asked: with this exit status. All ranks end so together.
    Exit(u8),
    /// With this error, about which the other ranks know nothing: they have to be ended.
    Failed(String),
}

/// One rank of the program `fbp-mpi`, with the arguments of this process: the commands of `fbp` that several processes can do
/// together. Only the first rank prints and writes results. After [`prepare_process`].
pub fn fbp_rank(team: Arc<dyn Collective>) -> RankEnd {
    start_log();
    let is_first = team.rank() == 0;
    let mut command = TeamCli::command();
    command.build();
    let parsed = command.clone().try_get_matches().and_then(|mut matches| {
        let typed = typed(&command, &matches).clone();
        Ok((TeamCli::from_arg_matches_mut(&mut matches)?, typed))
    });
    let (cli, typed) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            if is_first {
                let _ = error.print();
            }
            return RankEnd::Exit(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match team::run(&cli, team) {
        Ok(()) => RankEnd::Exit(0),
        Err(error) if error.is_stop() => {
            if is_first {
                let _ = writeln!(std::io::stderr().lock(), "{}", error.text(&typed));
            }
            // A rank that got no signal itself ends like the others.
            RankEnd::Exit(signals::came().map_or(1, signals::exit_status))
        }
        Err(error) => RankEnd::Failed(error.text(&typed)),
    }
}

/// The command that was typed, the innermost one.
fn typed<'a>(command: &'a Command, matches: &ArgMatches) -> &'a Command {
    match matches.subcommand() {
        Some((name, matches)) => command.find_subcommand(name).map_or(command, |inner| typed(inner, matches)),
        None => command,
    }
}
