#![doc = include_str!("../README.md")]

#[cfg(feature = "mpi")]
mod ranks;

#[cfg(feature = "mpi")]
pub use ranks::{MpiRank, StartError};
