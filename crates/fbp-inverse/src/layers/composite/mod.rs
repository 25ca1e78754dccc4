//! Layers made of others: blocks, residual connections, parallel branches.

// From the bottom up, each module uses only those before it: affine, merge; split, whole; block; block_reverse, parallel;
// residual.

mod affine;
mod block;
mod block_reverse;
mod merge;
mod parallel;
mod residual;
mod split;
mod whole;

pub use block::Block;
pub use merge::Merge;
pub use parallel::Parallel;
pub use residual::Residual;

pub(super) use whole::WholeReverse;
