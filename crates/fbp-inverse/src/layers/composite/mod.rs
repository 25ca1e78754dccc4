//! Layers made of others: blocks, residual connections, parallel branches.

mod block;
mod merge;
mod parallel;
mod residual;

pub use block::Block;
pub use merge::Merge;
pub use parallel::Parallel;
pub use residual::Residual;
