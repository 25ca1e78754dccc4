//! The `fbp` program: see `fbp --help`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use fbp_train::cli::{Cli, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
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
