//! Oracles and conformance of the layer inverses.
#![expect(clippy::unwrap_used, reason = "a test may panic, also in the functions that it shares with others")]

mod avg_pool;
mod broken;
mod conformance;
mod embedding;
mod extremes;
mod geometries;
mod large_conv;
mod linear;
mod max_pool;
mod norm;
mod norm_attained;
mod overlapping;
mod passes;
mod softmax;
