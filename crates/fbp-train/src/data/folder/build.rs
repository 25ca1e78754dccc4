use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use fbp_linalg::FeatureShape;
use rayon::prelude::*;

use super::super::DataError;
use super::super::FolderError;
use super::ImageOptions;
use super::cache::{Cache, PartName, PartWriter};
use super::listing::{ImageFile, Listing, Part};
use crate::image_files::{Header, ImageError, Preparation, decode, read_header};
use crate::progress::Progress;

/// Bytes of a file that nearly always hold the header of its image.
const START: u64 = 1 << 16;
/// Most bytes of an image file.
const MAX_FILE: u64 = 1 << 30;
/// Bytes of decoded images that are held before they are written.
const HELD: usize = 32 << 20;
/// Files that are decoded at a time, at least and at most.
const AT_A_TIME: [usize; 2] = [16, 512];

/// Decodes the images of a folder into the cache.
pub(super) struct Builder {
    preparation: Preparation,
    skip_broken: bool,
}

impl Builder {
    /// Finds out what all images are to become; where that is not asked for, from the headers of all files.
    ///
    /// # Errors
    /// [`FolderError::Sizes`], [`DataError::Image`], [`DataError::Io`].
    pub(super) fn new(listing: &Listing, options: &ImageOptions) -> Result<Self, DataError> {
        let &ImageOptions { size, channels, skip_broken, .. } = options;
        if let (Some(size), Some(channels)) = (size, channels) {
            let preparation = Preparation { channels, size: size.size, resizing: Some(size.resizing) };
            return Ok(Self { preparation, skip_broken });
        }
        let files: Vec<&ImageFile> = listing.train.files.iter().chain(&listing.test.files).collect();
        let headers: Vec<Result<Header, DataError>> =
            files.par_iter().map(|file| header(&listing.root.join(&file.path))).collect();
        let mut first: Option<(&ImageFile, Header)> = None;
        let mut colour = false;
        for (file, header) in files.into_iter().zip(headers) {
            let header = match header {
                Err(DataError::Image { .. }) if skip_broken => continue,
                header => header?,
            };
            colour |= header.colour;
            let (one, known) = first.get_or_insert((file, header));
            if size.is_none() && (known.width, known.height) != (header.width, header.height) {
                return Err(FolderError::Sizes {
                    first: listing.root.join(&one.path),
                    first_size: [known.width, known.height],
                    other: listing.root.join(&file.path),
                    other_size: [header.width, header.height],
                }
                .into());
            }
        }
        let all_broken = || FolderError::AllBroken { folder: listing.root.clone() };
        let (_, header) = first.ok_or_else(all_broken)?;
        let preparation = Preparation {
            channels: channels.unwrap_or(if colour { 3 } else { 1 }),
            size: size.map_or([header.height, header.width], |size| size.size),
            resizing: size.map(|size| size.resizing),
        };
        Ok(Self { preparation, skip_broken })
    }

    /// Writes both parts into the cache.
    ///
    /// # Errors
    /// [`DataError::Image`] with the first broken file, [`FolderError::AllBroken`], [`FolderError::Cache`],
    /// [`DataError::Io`].
    pub(super) fn write(&self, listing: &Listing, cache: &Cache, progress: &dyn Progress) -> Result<(), DataError> {
        let Preparation { channels, size: [height, width], .. } = self.preparation;
        let shape = FeatureShape::image(channels, height, width);
        for (name, part) in [(PartName::Train, &listing.train), (PartName::Test, &listing.test)] {
            let mut writer = cache.begin(name, shape, listing.classes.len())?;
            self.write_part(&listing.root, part, &mut writer, progress)?;
            if writer.is_empty() {
                return Err(FolderError::AllBroken { folder: part.folder.clone() }.into());
            }
            writer.finish()?;
        }
        Ok(())
    }

    fn write_part(
        &self,
        root: &Path,
        part: &Part,
        writer: &mut PartWriter,
        progress: &dyn Progress,
    ) -> Result<(), DataError> {
        let Preparation { channels, size: [height, width], .. } = self.preparation;
        let at_a_time = (HELD / (channels * height * width).max(1)).clamp(AT_A_TIME[0], AT_A_TIME[1]);
        for files in part.files.chunks(at_a_time) {
            let images: Vec<Result<Vec<u8>, DataError>> = files
                .par_iter()
                .map(|file| {
                    let image = self.image(root.join(&file.path));
                    progress.advance(1);
                    image
                })
                .collect();
            for (file, image) in files.iter().zip(images) {
                match image {
                    Ok(pixels) => writer.push(&pixels, file.label)?,
                    Err(DataError::Image { path, error }) if self.skip_broken => {
                        tracing::info!(path = %path.display(), %error, "left out");
                        writer.push_broken(&file.path);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn image(&self, path: PathBuf) -> Result<Vec<u8>, DataError> {
        let length = fs::metadata(&path).map_err(DataError::at(&path))?.len();
        if length > MAX_FILE {
            return Err(DataError::Image { path, error: ImageError::LargeFile { bytes: length, limit: MAX_FILE } });
        }
        let bytes = fs::read(&path).map_err(DataError::at(&path))?;
        let pixels = decode(&bytes).and_then(|decoded| self.preparation.apply(decoded.picture));
        pixels.map_err(|error| DataError::Image { path, error })
    }
}

/// Header of the image in a file.
fn header(path: &Path) -> Result<Header, DataError> {
    let file = File::open(path).map_err(DataError::at(path))?;
    let mut bytes = Vec::with_capacity(START as usize);
    file.take(START).read_to_end(&mut bytes).map_err(DataError::at(path))?;
    let header = match read_header(&bytes) {
        Err(ImageError::CutOff { .. }) if bytes.len() as u64 == START => {
            read_header(&fs::read(path).map_err(DataError::at(path))?)
        }
        header => header,
    };
    header.map_err(|error| DataError::Image { path: path.to_owned(), error })
}
