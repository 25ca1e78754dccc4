//! Decoded and resized images against Pillow; `pillow/make.py` wrote what is compared with.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first error")]

use std::path::{Path, PathBuf};

use fbp_models::Interpolation;
use fbp_models::picture::{Picture, Window, resize};
use fbp_train::image_files::{ImageError, decode, read_header};
use jpeg_encoder::Encoder;
use sha2::{Digest, Sha256};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pillow")
}

/// The numbers that the script draws.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n) as usize
    }
}

/// The pixels that the script makes: noise, or noise in blocks of 8 × 8.
fn pixels(width: usize, height: usize, channels: usize, seed: usize, blocks: bool) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(width * height * channels);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let (y, x) = if blocks { (y / 8, x / 8) } else { (y, x) };
        for c in 0..channels {
            let mut mixed = (((y * 131 + x) * 3 + c + seed) as u32).wrapping_mul(2654435761);
            mixed ^= mixed >> 15;
            pixels.push((mixed.wrapping_mul(2246822519) >> 24) as u8);
        }
    }
    pixels
}

fn png_file(width: usize, height: usize, channels: usize, pixels: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(if channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    file
}

/// A file of the best quality, which keeps blocks of one value as they are.
fn jpeg_file(width: usize, height: usize, pixels: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let encoder = Encoder::new(&mut file, 100);
    encoder.encode(pixels, width as u16, height as u16, jpeg_encoder::ColorType::Luma).unwrap();
    file
}

#[test]
fn files_that_are_resized_and_cropped_are_those_of_pillow_to_the_last_bit() {
    let expected = std::fs::read(folder().join("resize.bin")).unwrap();
    let (expected, rest) = expected.as_chunks::<8>();
    assert_eq!((expected.len(), rest.len()), (2000, 0));
    for (number, expected) in expected.iter().enumerate() {
        let mut draw = Draw(number as u64);
        let side = if number % 50 == 49 { 500 } else { 97 };
        let [width, height] = [0; 2].map(|_| 1 + draw.below(side));
        let jpeg = number % 4 == 0;
        let channels = if jpeg || draw.below(2) == 0 { 1 } else { 3 };
        let mut new = [0; 2].map(|_| 1 + draw.below(97));
        if number % 7 == 0 {
            new[0] = width;
        }
        if number % 11 == 0 {
            new[1] = height;
        }
        let kind = if draw.below(2) == 1 { Interpolation::Bicubic } else { Interpolation::Bilinear };
        let [left, top] = new.map(|side| draw.below(side as u64));
        let wide = 1 + draw.below((new[0] - left) as u64);
        let high = 1 + draw.below((new[1] - top) as u64);
        let array = pixels(width, height, channels, number, jpeg);
        let file = if jpeg { jpeg_file(width, height, &array) } else { png_file(width, height, channels, &array) };
        let picture = decode(&file).unwrap().picture;
        assert_eq!(picture, Picture::new(width, height, channels, array).unwrap(), "case {number}: the file");
        let result = resize(&picture, new, Window { left, top, width: wide, height: high }, kind);
        assert_eq!(
            Sha256::digest(&result)[..8],
            expected[..],
            "case {number}: {width} × {height} × {channels} to {new:?}, {kind}, {wide} × {high} at {left}, {top}"
        );
    }
}

/// What Pillow makes of a file.
fn expected(name: &str) -> Picture {
    let path = folder().join("files").join(format!("{}.expected.png", name.replace('.', "-")));
    decode(&std::fs::read(path).unwrap()).unwrap().picture
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(folder().join("files").join(name)).unwrap()
}

#[test]
fn png_files_of_every_kind_hold_the_pixels_that_pillow_sees() {
    let names = ["rgb", "grey", "bits", "palette", "rgba", "grey-alpha", "grey16", "turned6"];
    for name in names.map(|name| format!("{name}.png")) {
        let (decoded, expected) = (decode(&file(&name)).unwrap(), expected(&name));
        assert_eq!(decoded.picture, expected, "{name}");
        assert_eq!(decoded.transparent, name == "rgba.png" || name == "grey-alpha.png", "{name}");
        let header = read_header(&file(&name)).unwrap();
        assert_eq!((header.width, header.height), (expected.width(), expected.height()), "{name}");
        assert_eq!(header.colour, expected.channels() == 3, "{name}");
    }
}

#[test]
fn jpeg_files_differ_from_those_of_pillow_by_rounding_alone() {
    // Two correct inverse transforms differ by 1 in brightness and in both differences of colour; blue gets 1.772 times the
    // latter, and both sides round once more.
    const LEVELS: u8 = 1 + 2 + 1;
    let turned = (1..=8).map(|orientation| format!("turned{orientation}.jpg"));
    let others = ["grey.jpg", "subsampled.jpg", "halved.jpg", "progressive.jpg"].map(str::to_owned);
    for name in turned.chain(others) {
        let (found, expected) = (decode(&file(&name)).unwrap().picture, expected(&name));
        assert_eq!((found.width(), found.height()), (expected.width(), expected.height()), "{name}");
        let worst = found.pixels().iter().zip(expected.pixels()).map(|(a, b)| a.abs_diff(*b)).max();
        assert_eq!(found.channels(), expected.channels(), "{name}");
        assert!(worst.unwrap() <= LEVELS, "{name}: {worst:?}");
    }
}

#[test]
fn colours_for_print_are_refused() {
    assert_eq!(decode(&file("cmyk.jpg")).unwrap_err(), ImageError::Cmyk);
    assert_eq!(read_header(&file("cmyk.jpg")).unwrap_err(), ImageError::Cmyk);
}

#[test]
fn files_that_are_cut_off_anywhere_or_damaged_are_errors_and_never_panics() {
    for name in ["subsampled.jpg", "progressive.jpg", "rgb.png", "palette.png", "turned6.png"] {
        let whole = file(name);
        for len in 0..whole.len() - 2 {
            // Behind the pixels of a PNG file its end is all that is missing.
            let result = decode(&whole[..len]);
            assert!(result.is_err() || name.ends_with("png") && len > whole.len() - 13, "{name}: {len} bytes");
        }
        for (place, value) in (0..whole.len()).flat_map(|place| [0, 0x55, 0xff].map(|value| (place, value))) {
            let mut damaged = whole.clone();
            damaged[place] = value;
            // Whatever it says, it does not stop the program.
            let _ = (decode(&damaged), read_header(&damaged));
        }
    }
}
