use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;

use super::DataError;

/// What is known of all pixels of some data, so that it need not be computed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Fingerprint of the data.
    pub(super) sha256: String,
    /// How often every value occurs in each channel.
    pub(super) histogram: Vec<[u64; 256]>,
}

/// Pixels of images of one length, in memory or in a file that is mapped into memory.
#[derive(Clone, Debug)]
pub(super) struct Pixels {
    store: Arc<Store>,
    /// Which images of the store these are, if not all.
    rows: Option<Arc<[usize]>>,
    /// Bytes of one image.
    len: usize,
    facts: Option<Arc<Facts>>,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<u8>),
    Mapped(MappedFile),
}

impl Pixels {
    /// Images in memory, each of `len` bytes.
    pub(super) fn in_memory(bytes: Vec<u8>, len: usize) -> Self {
        Self { store: Arc::new(Store::Memory(bytes)), rows: None, len, facts: None }
    }

    /// Images in a file, each of `len` bytes.
    pub(super) fn mapped(file: MappedFile, len: usize) -> Self {
        Self { store: Arc::new(Store::Mapped(file)), rows: None, len, facts: None }
    }

    /// The same with what is known of them.
    pub(super) fn with_facts(self, facts: Facts) -> Self {
        Self { facts: Some(Arc::new(facts)), ..self }
    }

    pub(super) fn facts(&self) -> Option<&Facts> {
        self.facts.as_deref()
    }

    /// Bytes of all images.
    pub(super) fn bytes(&self) -> usize {
        match (&self.rows, &*self.store) {
            (Some(rows), _) => rows.len() * self.len,
            (None, Store::Memory(bytes)) => bytes.len(),
            (None, Store::Mapped(file)) => file.bytes,
        }
    }

    /// All of them, if they lie in memory.
    pub(super) fn all(&self) -> &[u8] {
        match &*self.store {
            Store::Memory(bytes) => bytes,
            Store::Mapped(_) => &[],
        }
    }

    /// The bytes of one image, which is there.
    pub(super) fn image(&self, index: usize) -> &[u8] {
        let row = self.rows.as_ref().map_or(index, |rows| rows[index]);
        match &*self.store {
            Store::Memory(bytes) => &bytes[row * self.len..][..self.len],
            Store::Mapped(file) => file.part(row * self.len, self.len),
        }
    }

    /// Some of the images: copied if they lie in memory, and not if they are mapped.
    pub(super) fn picked(&self, indices: &[usize]) -> Self {
        let Store::Mapped(_) = &*self.store else {
            let mut picked = Vec::with_capacity(indices.len() * self.len);
            indices.iter().for_each(|&index| picked.extend_from_slice(self.image(index)));
            return Self::in_memory(picked, self.len);
        };
        let row = |&index: &usize| self.rows.as_ref().map_or(index, |rows| rows[index]);
        Self { store: self.store.clone(), rows: Some(indices.iter().map(row).collect()), len: self.len, facts: None }
    }
}

impl PartialEq for Pixels {
    fn eq(&self, other: &Self) -> bool {
        let count = |pixels: &Self| pixels.bytes() / pixels.len.max(1);
        let same = || (0..count(self)).all(|index| self.image(index) == other.image(index));
        self.len == other.len && self.bytes() == other.bytes() && same()
    }
}

/// A file that is mapped into memory, of which no more than some bytes stay there.
#[derive(Debug)]
pub(super) struct MappedFile {
    map: Mmap,
    /// Bytes of the images, at the start of the file.
    bytes: usize,
    /// Most bytes that stay in the memory of this process.
    resident: u64,
    /// Bytes that were touched since the pages were last given back.
    touched: AtomicU64,
}

/// What the system maps around a byte that is touched.
const AROUND: usize = 64 << 10;

impl MappedFile {
    /// Maps a file whose first `bytes` bytes are images; about `resident` bytes of it stay in the memory of this process.
    #[expect(unsafe_code, reason = "memory maps are the one way to use files that are larger than the memory")]
    pub(super) fn open(path: &Path, resident: u64) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::at(path))?;
        // SAFETY: the map is read-only, and files of the cache are never changed in place: they appear by renaming, and
        // where they are replaced or removed, an existing map keeps showing the old contents.
        let map = unsafe { Mmap::map(&file) }.map_err(DataError::at(path))?;
        let bytes = map.len();
        Ok(Self { map, bytes, resident, touched: AtomicU64::new(0) })
    }

    /// Everything in the file.
    pub(super) fn whole(&self) -> &[u8] {
        &self.map
    }

    /// The same with images in its first `bytes` bytes.
    pub(super) fn with_images(self, bytes: usize) -> Self {
        Self { bytes: bytes.min(self.map.len()), ..self }
    }

    /// Some bytes, which are there; gives the pages of the file back when many have been touched. They stay in the memory of
    /// the system as long as nobody else needs it, so that touching them again is cheap.
    fn part(&self, start: usize, len: usize) -> &[u8] {
        let touched = (start % AROUND + len).next_multiple_of(AROUND) as u64;
        if self.touched.fetch_add(touched, Ordering::Relaxed) + touched > self.resident {
            self.touched.store(0, Ordering::Relaxed);
            self.give_back();
        }
        &self.map[..self.bytes][start..][..len]
    }

    #[cfg(unix)]
    #[expect(unsafe_code, reason = "the system asks for a promise that the pages hold nothing of one's own")]
    fn give_back(&self) {
        // SAFETY: the map is read-only and of a file, so what is given back is read from the file again when it is touched,
        // also by another thread that holds a part of it.
        if let Err(error) = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) } {
            tracing::debug!(%error, "the pages of the images stay in memory");
        }
    }

    #[cfg(not(unix))]
    fn give_back(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(bytes: &[u8], resident: u64) -> (tempfile::TempDir, MappedFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pixels");
        std::fs::write(&path, bytes).unwrap();
        let file = MappedFile::open(&path, resident).unwrap();
        (folder, file)
    }

    #[test]
    fn mapped_images_are_those_in_memory_even_when_pages_are_given_back_all_the_time() {
        let bytes: Vec<u8> = (0..300 * 1000_u32).map(|index| (index * 7919 % 251) as u8).collect();
        let (_folder, file) = mapped(&bytes, 1);
        let there = Pixels::mapped(file, 1000);
        let memory = Pixels::in_memory(bytes, 1000);
        assert_eq!(there, memory);
        assert!(there.all().is_empty());
        let (some, others) = (there.picked(&[299, 3, 3]), memory.picked(&[299, 3, 3]));
        assert_eq!(some, others);
        assert_eq!((some.bytes(), some.picked(&[2, 0])), (3000, others.picked(&[2, 0])));
        assert_ne!(some, memory.picked(&[299, 3, 4]));
    }

    #[test]
    fn what_lies_behind_the_images_is_none_of_them() {
        let (_folder, file) = mapped(&[1, 2, 3, 4, 9], 1 << 20);
        let pixels = Pixels::mapped(file.with_images(4), 2);
        assert_eq!((pixels.bytes(), pixels.image(1)), (4, &[3, 4][..]));
    }
}
