//! Features as pictures: heat maps with one colour scale, as PNG files.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::ReportError;

/// Colours of a palette: 0 is the gap between channels, 1 lies outside of them, from 2 to 254 runs the scale.
type Palette = [[u8; 3]; 256];

/// Colour of the gap between channels.
const GAP: [u8; 3] = [0xd5, 0xd8, 0xdc];
/// Colour of places without a channel.
const OUTSIDE: u8 = 1;
/// Steps of a scale: an even number, so that there is a middle.
const STEPS: f32 = 252.0;
/// From dark blue over white to dark red, which colour-blind readers tell apart (ColorBrewer's RdBu, reversed).
const DIVERGING: [[u8; 3]; 5] = [[5, 48, 97], [67, 147, 195], [255, 255, 255], [214, 96, 77], [103, 0, 31]];
/// From nearly white over green to dark blue, dark in print too (ColorBrewer's YlGnBu).
const SEQUENTIAL: [[u8; 3]; 5] = [[255, 255, 229], [199, 233, 180], [65, 182, 196], [34, 94, 168], [8, 29, 88]];
/// From white to black.
const GREY: [[u8; 3]; 2] = [[255; 3], [0; 3]];

/// A picture of one feature: its channels side by side, each pixel an index into a palette; or an image in its colours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// One byte for each pixel, or three if it is in colour.
    pixels: Vec<u8>,
}

/// How values become colours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    /// Grey from 0 (white) to 1 (black), as printed images are.
    Grey,
    /// Red, green and blue from 0 to 1, as seen.
    Colours,
    /// From 0 (light) to `limit` (dark).
    Sequential {
        /// Value of the darkest colour.
        limit: f32,
    },
    /// Blue for `-limit`, white for 0, red for `limit`.
    Diverging {
        /// Value of the strongest colour.
        limit: f32,
    },
}

impl Scale {
    /// One scale for several features: sequential where no value is negative.
    pub(crate) fn of_features(features: &[&[f32]]) -> Self {
        let limit = largest(features);
        match features.iter().copied().flatten().all(|value| *value >= 0.0) {
            true => Self::Sequential { limit },
            false => Self::Diverging { limit },
        }
    }

    /// A diverging scale up to the largest value.
    pub(crate) fn of_difference(difference: &[f32]) -> Self {
        Self::Diverging { limit: largest(&[difference]) }
    }

    /// Values of its two ends.
    pub(crate) fn ends(self) -> [f32; 2] {
        match self {
            Self::Grey | Self::Colours => [0.0, 1.0],
            Self::Sequential { limit } => [0.0, limit],
            Self::Diverging { limit } => [-limit, limit],
        }
    }

    fn index(self, value: f32) -> u8 {
        let [low, high] = self.ends();
        let unit = match self {
            _ if value.is_nan() => return 0,
            Self::Diverging { .. } if high == low => 0.5,
            _ if high == low => 0.0,
            _ => (value - low) / (high - low),
        };
        // 2..=254; 128 is the middle.
        2 + (STEPS * unit.clamp(0.0, 1.0)).round() as u8
    }

    fn palette(self) -> Palette {
        let stops = match self {
            Self::Grey | Self::Colours => &GREY[..],
            Self::Sequential { .. } => &SEQUENTIAL,
            Self::Diverging { .. } => &DIVERGING,
        };
        let mut palette = [GAP; 256];
        palette[usize::from(OUTSIDE)] = [255; 3];
        for (index, colour) in palette.iter_mut().enumerate().skip(2) {
            *colour = blend(stops, (index - 2) as f32 / STEPS);
        }
        palette
    }
}

/// Largest distance from zero.
fn largest(features: &[&[f32]]) -> f32 {
    features.iter().copied().flatten().fold(0.0, |limit: f32, value| limit.max(value.abs()))
}

