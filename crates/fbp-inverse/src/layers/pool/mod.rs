//! Pooling.

mod average;
mod max;
mod window;

pub use average::{AverageAxes, AverageAxis, AvgDivisor, AvgPoolReverse};
pub use max::MaxPoolReverse;
pub use window::PoolWindow;
