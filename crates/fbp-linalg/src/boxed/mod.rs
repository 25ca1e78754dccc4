//! Box-constrained nearest points.
mod admm;
mod newton;
mod plan;
mod rows;
#[cfg(test)]
mod tests;

pub use plan::{BOXED_LIMIT, BoxedPass, BoxedPlan, BoxedRecipe};
