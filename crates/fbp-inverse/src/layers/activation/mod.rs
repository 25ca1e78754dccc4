//! Elementwise activations.

mod dispatch;
pub(in crate::layers) mod elementary;
mod increasing;
mod kind;
mod operator;
mod piecewise;
mod smooth;
mod smooth_valley;
#[cfg(test)]
mod tests;
mod valley;

pub use kind::Activation;
pub use operator::ActivationReverse;
