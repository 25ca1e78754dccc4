//! Pixels of one image, and how they get the size that a network takes.

mod resize;

pub use resize::{Window, resize};

/// Pixels of one image, eight bits for each channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// Pixels row by row, the channels of a pixel side by side; nothing if there are not `width · height · channels` of them.
    pub fn new(width: usize, height: usize, channels: usize, pixels: Vec<u8>) -> Option<Self> {
        let len = width.checked_mul(height)?.checked_mul(channels)?;
        (len > 0 && len == pixels.len()).then_some(Self { width, height, channels, pixels })
    }

    /// Pixels of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Values of a pixel: 1 for grey, 3 for red, green and blue.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// All values, row by row, the channels of a pixel side by side.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The same image grey or coloured.
    #[must_use]
    pub fn with_channels(self, channels: usize) -> Self {
        match (self.channels, channels) {
            (3, 1) => {
                let pixels = self.pixels.chunks_exact(3).map(|pixel| grey([pixel[0], pixel[1], pixel[2]])).collect();
                Self { channels, pixels, ..self }
            }
            (1, 3) => Self { channels, pixels: self.pixels.iter().flat_map(|&value| [value; 3]).collect(), ..self },
            _ => self,
        }
    }

    /// The image turned and mirrored as the orientation of a camera says; one that is not 2 to 8 changes nothing.
    ///
    /// # Source
    /// *Exif 2.32*, section 4.6.4, tag 274: where row 0 and column 0 of the stored image belong.
    #[must_use]
    pub fn oriented(self, orientation: u8) -> Self {
        let (w, h) = (self.width, self.height);
        // Where the pixel of the turned image at row y and column x is stored: row and column.
        let stored: fn(usize, usize, [usize; 2]) -> [usize; 2] = match orientation {
            2 => |y, x, [_, w]| [y, w - 1 - x],
            3 => |y, x, [h, w]| [h - 1 - y, w - 1 - x],
            4 => |y, x, [h, _]| [h - 1 - y, x],
            5 => |y, x, _| [x, y],
            6 => |y, x, [h, _]| [h - 1 - x, y],
            7 => |y, x, [h, w]| [h - 1 - x, w - 1 - y],
            8 => |y, x, [_, w]| [x, w - 1 - y],
            _ => return self,
        };
        let (width, height) = if is_on_its_side(orientation) { (h, w) } else { (w, h) };
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let [row, column] = stored(y, x, [h, w]);
            pixels.extend_from_slice(&self.pixels[(row * w + column) * self.channels..][..self.channels]);
        }
        Self { width, height, channels: self.channels, pixels }
    }
}

/// `scale · x + shift` of every byte `x`, in two roundings, so that every processor gives the same bits.
pub fn scale_and_shift(pixels: &[u8], [scale, shift]: [f32; 2], out: &mut [f32]) {
    fbp_linalg::dispatch(
        #[inline(always)]
        || {
            for (out, &pixel) in out.iter_mut().zip(pixels) {
                *out = f32::from(pixel) * scale + shift;
            }
        },
    );
}

/// Whether an orientation swaps width and height.
pub fn is_on_its_side(orientation: u8) -> bool {
    (5..=8).contains(&orientation)
}

/// Grey of a colour.
///
/// # Source
/// ITU-R BT.601, §2.5.1, in the integers of Pillow's `convert("L")`.
fn grey([red, green, blue]: [u8; 3]) -> u8 {
    let sum = 19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue);
    ((sum + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_to_fit() {
        assert!(Picture::new(2, 3, 1, vec![0; 6]).is_some());
        assert!(Picture::new(2, 3, 3, vec![0; 6]).is_none() && Picture::new(0, 3, 1, vec![]).is_none());
        assert!(Picture::new(usize::MAX, 2, 1, vec![0; 6]).is_none());
    }

    #[test]
    fn every_orientation_puts_the_stored_corner_where_it_belongs() {
        // The upper left corner of the stored image is 1, the right one 3, the lower left one 4.
        let stored = Picture::new(3, 2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        let turned = |orientation| {
            let picture = stored.clone().oriented(orientation);
            (picture.width(), picture.height(), picture.pixels().to_vec())
        };
        for same in [0, 1, 9] {
            assert_eq!(turned(same), (3, 2, vec![1, 2, 3, 4, 5, 6]));
        }
        assert_eq!(turned(2), (3, 2, vec![3, 2, 1, 6, 5, 4]));
        assert_eq!(turned(3), (3, 2, vec![6, 5, 4, 3, 2, 1]));
        assert_eq!(turned(4), (3, 2, vec![4, 5, 6, 1, 2, 3]));
        assert_eq!(turned(5), (2, 3, vec![1, 4, 2, 5, 3, 6]));
        assert_eq!(turned(6), (2, 3, vec![4, 1, 5, 2, 6, 3]));
        assert_eq!(turned(7), (2, 3, vec![6, 3, 5, 2, 4, 1]));
        assert_eq!(turned(8), (2, 3, vec![3, 6, 2, 5, 1, 4]));
    }

    #[test]
    fn grey_and_colours_become_each_other() {
        let colours = Picture::new(3, 1, 3, vec![255, 0, 0, 0, 255, 0, 0, 0, 255]).unwrap();
        let grey = colours.clone().with_channels(1);
        assert_eq!(grey.pixels(), [76, 150, 29]);
        assert_eq!(grey.with_channels(3).pixels(), [76, 76, 76, 150, 150, 150, 29, 29, 29]);
        assert_eq!(colours.clone().with_channels(3), colours);
    }
}
