//! The IDX format of the MNIST family, plain or gzip.
//!
//! A file is the magic number `0x0000_08dd` (unsigned bytes, `dd` dimensions), one big-endian `u32` per dimension, then
//! the bytes in row-major order. Images have three dimensions (`N × H × W`) or four (`N × C × H × W`), labels one.
//! Whether a file is compressed is read from its first bytes, not from its name.
//!
//! # Source
//! Y. LeCun, C. Cortes, C. Burges, *The MNIST database of handwritten digits*, section "File formats".

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use fbp_linalg::FeatureShape;
use flate2::bufread::MultiGzDecoder;
use flate2::{Compression, GzBuilder};

use super::DataError;
use super::content::{self, GZIP_MAGIC, read_failed};

/// Largest accepted content of one file, in bytes, after decompression.
pub const MAX_BYTES: u64 = content::MAX_BYTES;

/// No deflate stream grows by more than this when it is decompressed.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// Memory that is reserved before any of the announced bytes has been seen.
const FIRST_RESERVE: u64 = 64 << 20;

const UNSIGNED_BYTE: u32 = 0x0800;

/// Images as they stand in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxImages {
    /// Shape of one image.
    pub shape: FeatureShape,
    /// `N · C · H · W` bytes, image after image.
    pub pixels: Vec<u8>,
}

impl IdxImages {
    /// Number of images.
    pub fn count(&self) -> usize {
        self.pixels.len() / self.shape.len()
    }
}

/// Reads images, `N × H × W` or `N × C × H × W` bytes.
///
/// # Errors
/// [`DataError::Magic`], [`DataError::Truncated`], [`DataError::Trailing`], [`DataError::TooLarge`],
/// [`DataError::Empty`], [`DataError::Gzip`] or [`DataError::Io`], each naming the file.
pub fn read_images(path: &Path) -> Result<IdxImages, DataError> {
    let kind = Kind { name: "IDX images", magic: "0x00000803 or 0x00000804", ranks: &[3, 4] };
    let (dims, pixels) = read(path, &kind)?;
    let shape = match dims[1..] {
        [height, width] => FeatureShape::image(1, height, width),
        [channels, height, width] => FeatureShape::image(channels, height, width),
        _ => unreachable!("the rank was checked"),
    };
    Ok(IdxImages { shape, pixels })
}

/// Reads labels, `N` bytes.
///
/// # Errors
/// As [`read_images`]; whether a label is a class is for the caller to check.
pub fn read_labels(path: &Path) -> Result<Vec<u8>, DataError> {
    let kind = Kind { name: "IDX labels", magic: "0x00000801", ranks: &[1] };
    read(path, &kind).map(|(_, labels)| labels)
}

/// Writes images as `N × H × W` bytes (one channel) or `N × C × H × W`, compressed if the name ends in `.gz`.
///
/// The same images give the same bytes: the gzip header carries no time and no name. The file appears at once and
/// whole, by renaming.
///
/// # Errors
/// [`DataError::Length`] if the pixels are not whole images, [`DataError::Io`] if the file cannot be written.
pub fn write_images(path: &Path, images: &IdxImages) -> Result<(), DataError> {
    let FeatureShape { channels, height, width } = images.shape;
    let len = images.shape.len();
    let count = images.pixels.len().checked_div(len).unwrap_or(0);
    if count * len != images.pixels.len() {
        let found = images.pixels.len();
        return Err(DataError::Length { what: "pixels of whole images", expected: count * len, found });
    }
    match channels {
        1 => write(path, &[count, height, width], &images.pixels),
        _ => write(path, &[count, channels, height, width], &images.pixels),
    }
}

/// Writes labels, compressed if the name ends in `.gz`; see [`write_images`].
///
/// # Errors
/// [`DataError::Io`] if the file cannot be written.
pub fn write_labels(path: &Path, labels: &[u8]) -> Result<(), DataError> {
    write(path, &[labels.len()], labels)
}

struct Kind {
    name: &'static str,
    magic: &'static str,
    ranks: &'static [u32],
}

fn read(path: &Path, kind: &Kind) -> Result<(Vec<usize>, Vec<u8>), DataError> {
    let file = File::open(path).map_err(DataError::at(path))?;
    let file_len = file.metadata().map_err(DataError::at(path))?.len();
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let start = reader.fill_buf().map_err(DataError::at(path))?;
    if start.is_empty() {
        return Err(DataError::Empty { origin: path.display().to_string(), what: "the file has no bytes" });
    }
    if start.starts_with(&GZIP_MAGIC) {
        let room = Room::AtMost(file_len.saturating_mul(MAX_DEFLATE_RATIO));
        parse(path, kind, MultiGzDecoder::new(reader), room)
    } else {
        parse(path, kind, reader, Room::Exactly(file_len))
    }
}

