//! Reversal of functions without a closed form: damped Newton steps, without matrices, for a batch at a time.
//!
//! The residual `r` of a sample is what takes its output into the target box, `clip(f(x), lo, hi) - f(x)`. A step `d` solves
//! `J d ≈ r` up to a share of `r`, within the input range, and is shortened until the residual falls; samples that have reached
//! the goal leave the batch. What is asked of the linear solve, and who does it:
//!
//! | samples | solver |
//! |---|---|
//! | square function, every output has one target, any input is allowed | GMRES: products with `J` alone |
//! | an input range | quasi-Newton steps within it, of an evaluation and a product with `Jᵀ` each |
//! | all others, and those for which these stall | conjugate gradients on the normal equations, from 0: the shortest step |
//!
//! Outputs within their interval ask for nothing until the linearisation takes them out of it, and inputs at an end of the range
//! stay there while the gradient points outwards; both are found out round by round on the same tape.
//!
//! # Measured
//! Evaluations of the block (with that of the caller, one for its last activation and one for the report), products with `J` and
//! with `Jᵀ`, in `f32` for 8 samples together and a thousandth of the distance, on random weights:
//!
//! | block | asked for what it makes of | inputs | evaluations | `J` | `Jᵀ` |
//! |---|---|---|---|---|---|
//! | two convolutions, 64 × 8 × 8 | an input 30 % away | any | 8 | 27 | 27 |
//! | | the same | `[0, ∞)` | 81 | 1 | 78 |
//! | | an input 150 % away | `[0, ∞)` | 102 | 1 | 99 |
//! | vision transformer, 65 × 192, 3 heads | an input 30 % away | any | 6 | 9 | 0 |
//! | | an input 150 % away | any | 6 | 7 | 0 |
//!
//! A range makes the same block three times as expensive: half of the inputs end at 0, and which ones is found out step by step.
//! Newton steps took 36 evaluations and 538 products there, and 52 and 884: active ends that change with every product save most of
//! them. The point is then 0.1 to 0.2 % farther away, that is 98.3 instead of 98.1 % of the way to the other input.
//! For 1e-6 of the distance (`f64`, two samples) it takes 266 evaluations and 261 products, where Newton steps had not come there
//! after 3,000 products on a copy. On that copy accelerated gradients took 125 evaluations for 1e-3, Anderson's mixing over 200, and
//! the bounds as further residuals over 800 products.
//!
//! # Source
//! Inexact Newton methods: Dembo, Eisenstat & Steihaug, SIAM J. Numer. Anal. 19 (1982); GMRES: Saad & Schultz, SIAM J. Sci. Stat.
//! Comput. 7 (1986); least squares by conjugate gradients (CGLS): Björck, *Numerical Methods for Least Squares Problems*, SIAM
//! 1996, §7.4; two-loop recursion: Nocedal, Math. Comp. 35 (1980); its projection on the free inputs: Bertsekas, SIAM J. Control
//! Optim. 20 (1982); active ends, and what of it is asked of which sample: own derivation.

// From the bottom up, each module uses only those before it: params, function, vectors; rotations; memory; pairs;
// problem; linear, krylov; search; quasi; solve; judge.

mod function;
mod judge;
mod krylov;
mod linear;
mod memory;
mod pairs;
mod params;
mod problem;
mod quasi;
mod rotations;
mod search;
mod solve;
mod vectors;

pub use params::NewtonParams;

pub(super) use function::{Function, Part, Whole};
pub(super) use judge::{Judge, judge_scratch};
pub(super) use problem::Newton;
pub(super) use solve::newton_scratch;
