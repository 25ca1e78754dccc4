//! Repair: the smallest change of one layer that makes given samples right and leaves the rest of the data alone.

mod change;
mod curve;
mod deadline;
mod demand;
mod dual;
mod effort;
mod examples;
mod finetune;
mod judge;
mod mixing;
mod neighbours;
mod options;
mod origin;
mod problem;
mod product;
mod record;
mod rows;
mod run;
mod samples;
mod search;
mod trial;

pub use change::{SingleWeight, WeightChange};
pub use curve::{CurveDemands, Curves, RepairMethod, RepairPoint, RepairSubject};
pub use demand::Demand;
pub use effort::Effort;
pub use examples::{RepairedExample, repaired_examples, repaired_leads};
pub use finetune::{Rival, RivalOptions};
pub use judge::{Judge, TestMeasures};
pub use mixing::MixingOptions;
pub use options::RepairOptions;
pub use origin::{Corrupted, Given, SampleOrigin};
pub use record::RepairedLayer;
pub use record::{Candidate, RepairErrors, RepairRecord, RepairSettings, RivalRecord, Shortfall, StateMeasures};
pub use run::{Repaired, check_repairable, repair};
pub use samples::{Asked, ChoiceRule, SampleChoice, wrong_samples};
