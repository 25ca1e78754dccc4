//! Exact reversal of convolutions of any size: `A v + b = y` without forming `A`.
//!
//! | recipe ([`ConvRecipe`]) | for | how |
//! |---|---|---|
//! | `Pixelwise`  | 1×1 kernels | one small dense plan, every pixel a sample |
//! | `Dense`      | small operators | the dense plan of the exact operator |
//! | `Boundary`   | large images, many samples | Fourier transforms and the Schur complement of the boundary |
//! | `Periodic`   | large images, few samples | conjugate gradients, preconditioned with the periodic inverse |
//! | `Plain`      | wide layers | conjugate gradients |
//!
//! A convolution with zero padding is a piece of a periodic one: `A = R_O C R_Iᵀ`, with `C` block-diagonal in
//! frequency. Solving per frequency alone answers another problem; the boundary system puts that right. It is a dense one
//! on the missing sites; whole missing rows are eliminated from it by frequency, which halves its order for square images. Everything is set
//! up in `f64`; the iteration around the factors works in `f64`, so factors in `f32` cost no accuracy.
//!
//! Regularised solutions come from eigenvalues where the operator is dense, from factors of a system shifted by nearly as
//! much where it is large, and from periodic inverses where those serve as well. The search for their shift ends where weak
//! duality proves the optimum; small systems that iterations leave short of it are solved by eigenvalues.
//!
//! Which solution is wanted is the [`ConvMode`]; the report always says which one it is, with the residual and λ.

mod build;
mod config;
mod inverse;
mod matrix;
mod operator;
mod plan;
mod recipe;
mod solve;
mod system;
#[cfg(test)]
mod tests;

pub use config::{ConvMode, ConvSolveConfig, ConvSolveParams};
pub use plan::ConvSolvePlan;
pub use recipe::{ConvFacts, ConvRecipe};
pub use system::ConvSystem;
