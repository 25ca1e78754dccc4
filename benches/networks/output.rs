use std::error::Error;
use std::fs;
use std::path::Path;

use fbp_benches::{Row, tables, write_rows};
use serde::{Deserialize, Serialize};

use crate::case::Work;

/// One row, with the keys of the results file.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) network: String,
    pub(crate) batch: usize,
    pub(crate) work: Work,
    pub(crate) threads: usize,
    pub(crate) ours_ms: f64,
    pub(crate) torch_ms: Option<f64>,
    pub(crate) candle_ms: Option<f64>,
    /// PyTorch's time over ours: above 1 we are ahead.
    pub(crate) ratio: Option<f64>,
    pub(crate) processor: String,
}

impl Row for Entry {
    fn processor(&self) -> &str {
        &self.processor
    }
}

pub(crate) const HEAD: &str = "| network | batch | work | threads | ours, ms | PyTorch, ms | candle, ms | PyTorch / ours |\n\
                               |---|---|---|---|---|---|---|---|";

/// A row of the table.
pub(crate) fn row(entry: &Entry) -> String {
    let Entry { network, batch, work, threads, ours_ms, torch_ms, candle_ms, ratio, .. } = entry;
    let number = |value: &Option<f64>, digits: usize| value.map_or_else(String::new, |ms| format!("{ms:.digits$}"));
    format!(
        "| {network} | {batch} | {work} | {threads} | {ours_ms:.1} | {} | {} | {} |",
        number(torch_ms, 1),
        number(candle_ms, 0),
        number(ratio, 2)
    )
}

/// Writes what has been measured so far, and a table for every processor that was measured on.
pub(crate) fn save(entries: &[Entry], folder: &Path) -> Result<(), Box<dyn Error>> {
    let all = write_rows(&folder.join("networks.json"), entries)?;
    Ok(fs::write(folder.join("networks.md"), tables(&all, HEAD, row))?)
}
