//! Box-constrained nearest points: `min ½|v - v0|²` subject to `lo <= A v + b <= hi`, `l <= v <= u`.
//!
//! The reverse of an affine layer within the range of what the layers below can produce is this problem. A
//! [`BoxedPlan`] is built once per matrix and solves every sample of a batch exactly, up to rounding:
//!
//! | rows of `A` | method ([`BoxedRecipe`]) |
//! |---|---|
//! | up to 512 | semismooth Newton on the dual, sample by sample: a few factorisations of the order of the active rows |
//! | up to [`BOXED_LIMIT`] | batched ADMM as three matrix products per iteration, then the Newton method as its polish |
//!
//! A [`BoxedSample`] has a matrix of few rows of its own, a [`MetricSample`] besides that a metric other than the Euclidean.
//!
//! Rows whose norms differ by more than a factor of 16 are scaled by powers of two. The point that is returned, in the
//! features' precision, is judged row by row ([`attained`](crate::attained)). What misses is tried again in `f64`: by active
//! sets, whose accuracy does not depend on the condition, and by the dual solver, first with even rows and then, if the
//! box is out of reach, in the metric of the outputs.
//!
//! Infeasible samples get the smallest distance to the box first and the smallest distance to `v0` second, both Euclidean and
//! in the units of the data.

mod active_set;
mod admm;
mod bounds;
#[cfg(test)]
mod bounds_tests;
mod judge;
mod metric;
#[cfg(test)]
mod metric_tests;
mod newton;
mod one_call;
mod plan;
mod problem;
mod rows;
mod sample;
#[cfg(test)]
mod scale_tests;
mod scaling;
#[cfg(test)]
mod tests;

pub use bounds::Bounds;
pub use metric::MetricSample;
pub use one_call::nearest_in_box;
pub use plan::{BOXED_LIMIT, BoxedPass, BoxedPlan, BoxedRecipe};
pub use sample::BoxedSample;
