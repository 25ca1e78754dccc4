//! Reversal of functions without a closed form: damped Newton steps, without matrices, for a batch at a time.
//!
//! The residual `r` of a sample is what takes its output into the target box, `clip(f(x), lo, hi) - f(x)`. A step `d` solves
//! `J d ≈ r` up to a share of `r`, within the input range, and is shortened until the residual falls; samples that have reached
//! the goal leave the batch. What is asked of the linear solve, and who does it:
//!
//! | samples | solver |
//! |---|---|
//! | square function, every output has one target, any input is allowed | GMRES: products with `J` alone |
//! | all others, and those for which GMRES stalls | conjugate gradients on the normal equations, from 0: the shortest step |
//!
//! Outputs within their interval ask for nothing until the linearisation takes them out of it, and inputs at an end of the range
//! stay there while the gradient points outwards; both are found out round by round on the same tape.
//!
//! # Source
//! Inexact Newton methods: Dembo, Eisenstat & Steihaug, SIAM J. Numer. Anal. 19 (1982); GMRES: Saad & Schultz, SIAM J. Sci. Stat.
//! Comput. 7 (1986); least squares by conjugate gradients (CGLS): Björck, *Numerical Methods for Least Squares Problems*, SIAM
//! 1996, §7.4; active ends, and what of it is asked of which sample: own derivation.

// From the bottom up, each module uses only those before it: params, function, vectors; rotations; memory; problem; linear, krylov; search; solve;
// judge.

mod function;
mod judge;
mod krylov;
mod linear;
mod memory;
mod params;
mod problem;
mod rotations;
mod search;
mod solve;
mod vectors;

pub use params::NewtonParams;

pub(super) use function::{Function, Part, Whole};
pub(super) use judge::{Judge, judge_scratch};
pub(super) use problem::Newton;
pub(super) use solve::newton_scratch;
