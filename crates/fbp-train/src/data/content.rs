//! Contents of files, plain or gzip.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::DataError;

/// Largest accepted content of one file, in bytes, after decompression.
pub(super) const MAX_BYTES: u64 = 1 << 32;

pub(super) const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The file in a folder, plain or with `.gz`; the plain one, which is read faster, is preferred.
pub(super) fn find(folder: &Path, file: &str) -> Option<PathBuf> {
    [folder.join(file), folder.join(format!("{file}.gz"))].into_iter().find(|path| path.is_file())
}

/// Everything in a file, after decompression.
///
/// # Errors
/// [`DataError::Io`], [`DataError::Gzip`], [`DataError::Empty`] for a file without bytes, [`DataError::TooLarge`].
pub(super) fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    let file = File::open(path).map_err(DataError::at(path))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let gzip = reader.fill_buf().map_err(DataError::at(path))?.starts_with(&GZIP_MAGIC);
    let mut content = Vec::new();
    // One byte more than may be there tells a file that is too large.
    let read = match gzip {
        true => MultiGzDecoder::new(reader).take(MAX_BYTES + 1).read_to_end(&mut content),
        false => reader.take(MAX_BYTES + 1).read_to_end(&mut content),
    };
    read.map_err(read_failed(path))?;
    match content.len() as u64 {
        0 => Err(DataError::Empty { origin: path.display().to_string(), what: "the file has no bytes" }),
        found if found > MAX_BYTES => {
            let (dims, reason) = (format!("more than {MAX_BYTES}"), "one file may hold");
            Err(DataError::TooLarge { path: path.to_owned(), dims, limit: MAX_BYTES, reason })
        }
        _ => Ok(content),
    }
}

/// An error while reading, which is one of the gzip stream if the decoder made it.
pub(super) fn read_failed(path: &Path) -> impl FnOnce(io::Error) -> DataError + '_ {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    move |source| match source.kind() {
        InvalidData | InvalidInput | UnexpectedEof => {
            DataError::Gzip { path: path.to_owned(), reason: source.to_string() }
        }
        _ => DataError::Io { path: path.to_owned(), source },
    }
}
