#![doc = include_str!("../README.md")]

pub mod adapt;
pub mod analysis;
mod beside;
pub mod compress;
mod difference;
mod error;
pub mod explain;
mod page;
pub mod repair;
pub mod statistics;
pub mod study;
pub mod sweep;
mod tables;

pub use beside::check_page;
pub use difference::Difference;
pub use error::ReportError;
