//! What asks for an address.

use std::io::{self, Write};
use std::time::Duration;

/// Writes what an address serves, at most `limit` bytes.
pub(crate) fn get(url: &str, limit: u64, to: &mut impl Write) -> Result<(), String> {
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_global(Some(Duration::from_secs(900)));
    // A proxy that the environment names does not lead back to this machine.
    let config = if url.starts_with("http://127.0.0.1:") { config.proxy(None) } else { config };
    let agent: ureq::Agent = config.build().into();
    let response = agent.get(url).call().map_err(|error| error.to_string())?;
    let mut body = response.into_body().into_with_config().limit(limit).reader();
    io::copy(&mut body, to).and_then(|_| to.flush()).map_err(|error| error.to_string())
}
