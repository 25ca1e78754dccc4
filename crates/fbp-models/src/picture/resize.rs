use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::Picture;
use crate::Interpolation;

/// Bits behind the binary point of a weight: a byte and two bits for weights below 0 and sums above 1 stay in front of it.
const PRECISION: u32 = 32 - 8 - 2;

/// The part of a resized image that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Columns left of it.
    pub left: usize,
    /// Rows above it.
    pub top: usize,
    /// Its columns.
    pub width: usize,
    /// Its rows.
    pub height: usize,
}

/// Gives an image another size and cuts a part out of it; only that part is computed.
///
/// The bytes are those of Pillow's `Image.resize((width, height), ...)` and `crop`: each pass is a sum of integers, weights of
/// 22 bits made of `f64`, with bytes between the two passes. Where the image gets smaller the filter gets wider by the same
/// factor. The first pass is that along the rows, unless the height shrinks by more than twice what the width does; so it is
/// from Pillow 13 on, and older ones always begin with the rows.
///
/// # Shapes
/// `[width, height]` is the size of the whole; the result is `channels × window.height × window.width`, one channel after the
/// other. What of the window lies outside the image is left out of it.
///
/// # Source
/// Pillow 13.0, `src/libImaging/Resample.c` (A. Clark and contributors, MIT-CMU licence), written anew from its arithmetic; the
/// filters are those of R. Keys, *Cubic convolution interpolation for digital image processing*, IEEE TASSP 29, 1981.
pub fn resize(picture: &Picture, [width, height]: [usize; 2], window: Window, interpolation: Interpolation) -> Vec<u8> {
    let columns = window.left.min(width)..window.left.saturating_add(window.width).min(width);
    let rows = window.top.min(height)..window.top.saturating_add(window.height).min(height);
    if columns.is_empty() || rows.is_empty() {
        return Vec::new();
    }
    let taps = |from: usize, to: usize, wanted| (from != to).then(|| Taps::new(from, to, wanted, interpolation));
    let (across, down) = (taps(picture.width(), width, &columns), taps(picture.height(), height, &rows));
    let channels = picture.channels();
    let all = Area { pixels: picture.pixels(), row_len: picture.width() * channels, top: 0, left: 0, channels };
    let result = match (&across, &down) {
        (None, None) => all.cut(rows, columns),
        (Some(across), None) => all.along_rows(rows, across),
        (None, Some(down)) => all.along_columns(columns, down),
        (Some(across), Some(down)) if rows_first([picture.width(), picture.height()], [width, height]) => {
            let needed = down.reach();
            let (top, left, row_len) = (needed.start, columns.start, columns.len() * channels);
            let narrow = all.along_rows(needed, across);
            Area { pixels: &narrow, row_len, top, left, channels }.along_columns(columns, down)
        }
        (Some(across), Some(down)) => {
            let needed = across.reach();
            let (top, left, row_len) = (rows.start, needed.start, needed.len() * channels);
            let low = all.along_columns(needed, down);
            Area { pixels: &low, row_len, top, left, channels }.along_rows(rows, across)
        }
    };
    planes(&result, channels)
}

/// Which pass is the first one.
fn rows_first([width, height]: [usize; 2], [new_width, new_height]: [usize; 2]) -> bool {
    let [less_height, less_width] =
        [[height, new_height], [width, new_width]].map(|[old, new]| old as i128 - new as i128);
    !(less_height > 0 && less_height > 2 * less_width)
}

/// The weights of every output of one pass.
struct Taps {
    /// First input and number of inputs of each output, and where their weights begin.
    bounds: Vec<(usize, usize, usize)>,
    weights: Vec<i32>,
}

impl Taps {
    /// For the outputs `wanted` of a pass from `from` to `to` values.
    fn new(from: usize, to: usize, wanted: &Range<usize>, interpolation: Interpolation) -> Self {
        let (filter, radius): (fn(f64) -> f64, f64) = match interpolation {
            Interpolation::Bilinear => (triangle, 1.0),
            Interpolation::Bicubic => (cubic, 2.0),
        };
        let scale = from as f64 / to as f64;
        let filter_scale = scale.max(1.0);
        let support = radius * filter_scale;
        let step = 1.0 / filter_scale;
        let mut taps = Self { bounds: Vec::with_capacity(wanted.len()), weights: Vec::new() };
        let mut exact = Vec::new();
        for output in wanted.clone() {
            let centre = (output as f64 + 0.5) * scale;
            // Casts cut towards zero, as in C; what is negative becomes 0.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            exact.clear();
            exact.extend((first..end).map(|input| filter((input as f64 - centre + 0.5) * step)));
            let sum: f64 = exact.iter().sum();
            taps.bounds.push((first, exact.len(), taps.weights.len()));
            taps.weights.extend(exact.iter().map(|&weight| fixed(if sum == 0.0 { weight } else { weight / sum })));
        }
        taps
    }

