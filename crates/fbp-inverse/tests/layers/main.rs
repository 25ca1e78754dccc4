//! Oracles and conformance of the layer inverses.

mod broken;
mod conformance;
mod embedding;
mod max_pool;
mod passes;
