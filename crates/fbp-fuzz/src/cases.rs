//! Running cases, and keeping those that fail.

use std::any::Any;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::Reader;
use crate::allocation::peak;
use crate::mutate::changed;
use crate::readers::Place;

/// Memory that any case may take: buffers of fixed size, tables, the texts of errors.
const FIXED_BYTES: usize = 1 << 20;
/// A case that takes longer is told of.
const SLOW: Duration = Duration::from_secs(2);

/// Why a case failed.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// What happened.
    pub reason: String,
}

/// What a number of cases came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Number of cases.
    pub cases: u64,
    /// Of those, the ones that were read to the end.
    pub accepted: u64,
    /// Most bytes in use at a time.
    pub most_bytes: usize,
    /// Largest ratio of memory in use to the length of the input, beyond what every case may take.
    pub largest_ratio: f64,
    /// Longest time of the processor that a case took.
    pub longest: Duration,
    /// Cases that failed, each reason once.
    pub findings: Vec<Finding>,
}

/// When a run of cases ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many.
    Cases(u64),
    /// After this time of the processor.
    Time(Duration),
}

/// Time that this thread has had of the processor, which does not grow while others are at work; where the system does not
/// tell, the time since `begun`.
fn processor_time(begun: Instant) -> Duration {
    let told = fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanoseconds.map_or_else(|| begun.elapsed(), Duration::from_nanos)
}

/// One reader with its files.
#[derive(Debug)]
pub struct Campaign {
    reader: &'static Reader,
    seeds: Vec<Vec<u8>>,
    place: Place,
}

impl Campaign {
    /// Prepares the seeds of a reader, in a temporary folder.
    ///
    /// # Errors
    /// If files cannot be written.
    pub fn new(reader: &'static Reader) -> io::Result<Self> {
        Ok(Self { reader, seeds: (reader.seeds)(), place: Place::new()? })
    }

    /// Runs one input; whether it was accepted.
    ///
    /// # Errors
    /// The finding.
    pub fn run(&self, input: &[u8], tally: &mut Tally) -> Result<bool, Finding> {
        let begun = Instant::now();
        let before = processor_time(begun);
        let (outcome, bytes) = peak(|| catch_unwind(AssertUnwindSafe(|| (self.reader.read)(input, &self.place))));
        let time = processor_time(begun).saturating_sub(before);
        tally.cases += 1;
        tally.longest = tally.longest.max(time);
        let ratio = bytes.saturating_sub(FIXED_BYTES) as f64 / input.len().max(1) as f64;
        tally.most_bytes = tally.most_bytes.max(bytes);
        tally.largest_ratio = tally.largest_ratio.max(ratio);
        let finding = |reason: String| Finding { input: input.to_vec(), reason };
        let accepted = outcome.map_err(|panic| finding(format!("panic: {}", text_of(&*panic))))?;
        if ratio > self.reader.bytes_per_byte {
            return Err(finding(format!("{bytes} bytes in use for an input of {}", input.len())));
        }
        if time > SLOW {
            return Err(finding(format!("took {} s", time.as_secs())));
        }
        tally.accepted += u64::from(accepted);
        Ok(accepted)
    }

    /// Runs changed seeds. Every input is in the file `current` of the folder before it is read, for what ends the process.
    ///
    /// # Errors
    /// If files cannot be written.
    pub fn run_many(&self, seed: u64, until: Until, current: Option<&Path>) -> io::Result<Tally> {
        let (begun, mut tally) = (Instant::now(), Tally::default());
        let before = processor_time(begun);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        loop {
            let is_over = match until {
                Until::Cases(cases) => tally.cases >= cases,
                Until::Time(time) => processor_time(begun).saturating_sub(before) >= time,
            };
            if is_over {
                return Ok(tally);
            }
            let input = changed(&self.seeds, &mut rng);
            if let Some(current) = current {
                fs::write(current, &input)?;
            }
            if let Err(finding) = self.run(&input, &mut tally) {
                // Numbers in texts differ from case to case.
                let kind = |reason: &str| reason.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
                if tally.findings.iter().all(|other| kind(&other.reason) != kind(&finding.reason)) {
                    tally.findings.push(finding);
                }
            }
        }
    }

    /// The seeds as they are: all of them must be read.
    pub fn seeds(&self) -> &[Vec<u8>] {
        &self.seeds
    }
}

/// Inputs that once failed, kept in the folder of this crate.
///
/// # Errors
/// If they cannot be read.
pub fn found(reader: &Reader) -> io::Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("found").join(reader.name);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without words".into())
}
