//! Repair: the smallest change of one layer that makes given samples right and leaves the rest of the data alone.

mod change;
mod dual;
mod examples;
mod finetune;
mod problem;
mod record;
mod rows;
mod run;
mod samples;

pub use change::{SingleWeight, WeightChange};
pub use examples::{RepairedExample, repaired_examples};
pub use finetune::RivalOptions;
pub use record::{Candidate, RepairRecord, RepairSettings, RivalRecord, StateMeasures};
pub use run::{RepairOptions, Repaired, repair};
pub use samples::{SampleChoice, wrong_samples};
