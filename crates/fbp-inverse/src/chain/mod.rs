//! Targets for every stage of a plain network: joint or layer by layer, verified by the frozen rest.

// From the bottom up, each module uses only those before it: goal, report, stages; recorded, rest; layer_wise; workspace;
// reverse.

mod goal;
mod layer_wise;
#[cfg(test)]
mod range_tests;
mod recorded;
mod report;
mod rest;
mod reverse;
mod stages;
#[cfg(test)]
mod tests;
mod workspace;

pub use goal::{ChainGoal, TargetMode};
pub use report::{BoundaryReport, ChainReport};
pub use rest::ChainRest;
pub use stages::{ChainStage, ReverseChain};
pub use workspace::ChainWorkspace;
