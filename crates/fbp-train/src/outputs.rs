//! Which files a command may write: those that are not there, and those that it wrote itself for the same purpose.
//!
//! A record tells of the checkpoint beside it by its SHA-256, and a result of `--json` is marked as one. Whatever is neither
//! belongs to somebody else and is never replaced unasked.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::TrainError;
use crate::atomic::{folder_of, part_name, prepare_folder, write_atomic};
use crate::hash::bytes_sha256;
use crate::identity::file_sha256;
use crate::json::{differences, read_json, write_json};

/// Key of the mark of a result that was asked for with `--json`.
pub const RESULT_KEY: &str = "result_of";
/// How often a lock is tried that a clean-up may hold for a moment.
const TRIES: usize = 5;

/// A record that is kept beside the checkpoint of its run.
pub trait RunRecord: Serialize + DeserializeOwned {
    /// What was asked for.
    type Settings: Serialize + PartialEq;
    /// The command that writes it, for example `pretrain`.
    const COMMAND: &'static str;
    /// What it is called, for example `pretraining record`.
    const WHAT: &'static str;

    /// What was asked for.
    fn settings(&self) -> &Self::Settings;
    /// SHA-256 of the checkpoint.
    fn checkpoint_sha256(&self) -> &str;
}

/// The checkpoint of a run and its record: the two files that the run writes, and that no other run may write until this
/// is dropped.
#[derive(Debug)]
pub struct RunFiles {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// Its record.
    pub record: PathBuf,
    _lock: OutputLock,
}

/// The record of the run that made a checkpoint: beside it, with the extension `json`.
pub fn record_path(checkpoint: &Path) -> PathBuf {
    if checkpoint.extension().is_some_and(|extension| extension == "safetensors") {
        return checkpoint.with_extension("json");
    }
    let mut name = checkpoint.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

impl RunFiles {
    /// A checkpoint and the record beside it. Makes the folder, and finds out whether files can be written there.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a path that can be no checkpoint, [`TrainError::Write`], [`TrainError::Busy`] if another
    /// run is writing it.
    pub fn beside(checkpoint: &Path) -> Result<Self, TrainError> {
        let setting = |reason: &str| TrainError::Setting {
            name: "out",
            value: checkpoint.display().to_string(),
            reason: reason.into(),
        };
        if checkpoint.is_dir() {
            return Err(setting("is a folder: name the file of the checkpoint, for example NAME.safetensors in it"));
        }
        if checkpoint.extension().is_some_and(|extension| extension == "json") {
            return Err(setting("would have the name of its own record: name a file that ends in .safetensors"));
        }
        Self::lock(checkpoint.to_owned(), record_path(checkpoint))
    }

    /// The files of a run in a folder of runs.
    ///
    /// # Errors
    /// [`TrainError::Write`], [`TrainError::Busy`] if another run is writing them.
    pub fn named(folder: &Path, name: &str) -> Result<Self, TrainError> {
        Self::lock(folder.join(format!("{name}.safetensors")), folder.join(format!("{name}.json")))
    }

    fn lock(checkpoint: PathBuf, record: PathBuf) -> Result<Self, TrainError> {
        prepare_folder(&folder_of(&checkpoint))?;
        let lock = OutputLock::acquire(&checkpoint)?;
        Ok(Self { checkpoint, record, _lock: lock })
    }

    /// The record of this run if it is finished, and `None` if the files may be written. With `force` whatever is there
    /// may be replaced.
    ///
    /// # Errors
    /// [`TrainError::OtherSettings`] for a run with other settings, [`TrainError::Foreign`] for files of another origin.
    pub fn finished<R: RunRecord>(&self, wanted: &R::Settings, force: bool) -> Result<Option<R>, TrainError> {
        if force {
            return Ok(None);
        }
        let foreign = |path: &Path| TrainError::Foreign { path: path.to_owned(), command: R::COMMAND.into() };
        let found: Option<R> = match read_json(&self.record, R::WHAT) {
            Err(TrainError::Json { .. }) => return Err(foreign(&self.record)),
            read => read?,
        };
        // A result of `--json` looks like a record and is none.
        if found.is_some() && is_result(&self.record) {
            return Err(foreign(&self.record));
        }
        let Some(found) = found else {
            return if self.checkpoint.exists() { Err(foreign(&self.checkpoint)) } else { Ok(None) };
        };
        if found.settings() != wanted {
            let differences = differences(found.settings(), wanted);
            return Err(TrainError::OtherSettings { path: self.record.clone(), differences });
        }
        if is_finished(&found, &self.checkpoint) {
            return Ok(Some(found));
        }
        // Another file than the one that the record tells of; if there is none, a run was killed between the two.
        if self.checkpoint.exists() { Err(foreign(&self.checkpoint)) } else { Ok(None) }
    }

    /// Writes the record, then the checkpoint: whatever the next run finds after a kill, no checkpoint is without a record.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn write<R: RunRecord>(&self, record: &R, checkpoint: &[u8]) -> Result<(), TrainError> {
        write_run(record, (&self.record, &self.checkpoint), checkpoint)
    }

    /// Keeps a run from replacing the checkpoint that it starts from.
    ///
    /// # Errors
    /// [`TrainError::Setting`].
    pub fn keep_input(&self, input: &Path) -> Result<(), TrainError> {
        let reason = "would replace the checkpoint that the run starts from: name another file".into();
        let value = self.checkpoint.display().to_string();
        match is_same_place(&self.checkpoint, input) {
            true => Err(TrainError::Setting { name: "out", value, reason }),
            false => Ok(()),
        }
    }
}

