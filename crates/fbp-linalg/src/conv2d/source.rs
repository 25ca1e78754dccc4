use crate::FeatureShape;
use crate::lanes::MAX_LANES;

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

    /// Cells of a variant that lie inside an image of `size` pixels.
    fn inside(&self, variant: usize, size: usize) -> std::ops::Range<usize> {
        let start = self.starts[variant];
        let first = (-start).max(0) as usize;
        let first = first.div_ceil(self.step).min(self.cells);
        let end = (size as isize - start).max(0) as usize;
        first..end.div_ceil(self.step).clamp(first, self.cells)
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
    in_place: bool,
}

impl Source {
    /// A layout; `long_reads` says that every run of reads is at least a vector long.
    pub(super) fn new(image: FeatureShape, rows: Axis, cols: Axis, long_reads: bool) -> Self {
        let in_place = long_reads && rows.is_identity(image.height) && cols.is_identity(image.width);
        Self { image, rows, cols, in_place }
    }

    /// Rough time to pack one image, in cycles: a constant per row and per block of a row.
    pub(super) fn pack_cost(&self) -> usize {
        let rows = self.image.channels * self.rows.starts.len() * self.cols.starts.len() * self.rows.cells;
        if self.in_place { 0 } else { rows * (4 + 2 * self.cols.cells.div_ceil(MAX_LANES)) }
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
        if self.in_place { 0 } else { self.image.channels * self.channel_len() + MAX_LANES }
    }

    /// The image in the layout of this source.
    ///
    /// `scratch` has [`packed_len`](Self::packed_len) cells that were zero before the first image; what lies outside
    /// the image is never written, and so stays zero.
    #[inline(always)]
    pub(super) fn pack<'a, T: Copy>(&self, image: &'a [T], scratch: &'a mut [T]) -> &'a [T] {
        if self.in_place {
            return image;
        }
        let planes = image.chunks_exact(self.image.plane()).zip(scratch.chunks_exact_mut(self.channel_len()));
        for (plane, packed) in planes {
            self.pack_channel(plane, packed);
        }
        scratch
    }

    #[inline(always)]
    fn pack_channel<T: Copy>(&self, plane: &[T], packed: &mut [T]) {
        let (height, width) = (self.image.height, self.image.width);
        let mut packed = packed.chunks_exact_mut(self.rows.cells * self.cols.cells);
        for (row_variant, &row_start) in self.rows.starts.iter().enumerate() {
            let rows = self.rows.inside(row_variant, height);
            for (col_variant, &col_start) in self.cols.starts.iter().enumerate() {
                let cols = self.cols.inside(col_variant, width);
                let Some(grid) = packed.next() else { return };
                if cols.is_empty() {
                    continue;
                }
                let first = (col_start + (cols.start * self.cols.step) as isize) as usize;
                for row in rows.clone() {
                    let y = (row_start + (row * self.rows.step) as isize) as usize;
                    let cells = &mut grid[row * self.cols.cells..][cols.clone()];
                    let pixels = &plane[y * width + first..(y + 1) * width];
                    match self.cols.step {
                        1 => copy_short(cells, &pixels[..cells.len()]),
                        2 => copy_strided::<T, 2>(cells, pixels),
                        step => cells.iter_mut().zip(pixels.iter().step_by(step)).for_each(|(cell, &x)| *cell = x),
                    }
                }
            }
        }
    }
}

/// Copies every `STEP`-th pixel; a constant step lets the compiler use shuffles.
#[inline(always)]
fn copy_strided<T: Copy, const STEP: usize>(to: &mut [T], from: &[T]) {
    let (whole, _) = from.as_chunks::<STEP>();
    for (cell, pixels) in to.iter_mut().zip(whole) {
        *cell = pixels[0];
    }
    if let Some(cell) = to.get_mut(whole.len()) {
        *cell = from[whole.len() * STEP];
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
