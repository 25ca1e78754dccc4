//! Whole networks: training step, inference, and forward pass with product to the input, on one thread and on two, beside PyTorch
//! and candle.
//!
//! Writes `networks.json` and `networks.md` to the folder that `FBP_RESULTS` names (`benches/results` without it), where rows of
//! other processors stay, after every row. Arguments: `--peer torch`, `--network NAME` and `--work step|inference|product` (may
//! be given several times), `--quick`, which leaves out candle.
//!
//! Ours and theirs take turns, so that what else the machine does hits both; ratios are medians over these pairs.

#![expect(clippy::print_stdout, reason = "a benchmark talks to the person who started it")]

mod candle;
mod case;
mod ours;
mod output;

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use fbp_benches::{Peer, median, milliseconds};

use case::{CASES, Case, Work};
use ours::Ours;
use output::Entry;

/// Pairs of runs of which the medians count.
const PAIRS: usize = 20;
/// The same with `--quick`.
const QUICK_PAIRS: usize = 3;
/// Runs of candle, which is slower by a factor that needs no third digit.
const CANDLE_RUNS: usize = 3;
/// Time between two runs: threads that have nothing to do spin for some milliseconds, theirs as ours, and would take a processor from
/// whoever comes next.
const PAUSE: Duration = Duration::from_millis(20);
/// Numbers of threads.
const THREADS: [usize; 2] = [1, 2];

struct Options {
    torch: bool,
    quick: bool,
    networks: Vec<String>,
    works: Vec<Work>,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut options = Self { torch: false, quick: false, networks: Vec::new(), works: Vec::new() };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => options.quick = true,
                "--network" => {
                    let name = words.next().ok_or("--network needs a name")?;
                    if !CASES.iter().any(|case| case.name == name) {
                        let known = CASES.map(|case| case.name).join(", ");
                        return Err(format!("no network here is called {name:?}; there are {known}").into());
                    }
                    options.networks.push(name);
                }
                "--work" => {
                    let name = words.next().unwrap_or_default();
                    let work = Work::ALL.into_iter().find(|work| work.name() == name);
                    options.works.push(work.ok_or("--work needs one of step, inference, product")?);
                }
                "--peer" => match words.next().as_deref() {
                    Some("torch") => options.torch = true,
                    other => return Err(format!("no such peer: {other:?}; there is torch").into()),
                },
                // Cargo's flag, which means nothing here.
                "--bench" => {}
                other => return Err(format!("unknown argument {other:?}").into()),
            }
        }
        Ok(options)
    }

    fn cases(&self) -> impl Iterator<Item = &'static Case> {
        CASES.iter().filter(|case| self.networks.is_empty() || self.networks.iter().any(|name| name == case.name))
    }
}

/// Measures one row.
fn measure(
    (ours, work, threads): (&mut Ours, Work, usize),
    mut torch: Option<&mut Peer>,
    quick: bool,
    processor: &str,
) -> Result<Entry, Box<dyn Error>> {
    let pairs = if quick { QUICK_PAIRS } else { PAIRS };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let case = ours.case();
    let mut run = || -> Result<f64, Box<dyn Error>> {
        // Errors of a pool have to be able to change threads.
        pool.install(|| milliseconds(|| ours.run(work)).map_err(|error| error.to_string())).map_err(Into::into)
    };
    run()?;
    let (mut own, mut theirs) = (Vec::with_capacity(pairs), Vec::with_capacity(pairs));
    let line = format!("{} {} {work} {threads}", case.name, case.batch);
    if let Some(torch) = &mut torch {
        torch.run(&line)?;
    }
    for _ in 0..pairs {
        thread::sleep(PAUSE);
        own.push(run()?);
        if let Some(torch) = &mut torch {
            thread::sleep(PAUSE);
            theirs.push(torch.run(&line)?);
        }
    }
    let ratio = median(own.iter().zip(&theirs).map(|(own, theirs)| theirs / own).collect());
    let is_timed = !quick && work != Work::Product && threads == THREADS[1];
    let rival = if is_timed { candle::Rival::new(ours.network())? } else { None };
    let candle = match rival {
        Some(rival) => {
            let runs = (0..CANDLE_RUNS).map(|_| milliseconds(|| rival.run(work, ours.images(), ours.labels())));
            median(runs.collect::<Result<_, _>>()?)
        }
        None => None,
    };
    Ok(Entry {
        network: case.name.to_owned(),
        batch: case.batch,
        work,
        threads,
        ours_ms: median(own).ok_or("nothing was measured")?,
        torch_ms: median(theirs),
        candle_ms: candle,
        ratio,
        processor: processor.to_owned(),
    })
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let folder = fbp_benches::results_folder()?;
    let mut torch = if options.torch { Some(Peer::start("--peer torch", "networks_torch.py")?) } else { None };
    let processor = fbp_benches::processor();
    let mut entries = Vec::new();
    println!("{}", output::HEAD);
    for case in options.cases() {
        let mut ours = Ours::new(case)?;
        for work in Work::ALL.into_iter().filter(|work| options.works.is_empty() || options.works.contains(work)) {
            for threads in THREADS {
                let entry = measure((&mut ours, work, threads), torch.as_mut(), options.quick, &processor)?;
                println!("{}", output::row(&entry));
                entries.push(entry);
                output::save(&entries, &folder)?;
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    fbp_benches::status(run())
}
