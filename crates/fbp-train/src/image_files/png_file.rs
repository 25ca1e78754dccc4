use std::io::Cursor;

use fbp_models::picture::Picture;
use png::{ColorType, DecodingError, Limits, Transformations};

use super::{ImageError, MAX_PIXELS, exif};

const FORMAT: &str = "PNG";
/// What every file begins with.
pub(super) const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// What the chunks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PngHeader {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) colour: bool,
    pub(super) orientation: u8,
}

/// Reads size and kind of the pixels, and the orientation if it stands before them.
///
/// # Errors
/// [`ImageError::CutOff`], [`ImageError::Damaged`].
///
/// # Source
/// *Portable Network Graphics (PNG) Specification*, third edition, sections 5 and 11.
pub(super) fn header(bytes: &[u8]) -> Result<PngHeader, ImageError> {
    let damaged = |reason: &str| ImageError::Damaged { format: FORMAT, reason: reason.to_owned() };
    let chunk = |at: usize| -> Option<(&[u8], &[u8])> {
        let length = <[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?;
        let (kind, rest) = (bytes.get(at + 4..at + 8)?, bytes.get(at + 8..)?);
        Some((kind, rest.get(..u32::from_be_bytes(length) as usize)?))
    };
    let (kind, first) = chunk(SIGNATURE.len()).ok_or(ImageError::CutOff { format: FORMAT })?;
    let (b"IHDR", &[w3, w2, w1, w0, h3, h2, h1, h0, _, colour, ..]) = (kind, first) else {
        return Err(damaged("it does not begin with its size"));
    };
    let [width, height] = [[w3, w2, w1, w0], [h3, h2, h1, h0]].map(|side| u32::from_be_bytes(side) as usize);
    let mut header = PngHeader { width, height, colour: !matches!(colour, 0 | 4), orientation: 1 };
    let mut at = SIGNATURE.len() + 12 + first.len();
    while let Some((kind, content)) = chunk(at) {
        match kind {
            b"eXIf" => header.orientation = exif::orientation(content),
            b"IDAT" => break,
            _ => {}
        }
        at += 12 + content.len();
    }
    Ok(header)
}

/// Decodes the pixels, as they are stored, and whether parts of them are transparent.
///
/// # Errors
/// [`ImageError::CutOff`], [`ImageError::Damaged`].
pub(super) fn pixels(bytes: &[u8]) -> Result<(Picture, bool), ImageError> {
    // Room for the largest image with four channels of 16 bits.
    let limits = Limits { bytes: 8 * MAX_PIXELS };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(failed)?;
    let damaged = |reason: &str| ImageError::Damaged { format: FORMAT, reason: reason.to_owned() };
    let size = reader.output_buffer_size().ok_or_else(|| damaged("it is too large"))?;
    let mut pixels = vec![0; size];
    let frame = reader.next_frame(&mut pixels).map_err(failed)?;
    pixels.truncate(frame.buffer_size());
    let (samples, channels) = match frame.color_type {
        ColorType::Grayscale => (1, 1),
        ColorType::GrayscaleAlpha => (2, 1),
        ColorType::Rgba => (4, 3),
        _ => (3, 3),
    };
    let mut transparent = false;
    if samples > channels {
        transparent = pixels.chunks_exact(samples).any(|pixel| pixel[channels] != u8::MAX);
        pixels = pixels.chunks_exact(samples).flat_map(|pixel| &pixel[..channels]).copied().collect();
    }
    let picture = Picture::new(frame.width as usize, frame.height as usize, channels, pixels);
    picture.map(|picture| (picture, transparent)).ok_or_else(|| damaged("it has no pixels"))
}

fn failed(error: DecodingError) -> ImageError {
    match &error {
        DecodingError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            ImageError::CutOff { format: FORMAT }
        }
        _ => ImageError::Damaged { format: FORMAT, reason: error.to_string() },
    }
}
