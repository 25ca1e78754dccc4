//! Statistics, tables, plots and pages: what turns the records of `fbp-train` into something to look at.
//!
//! ```no_run
//! use std::path::{Path, PathBuf};
//!
//! use fbp_report::study::{Study, write_report};
//!
//! let study = Study::load(&[PathBuf::from("runs")])?;
//! let [page, summary] = write_report(&study, Path::new("page"), false)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod analysis;
mod difference;
mod error;
pub mod explain;
mod page;
pub mod repair;
pub mod statistics;
pub mod study;
pub mod sweep;
mod tables;

pub use difference::Difference;
pub use error::ReportError;
