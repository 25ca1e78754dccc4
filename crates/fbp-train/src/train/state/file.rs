use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::kept::{Kept, Numbers};
use crate::TrainError;
use crate::hash::bytes_sha256;

/// The one metadata key. More than one would be written in random order.
const KEY: &str = "fbp.state";
/// States of other versions are not gone on from: their steps may round otherwise.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Length of the SHA-256 at the end of a file, in hexadecimal digits.
const DIGEST: usize = 64;
/// Longest header whose settings are read.
const MAX_HEADER: u64 = 1 << 26;

/// What a state file says besides its tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Header {
    version: String,
    /// The settings of the training as JSON.
    pub(super) settings: String,
    /// Later ones have larger numbers.
    pub(super) generation: u64,
    pub(super) threads: usize,
    /// Number of ranks that did it together.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(super) ranks: usize,
    /// Time of the training so far.
    pub(super) seconds: f64,
    pub(super) kept: Kept,
}

/// A state as it is on disk.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) header: Header,
    pub(super) numbers: Numbers,
}

impl Header {
    /// A header with the number of the state and the time of the training so far.
    pub(super) fn new(settings: &str, (generation, seconds): (u64, f64), ranks: usize, kept: Kept) -> Self {
        let (version, settings, threads) = (VERSION.to_owned(), settings.to_owned(), rayon::current_num_threads());
        Self { version, settings, generation, threads, ranks, seconds, kept }
    }
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_one(ranks: &usize) -> bool {
    *ranks == 1
}

impl State {
    /// The bytes of the file: safetensors, and their SHA-256.
    pub(super) fn to_bytes(&self, path: &Path) -> Result<Vec<u8>, TrainError> {
        let json = |source| TrainError::Json { path: path.to_owned(), what: "state of a training", source };
        let header = serde_json::to_string(&self.header).map_err(json)?;
        let mut bytes = pack(header, &self.numbers, path)?;
        let digest = bytes_sha256(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        Ok(bytes)
    }

    /// Reads a file; a reason in words if it cannot be gone on from.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        const DAMAGED: &str = "is damaged";
        let (json, numbers) = contents(bytes).and_then(unpack).ok_or(DAMAGED)?;
        let header =
            serde_json::from_str::<Header>(&json).map_err(|_| "was kept by another version of this program")?;
        if header.version != VERSION {
            return Err("was kept by another version of this program");
        }
        Ok(Self { header, numbers })
    }
}

/// A state for other ranks.
///
/// # Errors
/// [`TrainError::Shard`] and [`TrainError::Json`], if it has no such form.
pub(in super::super) fn to_message(kept: Kept, numbers: Numbers) -> Result<Vec<u8>, TrainError> {
    State { header: Header::new("", (0, 0.0), 1, kept), numbers }.to_bytes(Path::new("a state"))
}

/// What [`to_message`] gave.
pub(in super::super) fn of_message(bytes: &[u8]) -> Option<(Kept, Numbers)> {
    State::from_bytes(bytes).ok().map(|State { header, numbers }| (header.kept, numbers))
}

/// Numbers by name and a text as the bytes of a safetensors file.
///
/// # Errors
/// [`TrainError::Shard`] if they have no such form.
pub(in super::super) fn pack(text: String, numbers: &Numbers, path: &Path) -> Result<Vec<u8>, TrainError> {
    let format = |source| TrainError::Shard { path: path.to_owned(), source };
    let mut tensors = Vec::new();
    for (name, values) in numbers {
        let bytes = bytemuck::cast_slice(values.as_slice());
        tensors.push((name.as_str(), TensorView::new(Dtype::F32, vec![values.len()], bytes).map_err(format)?));
    }
    safetensors::serialize(tensors, Some(HashMap::from([(KEY.to_owned(), text)]))).map_err(format)
}

/// What [`pack`] gave; none of other bytes.
pub(in super::super) fn unpack(bytes: &[u8]) -> Option<(String, Numbers)> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).ok()?;
    let text = metadata.metadata().as_ref()?.get(KEY)?.clone();
    let mut numbers = Numbers::new();
    for (name, view) in SafeTensors::deserialize(bytes).ok()?.iter() {
        if view.dtype() != Dtype::F32 {
            return None;
        }
        let values =
            view.data().chunks_exact(4).map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]]));
        numbers.insert(name.to_owned(), values.collect());
    }
    Some((text, numbers))
}

/// What comes before the SHA-256 at the end, if that is right.
fn contents(bytes: &[u8]) -> Option<&[u8]> {
    let (contents, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
    (bytes_sha256(contents).as_bytes() == digest).then_some(contents)
}

/// Whether a file is as it was written.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    contents(bytes).is_some()
}

/// The settings that a state file belongs to; none if it cannot be read.
pub(super) fn read_settings(path: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Settings {
        settings: String,
    }
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size).ok()?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER || size > length {
        return None;
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    let json = header.get("__metadata__")?.get(KEY)?.as_str()?;
    serde_json::from_str::<Settings>(json).ok().map(|found| found.settings)
}
