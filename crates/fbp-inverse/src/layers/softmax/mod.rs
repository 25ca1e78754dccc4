//! Softmax over the channels.

mod kernels;
mod operator;
mod simplex;

pub use operator::SoftmaxReverse;
