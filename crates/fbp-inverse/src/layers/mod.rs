//! One reverse operator per layer.

mod affine;
mod linear;

pub use linear::LinearReverse;
