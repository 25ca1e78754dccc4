//! Hostile input for every reader: real files, changed at random from a seed, must give a result or an error.
//!
//! A case fails if the reader panics, or if it asks for more memory than its input accounts for. `cargo xtask fuzz` runs cases
//! for as long as one likes; `cargo test` runs a fixed number of them, and every input that once failed (`found/`).
//!
//! The loop is this crate's own: what is guided by coverage needs instrumented builds of everything, which stable Rust does not
//! have for libFuzzer; changes of real files from a seed need nothing but the readers. `cargo xtask fuzz --coverage` shows what they
//! reach.

pub mod allocation;
pub mod cases;
mod mutate;
mod readers;
mod seeds;
mod sources;

pub use readers::{READERS, Reader, folder_in_memory};
