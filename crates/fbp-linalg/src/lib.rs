#![doc = include_str!("../README.md")]

pub mod attained;
mod boxed;
mod cholesky;
mod compile_once;
pub mod conv2d;
pub mod conv_solve;
pub mod dense;
mod error;
mod lanes;
mod matmul;
pub mod matrix_free;
mod once;
mod parallel;
mod params;
#[cfg(any(test, feature = "testkit"))]
pub mod qp_oracle;
mod report;
mod scalar;
mod shape;
mod sums;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
mod views;

pub use boxed::{BOXED_LIMIT, Bounds, BoxedPass, BoxedPlan, BoxedRecipe, BoxedSample, MetricSample, nearest_in_box};
pub use cholesky::{
    Cholesky, cholesky_in_place, invert_lower, matmul_lower, solve_cholesky_in_place, solve_lower_in_place,
};
pub use error::{LinalgError, expect_box, expect_finite, expect_shape, holds_finite_number};
pub use lanes::{Lanes, dispatch};
pub use matmul::{matmul, matmul_by_columns, product};
pub use once::get_or_make;
pub use parallel::{
    CACHE_LINE, SplitBatch, filled, filled_runs, for_each_part, parts_scratch, repeated, zeroed_scratch, zeros,
};
pub use params::{SolveConfig, SolveParams};
pub use report::{SolveReport, SolveSide, StopReason};
pub use scalar::{PerScalar, Real};
pub use shape::FeatureShape;
pub use sums::{distance_sq, distance_to_box_sq, norm_sq, slope_along};
pub use views::{batch_slice, batch_slice_mut, column, column_mut};
