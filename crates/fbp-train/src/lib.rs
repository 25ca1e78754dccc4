//! Post-training against reconstructed feature targets: data, targets, objectives, records, reports.

mod atomic;
mod error;
mod identity;
pub mod record;
pub mod records;
pub mod report;
mod settings;
pub mod store;

pub use error::TrainError;
pub use identity::{DataIdentity, file_sha256};
pub use settings::{Embedding, Objective, TargetMode};
