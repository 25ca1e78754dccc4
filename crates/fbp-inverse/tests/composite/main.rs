//! Composite and token layers: values, derivatives and reversal.
#![expect(clippy::unwrap_used, reason = "a test may panic, also in the functions that it shares with others")]

mod attention;
mod derivatives;
mod nets;
