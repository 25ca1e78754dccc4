//! Post-training against reconstructed feature targets: data, targets, objectives, records, reports.

mod atomic;
pub mod data;
mod error;
mod identity;
mod json;
pub mod record;
pub mod report;
mod settings;
pub mod store;

pub use error::TrainError;
pub use identity::{DataIdentity, file_sha256};
pub use settings::{Embedding, Objective, Schedule, TargetMode};
