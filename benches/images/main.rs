//! Image files to pixels: JPEG and PNG decoded, resized and cropped as a network wants them, beside Pillow.
//!
//! Writes `images.json` and `images.md` to the folder that `FBP_RESULTS` names (`benches/results` without it), where rows of
//! other processors stay. Arguments: `--peer pillow` and `--quick`. Ours and theirs take turns on the same files, so that what
//! else the machine does hits both; ratios are medians over these pairs.

#![expect(clippy::print_stdout, reason = "a benchmark talks to the person who started it")]

mod files;

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fbp_benches::{Peer, Row, median, milliseconds};
use fbp_models::{Interpolation, Resizing};
use fbp_train::image_files::{Preparation, decode};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use files::{KINDS, Kind};

/// Pairs of runs of which the medians count.
const PAIRS: usize = 20;
/// The same with `--quick`.
const QUICK_PAIRS: usize = 3;
/// Numbers of threads.
const THREADS: [usize; 2] = [1, 2];
/// What networks for ImageNet take: a shorter side of 256, and 224 × 224 of the middle.
const PREPARATION: Preparation = Preparation {
    channels: 3,
    size: [224, 224],
    resizing: Some(Resizing { shorter_side: Some(256), interpolation: Interpolation::Bilinear }),
};

struct Options {
    pillow: bool,
    quick: bool,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut options = Self { pillow: false, quick: false };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => options.quick = true,
                "--peer" => match words.next().as_deref() {
                    Some("pillow") => options.pillow = true,
                    other => return Err(format!("no such peer: {other:?}; there is pillow").into()),
                },
                // Cargo's flag, which means nothing here.
                "--bench" => {}
                other => return Err(format!("unknown argument {other:?}").into()),
            }
        }
        Ok(options)
    }
}

/// One row, with the keys of the results file; rates are images per second.
#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    files: String,
    images: usize,
    threads: usize,
    ours: f64,
    pillow: Option<f64>,
    /// Our rate over Pillow's: above 1 we are ahead.
    ratio: Option<f64>,
    processor: String,
}

impl Row for Entry {
    fn processor(&self) -> &str {
        &self.processor
    }
}

const HEAD: &str = "| files | threads | ours, images/s | Pillow, images/s | ours / Pillow |\n|---|---|---|---|---|";

impl Entry {
    fn row(&self) -> String {
        let number = |value: Option<f64>, digits: usize| value.map_or_else(String::new, |v| format!("{v:.digits$}"));
        let (pillow, ratio) = (number(self.pillow, 0), number(self.ratio, 2));
        format!("| {} | {} | {:.0} | {pillow} | {ratio} |", self.files, self.threads, self.ours)
    }
}

/// Reads, decodes, resizes and crops all files of a list.
fn prepare(files: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    // Errors of a pool have to be able to change threads.
    let one = |path: &PathBuf| -> Result<(), String> {
        let bytes = fs::read(path).map_err(|error| error.to_string())?;
        let decoded = decode(&bytes).map_err(|error| error.to_string())?;
        let pixels = PREPARATION.apply(decoded.picture).map_err(|error| error.to_string())?;
        std::hint::black_box(pixels);
        Ok(())
    };
    Ok(files.par_iter().try_for_each(one)?)
}

fn measure(
    (kind, files, folder): (&Kind, &[PathBuf], &Path),
    threads: usize,
    (peer, pairs): (Option<&mut Peer>, usize),
) -> Result<Entry, Box<dyn Error>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let run = || pool.install(|| milliseconds(|| prepare(files)).map_err(|error| error.to_string()));
    let line = format!("{threads} {}", folder.display());
    run()?;
    let (mut own, mut theirs) = (Vec::with_capacity(pairs), Vec::with_capacity(pairs));
    match peer {
        Some(peer) => {
            peer.run(&line)?;
            for _ in 0..pairs {
                own.push(run()?);
                theirs.push(peer.run(&line)?);
            }
        }
        None => own = (0..pairs).map(|_| run()).collect::<Result<_, _>>()?,
    }
    let rate = |times: Vec<f64>| Some(1e3 * files.len() as f64 / median(times)?);
    Ok(Entry {
        files: kind.name.to_owned(),
        images: files.len(),
        threads,
        ratio: median(own.iter().zip(&theirs).map(|(own, theirs)| theirs / own).collect()),
        ours: rate(own).ok_or("nothing was measured")?,
        pillow: rate(theirs),
        processor: fbp_benches::processor(),
    })
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let folder = fbp_benches::results_folder()?;
    let mut peer = if options.pillow { Some(Peer::start("--peer pillow", "images_pillow.py")?) } else { None };
    let pairs = if options.quick { QUICK_PAIRS } else { PAIRS };
    let mut entries = Vec::new();
    println!("{HEAD}");
    for kind in &KINDS {
        let place = tempfile::tempdir()?;
        let files = kind.write(place.path())?;
        for threads in THREADS {
            let entry = measure((kind, &files, place.path()), threads, (peer.as_mut(), pairs))?;
            println!("{}", entry.row());
            entries.push(entry);
        }
    }
    let all = fbp_benches::write_rows(&folder.join("images.json"), &entries)?;
    Ok(fs::write(folder.join("images.md"), fbp_benches::tables(&all, HEAD, Entry::row))?)
}

fn main() -> ExitCode {
    fbp_benches::status(run())
}
