//! What every command takes, and where it writes.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use fbp_train::TrainError;
use fbp_train::atomic::{folder_of, prepare_folder};
use fbp_train::json::write_json;

use crate::error::CliError;

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct CommonArgs {
    /// Worker threads; all cores by default
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Seed of everything random: starting weights and the order of the samples
    #[arg(long, global = true, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Write the result as JSON
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl CommonArgs {
    /// Finds out before the work whether its result can be written, and refuses to replace anything but a result.
    pub(crate) fn check_json(&self) -> Result<(), CliError> {
        let Some(path) = &self.json else { return Ok(()) };
        prepare_folder(&folder_of(path))?;
        match std::fs::read(path) {
            Ok(text) if serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_err() => {
                let range = "a new file or one with an earlier result; this one holds something else";
                Err(TrainError::Parameter { name: "json", value: path.display().to_string(), range }.into())
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainError::writing(path)(error).into()),
            _ => Ok(()),
        }
    }

    /// Writes the result where `--json` says.
    pub(crate) fn write_json<R: serde::Serialize>(&self, result: &R) -> Result<(), CliError> {
        self.json.as_deref().map_or(Ok(()), |path| Ok(write_json(path, result)?))
    }
}

/// Where a command writes its results for people to read.
pub(crate) type Out<'a> = &'a mut (dyn Write + Send);

/// Writes a line of the result.
pub(crate) fn say(out: Out<'_>, line: std::fmt::Arguments<'_>) -> Result<(), CliError> {
    match out.write_fmt(format_args!("{line}\n")) {
        // The reader of a pipe has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written.map_err(TrainError::writing("standard output"))?),
    }
}

/// Whether a file that a command wants to write is there already with the same contents; one with others is left alone,
/// unless `force`.
pub(crate) fn is_written(path: &Path, bytes: &[u8], force: bool) -> Result<bool, CliError> {
    match std::fs::read(path) {
        Ok(found) if found == bytes => Ok(true),
        Ok(_) if !force => {
            let range = "new files: this one holds something else; --force replaces it";
            Err(TrainError::Parameter { name: "out", value: path.display().to_string(), range }.into())
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainError::writing(path)(error).into()),
        _ => Ok(false),
    }
}
