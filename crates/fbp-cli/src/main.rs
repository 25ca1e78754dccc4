//! The `fbp` program: see `fbp --help`. One file for each command.

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
mod write_data;

use std::io::Write;
use std::process::ExitCode;

use clap::{Command, CommandFactory, FromArgMatches};
use tracing_subscriber::EnvFilter;

use crate::command::{Cli, run};

/// Keeps candle from running its own threads beside those of this program.
///
/// candle adds up gradients on a pool of threads that wait in busy loops. Where the cores are taken, by another run of a
/// sweep above all, an addition then waits for a thread that is not scheduled: an epoch of joint training on
/// Fashion-MNIST took 1.7 s on a busy machine of two cores, and 0.6 s without that pool.
#[expect(unsafe_code, reason = "candle takes this setting from the environment alone")]
fn one_candle_thread() {
    const VARIABLE: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: called first in `main`, when no other thread can read the environment.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
}

fn main() -> ExitCode {
    one_candle_thread();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false).init();
    let mut command = Cli::command();
    command.build();
    let mut matches = command.clone().get_matches();
    let typed = typed(&command, &matches).clone();
    let cli = Cli::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit());
    match run(cli, &mut std::io::stdout()) {
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

/// The command that was typed, the innermost one.
fn typed<'a>(command: &'a Command, matches: &clap::ArgMatches) -> &'a Command {
    match matches.subcommand() {
        Some((name, matches)) => command.find_subcommand(name).map_or(command, |inner| typed(inner, matches)),
        None => command,
    }
}
