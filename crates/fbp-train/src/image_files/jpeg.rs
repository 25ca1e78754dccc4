use fbp_models::picture::Picture;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{ImageError, exif};

const FORMAT: &str = "JPEG";
/// Pixels along both sides of a block.
const BLOCK: usize = 8;
/// Most blocks of a byte: each takes a bit at least.
const BLOCKS_PER_BYTE: usize = 8;

/// What stands before the pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JpegHeader {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: u8,
    pub(super) orientation: u8,
    /// Where the coded pixels begin.
    data: usize,
}

/// Reads the segments up to the first scan.
///
/// # Errors
/// [`ImageError::CutOff`], [`ImageError::Damaged`].
///
/// # Source
/// ITU-T T.81, annex B.
pub(super) fn header(bytes: &[u8]) -> Result<JpegHeader, ImageError> {
    let cut_off = || ImageError::CutOff { format: FORMAT };
    let damaged = |reason: &str| ImageError::Damaged { format: FORMAT, reason: reason.to_owned() };
    let (mut at, mut frame, mut orientation) = (2, None, 1);
    loop {
        // Any number of 0xFF may stand before a marker; what other bytes stand there is passed over, as most programs do.
        at += bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)).ok_or_else(cut_off)?;
        at += bytes[at..].iter().position(|&byte| byte != 0xff).ok_or_else(cut_off)?;
        let marker = bytes[at];
        at += 1;
        match marker {
            0x00 | 0x01 | 0xd0..=0xd8 => continue,
            0xd9 => return Err(damaged("it ends before its pixels")),
            _ => {}
        }
        let length = bytes.get(at..at + 2).map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])));
        let length = length.ok_or_else(cut_off)?;
        if length < 2 {
            return Err(damaged("a segment has no length"));
        }
        let segment = bytes.get(at + 2..at + length).ok_or_else(cut_off)?;
        at += length;
        match (marker, segment) {
            (0xc4 | 0xc8 | 0xcc, _) => {}
            (0xc0..=0xcf, &[_, h1, h0, w1, w0, components, ..]) => {
                let [width, height] = [[w1, w0], [h1, h0]].map(|side| usize::from(u16::from_be_bytes(side)));
                frame.get_or_insert((width, height, components));
            }
            (0xe1, [b'E', b'x', b'i', b'f', 0, 0, tiff @ ..]) => orientation = exif::orientation(tiff),
            (0xda, _) => {
                let (width, height, components) = frame.ok_or_else(|| damaged("no size stands before the pixels"))?;
                return Ok(JpegHeader { width, height, components, orientation, data: at });
            }
            _ => {}
        }
    }
}

/// Decodes the pixels behind a header, as they are stored.
///
/// # Errors
/// [`ImageError::Cmyk`], [`ImageError::CutOff`], [`ImageError::Damaged`].
pub(super) fn pixels(bytes: &[u8], header: &JpegHeader) -> Result<Picture, ImageError> {
    let (channels, colours) = match header.components {
        1 => (1, ColorSpace::Luma),
        4 => return Err(ImageError::Cmyk),
        _ => (3, ColorSpace::RGB),
    };
    // Within coded pixels 0xFF is always followed by 0, so this is the mark of the end. A decoder would fill up what is
    // missing with grey.
    if !bytes[header.data..].windows(2).rev().any(|pair| pair == [0xff, 0xd9]) {
        return Err(ImageError::CutOff { format: FORMAT });
    }
    // Memory for pixels that the file cannot hold would be asked for in vain.
    let coded = bytes.len().saturating_sub(header.data);
    let blocks = header.width.div_ceil(BLOCK).saturating_mul(header.height.div_ceil(BLOCK));
    if blocks > BLOCKS_PER_BYTE.saturating_mul(coded) {
        return Err(ImageError::CutOff { format: FORMAT });
    }
    let damaged = |reason: String| ImageError::Damaged { format: FORMAT, reason };
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        // A second header may say otherwise.
        .set_max_width(header.width)
        .set_max_height(header.height)
        .jpeg_set_out_colorspace(colours);
    let pixels = JpegDecoder::new_with_options(ZCursor::new(bytes), options)
        .decode()
        .map_err(|error| damaged(format!("{error:?}").replace('\n', " ")))?;
    Picture::new(header.width, header.height, channels, pixels)
        .ok_or_else(|| damaged("it holds another number of pixels than its header says".to_owned()))
}
