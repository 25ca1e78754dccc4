//! Files of `torch.save`: checked here, read by the crate `pytorch-reader`.
//!
//! That crate reads every kind there has been and checks every length against the file. What it does not bound is looked at
//! first: pickles whose objects take far more memory than they do (see [`pickle`](super::pickle)), compressed entries of a
//! zip file that unpack to far more than they are, sparse entries of tar files, and names that occur twice.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use pytorch_reader::{FileFormat, PytorchError, PytorchReader, Tensor};
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Budget, Scan, scan};
use super::{Format, TensorInfo, WeightsFault};
use crate::ModelError;

/// Bytes to which a compressed entry of a zip file may unpack, and how many times its own size it may be beyond that.
/// Weights hardly compress; `torch.save` does not compress at all.
const UNPACKED: u64 = 16 << 20;
const UNPACKED_RATIO: u64 = 64;
/// Longest text that is taken over from an error.
const MAX_REASON: usize = 300;

/// A file of `torch.save` whose tensors are known but not read.
#[derive(Debug)]
pub(super) struct PytorchFile {
    tensors: HashMap<String, Tensor>,
}

fn damaged(reason: impl ToString) -> WeightsFault {
    let reason = reason.to_string();
    match reason.char_indices().nth(MAX_REASON) {
        Some((end, _)) => WeightsFault::Damaged(format!("{}…", &reason[..end])),
        None => WeightsFault::Damaged(reason),
    }
}

impl PytorchFile {
    /// Finds out what a file has.
    pub(super) fn open(path: &Path, start: &[u8]) -> Result<(Self, Format, BTreeMap<String, TensorInfo>), ModelError> {
        let length = std::fs::metadata(path).map_err(ModelError::io("read", path))?.len();
        let file = File::open(path).map_err(ModelError::io("open", path))?;
        let scan = match Kind::of(start) {
            Kind::Zip => check_zip(file),
            Kind::Tar => check_tar(file, length),
            Kind::Legacy => check_legacy(file),
            Kind::Pickle => check_pickle(&mut BufReader::new(file)),
        }
        .map_err(|fault| fault.of(path))?;
        let reader = PytorchReader::new(path).map_err(|error| match error {
            PytorchError::Io(source) if source.raw_os_error().is_some() => ModelError::io("read", path)(source),
            other => damaged(other).of(path),
        })?;
        let format = match reader.metadata().format_type {
            FileFormat::Zip => Format::Zip,
            FileFormat::Tar => Format::Tar,
            FileFormat::Legacy => Format::Legacy,
            FileFormat::Pickle => Format::Pickle,
        };
        let tensors = reader.into_tensors();
        if scan.tensors > tensors.len() as u64 && !scan.has_objects {
            return Err(WeightsFault::Ambiguous { tensors: scan.tensors, names: tensors.len() }.of(path));
        }
        let info = |tensor: &Tensor| TensorInfo { element: tensor.dtype().into(), shape: tensor.shape().to_vec() };
        let infos = tensors.iter().map(|(name, tensor)| (name.clone(), info(tensor))).collect();
        Ok((Self { tensors }, format, infos))
    }

    /// The bytes of one tensor, row by row, in the order of the processor.
    pub(super) fn read(&self, path: &Path, name: &str) -> Result<Vec<u8>, ModelError> {
        let tensor = self.tensors.get(name).ok_or_else(|| WeightsFault::NoTensor(name.to_owned()).of(path))?;
        tensor.read().map_err(|error| match error.raw_os_error() {
            Some(_) => ModelError::io("read", path)(error),
            None => damaged(error).of(path),
        })
    }
}

enum Kind {
    Zip,
    Tar,
    Legacy,
    Pickle,
}

/// What a legacy file begins with, within its first pickle: as a number in binary and in decimal form.
const LEGACY_MAGIC: [&[u8]; 2] =
    [&[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19], b"119547037146038801333356"];
/// Where in the file it is looked for.
const LEGACY_SEARCH: usize = 64;
/// Where a tar file says that it is one.
const TAR_MAGIC: std::ops::Range<usize> = 257..262;

impl Kind {
    /// Kind of a file, by its first bytes, in the order in which `pytorch-reader` decides.
    fn of(start: &[u8]) -> Self {
        let search = &start[..start.len().min(LEGACY_SEARCH)];
        let legacy = |magic: &&[u8]| search.windows(magic.len()).any(|bytes| bytes == *magic);
        if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
            Self::Zip
        } else if start.get(TAR_MAGIC) == Some(b"ustar") {
            Self::Tar
        } else if LEGACY_MAGIC.iter().any(legacy) {
            Self::Legacy
        } else {
            Self::Pickle
        }
    }
}

/// Bytes at the start of a file that decide what it is.
pub(super) const START: usize = TAR_MAGIC.end;

/// Whether a file may be one of `torch.save` at all.
pub(super) fn is_possible(start: &[u8]) -> bool {
    match Kind::of(start) {
        Kind::Pickle => matches!(start.first(), Some(0x80 | b'(' | b'}' | b']' | b'c')),
        _ => true,
    }
}

fn check_pickle(reader: &mut impl BufRead) -> Result<Scan, WeightsFault> {
    scan(reader, &mut Budget::new(false))
}

