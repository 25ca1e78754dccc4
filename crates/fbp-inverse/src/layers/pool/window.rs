use std::ops::Range;

use fbp_linalg::{FeatureShape, Real};

use crate::InverseError;

/// Window of a pooling layer, per axis `[vertical, horizontal]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolWindow {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Distance between two windows.
    pub stride: [usize; 2],
    /// Rows and columns added on each side; smaller than the window.
    pub padding: [usize; 2],
    /// Whether windows may reach over the far edge (rounding the number of windows up); otherwise they are left out.
    pub ceil_mode: bool,
}

impl PoolWindow {
    /// Windows of `height × width` side by side: stride = kernel, no padding.
    pub const fn disjoint(height: usize, width: usize) -> Self {
        Self { kernel: [height, width], stride: [height, width], padding: [0, 0], ceil_mode: false }
    }

    /// Square windows of the given size, stride and padding.
    pub const fn square(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2], ceil_mode: false }
    }

    /// One window that covers the whole plane of `shape`.
    pub const fn global(shape: FeatureShape) -> Self {
        Self::disjoint(shape.height, shape.width)
    }

    /// Number of windows down and across a plane of `height × width`; `None` if none fits, a size is 0, or a window could
    /// hold padding only.
    pub fn counts(&self, [height, width]: [usize; 2]) -> Option<[usize; 2]> {
        let count = |axis: usize, size: usize| {
            count(size, self.kernel[axis], self.stride[axis], self.padding[axis], self.ceil_mode)
        };
        Some([count(0, height)?, count(1, width)?])
    }

    /// Windows along an axis (0 down, 1 across) of `size` sites.
    pub(crate) fn axis(&self, axis: usize, size: usize) -> Option<Axis> {
        Axis::new(size, self.kernel[axis], self.stride[axis], self.padding[axis], self.ceil_mode)
    }

    /// The same window with the number of windows rounded up.
    #[must_use]
    pub const fn ceil(self) -> Self {
        Self { ceil_mode: true, ..self }
    }
}

/// Number of windows along an axis; `None` if none fits or one would hold padding only.
fn count(size: usize, kernel: usize, stride: usize, padding: usize, ceil: bool) -> Option<usize> {
    if size == 0 || kernel == 0 || stride == 0 || padding >= kernel {
        return None;
    }
    let room = padding.checked_mul(2)?.checked_add(size)?.checked_sub(kernel)?;
    let floor = room / stride + 1;
    // A window that rounding up adds must still begin before the padding on the far side.
    let adds = ceil && !room.is_multiple_of(stride) && floor.checked_mul(stride)? < size + padding;
    Some(floor + usize::from(adds))
}

/// Windows along one axis, checked: every window holds at least one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Number of sites.
    pub(crate) size: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    /// Number of windows.
    pub(crate) count: usize,
    /// First site of every window and the one after its last.
    sites: Vec<[usize; 2]>,
    /// First window that holds a site and the one after the last.
    windows: Vec<[usize; 2]>,
}

impl Axis {
    /// `None` if no window fits or one would hold padding only.
    fn new(size: usize, kernel: usize, stride: usize, padding: usize, ceil: bool) -> Option<Self> {
        let count = count(size, kernel, stride, padding, ceil)?;
        let sites = |start: usize| [start.saturating_sub(padding), (start + (kernel - padding)).min(size)];
        let windows = |at: usize| {
            let first = if at < kernel { 0 } else { (at - kernel) / stride + 1 };
            [first, (at / stride + 1).min(count)]
        };
        let sites = (0..count).map(|window| sites(window * stride)).collect();
        let windows = (padding..size + padding).map(windows).collect();
        Some(Self { size, kernel, stride, padding, count, sites, windows })
    }

    /// Sites of a window.
    #[inline(always)]
    pub(crate) fn sites(&self, window: usize) -> Range<usize> {
        let [start, end] = self.sites[window];
        start..end
    }

