use std::env;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use fbp_linalg::FeatureShape;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::super::FolderError;
use super::super::pixels::{Facts, MappedFile, Pixels};
use super::super::{DataError, Dataset};
use super::ImageOptions;
use super::listing::{ImageFile, Listing};
use crate::hash::hex;

/// Environment variable with the folder of the cache.
const VARIABLE: &str = "FBP_CACHE_DIR";
/// Last bytes of a file of the cache; another number for files of another form.
const END: [u8; 8] = *b"fbp-pix1";
/// Characters of the fingerprint that are in the name of a file.
const NAME: usize = 32;

/// The two files with the decoded images of one listing and one set of options.
///
/// A file holds the pixels of one image after the other; then, in JSON, a [`Trailer`]; its length in 8 bytes, little-endian;
/// and 8 bytes that say what it is. So pixels begin at the start of a page, and a file that is cut off is none.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    key: String,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum PartName {
    Train,
    Test,
}

/// What stands behind the pixels.
#[derive(Serialize, Deserialize)]
struct Trailer {
    key: String,
    shape: [usize; 3],
    labels: Vec<u8>,
    /// Files that were left out, from the root.
    broken: Vec<PathBuf>,
    sha256: String,
    histogram: Vec<Vec<u64>>,
}

/// The images of one part.
pub(super) struct Cached {
    pub(super) shape: FeatureShape,
    pub(super) pixels: Pixels,
    pub(super) labels: Vec<u8>,
    pub(super) broken: Vec<PathBuf>,
}

impl Cache {
    /// The place for the images of a listing; nothing is made yet.
    ///
    /// # Errors
    /// [`FolderError::Cache`] if the user has no folder for such things.
    pub(super) fn new(listing: &Listing, options: &ImageOptions) -> Result<Self, DataError> {
        let folder = options.cache.clone().or_else(|| from_environment(&|name| env::var_os(name).map(PathBuf::from)));
        let folder = folder.ok_or_else(|| FolderError::Cache {
            path: PathBuf::from(format!("${VARIABLE}, $XDG_CACHE_HOME or $HOME")),
            source: io::Error::new(io::ErrorKind::NotFound, "none of them is set"),
        })?;
        Ok(Self { folder, key: key(listing, options) })
    }

    fn path(&self, name: PartName) -> PathBuf {
        let part = match name {
            PartName::Train => "train",
            PartName::Test => "test",
        };
        self.folder.join(format!("{}-{part}.pixels", &self.key[..NAME]))
    }

    /// Both parts, if they are there and whole.
    pub(super) fn open(&self, resident: u64) -> Option<[Cached; 2]> {
        // Both are mapped, and together they stay below the limit.
        Some([self.open_part(PartName::Train, resident / 2)?, self.open_part(PartName::Test, resident / 2)?])
    }

