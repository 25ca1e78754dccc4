//! The one two-dimensional convolution of this project: forward, adjoint and weight gradient on plain slices.
//!
//! What is called a convolution here is, as everywhere in deep learning, a correlation: the kernel is not mirrored.
//! Any stride, padding and dilation, each per axis, and groups; `f32` and `f64`; batches in row-major
//! `[N, C, H, W]` order. [`Conv2dParams`] describes one, [`Conv2dGeometry`] is the checked description,
//! [`Conv2d`] the kernel object that is built once and applied to every batch with the caller's scratch memory,
//! [`FixedConv2d`] one with weights that stay as they are.

mod correlate;
mod dense;
mod epilogue;
mod fixed;
mod geometry;
mod gram_tile;
mod kept;
mod kernel;
#[cfg(any(test, feature = "testkit"))]
pub mod naive;
mod output;
mod plan;
mod sample_wise;
mod source;
#[cfg(test)]
mod tests;
mod threads;
mod tile;
mod weight_grad;
mod winograd;

pub use epilogue::Epilogue;
pub use fixed::FixedConv2d;
pub use geometry::{Conv2dGeometry, Conv2dParams};
pub use kernel::{Conv2d, ConvAdjoint, ConvForward, ConvWeightGrad};
