//! The joint iteration: the feature nearest to the observed one that the whole frozen rest turns into the goal.

mod batch;
mod cuts;
mod descend;
mod goal;
mod linearise;
mod metric;
mod refine;
mod rescue;
mod search;
mod settle;
mod step;

pub(crate) use batch::Batch;
pub(crate) use goal::SampleGoal;
pub use metric::FeatureMetric;
pub(crate) use rescue::{FIRST_STARTS, LAST_STARTS};
pub(crate) use search::{JointMemory, Start};