/// The colour at `unit`, 0 to 1, of a scale through evenly spaced stops.
fn blend(stops: &[[u8; 3]], unit: f32) -> [u8; 3] {
    let at = unit.clamp(0.0, 1.0) * (stops.len() - 1) as f32;
    let left = (at.floor() as usize).min(stops.len() - 2);
    let share = at - left as f32;
    [0, 1, 2].map(|k| {
        let [from, to] = [stops[left][k], stops[left + 1][k]].map(f32::from);
        (from + share * (to - from)).round() as u8
    })
}

impl Picture {
    /// Lays blocks of `height × width` values out in rows of `per_row`, with a gap of one pixel if `gap`.
    pub(crate) fn of_blocks(blocks: &[&[f32]], [height, width]: [usize; 2], per_row: usize, scale: Scale) -> Self {
        let gap = usize::from(height * width > 1);
        let (columns, rows) = (per_row.min(blocks.len()).max(1), blocks.len().div_ceil(per_row.max(1)).max(1));
        let mut picture =
            Self { width: columns * (width + gap) - gap, height: rows * (height + gap) - gap, pixels: Vec::new() };
        picture.pixels = vec![OUTSIDE; picture.width * picture.height];
        for (block, values) in blocks.iter().enumerate() {
            let (left, top) = (block % columns * (width + gap), block / columns * (height + gap));
            // A block brings its gap along, so that there is none beside places without a block.
            for (y, x) in (0..height + gap).flat_map(|y| (0..width + gap).map(move |x| (y, x))) {
                if left + x < picture.width && top + y < picture.height {
                    picture.pixels[(top + y) * picture.width + left + x] = 0;
                }
            }
            for (index, &value) in values.iter().take(height * width).enumerate() {
                picture.pixels[(top + index / width) * picture.width + left + index % width] = scale.index(value);
            }
        }
        picture
    }

    /// An image as it is seen: red, green and blue values from 0 to 1, one channel after the other.
    pub(crate) fn of_colours(values: &[f32], [height, width]: [usize; 2]) -> Self {
        let plane = height * width;
        let level = |channel: usize, index: usize| {
            let value = values.get(channel * plane + index).copied().unwrap_or(0.0);
            (255.0 * value.clamp(0.0, 1.0)).round() as u8
        };
        let pixels = (0..plane).flat_map(|index| [0, 1, 2].map(|channel| level(channel, index))).collect();
        Self { width, height, pixels }
    }

    /// Bytes of one pixel.
    fn samples(&self) -> usize {
        (self.pixels.len() / (self.width * self.height).max(1)).max(1)
    }

    /// A horizontal bar of the whole scale.
    pub(crate) fn legend() -> Self {
        Self { width: 253, height: 1, pixels: (2..=254).collect() }
    }

    /// The picture as an `<img>`, `zoom` CSS pixels for each pixel, its description `text` already escaped.
    ///
    /// # Errors
    /// [`ReportError::Plot`].
    pub(crate) fn html(&self, scale: Scale, zoom: usize, text: &str) -> Result<String, ReportError> {
        Ok(format!(
            "<img src=\"data:image/png;base64,{}\" width=\"{}\" height=\"{}\" alt=\"{text}\">",
            STANDARD.encode(self.png(scale, 1)?),
            self.width * zoom,
            self.height * zoom,
        ))
    }

