//! `cargo xtask fuzz`: hostile input for every reader, for as long as one likes.

mod coverage;

use clap::Args;

use crate::command::Child;
use crate::error::TaskError;

/// Give readers real files that were changed at random, and keep what they stumble over in target/fuzz
///
/// A case fails if a reader panics, takes more memory than its input accounts for, or takes seconds. What failed goes to
/// crates/fbp-fuzz/found/READER/, where `cargo test` tries it again for ever. An input that ends the whole process is left as
/// fbp-fuzz-READER-PID in /dev/shm, or else in the folder for temporary files.
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask fuzz pytorch --seconds 600 --seed 3\n  cargo xtask fuzz --coverage")]
pub(crate) struct Arguments {
    /// One of the readers; an unknown one lists them [default: all of them, one after the other]
    name: Option<String>,
    /// Time of the processor for each
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of the changes
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Also count which lines of every reader the cases reach, with a build that counts (needs llvm-tools:
    /// `rustup component add llvm-tools`)
    #[arg(long)]
    coverage: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), TaskError> {
    let [seconds, seed] = [arguments.seconds, arguments.seed].map(|number| number.to_string());
    let fixed = ["--seconds", &seconds, "--seed", &seed];
    let name = arguments.name.as_deref();
    if arguments.coverage {
        return coverage::run(name, &fixed);
    }
    // Without optimisation for the machine, but with the checks of overflows and assertions, which are findings too.
    Child::cargo().args(["run", "--quiet", "--package", "fbp-fuzz", "--"]).args(fixed.into_iter().chain(name)).run()
}
