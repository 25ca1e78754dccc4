use pulp::{Simd, WithSimd};

use crate::lanes::MAX_LANES;
use crate::{FeatureShape, Real};

/// Cells of one axis of a packed image.
///
/// The axis is stored in several variants; cell `j` of variant `v` is pixel `starts[v] + j·step` of the image, or 0 if
/// that lies outside. A tap is a variant and a shift within it, so that neighbouring outputs read neighbouring cells.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) starts: Vec<isize>,
    pub(super) step: usize,
    pub(super) cells: usize,
}

impl Axis {
    fn is_identity(&self, size: usize) -> bool {
        self.starts == [0] && self.step == 1 && self.cells == size
    }

    /// First cell of a variant that lies inside an image of `size` pixels, its pixel, and the number of such cells.
    fn inside(&self, start: isize, size: usize) -> (usize, usize, usize) {
        let first = start.min(0).unsigned_abs().div_ceil(self.step);
        let pixel = (start + (first * self.step) as isize) as usize;
        let count = size.saturating_sub(pixel).div_ceil(self.step);
        (first, pixel, count.min(self.cells.saturating_sub(first)))
    }
}

/// Where a tap finds its cells along one axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TapCell {
    pub(super) variant: usize,
    pub(super) shift: usize,
}

/// How an image is laid out for a kernel: planes `[channel][row variant][column variant][row][column]`.
///
/// An image that needs neither padding nor reordering is read where it is, if no read can go beyond its end.
#[derive(Clone, Debug)]
pub(super) struct Source {
    image: FeatureShape,
    rows: Axis,
    cols: Axis,
    /// Pixels of every variant, in the order of the cells.
    patches: Vec<Patch>,
    in_place: bool,
}

/// The cells of one variant that are pixels of a channel.
#[derive(Clone, Debug)]
struct Patch {
    /// First cell of the channel and first pixel of its plane.
    cell: usize,
    pixel: usize,
    rows: usize,
    cols: usize,
}

impl Source {
    /// A layout; `long_reads` says that every run of reads is at least a vector long.
    pub(super) fn new(image: FeatureShape, rows: Axis, cols: Axis, long_reads: bool) -> Self {
        let in_place = long_reads && rows.is_identity(image.height) && cols.is_identity(image.width);
        let mut patches = Vec::with_capacity(rows.starts.len() * cols.starts.len());
        for (i, &row_start) in rows.starts.iter().enumerate() {
            let (row, y, row_count) = rows.inside(row_start, image.height);
            for (j, &col_start) in cols.starts.iter().enumerate() {
                let (col, x, col_count) = cols.inside(col_start, image.width);
                let plane = i * cols.starts.len() + j;
                patches.push(Patch {
                    cell: (plane * rows.cells + row) * cols.cells + col,
                    pixel: y * image.width + x,
                    rows: row_count,
                    cols: col_count,
                });
            }
        }
        patches.retain(|patch| patch.rows > 0 && patch.cols > 0);
        Self { image, rows, cols, patches, in_place }
    }

    /// Rough time to pack one image, in cycles: a constant per row and per vector of a row.
    pub(super) fn pack_cost(&self) -> f64 {
        let vector = if self.cols.step == 1 { 2 } else { 2 * MAX_LANES };
        let patch = |patch: &Patch| patch.rows as f64 * (4 + vector * patch.cols.div_ceil(MAX_LANES)) as f64;
        if self.in_place { 0.0 } else { self.image.channels as f64 * self.patches.iter().map(patch).sum::<f64>() }
    }

    /// Distance between two rows of cells.
    pub(super) fn pitch(&self) -> usize {
        self.cols.cells
    }

    /// Distance between two channels.
    pub(super) fn channel_len(&self) -> usize {
        self.rows.starts.len() * self.cols.starts.len() * self.rows.cells * self.cols.cells
    }

    /// Offset of a tap within its channel.
    pub(super) fn offset(&self, row: TapCell, col: TapCell) -> usize {
        let plane = row.variant * self.cols.starts.len() + col.variant;
        (plane * self.rows.cells + row.shift) * self.cols.cells + col.shift
    }

    /// Scratch for one packed image, with room for a vector that starts at the last cell; 0 if read in place.
    pub(super) fn packed_len(&self) -> usize {
        let cells = self.image.channels * self.channel_len() + MAX_LANES;
        if self.in_place { 0 } else { cells.next_multiple_of(MAX_LANES) }
    }

