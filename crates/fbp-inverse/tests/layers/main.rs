//! Oracles and conformance of the layer inverses.

mod embedding;
mod max_pool;
mod passes;
