//! safetensors files: the header first, then single tensors.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo as Header};
use serde::Deserialize;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};

use super::element::to_native;
use super::{ElementType, TensorInfo, WeightsFault};
use crate::ModelError;

/// Longest header that is read, in bytes.
const MAX_HEADER: u64 = 1 << 24;

/// An open file whose header has been read and checked.
#[derive(Debug)]
pub(super) struct SafetensorsFile {
    path: PathBuf,
    /// Where the bytes of every tensor are, from the start of the file.
    places: HashMap<String, (u64, usize)>,
}

/// The header as it is written, with nothing lost that occurs twice.
struct Entries(Vec<(String, Header)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the tensors of a file by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        let header = map.next_value().map_err(|e| A::Error::custom(format!("{name}: {e}")))?;
                        entries.push((name, header));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

impl SafetensorsFile {
    /// Reads the header of a file; what it has comes back by name.
    pub(super) fn open(path: &Path) -> Result<(Self, BTreeMap<String, TensorInfo>), ModelError> {
        let damaged = |reason: String| WeightsFault::Damaged(reason).of(path);
        let mut file = File::open(path).map_err(ModelError::io("open", path))?;
        let length = file.metadata().map_err(ModelError::io("read", path))?.len();
        if length < 8 {
            return Err(damaged(format!("it has only {length} bytes")));
        }
        let mut size = [0; 8];
        file.read_exact(&mut size).map_err(ModelError::io("read", path))?;
        let header_len = u64::from_le_bytes(size);
        if header_len > length - 8 {
            return Err(damaged(format!("its header should have {header_len} bytes, the file has {length}")));
        }
        if header_len > MAX_HEADER {
            return Err(WeightsFault::Limit(format!("a header of {header_len} bytes")).of(path));
        }
        let mut header = vec![0; header_len as usize];
        file.read_exact(&mut header).map_err(ModelError::io("read", path))?;
        let Entries(mut entries) = serde_json::from_slice(&header).map_err(|e| damaged(format!("header: {e}")))?;
        entries.sort_by_key(|(_, header)| header.data_offsets);
        let mut places = HashMap::new();
        let mut infos = BTreeMap::new();
        for (name, header) in &entries {
            let (start, end) = header.data_offsets;
            let place = ((8 + header_len).saturating_add(start as u64), end.saturating_sub(start));
            let info = TensorInfo { element: ElementType::from(header.dtype), shape: header.shape.clone() };
            if infos.insert(name.clone(), info).is_some() {
                return Err(WeightsFault::Duplicate(name.clone()).of(path));
            }
            places.insert(name.clone(), place);
        }
        // That offsets, shapes and types agree, and that nothing is left free between tensors.
        let metadata = Metadata::new(None, entries).map_err(|e| damaged(e.to_string()))?;
        let expected = (metadata.data_len() as u64).saturating_add(8 + header_len);
        if expected != length {
            return Err(damaged(format!("it should have {expected} bytes and has {length}")));
        }
        Ok((Self { path: path.to_owned(), places }, infos))
    }

    /// Some of the bytes of one tensor, in the order of the processor.
    pub(super) fn read(&self, name: &str, element: ElementType, bytes: Range<usize>) -> Result<Vec<u8>, ModelError> {
        let missing = || WeightsFault::NoTensor(name.to_owned()).of(&self.path);
        let &(start, _) = self.places.get(name).filter(|(_, length)| bytes.end <= *length).ok_or_else(missing)?;
        let mut file = File::open(&self.path).map_err(ModelError::io("open", &self.path))?;
        file.seek(SeekFrom::Start(start + bytes.start as u64)).map_err(ModelError::io("read", &self.path))?;
        let mut found = vec![0; bytes.len()]; // not more than the file had when its header was checked
        file.read_exact(&mut found).map_err(ModelError::io("read", &self.path))?;
        to_native(&mut found, element.size().unwrap_or(1));
        Ok(found)
    }
}
