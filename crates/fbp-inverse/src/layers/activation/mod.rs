//! Elementwise activations.

mod increasing;
mod kind;
mod operator;
mod piecewise;

pub use kind::Activation;
pub use operator::ActivationReverse;
