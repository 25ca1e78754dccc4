#![doc = include_str!("format.md")]

mod config;
mod grid;
mod list;
mod plan;
mod run;
mod shared;

pub use config::SweepConfig;
pub use plan::PlannedRun;
pub use run::{RUNS_FOLDER, Sweep};
pub use shared::{LIST_FILE, merge_sweep};

/// What a description looks like, and what a sweep leaves in its folder.
pub const FORMAT: &str = include_str!("format.md");