/// The pickles of a legacy file: magic number, version, system, object, keys of the storages that follow.
fn check_legacy(file: File) -> Result<Scan, WeightsFault> {
    let mut reader = BufReader::new(file);
    let mut budget = Budget::new(false);
    for _ in 0..3 {
        scan(&mut reader, &mut budget)?;
    }
    let object = scan(&mut reader, &mut budget)?;
    scan(&mut reader, &mut budget)?;
    Ok(object)
}

fn check_zip(file: File) -> Result<Scan, WeightsFault> {
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
    if archive.has_duplicate_names() {
        return Err(damaged("two entries of the zip file have one name"));
    }
    let mut pickle: Option<String> = None;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        let (size, packed) = (entry.size(), entry.compressed_size());
        let limit = packed.saturating_mul(UNPACKED_RATIO).max(UNPACKED);
        if entry.compression() != CompressionMethod::Stored && size > limit {
            let text = format!("the entry {name} of {packed} bytes would unpack to {size}");
            return Err(WeightsFault::Limit(text));
        }
        // The one that is read: nearest to the root.
        let root = name.strip_suffix("data.pkl").filter(|root| root.is_empty() || root.ends_with('/'));
        if root.is_some() && pickle.as_ref().is_none_or(|other| name.len() < other.len()) {
            pickle = Some(name);
        }
    }
    let name = pickle.ok_or_else(|| WeightsFault::Unknown("a zip file without data.pkl".into()))?;
    let entry = archive.by_name(&name).map_err(damaged)?;
    scan(&mut BufReader::new(entry), &mut Budget::new(false))
}

/// Names of the entries of a tar file that are read.
const TAR_ENTRIES: [&str; 4] = ["sys_info", "storages", "tensors", "pickle"];

fn check_tar(file: File, length: u64) -> Result<Scan, WeightsFault> {
    let mut archive = tar::Archive::new(BufReader::new(file));
    let mut budget = Budget::new(true);
    let mut seen = BTreeSet::new();
    let mut object = None;
    for entry in archive.entries().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let name = entry.path().map_err(damaged)?.to_string_lossy().trim_start_matches("./").to_owned();
        if !TAR_ENTRIES.contains(&name.as_str()) {
            continue;
        }
        if !entry.header().entry_type().is_file() || entry.size() > length {
            return Err(WeightsFault::Limit(format!("the entry {name} is larger than the file")));
        }
        let mut reader = BufReader::new(entry);
        match name.as_str() {
            "storages" => check_tar_storages(&mut reader, &mut budget)?,
            "tensors" => check_tar_tensors(&mut reader, &mut budget)?,
            "pickle" => object = Some(scan(&mut reader, &mut budget)?),
            _ => drop(scan(&mut reader, &mut budget)?),
        }
        if !seen.insert(name) {
            return Err(damaged("two entries of the tar file have one name"));
        }
    }
    object.ok_or_else(|| WeightsFault::Unknown("a tar file without an entry called pickle".into()))
}

fn skip(reader: &mut impl BufRead, bytes: u64) -> Result<(), WeightsFault> {
    match std::io::copy(&mut reader.by_ref().take(bytes), &mut std::io::sink()) {
        Ok(skipped) if skipped == bytes => Ok(()),
        Ok(_) => Err(damaged("an entry of the tar file ends too early")),
        Err(error) => Err(damaged(error)),
    }
}

fn read<const N: usize>(reader: &mut impl BufRead) -> Result<[u8; N], WeightsFault> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).map_err(damaged)?;
    Ok(bytes)
}

/// The entry with the storages: their number, for each a pickle, a length and the elements, and a list of views.
fn check_tar_storages(reader: &mut impl BufRead, budget: &mut Budget) -> Result<(), WeightsFault> {
    let count = scan(reader, budget)?.integer;
    for _ in 0..count {
        let size: u64 = match scan(reader, budget)?.class.as_str() {
            "DoubleStorage" | "LongStorage" => 8,
            "FloatStorage" | "IntStorage" => 4,
            "HalfStorage" | "ShortStorage" | "BFloat16Storage" => 2,
            "CharStorage" | "ByteStorage" | "BoolStorage" => 1,
            other => return Err(damaged(format!("the tar file has a storage of the unknown kind {other}"))),
        };
        let elements = u64::from_le_bytes(read(reader)?);
        skip(reader, elements.saturating_mul(size))?;
    }
    scan(reader, budget).map(drop)
}

/// The entry with the tensors: their number, for each a pickle, the rank, as many sizes and strides, and an offset.
fn check_tar_tensors(reader: &mut impl BufRead, budget: &mut Budget) -> Result<(), WeightsFault> {
    const MAX_RANK: u32 = 64;
    let count = scan(reader, budget)?.integer;
    for _ in 0..count {
        scan(reader, budget)?;
        let rank = u32::from_le_bytes(read(reader)?);
        if rank > MAX_RANK {
            return Err(damaged(format!("the tar file has a tensor of {rank} dimensions")));
        }
        skip(reader, 4 + 16 * u64::from(rank) + 8)?;
    }
    Ok(())
}
