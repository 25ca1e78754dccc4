//! The list of data sets, `datasets/manifest.toml`, and checks against it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::TaskError;
use crate::workspace;

/// One data set of the manifest.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DataSet {
    /// Folders that a distribution installs the files in.
    #[serde(default)]
    pub(crate) system: Vec<PathBuf>,
    /// Addresses that serve `/NAME.gz`.
    #[serde(default)]
    pub(crate) mirrors: Vec<String>,
    #[serde(default)]
    pub(crate) files: Vec<Entry>,
    /// The archive that is published, if it is what has a checksum.
    pub(crate) archive: Option<Archive>,
    /// How a part was chosen.
    pub(crate) selection: Option<Selection>,
}

/// An archive with a data set.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Archive {
    /// Its name.
    pub(crate) name: String,
    /// Its MD5 as its makers, or libraries that everyone uses, publish it; none if none is known.
    pub(crate) md5: Option<String>,
    /// Addresses that serve it.
    pub(crate) urls: Vec<String>,
}

/// One file of a data set.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Entry {
    /// Name, without `.gz`.
    pub(crate) name: String,
    /// Size of the content in bytes.
    pub(crate) bytes: u64,
    /// SHA-256 of the content.
    pub(crate) sha256: String,
}

/// How a part of a data set was chosen.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Selection {
    pub(crate) seed: u64,
    pub(crate) train_per_class: usize,
    pub(crate) test_per_class: usize,
}

/// The data set of this name.
pub(crate) fn data_set(name: &str) -> Result<DataSet, TaskError> {
    let path = workspace::datasets().join("manifest.toml");
    let text = fs::read_to_string(&path).map_err(TaskError::at(&path))?;
    let malformed = |reason: String| TaskError::Malformed { path: path.clone(), reason };
    let mut sets: BTreeMap<String, DataSet> = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    sets.remove(name).ok_or_else(|| malformed(format!("no data set {name}")))
}

impl Entry {
    /// Decompresses `bytes` if they are gzip and checks that the content is this file.
    pub(crate) fn content(&self, what: &str, bytes: Vec<u8>) -> Result<Vec<u8>, TaskError> {
        let content = if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut content = Vec::new();
            // One byte more than there may be: what follows need not be unpacked to know that it is wrong.
            let read = MultiGzDecoder::new(bytes.as_slice()).take(self.bytes + 1).read_to_end(&mut content);
            read.map_err(|error| TaskError::Content {
                what: what.to_owned(),
                reason: format!("the gzip stream is damaged or cut off ({error})"),
            })?;
            content
        } else {
            bytes
        };
        let found = sha256(&content);
        if found != self.sha256 {
            let (what, expected) = (what.to_owned(), self.sha256.clone());
            return Err(TaskError::Checksum { what, expected, found });
        }
        Ok(content)
    }

    /// Checks that `bytes`, plain or gzip, are this file.
    pub(crate) fn verify(&self, what: &str, bytes: &[u8]) -> Result<(), TaskError> {
        self.content(what, bytes.to_vec()).map(drop)
    }
}

/// The file of this name in a folder, with or without `.gz`, and whether it is compressed.
pub(crate) fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    [folder.join(format!("{name}.gz")), folder.join(name)].into_iter().find(|path| path.is_file())
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    /// An entry for the content `abc`; its SHA-256 is the example of FIPS 180-2.
    pub(crate) fn abc() -> Entry {
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned();
        Entry { name: "abc".to_owned(), bytes: 3, sha256 }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn content_is_checked_after_decompression() {
        assert_eq!(abc().content("plain", b"abc".to_vec()).unwrap(), b"abc");
        assert_eq!(abc().content("gzip", gzip(b"abc")).unwrap(), b"abc");
        for bytes in [b"abd".to_vec(), b"abcd".to_vec(), Vec::new(), gzip(b"ab"), gzip(b"abcd")] {
            assert!(matches!(abc().content("wrong", bytes), Err(TaskError::Checksum { .. })));
        }
        let cut = gzip(b"abc");
        for len in 2..cut.len() {
            assert!(matches!(abc().content("cut", cut[..len].to_vec()), Err(TaskError::Content { .. })), "{len}");
        }
    }

    #[test]
    fn the_manifest_is_readable() {
        let set = data_set("fashion-mnist").unwrap();
        assert_eq!((set.files.len(), set.mirrors.len()), (4, 2));
        assert!(set.files.iter().all(|file| file.sha256.len() == 64));
        assert!(data_set("absent").unwrap_err().to_string().contains("no data set absent"));
    }
}