    /// Windows that hold a site.
    #[inline(always)]
    pub(crate) fn windows(&self, site: usize) -> Range<usize> {
        let [start, end] = self.windows[site];
        start..end
    }

    /// Largest number of windows that hold one site.
    pub(crate) const fn overlap(&self) -> usize {
        self.kernel.div_ceil(self.stride)
    }
}

/// Row and column of an index; planes are far smaller than 2³² sites, and the shorter division is several times as fast.
#[inline(always)]
pub(crate) fn split(index: usize, width: usize) -> (usize, usize) {
    match (u32::try_from(index), u32::try_from(width)) {
        (Ok(index), Ok(width)) => ((index / width) as usize, (index % width) as usize),
        _ => (index / width, index % width),
    }
}

/// Sizes of a pooling layer, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) in_shape: FeatureShape,
    pub(crate) out_shape: FeatureShape,
    pub(crate) rows: Axis,
    pub(crate) cols: Axis,
}

impl Windows {
    pub(crate) fn new(layer: &str, in_shape: FeatureShape, window: PoolWindow) -> Result<Self, InverseError> {
        let PoolWindow { kernel: [kh, kw], stride: [sh, sw], padding: [ph, pw], .. } = window;
        let axes = (window.axis(0, in_shape.height), window.axis(1, in_shape.width), in_shape.channels);
        let (Some(rows), Some(cols), 1..) = axes else {
            let geometry = format!("window {kh}×{kw}, stride {sh}×{sw}, padding {ph}×{pw} on input {in_shape}");
            let reason = if kh == 0 || kw == 0 || sh == 0 || sw == 0 {
                "a pooling window and its stride must be at least 1"
            } else if ph >= kh || pw >= kw {
                "the padding of a pooling window must be smaller than the window"
            } else {
                "the pooling window does not fit the input"
            };
            return Err(InverseError::Layer { layer: layer.to_owned(), reason: format!("{reason}: {geometry}") });
        };
        let out_shape = FeatureShape::image(in_shape.channels, rows.count, cols.count);
        Ok(Self { in_shape, out_shape, rows, cols })
    }

    /// The same as disjoint windows, if no two windows share a site and none is cut off by an edge.
    pub(crate) fn disjoint(&self) -> Option<DisjointWindows> {
        // A stride is of no consequence along an axis that has room for one window only.
        let fits = |axis: &Axis| {
            let whole = (axis.count - 1) * axis.stride + axis.kernel <= axis.size;
            axis.padding == 0 && whole && (axis.stride == axis.kernel || axis.count == 1)
        };
        let kernel = [self.rows.kernel, self.cols.kernel];
        let Self { in_shape, out_shape, .. } = self;
        (fits(&self.rows) && fits(&self.cols)).then_some(DisjointWindows {
            in_shape: *in_shape,
            out_shape: *out_shape,
            kernel,
        })
    }

    /// The largest value of every window of a plane; `line` is as long as a row.
    pub(crate) fn maxima<T: Real>(&self, plane: &[T], line: &mut [T], out: &mut [T]) {
        let width = self.in_shape.width;
        for (row, out) in out.chunks_exact_mut(self.cols.count).enumerate() {
            let rows = self.rows.sites(row);
            line.copy_from_slice(&plane[rows.start * width..][..width]);
            for row in rows.skip(1) {
                for (most, &x) in line.iter_mut().zip(&plane[row * width..][..width]) {
                    *most = if x > *most { x } else { *most };
                }
            }
            for (col, out) in out.iter_mut().enumerate() {
                let sites = &line[self.cols.sites(col)];
                *out = sites.iter().fold(sites[0], |most, &x| if x > most { x } else { most });
            }
        }
    }

