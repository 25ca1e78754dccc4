//! Files that are either complete or not there: written beside their place, forced to disk, then renamed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::TrainError;

/// Start of the name of every temporary file.
const PREFIX: &str = ".fbp-";
/// End of the name of every temporary file.
const SUFFIX: &str = ".part";

/// Writes `bytes` to `path` so that a reader, or the next run after a crash, sees the old file or the new one,
/// never a part.
///
/// The bytes go to a temporary file in the same folder, are forced to disk, get their name by renaming, and the
/// folder is forced to disk as well.
///
/// # Errors
/// [`TrainError::Write`], after which neither a temporary file nor a half file is left.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let mut part = NewFile::create(path)?;
    part.write(bytes)?;
    part.finish()
}

/// A file that is written piece by piece, and there only when it is finished; as [`write_atomic`] otherwise.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    part: PartFile,
}

impl NewFile {
    /// Begins a file beside its place.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        let part = PartFile::create(&folder_of(path)).map_err(TrainError::writing(path))?;
        Ok(Self { path: path.to_owned(), part })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        self.part.file.write_all(bytes).map_err(TrainError::writing(&self.path))
    }

    /// Writes bytes at a distance from the start, which may lie beyond what has been written.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn write_at(&mut self, start: u64, bytes: &[u8]) -> Result<(), TrainError> {
        self.part.file.seek(SeekFrom::Start(start)).map_err(TrainError::writing(&self.path))?;
        self.write(bytes)
    }

    /// Forces the file to disk and gives it its name.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub fn finish(mut self) -> Result<(), TrainError> {
        let attempt = |part: &mut PartFile| -> io::Result<()> {
            part.file.sync_all()?;
            fs::rename(&part.path, &self.path)?;
            part.renamed = true;
            sync_folder(&folder_of(&self.path))
        };
        attempt(&mut self.part).map_err(TrainError::writing(&self.path))
    }
}

/// Name of a temporary file.
pub(crate) fn part_name(middle: &str) -> String {
    format!("{PREFIX}{middle}{SUFFIX}")
}

/// Creates `folder` and its parents, removes the temporary files that killed processes left in it, and finds out whether
/// files can be written there, so that no work is done in vain.
///
/// A temporary file is locked by its writer for as long as that lives, so files of other running processes stay.
///
/// # Errors
/// [`TrainError::Write`] if the folder cannot be made, listed or written.
pub fn prepare_folder(folder: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(folder).map_err(TrainError::writing(folder))?;
    for entry in fs::read_dir(folder).map_err(TrainError::writing(folder))? {
        let entry = entry.map_err(TrainError::writing(folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            remove_if_abandoned(&entry.path());
        }
    }
    // Removes itself.
    PartFile::create(folder).map(drop).map_err(TrainError::writing(folder))
}

/// Removes a temporary file whose writer is gone. One that has just vanished or cannot be opened is not ours to mind.
fn remove_if_abandoned(path: &Path) {
    let Ok(file) = OpenOptions::new().write(true).open(path) else { return };
    if file.try_lock().is_ok() && fs::remove_file(path).is_ok() {
        tracing::info!(path = %path.display(), "removed the temporary file of a killed run");
    }
}

/// Forces a rename or removal in `folder` to disk.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Folder of a file; the current one for a bare name.
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A locked temporary file that removes itself unless it was renamed.
#[derive(Debug)]
struct PartFile {
    path: PathBuf,
    file: File,
    renamed: bool,
}

impl PartFile {
    fn create(folder: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(part_name(&format!("{}-{number}", std::process::id())));
            let file = match OpenOptions::new().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                opened => opened?,
            };
            let part = Self { path, file, renamed: false };
            part.file.lock()?;
            // Between creation and lock another process may have taken the file for an abandoned one.
            if part.path.exists() {
                return Ok(part);
            }
        }
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.renamed {
            // On the way out of another error, which is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Keeps every other process from writing to the same folder until it is dropped, also by a crash.
#[derive(Debug)]
pub struct FolderLock {
    _folder: Option<File>,
}

impl FolderLock {
    /// Takes the lock of an existing folder. Systems that cannot lock folders get none.
    ///
    /// # Errors
    /// [`TrainError::Busy`] if another process has it, [`TrainError::Write`] if the folder cannot be opened.
    pub fn acquire(folder: &Path) -> Result<Self, TrainError> {
        Self::take(folder, File::try_lock)
    }

    /// The same for one of several processes that share the folder: keeps those away that want it for themselves.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn share(folder: &Path) -> Result<Self, TrainError> {
        Self::take(folder, File::try_lock_shared)
    }

    fn take(folder: &Path, lock: impl Fn(&File) -> Result<(), TryLockError>) -> Result<Self, TrainError> {
        if !cfg!(unix) {
            return Ok(Self { _folder: None });
        }
        let handle = File::open(folder).map_err(TrainError::writing(folder))?;
        match lock(&handle) {
            Ok(()) => Ok(Self { _folder: Some(handle) }),
            Err(TryLockError::WouldBlock) => Err(TrainError::Busy { path: folder.to_owned() }),
            // Some network file systems have no locks.
            Err(TryLockError::Error(error)) => {
                tracing::warn!(%error, folder = %folder.display(), "the folder cannot be locked");
                Ok(Self { _folder: None })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn writes_replace_whole_files_and_leave_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        write_atomic(&path, b"a long first version").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(folder.path()), ["record.json"]);
    }

    #[test]
    fn a_failed_write_names_the_file_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        // The target is a folder that is not empty: the rename fails after everything was written.
        let path = folder.path().join("taken");
        fs::create_dir_all(path.join("inside")).unwrap();
        let error = write_atomic(&path, b"x").unwrap_err();
        assert!(error.one_line().contains("taken"), "{}", error.one_line());
        assert_eq!(names(folder.path()), ["taken"]);
    }

    #[test]
    fn a_folder_below_a_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), b"x").unwrap();
        let error = prepare_folder(&folder.path().join("file/sub")).unwrap_err();
        assert!(matches!(error, TrainError::Write { .. }), "{error:?}");
    }

    #[test]
    fn only_abandoned_temporary_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".fbp-dead.part"), b"x").unwrap();
        fs::write(folder.path().join("mine.part"), b"x").unwrap();
        let alive = PartFile::create(folder.path()).unwrap();
        prepare_folder(folder.path()).unwrap();
        assert!(alive.path.exists());
        assert_eq!(names(folder.path()).len(), 2);
        drop(alive);
        assert_eq!(names(folder.path()), ["mine.part"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_has_one_writer() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        assert!(matches!(FolderLock::acquire(folder.path()), Err(TrainError::Busy { .. })));
        assert!(FolderLock::share(folder.path()).is_err());
        drop(lock);
        let shared = [0, 1].map(|_| FolderLock::share(folder.path()).unwrap());
        assert!(FolderLock::acquire(folder.path()).is_err());
        drop(shared);
        FolderLock::acquire(folder.path()).unwrap();
    }
}
