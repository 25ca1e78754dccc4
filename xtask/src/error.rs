use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why a task stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    #[error("{}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("`{command}` failed ({status})")]
    Command { command: String, status: ExitStatus },
    #[error("`{command}` could not be started")]
    Start { command: String, source: io::Error },
    #[error("{}: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error(
        "{what}: the content has sha256 {found}, but datasets/manifest.toml says {expected}: it is damaged or another file"
    )]
    Checksum { what: String, expected: String, found: String },
    #[error("{what}: {reason}")]
    Content { what: String, reason: String },
    #[error("{place} has no file {file} or {file}.gz")]
    NotInSource { place: String, file: String },
    #[error("{url}: {reason}")]
    Download { url: String, reason: String },
    #[error(
        "{name} could not be had:\n  {}\ngive an archive or a folder with the four files: cargo xtask fetch {name} --from PATH",
        tried.join("\n  ")
    )]
    NoSource { name: String, tried: Vec<String> },
    #[error("{step}: {} found\n  {}", findings.len(), findings.join("\n  "))]
    Rules { step: &'static str, findings: Vec<String> },
    #[error("{0}")]
    Refused(String),
}

impl TaskError {
    /// The message with those of its sources, in one text.
    pub(crate) fn with_sources(&self) -> String {
        let first: &dyn std::error::Error = self;
        let all = std::iter::successors(Some(first), |error| error.source());
        all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    /// Adds the path to an error of the operating system; for `map_err`.
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
