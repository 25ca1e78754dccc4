//! The program `fbp-mpi`: see `fbp-mpi --help`.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use fbp_cli::RankEnd;
use fbp_mpi::MpiRank;
use fbp_train::collective::Collective;

/// How long other ranks than the first wait before they say what is wrong: mostly the first one has the same error, and says
/// it for all.
const FIRST_SPEAKS: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    fbp_cli::prepare_process();
    let (universe, rank) = match MpiRank::start() {
        Ok(started) => started,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (number, size) = (rank.rank(), rank.size());
    match fbp_cli::fbp_rank(Arc::new(rank)) {
        RankEnd::Exit(status) => {
            drop(universe);
            ExitCode::from(status)
        }
        RankEnd::Failed(text) => {
            let who = if number == 0 { String::new() } else { format!("rank {number}: ") };
            if number > 0 {
                // One after the other, so that one is enough.
                std::thread::sleep(FIRST_SPEAKS + Duration::from_millis(20) * u32::try_from(number).unwrap_or(0));
            }
            let _ = writeln!(std::io::stderr().lock(), "error: {who}{text}");
            if size == 1 {
                drop(universe);
                return ExitCode::FAILURE;
            }
            MpiRank::abort(1)
        }
    }
}
