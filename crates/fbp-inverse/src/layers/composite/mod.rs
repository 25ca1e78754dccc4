//! Layers made of others: blocks, residual connections, parallel branches.

mod affine;
mod block;
mod block_reverse;
mod merge;
mod parallel;
mod residual;
mod whole;

pub use block::Block;
pub use merge::Merge;
pub use parallel::Parallel;
pub use residual::Residual;

pub(super) use whole::WholeReverse;
