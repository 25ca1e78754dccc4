//! The `fbp` program: see `fbp --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    fbp_cli::prepare_process();
    fbp_cli::fbp()
}
