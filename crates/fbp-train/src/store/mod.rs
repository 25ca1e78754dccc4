//! The target store: a folder of safetensors shards and a JSON manifest.
//!
//! ```text
//! manifest.json             what the targets were made from and with, and the list of shards
//! shard-00000.safetensors   indices [n] i64, labels [n] i64,
//!                           target.<stage> [n, C, H, W] or [n, F] f32, attained.<stage> [n] u8
//! time.json                 time that was taken so far, until there is a report
//! report.json               statistics, written last
//! ```
//!
//! Row `i` of shard `s` belongs to sample `start(s) + i` of those that were asked for, in their order; `indices` say where
//! these are in the files of the data set, from 0. numpy and PyTorch read shards with the package safetensors: the README
//! of this crate shows how. Every file is written atomically, so an interrupted run leaves whole shards only, and the next run makes the missing ones.

mod manifest;
mod reader;
mod writer;

pub use manifest::{Manifest, ManifestParams, ShardEntry, StageEntry};
pub use reader::{StageTargets, TargetStore};
pub use writer::{ShardContent, StageRows, StoreWriter};

/// Name of the manifest in a store's folder.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Name of the statistics of a finished store.
pub const REPORT_FILE: &str = "report.json";
/// Name of the feature examples in a store's folder, and in a folder of runs.
pub const EXAMPLES_FILE: &str = "examples.json";

/// Name of the time that an unfinished store took so far.
pub const TIME_FILE: &str = "time.json";
/// Start of the name of the time of a shard of the work.
const SHARE_TIME: &str = "time-";
/// Name of examples without their targets, while several processes make a store.
pub(crate) const DRAFT_FILE: &str = "examples-without-targets.json";

#[cfg(test)]
mod tests;
