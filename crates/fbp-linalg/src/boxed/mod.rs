//! Box-constrained nearest points.
mod newton;
mod plan;
mod rows;
pub use plan::{BOXED_LIMIT, BoxedPass, BoxedPlan};
