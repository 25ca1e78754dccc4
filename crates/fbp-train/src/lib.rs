//! Post-training against reconstructed feature targets: data, targets, objectives, records, reports.

pub mod data;
