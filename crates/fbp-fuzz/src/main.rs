//! `cargo xtask fuzz`: cases for as long as one likes.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to the person who started it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use fbp_fuzz::allocation::Counting;
use fbp_fuzz::cases::{Campaign, Tally, Until};
use fbp_fuzz::{READERS, folder_in_memory};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Give readers real files that were changed at random, and keep what they stumble over
#[derive(Parser)]
#[command(name = "cargo xtask fuzz", bin_name = "cargo xtask fuzz")]
struct Arguments {
    /// One of the readers [default: all of them, one after the other]
    name: Option<String>,
    /// Time of the processor for each
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of the changes
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder for inputs that failed
    #[arg(long, default_value = "target/fuzz")]
    out: PathBuf,
    /// List the readers, each with the files of this repository that it is made of
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Panics are findings, told in one line each.
    std::panic::set_hook(Box::new(|_| {}));
    match run(&arguments) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(findings) => {
            eprintln!(
                "{findings} findings, in {}: mend them, and keep them in crates/fbp-fuzz/found",
                arguments.out.display()
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<usize, Box<dyn std::error::Error>> {
    if arguments.list {
        READERS.iter().for_each(|reader| println!("{} {}", reader.name, reader.sources.join(" ")));
        return Ok(0);
    }
    let chosen = READERS.iter().filter(|reader| arguments.name.as_deref().is_none_or(|name| name == reader.name));
    let mut findings = 0;
    let mut count = 0;
    fs::create_dir_all(&arguments.out)?;
    for reader in chosen {
        count += 1;
        let campaign = Campaign::new(reader)?;
        // What ends the process is found there.
        let current = folder_in_memory().join(format!("fbp-fuzz-{}-{}", reader.name, std::process::id()));
        let until = Until::Time(Duration::from_secs(arguments.seconds));
        let tally = campaign.run_many(arguments.seed, until, Some(&current))?;
        fs::remove_file(&current)?;
        println!("{}", line(reader.name, &tally));
        for (index, finding) in tally.findings.iter().enumerate() {
            let path: &Path = &arguments.out.join(format!("{}-{}-{index}", reader.name, arguments.seed));
            fs::write(path, &finding.input)?;
            println!("    {}: {}", path.display(), finding.reason);
        }
        findings += tally.findings.len();
    }
    if count == 0 {
        let names: Vec<&str> = READERS.iter().map(|reader| reader.name).collect();
        return Err(format!("there is no such reader; there are {}", names.join(", ")).into());
    }
    Ok(findings)
}

fn line(name: &str, tally: &Tally) -> String {
    let Tally { cases, accepted, most_bytes, largest_ratio, longest, findings } = tally;
    format!(
        "{name:16} {cases:8} cases, {:5.1} % accepted, at most {:.2} MiB in use, {largest_ratio:.0} bytes per byte, longest {:.0} ms, {} findings",
        100.0 * *accepted as f64 / (*cases).max(1) as f64,
        *most_bytes as f64 / f64::from(1 << 20),
        1e3 * longest.as_secs_f64(),
        findings.len(),
    )
}