    /// A block of images in the layout of this source.
    ///
    /// `scratch` has [`packed_len`](Self::packed_len) cells per image that were zero before the first block; nothing is
    /// written to a cell that lies outside its image.
    #[inline(always)]
    pub(super) fn pack<'a, T: Real, S: Simd>(&self, simd: S, images: &'a [T], scratch: &'a mut [T]) -> Packed<'a, T> {
        let count = images.len() / self.image.len();
        if self.in_place {
            return Packed { cells: images, stride: self.image.len(), count };
        }
        simd.vectorize(Pack { source: self, images, cells: scratch });
        Packed { cells: scratch, stride: self.packed_len(), count }
    }
}

/// A block of packed images.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a, T> {
    pub(super) cells: &'a [T],
    /// Distance between two images.
    pub(super) stride: usize,
    pub(super) count: usize,
}

struct Pack<'a, T> {
    source: &'a Source,
    images: &'a [T],
    cells: &'a mut [T],
}

impl<T: Real> WithSimd for Pack<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let source = self.source;
        let (image_len, plane, channel_len) = (source.image.len(), source.image.plane(), source.channel_len());
        for image in 0..self.images.len() / image_len {
            for channel in 0..source.image.channels {
                let pixels = &self.images[image * image_len + channel * plane..];
                let cells = &mut self.cells[image * source.packed_len() + channel * channel_len..];
                for patch in &source.patches {
                    let (cells, pixels) = (&mut cells[patch.cell..], &pixels[patch.pixel..]);
                    match source.cols.step {
                        1 => source.copy_rows(patch, cells, pixels),
                        2 => source.copy_rows_strided(patch, cells, pixels, copy_strided::<T, 2>),
                        step => source.copy_rows_strided(patch, cells, pixels, |cells, pixels| {
                            cells.iter_mut().zip(pixels.iter().step_by(step)).for_each(|(cell, &x)| *cell = x);
                        }),
                    }
                }
            }
        }
    }
}

impl Source {
    #[inline(always)]
    fn copy_rows<T: Real>(&self, patch: &Patch, cells: &mut [T], pixels: &[T]) {
        let (pitch, step) = (self.cols.cells, self.rows.step * self.image.width);
        for row in 0..patch.rows {
            copy_short(&mut cells[row * pitch..][..patch.cols], &pixels[row * step..][..patch.cols]);
        }
    }

    #[inline(always)]
    fn copy_rows_strided<T: Real>(&self, patch: &Patch, cells: &mut [T], pixels: &[T], copy: impl Fn(&mut [T], &[T])) {
        let row_len = (patch.cols - 1) * self.cols.step + 1;
        for row in 0..patch.rows {
            let cells = &mut cells[row * self.cols.cells..][..patch.cols];
            copy(cells, &pixels[row * self.rows.step * self.image.width..][..row_len]);
        }
    }
}

/// Copies every `STEP`-th pixel; a constant step lets the compiler use shuffles.
#[inline(always)]
fn copy_strided<T: Copy, const STEP: usize>(to: &mut [T], from: &[T]) {
    let (whole, rest) = from.as_chunks::<STEP>();
    for (cell, pixels) in to.iter_mut().zip(whole) {
        *cell = pixels[0];
    }
    if let (Some(cell), Some(pixel)) = (to.get_mut(whole.len()), rest.first()) {
        *cell = *pixel;
    }
}

/// Copies a row of an image; rows are too short for the call that `copy_from_slice` makes.
#[inline(always)]
pub(super) fn copy_short<T: Copy>(to: &mut [T], from: &[T]) {
    debug_assert_eq!(to.len(), from.len());
    if to.len() >= 16 {
        copy_blocks::<T, 16>(to, from);
    } else if to.len() >= 8 {
        copy_blocks::<T, 8>(to, from);
    } else if to.len() >= 4 {
        copy_blocks::<T, 4>(to, from);
    } else {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
}

/// Copies blocks of `N` values; the last one overlaps its neighbour where the length is no multiple of `N`.
#[inline(always)]
fn copy_blocks<T: Copy, const N: usize>(to: &mut [T], from: &[T]) {
    for (to, from) in to.as_chunks_mut::<N>().0.iter_mut().zip(from.as_chunks::<N>().0) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk::<N>()) {
        *to = *from;
    }
}