    /// The picture as a PNG file, with a palette unless it is in colour, `zoom` pixels for each in both directions.
    ///
    /// # Errors
    /// [`ReportError::Plot`].
    pub(crate) fn png(&self, scale: Scale, zoom: usize) -> Result<Vec<u8>, ReportError> {
        let mut pixels = Vec::with_capacity(self.pixels.len() * zoom * zoom);
        let samples = self.samples();
        for row in self.pixels.chunks_exact(self.width * samples) {
            let wide: Vec<u8> = row.chunks_exact(samples).flat_map(|pixel| pixel.repeat(zoom)).collect();
            (0..zoom).for_each(|_| pixels.extend_from_slice(&wide));
        }
        let mut file = Vec::new();
        let (width, height) = ((self.width * zoom) as u32, (self.height * zoom) as u32);
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_depth(png::BitDepth::Eight);
        if samples == 3 {
            encoder.set_color(png::ColorType::Rgb);
        } else {
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_palette(scale.palette().as_flattened().to_vec());
        }
        let written = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(&pixels)?;
            writer.finish()
        });
        written.map_err(|error| ReportError::Plot { what: "a feature".into(), reason: error.to_string() })?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_lie_side_by_side_and_single_values_in_a_block() {
        let values: Vec<f32> = (0..12).map(|k| k as f32).collect();
        let scale = Scale::Diverging { limit: 11.0 };
        let blocks: Vec<&[f32]> = values.chunks(4).collect();
        let picture = Picture::of_blocks(&blocks, [2, 2], 8, scale);
        assert_eq!((picture.width, picture.height), (8, 2));
        let expected = [0, 1, -1, 4, 5, -1, 8, 9, 2, 3, -1, 6, 7, -1, 10, 11];
        let expected = expected.map(|k| if k < 0 { 0 } else { scale.index(k as f32) });
        assert_eq!(picture.pixels, expected);
        let blocks: Vec<&[f32]> = values[..10].chunks(1).collect();
        let picture = Picture::of_blocks(&blocks, [1, 1], 4, scale);
        assert_eq!((picture.width, picture.height), (4, 3));
        assert_eq!(&picture.pixels[10..], [OUTSIDE; 2]);
    }

    #[test]
    fn scales_have_their_ends_at_the_limit() {
        let scale = Scale::Diverging { limit: 2.0 };
        assert_eq!([-9.0, -2.0, 0.0, 2.0, f32::NAN].map(|v| scale.index(v)), [2, 2, 128, 254, 0]);
        assert_eq!(scale.palette()[128], [255, 255, 255]);
        assert_eq!((Scale::Grey.palette()[2], Scale::Grey.palette()[254]), ([255; 3], [0; 3]));
        let sequential = Scale::of_features(&[&[0.0, 1.0], &[4.0]]);
        assert_eq!(sequential, Scale::Sequential { limit: 4.0 });
        assert_eq!([0.0, 2.0, 4.0].map(|v| sequential.index(v)), [2, 128, 254]);
        assert_eq!(Scale::of_features(&[&[0.5], &[-3.0]]), Scale::Diverging { limit: 3.0 });
        assert_eq!(Scale::Diverging { limit: 0.0 }.index(0.0), 128);
        assert_eq!(Scale::Sequential { limit: 0.0 }.index(0.0), 2);
    }

    #[test]
    fn sequential_colours_get_darker_so_that_grey_print_and_every_eye_can_order_them() {
        let palette = Scale::Sequential { limit: 1.0 }.palette();
        let light = |[r, g, b]: [u8; 3]| 299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b);
        assert!(palette[2..].windows(2).all(|pair| light(pair[0]) >= light(pair[1])));
    }

    #[test]
    fn an_image_in_colour_is_shown_as_it_is_seen() {
        let picture = Picture::of_colours(&[1.0, 0.0, 0.5, 2.0, f32::NAN, 0.2], [1, 2]);
        assert_eq!(picture.pixels, [255, 128, 0, 0, 255, 51]);
        let file = picture.png(Scale::Colours, 2).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (4, 2, png::ColorType::Rgb));
        assert_eq!(pixels[..12], [255, 128, 0, 255, 128, 0, 0, 255, 51, 0, 255, 51]);
        assert_eq!(pixels[..12], pixels[12..]);
    }

    #[test]
    fn png_holds_the_zoomed_pixels() {
        let picture = Picture::of_blocks(&[&[0.0, 1.0, 0.5, 0.25]], [2, 2], 1, Scale::Grey);
        let file = picture.png(Scale::Grey, 2).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (4, 4, png::ColorType::Indexed));
        let [a, b, c, d] = [0.0, 1.0, 0.5, 0.25].map(|v| Scale::Grey.index(v));
        assert_eq!(pixels, [a, a, b, b, a, a, b, b, c, c, d, d, c, c, d, d]);
        assert_eq!(reader.info().palette.as_deref(), Some(Scale::Grey.palette().as_flattened()));
    }
}