    /// For every site the smallest value of the windows that hold it, `most` where there is none; `line` is as long as a
    /// row.
    pub(crate) fn minima_at_sites<T: Real>(&self, values: &[T], most: T, line: &mut [T], out: &mut [T]) {
        let width = self.in_shape.width;
        out.fill(most);
        for (row, values) in values.chunks_exact(self.cols.count).enumerate() {
            for (site, least) in line.iter_mut().enumerate() {
                let windows = &values[self.cols.windows(site)];
                *least = windows.iter().fold(most, |least, &x| if x < least { x } else { least });
            }
            for row in self.rows.sites(row) {
                for (least, &x) in out[row * width..][..width].iter_mut().zip(&*line) {
                    *least = if x < *least { x } else { *least };
                }
            }
        }
    }

    /// Sites of a window within its plane, row by row.
    #[inline(always)]
    pub(crate) fn sites(&self, window: usize) -> impl Iterator<Item = usize> + use<> {
        let (row, col) = split(window, self.cols.count);
        let width = self.in_shape.width;
        let cols = self.cols.sites(col);
        self.rows.sites(row).flat_map(move |r| r * width + cols.start..r * width + cols.end)
    }

    /// Windows of a plane that hold a site.
    #[inline(always)]
    pub(crate) fn windows(&self, site: usize) -> impl Iterator<Item = usize> + use<> {
        let (row, col) = split(site, self.in_shape.width);
        let count = self.cols.count;
        let cols = self.cols.windows(col);
        self.rows.windows(row).flat_map(move |r| r * count + cols.start..r * count + cols.end)
    }

    /// Whether a window holds a site of its plane.
    #[inline(always)]
    pub(crate) fn holds(&self, window: usize, site: usize) -> bool {
        let (row, col) = split(site, self.in_shape.width);
        let (window_row, window_col) = split(window, self.cols.count);
        self.rows.sites(window_row).contains(&row) && self.cols.sites(window_col).contains(&col)
    }

    /// Largest number of windows that hold one site.
    pub(crate) const fn overlap(&self) -> usize {
        self.rows.overlap() * self.cols.overlap()
    }
}

/// Sizes of a pooling layer with disjoint windows.
///
/// Windows that would reach over the edge are left out, so the last rows and columns of a plane that is no multiple of
/// the window are in no window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DisjointWindows {
    pub(crate) in_shape: FeatureShape,
    pub(crate) out_shape: FeatureShape,
    /// Height and width of the window.
    pub(crate) kernel: [usize; 2],
}

impl DisjointWindows {
    /// Index of the first site of the window of output `(row, col)` in `channel`.
    #[inline(always)]
    pub(crate) fn corner(&self, channel: usize, row: usize, col: usize) -> usize {
        let [kh, kw] = self.kernel;
        (channel * self.in_shape.height + row * kh) * self.in_shape.width + col * kw
    }

    /// Number of sites of one window.
    pub(crate) const fn sites(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Calls `visit` with the index and the corner of every window, in the order of the outputs.
    #[inline(always)]
    pub(crate) fn for_each_window(&self, mut visit: impl FnMut(usize, usize)) {
        let FeatureShape { channels, height, width } = self.out_shape;
        for index in 0..channels * height {
            let corner = self.corner(index / height, index % height, 0);
            for col in 0..width {
                visit(index * width + col, corner + col * self.kernel[1]);
            }
        }
    }

    /// Calls `visit` with the index ranges of one feature that lie in no window.
    #[inline(always)]
    pub(crate) fn for_each_leftover(&self, mut visit: impl FnMut(std::ops::Range<usize>)) {
        let FeatureShape { channels, height, width } = self.in_shape;
        let (used_rows, used_cols) = (self.out_shape.height * self.kernel[0], self.out_shape.width * self.kernel[1]);
        if used_rows == height && used_cols == width {
            return;
        }
        for channel in 0..channels {
            let plane = channel * height * width;
            if used_cols < width {
                for row in 0..used_rows {
                    visit(plane + row * width + used_cols..plane + (row + 1) * width);
                }
            }
            visit(plane + used_rows * width..plane + height * width);
        }
    }
}