/// Writes a record, then its checkpoint.
pub(crate) fn write_run<R: RunRecord>(
    record: &R,
    (record_file, checkpoint_file): (&Path, &Path),
    checkpoint: &[u8],
) -> Result<(), TrainError> {
    debug_assert_eq!(record.checkpoint_sha256(), bytes_sha256(checkpoint));
    write_json(record_file, record)?;
    write_atomic(checkpoint_file, checkpoint)
}

/// Whether a record tells of this checkpoint as it is.
pub fn is_finished<R: RunRecord>(record: &R, checkpoint: &Path) -> bool {
    file_sha256(checkpoint).is_ok_and(|sha256| sha256 == record.checkpoint_sha256())
}

/// Whether a file is a result that was asked for with `--json`, of whatever command.
pub fn is_result(path: &Path) -> bool {
    fs::read(path).is_ok_and(|text| result_command(&text).is_some())
}

/// The command whose result a text is, if it is marked as one.
fn result_command(text: &[u8]) -> Option<String> {
    serde_json::from_slice::<serde_json::Value>(text).ok()?.get(RESULT_KEY)?.as_str().map(str::to_owned)
}

/// Lets a file be written that is not there, that is empty, or that holds an earlier result of the same command.
///
/// # Errors
/// [`TrainError::Foreign`], [`TrainError::Read`].
pub fn check_result_file(path: &Path, command: &str) -> Result<(), TrainError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(TrainError::reading(path)(error)),
        Ok(text) if text.is_empty() || result_command(&text).as_deref() == Some(command) => Ok(()),
        Ok(_) => Err(TrainError::Foreign { path: path.to_owned(), command: format!("{command} --json") }),
    }
}

/// Lets a copy of a record be written where there is none, or one of the same origin as `is_own` tells.
///
/// # Errors
/// [`TrainError::Foreign`], [`TrainError::Read`].
pub fn check_copy<R: DeserializeOwned>(
    path: &Path,
    command: &str,
    is_own: impl Fn(&R) -> bool,
) -> Result<(), TrainError> {
    let found: Result<Option<R>, _> = read_json(path, "record");
    match found {
        Ok(Some(found)) if is_own(&found) && !is_result(path) => Ok(()),
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(TrainError::Json { .. }) => {
            Err(TrainError::Foreign { path: path.to_owned(), command: command.into() })
        }
        Err(error) => Err(error),
    }
}

