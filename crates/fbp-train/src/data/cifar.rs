//! The binary release of CIFAR-10 and CIFAR-100, plain or gzip.
//!
//! A file is one record after the other: one byte with the label (CIFAR-100: the coarse label, then the fine one, which is
//! used), then 3072 bytes with the 32 × 32 pixels of an image, first all red ones, then all green and all blue ones, row by
//! row. That is the order of a [`Dataset`](super::Dataset).
//!
//! # Source
//! A. Krizhevsky, *Learning multiple layers of features from tiny images*, 2009, and "The CIFAR-10 dataset", section
//! "Binary version".

use std::fs;
use std::path::Path;

use fbp_linalg::FeatureShape;

use super::content::{find, read};
use super::{DataError, Dataset, cifar_names};

/// Shape of every image.
const SHAPE: FeatureShape = FeatureShape::image(3, 32, 32);
/// Number of coarse labels of CIFAR-100.
const COARSE: u8 = 20;
/// What is said where a file is missing.
const NEEDS: &str = "the binary release holds it";

/// Which of the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cifar {
    /// One label.
    Ten,
    /// A coarse label, then a fine one.
    Hundred,
}

impl Cifar {
    pub(super) fn classes(self) -> usize {
        match self {
            Self::Ten => 10,
            Self::Hundred => 100,
        }
    }

    pub(super) fn train_files(self) -> &'static [&'static str] {
        match self {
            Self::Ten => {
                &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
            }
            Self::Hundred => &["train.bin"],
        }
    }

    pub(super) fn test_files(self) -> &'static [&'static str] {
        match self {
            Self::Ten => &["test_batch.bin"],
            Self::Hundred => &["test.bin"],
        }
    }

    /// Bytes before the pixels.
    fn label_bytes(self) -> usize {
        match self {
            Self::Ten => 1,
            Self::Hundred => 2,
        }
    }

    /// Names of the classes: those of the file that belongs to the release, else the official ones.
    pub(super) fn class_names(self, folder: &Path) -> Vec<String> {
        let (file, official): (_, &[&str]) = match self {
            Self::Ten => ("batches.meta.txt", &cifar_names::TEN),
            Self::Hundred => ("fine_label_names.txt", &cifar_names::HUNDRED),
        };
        let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
        let names: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let names = if names.len() == self.classes() { &names[..] } else { official };
        names.iter().map(|name| name.replace('_', " ")).collect()
    }

    /// Reads the images of some files of a folder.
    ///
    /// # Errors
    /// [`DataError::MissingFile`], [`DataError::Records`] for a file that is cut off, [`DataError::Label`],
    /// [`DataError::Gzip`], [`DataError::Empty`], [`DataError::Io`].
    pub(super) fn read(self, folder: &Path, name: String, files: &[&str]) -> Result<Dataset, DataError> {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for file in files {
            let path = find(folder, file).ok_or_else(|| DataError::MissingFile {
                folder: folder.to_owned(),
                file: (*file).to_owned(),
                needs: NEEDS,
            })?;
            self.append(&path, &mut pixels, &mut labels)?;
        }
        Dataset::new(name, SHAPE, self.classes(), pixels, labels)
    }

    /// Appends the records of one file.
    fn append(self, path: &Path, pixels: &mut Vec<u8>, labels: &mut Vec<u8>) -> Result<(), DataError> {
        let content = read(path)?;
        let (skip, record) = (self.label_bytes(), self.label_bytes() + SHAPE.len());
        if !content.len().is_multiple_of(record) {
            return Err(DataError::Records { path: path.to_owned(), record, found: content.len() as u64 });
        }
        let count = content.len() / record;
        pixels.reserve_exact(count * SHAPE.len());
        labels.reserve_exact(count);
        for (sample, record) in content.chunks_exact(record).enumerate() {
            let wrong = |origin: String, label: u8, classes| Err(DataError::Label { origin, sample, label, classes });
            let (label, place) = (record[skip - 1], path.display());
            if usize::from(label) >= self.classes() {
                return wrong(place.to_string(), label, self.classes());
            }
            if self == Self::Hundred && record[0] >= COARSE {
                return wrong(format!("{place} (coarse labels)"), record[0], usize::from(COARSE));
            }
            labels.push(label);
            pixels.extend_from_slice(&record[skip..]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
