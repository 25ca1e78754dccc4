//! Numeric kernels and factor-once solvers for feature back-propagation, on plain [`faer`] views.
//!
//! A batch is one column-major matrix with one column per sample, so a row-major `[N, C, H, W]` tensor *is* a
//! `(C·H·W) × N` matrix and crosses over without a copy. Plans are built once from the weights (in `f64`), are
//! immutable and `Send + Sync`, and are applied to every batch in `f32` or `f64` with the caller's scratch memory.

pub mod conv2d;
mod error;
mod lanes;
mod report;
mod scalar;
mod shape;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;

pub use error::{LinalgError, expect_finite, expect_shape};
pub use lanes::Lanes;
pub use report::{SolveReport, SolveSide, StopReason};
pub use scalar::Real;
pub use shape::FeatureShape;
