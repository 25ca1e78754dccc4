//! Pooling over disjoint windows.

mod max;
mod window;

pub use max::MaxPoolReverse;
pub use window::PoolWindow;
