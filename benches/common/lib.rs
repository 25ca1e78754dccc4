//! What the benchmarks share: layers of real networks, settings of the measurement, degrees of parallelism.

mod peer;
pub mod random;

pub use peer::Peer;

/// The examples of the workspace's README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs, io};

use criterion::Criterion;
use faer::Par;
use fbp_linalg::conv2d::{Conv2dGeometry, Conv2dParams};
use fbp_linalg::{FeatureShape, LinalgError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Settings for measurements of a few milliseconds, some with rivals that take a hundred times as long.
pub fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

/// One thread, and all of them.
pub fn pars() -> [(&'static str, Par); 2] {
    [("seq", Par::Seq), ("rayon", Par::rayon(0))]
}

/// A convolution of a real network with the batch that it is measured on.
#[derive(Clone, Debug)]
pub struct ConvLayer {
    /// Channels, kernel and size, for the name of the measurement.
    pub name: &'static str,
    /// Samples of a batch.
    pub batch: usize,
    /// The layer.
    pub geometry: Conv2dGeometry,
}

/// Convolutions from the two of the smallest network here to one of a residual network.
///
/// # Errors
/// None, unless a shape in this list has no output.
pub fn conv_layers() -> Result<Vec<ConvLayer>, LinalgError> {
    let image = FeatureShape::image;
    let layer = |name, batch, params: Conv2dParams| params.check().map(|geometry| ConvLayer { name, batch, geometry });
    Ok(vec![
        layer("1-3-k5-28x28-n256", 256, Conv2dParams::new(image(1, 28, 28), 3, [5, 5]))?,
        layer("3-3-k5-12x12-n256", 256, Conv2dParams::new(image(3, 12, 12), 3, [5, 5]))?,
        layer("10-20-k5-12x12-n256", 256, Conv2dParams::new(image(10, 12, 12), 20, [5, 5]))?,
        layer("15-10-k3-14x14-n64", 64, Conv2dParams::new(image(15, 14, 14), 10, [3, 3]))?,
        layer("64-64-k3-p1-16x16-n16", 16, Conv2dParams::new(image(64, 16, 16), 64, [3, 3]).padding([1, 1]))?,
        layer(
            "64-128-k3-s2-p1-32x32-n8",
            8,
            Conv2dParams::new(image(64, 32, 32), 128, [3, 3]).stride([2, 2]).padding([1, 1]),
        )?,
    ])
}

/// Where a benchmark that keeps its own results writes them: the folder that `FBP_RESULTS` names, `benches/results` without it.
///
/// # Errors
/// Of the system, if the folder cannot be made.
pub fn results_folder() -> io::Result<PathBuf> {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let folder = env::var_os("FBP_RESULTS").map_or_else(own, PathBuf::from);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Status of a benchmark; what ended it early is printed.
#[expect(clippy::print_stdout, reason = "a benchmark talks to the person who started it")]
pub fn status(end: Result<(), Box<dyn Error>>) -> ExitCode {
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Model of the processor, where the system says it.
pub fn processor() -> String {
    let line = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    line.unwrap_or_else(|| format!("unknown ({}, {})", env::consts::ARCH, env::consts::OS))
}

/// A row of a file of results, measured on one processor.
pub trait Row: Serialize + DeserializeOwned {
    /// Its model.
    fn processor(&self) -> &str;
}

/// Writes rows to a file of results, in which those of other processors stay, and returns all of them, the given ones last.
///
/// # Errors
/// Of the system, or for a file that holds something else than such rows.
pub fn write_rows<R: Row + Clone>(path: &Path, rows: &[R]) -> Result<Vec<R>, Box<dyn Error>> {
    let mut all: Vec<R> = match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let is_new = |row: &R| rows.iter().any(|new| new.processor() == row.processor());
    all.retain(|row| !is_new(row));
    all.extend_from_slice(rows);
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, format!("{}\n", serde_json::to_string_pretty(&all)?))?;
    fs::rename(unfinished, path)?;
    Ok(all)
}

/// A table of rows for every processor, each below its name.
pub fn tables<R: Row>(rows: &[R], head: &str, line: impl Fn(&R) -> String) -> String {
    let table = |rows: &[R]| {
        let processor = rows.first().map_or("", R::processor);
        format!("{processor}\n\n{head}\n{}\n", rows.iter().map(&line).collect::<Vec<_>>().join("\n"))
    };
    let tables: Vec<String> = rows.chunk_by(|a, b| a.processor() == b.processor()).map(table).collect();
    tables.join("\n")
}

/// The middle one of some numbers, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 0 => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

/// Time of a piece of work in milliseconds.
///
/// # Errors
/// Those of the work.
pub fn milliseconds(work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Time {
        ms: f64,
        processor: String,
    }

    impl Row for Time {
        fn processor(&self) -> &str {
            &self.processor
        }
    }

    #[test]
    fn rows_of_other_processors_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("times.json");
        let time = |ms: f64, processor: &str| Time { ms, processor: processor.to_owned() };
        write_rows(&path, &[time(1.0, "a"), time(2.0, "a")]).unwrap();
        write_rows(&path, &[time(3.0, "b")]).unwrap();
        let all = write_rows(&path, &[time(4.0, "a")]).unwrap();
        let found: Vec<Time> = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(found, [time(3.0, "b"), time(4.0, "a")]);
        assert_eq!(all, found);
        let text = tables(&all, "| ms |\n|---|", |row| format!("| {} |", row.ms));
        assert_eq!(text, "b\n\n| ms |\n|---|\n| 3 |\n\na\n\n| ms |\n|---|\n| 4 |\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // What is no file of results is neither read as one nor replaced.
        fs::write(&path, "{}").unwrap();
        assert!(write_rows(&path, &[time(5.0, "a")]).unwrap_err().to_string().contains("times.json"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}");
    }
}
