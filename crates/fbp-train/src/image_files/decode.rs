use fbp_models::picture::{Picture, is_on_its_side};

use super::{ImageError, MAX_PIXELS, jpeg, png_file};

/// First bytes of a JPEG file.
const JPEG: [u8; 3] = [0xff, 0xd8, 0xff];
/// Bytes of a file of an unknown kind that are shown.
const SHOWN: usize = 12;

/// What a file tells about its image before it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Pixels of a row, as the image is seen.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// Whether it may have colours; a palette counts as colours.
    pub colour: bool,
}

/// An image as it is seen, upright.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Its pixels.
    pub picture: Picture,
    /// Whether parts of it were transparent; their colours are those below the transparency.
    pub transparent: bool,
}

enum Kind {
    Jpeg(jpeg::JpegHeader),
    Png(png_file::PngHeader),
}

impl Kind {
    fn of(bytes: &[u8]) -> Result<Self, ImageError> {
        let kind = match bytes {
            [] => return Err(ImageError::Empty),
            _ if bytes.starts_with(&JPEG) => Self::Jpeg(jpeg::header(bytes)?),
            _ if bytes.starts_with(&png_file::SIGNATURE) => Self::Png(png_file::header(bytes)?),
            _ => {
                let start = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
                return Err(ImageError::Unknown { start: format!("{start:?}") });
            }
        };
        let [width, height] = kind.stored_size();
        if width == 0 || height == 0 {
            return Err(ImageError::NoPixels { width, height });
        }
        if width.checked_mul(height).is_none_or(|pixels| pixels > MAX_PIXELS) {
            return Err(ImageError::TooLarge { width, height });
        }
        match &kind {
            Self::Jpeg(header) if header.components == 4 => Err(ImageError::Cmyk),
            _ => Ok(kind),
        }
    }

    fn stored_size(&self) -> [usize; 2] {
        match self {
            Self::Jpeg(header) => [header.width, header.height],
            Self::Png(header) => [header.width, header.height],
        }
    }

    fn orientation(&self) -> u8 {
        match self {
            Self::Jpeg(header) => header.orientation,
            Self::Png(header) => header.orientation,
        }
    }
}

/// Size and kind of the image in a file, of which the first part is enough unless it is [cut off](ImageError::CutOff).
///
/// # Errors
/// Every [`ImageError`] but those of the pixels themselves.
pub fn read_header(bytes: &[u8]) -> Result<Header, ImageError> {
    let kind = Kind::of(bytes)?;
    let [width, height] = kind.stored_size();
    let colour = match &kind {
        Kind::Jpeg(header) => header.components != 1,
        Kind::Png(header) => header.colour,
    };
    match is_on_its_side(kind.orientation()) {
        true => Ok(Header { width: height, height: width, colour }),
        false => Ok(Header { width, height, colour }),
    }
}

/// Decodes the image in a file.
///
/// # Errors
/// [`ImageError`].
pub fn decode(bytes: &[u8]) -> Result<Decoded, ImageError> {
    let kind = Kind::of(bytes)?;
    let (picture, transparent) = match &kind {
        Kind::Jpeg(header) => (jpeg::pixels(bytes, header)?, false),
        Kind::Png(_) => png_file::pixels(bytes)?,
    };
    Ok(Decoded { picture: picture.oriented(kind.orientation()), transparent })
}

#[cfg(test)]
mod tests;
