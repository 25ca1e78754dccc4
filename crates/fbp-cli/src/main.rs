//! The `fbp` program: see `fbp --help`. One file for each command.

mod analyse;
mod command;
mod common;
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
use std::process::ExitCode;

use clap::Parser;
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
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Cli::parse(), &mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if even this cannot be written.
            let _ = writeln!(std::io::stderr().lock(), "error: {}", error.one_line());
            ExitCode::FAILURE
        }
    }
}
