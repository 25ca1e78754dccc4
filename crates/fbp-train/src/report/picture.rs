//! Features as pictures: heat maps with one colour scale, as PNG files inside the page.

use std::io::Write;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};

/// Colours of a palette: 0 is the gap between channels, the others run along the scale.
type Palette = [[u8; 3]; 256];

/// A picture of one feature: its channels side by side, each pixel an index into a palette.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) width: usize,
    pub(super) height: usize,
    pixels: Vec<u8>,
}

/// How values become palette indices.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scale {
    /// Grey from 0 (white) to 1 (black), as printed images are.
    Grey,
    /// Blue for `-limit`, white for 0, red for `limit`.
    Diverging {
        /// Value of the strongest colour.
        limit: f32,
    },
}

impl Scale {
    fn index(self, value: f32) -> u8 {
        let unit = match self {
            Self::Grey => value,
            Self::Diverging { limit } if limit > 0.0 => 0.5 + 0.5 * value / limit,
            Self::Diverging { .. } => 0.5,
        };
        // 1..=255; 128 is the middle. NaN becomes the gap.
        if unit.is_nan() { 0 } else { 1 + (254.0 * unit.clamp(0.0, 1.0)).round() as u8 }
    }

    fn palette(self) -> Palette {
        let mut palette = [[0xe8, 0xe8, 0xe8]; 256];
        for (index, colour) in palette.iter_mut().enumerate().skip(1) {
            let unit = (index - 1) as f32 / 254.0;
            *colour = match self {
                Self::Grey => [(255.0 * (1.0 - unit)).round() as u8; 3],
                Self::Diverging { .. } => diverging(unit),
            };
        }
        palette
    }
}

/// From dark blue over white to dark red, for `unit` from 0 to 1.
fn diverging(unit: f32) -> [u8; 3] {
    const STOPS: [[f32; 3]; 5] =
        [[5.0, 48.0, 97.0], [67.0, 147.0, 195.0], [255.0, 255.0, 255.0], [214.0, 96.0, 77.0], [103.0, 0.0, 31.0]];
    let at = unit.clamp(0.0, 1.0) * 4.0;
    let left = (at.floor() as usize).min(3);
    let share = at - left as f32;
    [0, 1, 2].map(|k| (STOPS[left][k] + share * (STOPS[left + 1][k] - STOPS[left][k])).round() as u8)
}

impl Picture {
    /// Lays the channels of a feature of shape `[C, H, W]` out in rows; a vector becomes one block of pixels.
    pub(super) fn of_feature(values: &[f32], shape: [usize; 3], scale: Scale) -> Self {
        let [channels, height, width] = shape;
        let vector = height * width == 1;
        let per_row = if vector { nearly_square(channels) } else { channels.min(8) }.max(1);
        let gap = usize::from(!vector);
        let rows = channels.div_ceil(per_row).max(1);
        let mut picture =
            Self { width: per_row * (width + gap) - gap, height: rows * (height + gap) - gap, pixels: Vec::new() };
        picture.pixels = vec![0; picture.width * picture.height];
        for (index, &value) in values.iter().take(channels * height * width).enumerate() {
            let (channel, y, x) = (index / (height * width), index / width % height, index % width);
            let (left, top) = (channel % per_row * (width + gap), channel / per_row * (height + gap));
            picture.pixels[(top + y) * picture.width + left + x] = scale.index(value);
        }
        picture
    }

    /// A horizontal bar of the whole scale.
    pub(super) fn legend() -> Self {
        Self { width: 255, height: 1, pixels: (1..=255).collect() }
    }

    /// The picture as an `<img>`, `zoom` CSS pixels for each pixel, its description `text` already escaped.
    pub(super) fn html(&self, scale: Scale, zoom: usize, text: &str) -> String {
        format!(
            "<img src=\"data:image/png;base64,{}\" width=\"{}\" height=\"{}\" alt=\"{text}\">",
            base64(&self.png(&scale.palette())),
            self.width * zoom,
            self.height * zoom,
        )
    }