/// How many bytes the file can give, header included, known before any is read.
#[derive(Clone, Copy)]
enum Room {
    Exactly(u64),
    AtMost(u64),
}

fn parse(path: &Path, kind: &Kind, mut reader: impl Read, room: Room) -> Result<(Vec<usize>, Vec<u8>), DataError> {
    let magic = u32::from_be_bytes(read_word(path, &mut reader, 0)?);
    let rank = magic & 0xff;
    if magic & !0xff != UNSIGNED_BYTE || !kind.ranks.contains(&rank) {
        return Err(DataError::Magic { path: path.to_owned(), found: magic, expected: kind.name, wanted: kind.magic });
    }
    let mut dims = Vec::with_capacity(rank as usize);
    for index in 0..u64::from(rank) {
        dims.push(u32::from_be_bytes(read_word(path, &mut reader, 4 + 4 * index)?));
    }
    if dims.contains(&0) {
        return Err(DataError::Empty { origin: path.display().to_string(), what: "a dimension in its header is zero" });
    }
    let header = 4 + 4 * u64::from(rank);
    let bytes = content_bytes(path, &dims, header, room)?;

    let mut content = Vec::with_capacity(bytes.min(FIRST_RESERVE) as usize);
    reader.by_ref().take(bytes).read_to_end(&mut content).map_err(read_failed(path))?;
    let found = content.len() as u64;
    if found < bytes {
        return Err(DataError::Truncated { path: path.to_owned(), expected: header + bytes, found: header + found });
    }
    // Reading on to the end also makes the decoder compare length and checksum of the gzip trailer.
    if reader.read(&mut [0]).map_err(read_failed(path))? != 0 {
        return Err(DataError::Trailing { path: path.to_owned(), expected: header + bytes });
    }
    Ok((dims.into_iter().map(|dim| dim as usize).collect(), content))
}

/// Product of the dimensions, if this reader accepts it and a file with this much room can hold it.
fn content_bytes(path: &Path, dims: &[u32], header: u64, room: Room) -> Result<u64, DataError> {
    let too_large = |limit, reason| {
        let dims = dims.iter().map(u32::to_string).collect::<Vec<_>>().join(" × ");
        DataError::TooLarge { path: path.to_owned(), dims, limit, reason }
    };
    let bytes = dims
        .iter()
        .try_fold(1_u64, |product, &dim| product.checked_mul(u64::from(dim)))
        .filter(|&bytes| bytes <= MAX_BYTES && usize::try_from(bytes).is_ok())
        .ok_or_else(|| too_large(MAX_BYTES, "one file may hold"))?;
    match room {
        Room::Exactly(found) if found < header + bytes => {
            Err(DataError::Truncated { path: path.to_owned(), expected: header + bytes, found })
        }
        Room::AtMost(limit) if limit < header + bytes => Err(too_large(limit, "a gzip file of this size can hold")),
        _ => Ok(bytes),
    }
}

/// Reads four bytes of the header, of which `before` bytes have been read.
fn read_word(path: &Path, reader: &mut impl Read, before: u64) -> Result<[u8; 4], DataError> {
    let mut word = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut word).map_err(read_failed(path))?;
    let found = before + word.len() as u64;
    <[u8; 4]>::try_from(word).map_err(|_| DataError::Truncated { path: path.to_owned(), expected: before + 4, found })
}

fn write(path: &Path, dims: &[usize], content: &[u8]) -> Result<(), DataError> {
    let mut bytes = (UNSIGNED_BYTE | dims.len() as u32).to_be_bytes().to_vec();
    for &dim in dims {
        let word = u32::try_from(dim).map_err(|_| DataError::Length {
            what: "dimension of an IDX file (at most)",
            expected: u32::MAX as usize,
            found: dim,
        })?;
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend_from_slice(content);
    if path.extension().is_some_and(|extension| extension == "gz") {
        let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        bytes = encoder.write_all(&bytes).and_then(|()| encoder.finish()).map_err(DataError::at(path))?;
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let written = File::create(&unfinished)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&unfinished, path));
    written.map_err(|source| {
        // The error that matters is the first one.
        let _ = fs::remove_file(&unfinished);
        DataError::Io { path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests;
