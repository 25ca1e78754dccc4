use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use fbp_models::Interpolation;
use fbp_models::picture::{Picture, Window, resize};
use jpeg_encoder::{ColorType, Encoder};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Files of one format and size.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    format: Format,
    size: [usize; 2],
    count: usize,
}

enum Format {
    /// With this quality.
    Jpeg(u8),
    Png,
}

/// Images as ImageNet has them, as a telephone takes them, and as screens are saved.
pub(crate) const KINDS: [Kind; 3] = [
    Kind { name: "JPEG 500×375", format: Format::Jpeg(88), size: [500, 375], count: 64 },
    Kind { name: "JPEG 2000×1500", format: Format::Jpeg(92), size: [2000, 1500], count: 8 },
    Kind { name: "PNG 500×375", format: Format::Png, size: [500, 375], count: 32 },
];

impl Kind {
    /// Writes the files, the same ones every time.
    pub(crate) fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
        let one = |index: usize| -> Result<PathBuf, Box<dyn Error>> {
            let pixels = picture(self.size, index as u64).ok_or("a picture has pixels")?;
            let [width, height] = self.size;
            let mut file = Vec::new();
            match self.format {
                Format::Jpeg(quality) => {
                    let size = (u16::try_from(width)?, u16::try_from(height)?);
                    Encoder::new(&mut file, quality).encode(&pixels, size.0, size.1, ColorType::Rgb)?;
                }
                Format::Png => {
                    let mut encoder = png::Encoder::new(&mut file, u32::try_from(width)?, u32::try_from(height)?);
                    encoder.set_color(png::ColorType::Rgb);
                    encoder.write_header()?.write_image_data(&pixels)?;
                }
            }
            let path = folder.join(format!("{index:03}"));
            fs::write(&path, file)?;
            Ok(path)
        };
        (0..self.count).map(one).collect()
    }
}

/// Smooth colours with grain, so that files are about as large as those of photographs.
fn picture([width, height]: [usize; 2], seed: u64) -> Option<Vec<u8>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let coarse = Picture::new(16, 12, 3, (0..16 * 12 * 3).map(|_| rng.random()).collect())?;
    let window = Window { left: 0, top: 0, width, height };
    let smooth = resize(&coarse, [width, height], window, Interpolation::Bicubic);
    let (plane, mut pixels) = (width * height, Vec::with_capacity(3 * width * height));
    for pixel in 0..plane {
        let grain: i16 = rng.random_range(-12..=12);
        pixels.extend((0..3).map(|channel| (i16::from(smooth[channel * plane + pixel]) + grain).clamp(0, 255) as u8));
    }
    Some(pixels)
}