    /// All inputs that some output asks for.
    fn reach(&self) -> Range<usize> {
        let start = self.bounds.iter().map(|&(first, ..)| first).min().unwrap_or(0);
        let end = self.bounds.iter().map(|&(first, count, _)| first + count).max().unwrap_or(0);
        start..end
    }

    /// First input and weights of each output.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.bounds.iter().map(|&(first, count, start)| (first, &self.weights[start..][..count]))
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Rounded away from zero at halves.
fn fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION);
    (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

/// A half, so that cutting bits off rounds.
const HALF: i32 = 1 << (PRECISION - 1);

fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// A part of an image: some rows and columns, the channels of a pixel side by side.
struct Area<'a> {
    pixels: &'a [u8],
    /// Bytes of a row.
    row_len: usize,
    /// Place of its first row and column in the image.
    top: usize,
    left: usize,
    channels: usize,
}

impl Area<'_> {
    /// Bytes of a row.
    fn row(&self, row: usize) -> &[u8] {
        &self.pixels[(row - self.top) * self.row_len..][..self.row_len]
    }

    /// Some rows and columns as they are.
    fn cut(&self, rows: Range<usize>, columns: Range<usize>) -> Vec<u8> {
        let bytes = (columns.start - self.left) * self.channels..(columns.end - self.left) * self.channels;
        rows.flat_map(|row| &self.row(row)[bytes.clone()]).copied().collect()
    }

    /// The pass along some rows.
    fn along_rows(&self, rows: Range<usize>, taps: &Taps) -> Vec<u8> {
        match self.channels {
            1 => self.along_rows_of::<1>(rows, taps),
            _ => self.along_rows_of::<3>(rows, taps),
        }
    }

    fn along_rows_of<const C: usize>(&self, rows: Range<usize>, taps: &Taps) -> Vec<u8> {
        let mut out = vec![0; rows.len() * taps.bounds.len() * C];
        let (outputs, _) = out.as_chunks_mut::<C>();
        for (row, outputs) in rows.zip(outputs.chunks_exact_mut(taps.bounds.len())) {
            let (row, _) = self.row(row).as_chunks::<C>();
            for ((first, weights), output) in taps.iter().zip(outputs) {
                let mut sums = [HALF; C];
                for (pixel, &weight) in row[first - self.left..].iter().zip(weights) {
                    for c in 0..C {
                        sums[c] += i32::from(pixel[c]) * weight;
                    }
                }
                *output = sums.map(byte);
            }
        }
        out
    }

    /// The pass along some columns.
    fn along_columns(&self, columns: Range<usize>, taps: &Taps) -> Vec<u8> {
        let (skip, row_len) = ((columns.start - self.left) * self.channels, columns.len() * self.channels);
        let mut out = vec![0; taps.bounds.len() * row_len];
        let mut sums = vec![0; row_len];
        for ((first, weights), out) in taps.iter().zip(out.chunks_exact_mut(row_len)) {
            let rows = &self.pixels[(first - self.top) * self.row_len..];
            let step = self.row_len;
            Arch::new().dispatch(WeightedRows { rows, step, skip, weights, sums: &mut sums, out });
        }
        out
    }
}

/// A sum of rows, each times a weight.
struct WeightedRows<'a> {
    rows: &'a [u8],
    /// Bytes from one row to the next.
    step: usize,
    /// Bytes of a row before those that are wanted.
    skip: usize,
    weights: &'a [i32],
    sums: &'a mut [i32],
    out: &'a mut [u8],
}

impl WithSimd for WeightedRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.sums.fill(HALF);
        for (row, &weight) in self.rows.chunks_exact(self.step).zip(self.weights) {
            for (sum, &value) in self.sums.iter_mut().zip(&row[self.skip..]) {
                *sum += i32::from(value) * weight;
            }
        }
        for (out, &sum) in self.out.iter_mut().zip(self.sums.iter()) {
            *out = byte(sum);
        }
    }
}

/// The channels one after the other.
fn planes(pixels: &[u8], channels: usize) -> Vec<u8> {
    if channels == 1 {
        return pixels.to_vec();
    }
    let (pixels, _) = pixels.as_chunks::<3>();
    let mut out = vec![0; 3 * pixels.len()];
    let (red, rest) = out.split_at_mut(pixels.len());
    let (green, blue) = rest.split_at_mut(pixels.len());
    for (((pixel, red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
        [*red, *green, *blue] = *pixel;
    }
    out
}

#[cfg(test)]
mod tests;
