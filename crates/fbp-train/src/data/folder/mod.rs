//! Folders of image files: a training and a validation folder, both with a folder for each class.

mod build;
mod cache;
mod listing;
mod names;

use std::path::{Path, PathBuf};
use std::time::Instant;

use fbp_models::Resizing;

use self::build::Builder;
use self::cache::{Cache, Cached};
use self::listing::Listing;
use super::{DataBundle, DataError, Dataset, Normalization};
use crate::progress::Progress;

/// Bytes that images take in memory unless another number is asked for.
const MEMORY: u64 = 1 << 30;

/// The size that images get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSize {
    /// Height and width.
    pub size: [usize; 2],
    /// How they get there.
    pub resizing: Resizing,
}

impl std::fmt::Display for ImageSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [height, width] = self.size;
        let Resizing { shorter_side, interpolation } = self.resizing;
        match shorter_side {
            Some(side) => write!(f, "centre {width} × {height} of a shorter side of {side}, {interpolation}"),
            None => write!(f, "{width} × {height}, {interpolation}"),
        }
    }
}

/// How the files of a `folder:` become images of one size.
///
/// The order of the images is that of the names of their files, whatever their class, numbers by their size: images that are
/// called by their places in other files have the same places here.
///
/// Files are decoded once, on all threads, into a file of bytes in the `cache` folder, which is mapped into memory: images that
/// take more room than there is memory can be trained on. The file is used again as long as the place of the folder,
/// names, sizes and times of all image files, and these options are the same.
///
/// | field         | default | meaning                                                                        |
/// |---------------|---------|--------------------------------------------------------------------------------|
/// | `size`        | none    | the size of all images; without it, all of them must have one size already      |
/// | `channels`    | none    | 1 for grey, 3 for colours; without it, grey if no file has colours              |
/// | `skip_broken` | false   | leave out files that cannot be decoded, and count them                          |
/// | `cache`       | none    | folder of the cache; without it `FBP_CACHE_DIR`, or that of the user            |
/// | `memory`      | 1 GiB   | bytes that images take in memory: half for bytes in use, half for what is made of them |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageOptions {
    /// The size of all images.
    pub size: Option<ImageSize>,
    /// 1 for grey, 3 for colours.
    pub channels: Option<usize>,
    /// Leave out files that cannot be decoded.
    pub skip_broken: bool,
    /// Folder of the cache.
    pub cache: Option<PathBuf>,
    /// Bytes that images take in memory, more or less.
    pub memory: Option<u64>,
}

/// Loads training and validation images of a folder.
///
/// # Errors
/// [`DataError::Folder`] for folders that hold no such data, [`DataError::Image`] for the first file without an image,
/// [`DataError::Io`], [`DataError::Constant`].
pub(super) fn load(
    root: &Path,
    name: &str,
    options: &ImageOptions,
    progress: &dyn Progress,
) -> Result<DataBundle, DataError> {
    let listing = Listing::read(root)?;
    let cache = Cache::new(&listing, options)?;
    // The other half is for batches and what is evaluated on.
    let resident = options.memory.unwrap_or(MEMORY) / 2;
    let cached = match cache.open(resident) {
        Some(found) => found,
        None => {
            let builder = Builder::new(&listing, options)?;
            let (images, begun) = (listing.train.files.len() + listing.test.files.len(), Instant::now());
            progress.begin("decoding images", images, "images");
            let written = builder.write(&listing, &cache, progress);
            progress.end();
            written?;
            let seconds = begun.elapsed().as_secs_f64();
            tracing::info!(images, seconds, per_second = images as f64 / seconds, "decoded image files");
            cache.open(resident).ok_or_else(|| cache.vanished())?
        }
    };
    let classes = listing.classes.len();
    let whole = |part: Cached, what: &str| -> Result<Dataset, DataError> {
        Dataset::of_pixels(format!("{name} ({what})"), part.shape, classes, part.pixels, part.labels)
    };
    let broken = cached.iter().flat_map(|part| &part.broken).map(|path| listing.root.join(path)).collect();
    let [train, test] = cached;
    let (train, test) = (whole(train, "training")?, whole(test, "validation")?);
    let normalization = Normalization::from_images(&train)?;
    let class_names = names::readable(&listing.root, &listing.classes);
    tracing::debug!(data = name, train = train.len(), test = test.len(), folder = %root.display(), "loaded");
    let resizing = options.size.map(|size| size.resizing);
    Ok(DataBundle { train, test, normalization, class_names, folder: listing.root.clone(), resizing, broken })
}

#[cfg(test)]
mod tests;
