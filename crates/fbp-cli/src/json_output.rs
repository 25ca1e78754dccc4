//! Where the result of `--json` goes.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fbp_train::TrainError;
use fbp_train::atomic::{folder_of, prepare_folder, write_atomic};
use fbp_train::outputs::{OutputLock, RESULT_KEY, check_result_file, is_same_place};
use serde::Serialize;

use crate::error::CliError;

/// Names of the standard output.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
/// Starts of the names of other streams that are open already.
const STREAMS: [&str; 3] = ["/dev/fd/", "/proc/self/fd/", "/dev/stderr"];

/// Where the result of `--json` goes.
#[derive(Debug)]
pub(crate) enum JsonOutput {
    /// It was not asked for.
    None,
    Stdout,
    /// A pipe, a device or another open stream: opened once, and never read.
    Stream {
        path: PathBuf,
        file: Mutex<File>,
    },
    /// A file, whole or not at all.
    File {
        path: PathBuf,
        _lock: OutputLock,
    },
}

/// A result with its mark, which tells a later run that it may replace it.
#[derive(Serialize)]
struct Marked<'a, R> {
    result_of: &'a str,
    #[serde(flatten)]
    result: &'a R,
}

/// A list with the same mark.
#[derive(Serialize)]
struct MarkedList<'a, R> {
    result_of: &'a str,
    rows: &'a R,
}

impl JsonOutput {
    /// Finds out before the work whether a result can be written, and refuses to replace anything but an earlier one of the
    /// same command.
    pub(crate) fn open(path: Option<&Path>, command: &str) -> Result<Self, CliError> {
        debug_assert_eq!(RESULT_KEY, "result_of");
        let Some(path) = path else { return Ok(Self::None) };
        let name = path.to_string_lossy();
        if STDOUT.contains(&name.as_ref()) {
            return Ok(Self::Stdout);
        }
        let kind = std::fs::metadata(path).ok();
        if kind.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            let (value, reason) = (name.into_owned(), "is a folder: name a file, or - for the standard output".into());
            return Err(TrainError::Setting { name: "json", value, reason }.into());
        }
        let is_stream = STREAMS.iter().any(|start| name.starts_with(start)) || kind.is_some_and(|kind| !kind.is_file());
        if is_stream {
            let file = OpenOptions::new().append(true).open(path).map_err(TrainError::writing(path))?;
            return Ok(Self::Stream { path: path.to_owned(), file: Mutex::new(file) });
        }
        // What a link leads to, so that the link stays.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        prepare_folder(&folder_of(&path))?;
        check_result_file(&path, command)?;
        let _lock = OutputLock::acquire(&path)?;
        Ok(Self::File { path, _lock })
    }

    /// Whether the standard output belongs to the result alone.
    pub(crate) fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout)
    }

    /// Refuses a run that would write its result where it writes something else, or where it reads.
    pub(crate) fn keep_apart<'a>(
        &self,
        others: impl IntoIterator<Item = &'a Path>,
        what: &'static str,
    ) -> Result<(), CliError> {
        let Self::File { path, .. } = self else { return Ok(()) };
        match others.into_iter().any(|other| is_same_place(path, other)) {
            true => {
                let path = path.clone();
                Err(TrainError::Collision { path, first: "the result of --json", second: what }.into())
            }
            false => Ok(()),
        }
    }

    /// Writes the result.
    pub(crate) fn write<R: Serialize>(&self, command: &str, result: &R) -> Result<(), CliError> {
        if matches!(self, Self::None) {
            return Ok(());
        }
        let text = marked(command, result).map_err(|source| {
            let path = PathBuf::from("the result");
            TrainError::Json { path, what: "value with a JSON form", source }
        })?;
        match self {
            Self::None => Ok(()),
            Self::Stdout => pour(&mut std::io::stdout().lock(), &text, Path::new("standard output")),
            Self::Stream { path, file } => pour(&mut *file.lock().unwrap_or_else(PoisonError::into_inner), &text, path),
            Self::File { path, .. } => Ok(write_atomic(path, &text)?),
        }
    }
}

fn marked<R: Serialize>(command: &str, result: &R) -> serde_json::Result<Vec<u8>> {
    let is_object = serde_json::to_value(result)?.is_object();
    let mut text = match is_object {
        true => serde_json::to_vec_pretty(&Marked { result_of: command, result }),
        false => serde_json::to_vec_pretty(&MarkedList { result_of: command, rows: result }),
    }?;
    text.push(b'\n');
    Ok(text)
}

/// Writes to a stream whose reader may have seen enough.
fn pour(stream: &mut dyn Write, text: &[u8], path: &Path) -> Result<(), CliError> {
    match stream.write_all(text).and_then(|()| stream.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written.map_err(TrainError::writing(path))?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_name_their_command() {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let object = text(marked("eval", &serde_json::json!({"accuracy": 0.5})).unwrap());
        assert_eq!(object, "{\n  \"result_of\": \"eval\",\n  \"accuracy\": 0.5\n}\n");
        assert!(text(marked("sweep", &[1, 2]).unwrap()).contains("\"rows\""));
    }
}