    /// The picture as a PNG file with a palette.
    ///
    /// # Source
    /// ISO/IEC 15948 (PNG), sections 5 (file structure), 7.3 (filtering, here none) and 11.2 (the chunks).
    fn png(&self, palette: &Palette) -> Vec<u8> {
        let mut rows = Vec::with_capacity(self.height * (self.width + 1));
        for row in self.pixels.chunks_exact(self.width.max(1)) {
            rows.push(0); // filter: none
            rows.extend_from_slice(row);
        }
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        // Writing to a Vec cannot fail.
        let compressed = encoder.write_all(&rows).and_then(|()| encoder.finish()).unwrap_or_default();
        let mut header = Vec::new();
        header.extend((self.width as u32).to_be_bytes());
        header.extend((self.height as u32).to_be_bytes());
        header.extend([8, 3, 0, 0, 0]); // 8 bits, palette, deflate, standard filters, not interlaced
        let mut png = vec![0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n'];
        chunk(&mut png, *b"IHDR", &header);
        chunk(&mut png, *b"PLTE", palette.as_flattened());
        chunk(&mut png, *b"IDAT", &compressed);
        chunk(&mut png, *b"IEND", &[]);
        png
    }
}

fn chunk(png: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    png.extend((data.len() as u32).to_be_bytes());
    png.extend(kind);
    png.extend(data);
    let mut crc = Crc::new();
    crc.update(&kind);
    crc.update(data);
    png.extend(crc.sum().to_be_bytes());
}

/// The smallest number whose square is at least `n`.
fn nearly_square(n: usize) -> usize {
    let root = n.isqrt();
    if root * root == n { root } else { root + 1 }
}

/// Base64 as in RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |k: usize| u32::from(group.get(k).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for k in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * k) & 63) as usize];
            text.push(if k <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        // RFC 4648, section 10.
        for (text, code) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), code);
        }
    }

    #[test]
    fn channels_lie_side_by_side_and_vectors_in_a_block() {
        let values: Vec<f32> = (0..12).map(|k| k as f32).collect();
        let scale = Scale::Diverging { limit: 11.0 };
        let picture = Picture::of_feature(&values, [3, 2, 2], scale);
        assert_eq!((picture.width, picture.height), (8, 2));
        let expected = [0, 1, -1, 4, 5, -1, 8, 9, 2, 3, -1, 6, 7, -1, 10, 11];
        let expected = expected.map(|k| if k < 0 { 0 } else { scale.index(k as f32) });
        assert_eq!(picture.pixels, expected);
        let picture = Picture::of_feature(&values[..10], [10, 1, 1], scale);
        assert_eq!((picture.width, picture.height), (4, 3));
        assert_eq!(&picture.pixels[10..], [0, 0]);
    }

    #[test]
    fn scales_have_white_in_the_middle_and_their_ends_at_the_limit() {
        let scale = Scale::Diverging { limit: 2.0 };
        assert_eq!([-9.0, -2.0, 0.0, 2.0, f32::NAN].map(|v| scale.index(v)), [1, 1, 128, 255, 0]);
        assert_eq!(scale.palette()[128], [255, 255, 255]);
        assert_eq!(Scale::Grey.palette()[1], [255, 255, 255]);
        assert_eq!(Scale::Grey.palette()[255], [0, 0, 0]);
        assert_eq!(Scale::Diverging { limit: 0.0 }.index(0.0), 128);
    }

    #[test]
    fn png_has_valid_chunks_and_the_pixels_inside() {
        use std::io::Read;
        let picture = Picture::of_feature(&[0.0, 1.0, 0.5, 0.25], [1, 2, 2], Scale::Grey);
        let png = picture.png(&Scale::Grey.palette());
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
        let (mut at, mut kinds, mut data) = (8, Vec::new(), Vec::new());
        while at < png.len() {
            let len = u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
            let mut crc = Crc::new();
            crc.update(&png[at + 4..at + 8 + len]);
            assert_eq!(png[at + 8 + len..at + 12 + len], crc.sum().to_be_bytes());
            kinds.push(png[at + 4..at + 8].to_vec());
            if &png[at + 4..at + 8] == b"IDAT" {
                flate2::read::ZlibDecoder::new(&png[at + 8..at + 8 + len]).read_to_end(&mut data).unwrap();
            }
            at += 12 + len;
        }
        assert_eq!(kinds, [b"IHDR", b"PLTE", b"IDAT", b"IEND"]);
        let [a, b, c, d] = [0.0, 1.0, 0.5, 0.25].map(|v| Scale::Grey.index(v));
        assert_eq!(data, [0, a, b, 0, c, d]);
    }
}
