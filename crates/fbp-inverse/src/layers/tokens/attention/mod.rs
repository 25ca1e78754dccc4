//! Multi-head self-attention between its two projections.

mod kernels;
mod operator;

pub use operator::Attention;