/// Keeps a command from replacing files that are not among its `own` earlier ones, unless `force`.
///
/// # Errors
/// [`TrainError::Foreign`] with the first such file.
pub fn refuse_foreign_files(
    folder: &Path,
    names: &[String],
    own: &[String],
    (command, force): (&str, bool),
) -> Result<(), TrainError> {
    let foreign = |name: &&String| !own.contains(name) && folder.join(name).exists();
    match names.iter().find(foreign) {
        Some(name) if !force => Err(TrainError::Foreign { path: folder.join(name), command: command.into() }),
        _ => Ok(()),
    }
}

/// Whether two paths name one file, which need not be there.
pub fn is_same_place(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        fs::canonicalize(path).ok().or_else(|| {
            let folder = folder_of(path);
            Some(fs::canonicalize(&folder).or_else(|_| std::path::absolute(&folder)).ok()?.join(path.file_name()?))
        })
    };
    matches!((place(a), place(b)), (Some(a), Some(b)) if a == b)
}

/// Keeps every other process from writing a file until it is dropped, also by a crash.
///
/// The lock is that of a temporary file beside it, which [`prepare_folder`] removes if its owner is gone.
#[derive(Debug)]
pub struct OutputLock {
    file: Option<(PathBuf, File)>,
}

impl OutputLock {
    /// Takes the lock of a file in an existing folder. Systems that cannot lock files get none.
    ///
    /// # Errors
    /// [`TrainError::Busy`] if another process has it, [`TrainError::Write`] if the folder cannot be written.
    pub fn acquire(path: &Path) -> Result<Self, TrainError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let digest = bytes_sha256(name.as_bytes());
        let place = folder_of(path).join(part_name(&format!("lock-{}", &digest[..16])));
        for attempt in 1.. {
            let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&place);
            let file = opened.map_err(TrainError::writing(path))?;
            match file.try_lock() {
                Ok(()) if is_file_of(&file, &place) => return Ok(Self { file: Some((place, file)) }),
                // Its last owner has removed it in between.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if attempt < TRIES => std::thread::sleep(Duration::from_millis(10)),
                Err(TryLockError::WouldBlock) => return Err(TrainError::Busy { path: path.to_owned() }),
                Err(TryLockError::Error(error)) => {
                    tracing::warn!(%error, file = %path.display(), "the file cannot be locked");
                    break;
                }
            }
        }
        Ok(Self { file: None })
    }
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        if let Some((place, _)) = &self.file {
            // While it is still locked, so that nobody else can have it. What stays is removed by the next run.
            let _ = fs::remove_file(place);
        }
    }
}

/// Whether an open file is the one at a place.
fn is_file_of(file: &File, place: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        matches!((file.metadata(), fs::metadata(place)), (Ok(own), Ok(other)) if id(&own) == id(&other))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        place.exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_told_by_their_mark() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.json");
        check_result_file(&path, "eval").unwrap();
        for (text, is_own) in [
            ("", true),
            ("{\"result_of\": \"eval\", \"a\": 1}", true),
            ("{\"result_of\": \"pretrain\"}", false),
            ("{\"a\": 1}", false),
            ("no JSON", false),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(check_result_file(&path, "eval").is_ok(), is_own, "{text:?}");
        }
    }

    #[test]
    fn one_file_has_one_writer_and_the_lock_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.safetensors");
        let lock = OutputLock::acquire(&path).unwrap();
        assert!(matches!(OutputLock::acquire(&path), Err(TrainError::Busy { .. })));
        let other = OutputLock::acquire(&folder.path().join("d.safetensors")).unwrap();
        // A clean-up leaves locked files alone.
        prepare_folder(folder.path()).unwrap();
        assert!(matches!(OutputLock::acquire(&path), Err(TrainError::Busy { .. })));
        drop((lock, other));
        OutputLock::acquire(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn places_are_compared_whether_or_not_they_are_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        let [plain, around] = ["x.json", "a/../x.json"].map(|name| folder.path().join(name));
        assert!(is_same_place(&plain, &around) && !is_same_place(&plain, &folder.path().join("a/x.json")));
        fs::write(&plain, "x").unwrap();
        assert!(is_same_place(&plain, &around));
    }
}
