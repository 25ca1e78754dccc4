//! Targets of whole chains against oracles: nothing within reach is called unattained, and nothing much nearer exists.
//!
//! A run of fixed size is part of the tests; `FBP_CHAINS=20 FBP_CHAIN_SAMPLES=40 cargo test -p fbp-inverse --test chains`
//! is the full one. With `FBP_CHAIN_TABLE` every chain's figures are written to the standard error.
#![expect(clippy::unwrap_used, reason = "a test may panic, also in the functions that it shares with others")]

mod block;
mod boxes;
mod deep;
mod dice;
mod network;
mod oracle;
mod residual;
mod reversal;
mod trained;

use std::io::Write;

/// The number in an environment variable, or else `default`.
fn number_from(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Writes a line of figures if a table is wanted.
fn note(line: &str) {
    if std::env::var_os("FBP_CHAIN_TABLE").is_some() {
        std::io::stderr().write_all(format!("{line}\n").as_bytes()).expect("the standard error takes text");
    }
}

/// The value below which a share of the values lies.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    if values.is_empty() { f64::NAN } else { values[((values.len() - 1) as f64 * share).round() as usize] }
}