    fn open_part(&self, name: PartName, resident: u64) -> Option<Cached> {
        let file = MappedFile::open(&self.path(name), resident).ok()?;
        let bytes = file.whole();
        let rest = bytes.strip_suffix(&END)?;
        let (rest, length) = rest.split_last_chunk::<8>()?;
        let json = rest.len().checked_sub(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let trailer: Trailer = serde_json::from_slice(&rest[json..]).ok()?;
        let Trailer { key, shape: [channels, height, width], labels, broken, sha256, histogram } = trailer;
        let histogram: Option<Vec<[u64; 256]>> = histogram.into_iter().map(|counts| counts.try_into().ok()).collect();
        let shape = FeatureShape::image(channels, height, width);
        let size = shape.len().checked_mul(labels.len())?;
        if key != self.key || size > json || size == 0 {
            return None;
        }
        let facts = Facts { sha256, histogram: histogram? };
        let pixels = Pixels::mapped(file.with_images(size), shape.len()).with_facts(facts);
        Some(Cached { shape, pixels, labels, broken })
    }

    /// Begins to write a part.
    ///
    /// # Errors
    /// [`FolderError::Cache`].
    pub(super) fn begin(&self, name: PartName, shape: FeatureShape, classes: usize) -> Result<PartWriter, DataError> {
        fs::create_dir_all(&self.folder).map_err(failed(&self.folder))?;
        let file = NamedTempFile::new_in(&self.folder).map_err(failed(&self.folder))?;
        Ok(PartWriter {
            path: self.path(name),
            key: self.key.clone(),
            shape,
            classes,
            file: BufWriter::with_capacity(1 << 20, file),
            labels: Vec::new(),
            broken: Vec::new(),
        })
    }

    /// An error for a file that has just been written and is not there.
    pub(super) fn vanished(&self) -> DataError {
        let source = io::Error::new(io::ErrorKind::NotFound, "what was written there has vanished or changed");
        failed(&self.folder)(source)
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DataError {
    let path = path.to_owned();
    move |source| FolderError::Cache { path, source }.into()
}

/// The folder for such things that the environment names.
fn from_environment(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|path| !path.as_os_str().is_empty());
    let of_user = || {
        set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache"))).or_else(|| set("LOCALAPPDATA"))
    };
    set(VARIABLE).or_else(|| of_user().map(|folder| folder.join("fbp").join("images")))
}

/// Fingerprint of everything that decides what is in the cache.
fn key(listing: &Listing, options: &ImageOptions) -> String {
    let ImageOptions { size, channels, skip_broken, cache: _, memory: _ } = options;
    // Two folders may have files of the same names, sizes and times: archives often give all files one time.
    let root = fs::canonicalize(&listing.root).unwrap_or_else(|_| listing.root.clone());
    let mut hasher = Sha256::new();
    hasher.update(format!("{} {}\n{size:?} {channels:?} {skip_broken}\n", env!("CARGO_PKG_VERSION"), root.display()));
    for (part, files) in [("train", &listing.train.files), ("test", &listing.test.files)] {
        for ImageFile { path, label, bytes, changed } in files {
            hasher.update(format!("{part} {label} {bytes} {changed} {}\n", path.display()));
        }
    }
    hex(&hasher.finalize())
}

/// A part that is being written; it is there only when it is finished.
pub(super) struct PartWriter {
    path: PathBuf,
    key: String,
    shape: FeatureShape,
    classes: usize,
    file: BufWriter<NamedTempFile>,
    labels: Vec<u8>,
    broken: Vec<PathBuf>,
}

impl PartWriter {
    /// Appends an image.
    ///
    /// # Errors
    /// [`FolderError::Cache`].
    pub(super) fn push(&mut self, pixels: &[u8], label: u8) -> Result<(), DataError> {
        self.labels.push(label);
        self.file.write_all(pixels).map_err(failed(&self.path))
    }

    /// Notes a file that is left out.
    pub(super) fn push_broken(&mut self, path: &Path) {
        self.broken.push(path.to_owned());
    }

    /// Whether there is no image yet.
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Writes what stands behind the pixels and gives the file its name.
    ///
    /// # Errors
    /// [`FolderError::Cache`], [`DataError::Io`].
    pub(super) fn finish(mut self) -> Result<(), DataError> {
        self.file.flush().map_err(failed(&self.path))?;
        // Looked at once more as a whole, a little at a time.
        let map = MappedFile::open(self.file.get_ref().path(), 64 << 20)?;
        let pixels = Pixels::mapped(map, self.shape.len());
        let data = Dataset::of_pixels(String::new(), self.shape, self.classes, pixels, self.labels.clone())?;
        let trailer = Trailer {
            key: self.key.clone(),
            shape: [self.shape.channels, self.shape.height, self.shape.width],
            sha256: data.sha256(),
            histogram: data.histogram().iter().map(|counts| counts.to_vec()).collect(),
            labels: self.labels,
            broken: self.broken,
        };
        drop(data);
        let path = self.path;
        let json = serde_json::to_vec(&trailer).map_err(|error| failed(&path)(error.into()))?;
        let end = [&json[..], &(json.len() as u64).to_le_bytes(), &END].concat();
        let written = self.file.write_all(&end).and_then(|()| self.file.flush());
        written.map_err(failed(&path))?;
        let file = self.file.into_inner().map_err(|error| failed(&path)(error.into_error()))?;
        file.as_file().sync_all().map_err(failed(&path))?;
        file.persist(&path).map(drop).map_err(|error| failed(&path)(error.error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_the_one_that_is_asked_for_first() {
        let found = |set: &[(&str, &str)]| {
            let value = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value));
            from_environment(&value)
        };
        let all = [(VARIABLE, "/own"), ("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home/me")];
        assert_eq!(found(&all), Some(PathBuf::from("/own")));
        assert_eq!(found(&all[1..]), Some(PathBuf::from("/xdg/fbp/images")));
        assert_eq!(found(&all[2..]), Some(PathBuf::from("/home/me/.cache/fbp/images")));
        assert_eq!(found(&[(VARIABLE, "")]), None);
    }
}
