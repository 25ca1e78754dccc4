#![doc = include_str!("format.md")]

mod config;
mod grid;
mod list;
mod plan;
mod run;

pub use config::SweepConfig;
pub use plan::PlannedRun;
pub use run::{RUNS_FOLDER, Sweep};

/// What a description looks like, and what a sweep leaves in its folder.
pub const FORMAT: &str = include_str!("format.md");
