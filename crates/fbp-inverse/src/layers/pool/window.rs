use fbp_linalg::FeatureShape;

use crate::InverseError;

/// Window of a pooling layer, per axis `[vertical, horizontal]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolWindow {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Distance between two windows.
    pub stride: [usize; 2],
    /// Rows and columns added on each side.
    pub padding: [usize; 2],
}

impl PoolWindow {
    /// Windows of `height × width` side by side: stride = kernel, no padding.
    pub const fn disjoint(height: usize, width: usize) -> Self {
        Self { kernel: [height, width], stride: [height, width], padding: [0, 0] }
    }

    /// One window that covers the whole plane of `shape`.
    pub const fn global(shape: FeatureShape) -> Self {
        Self::disjoint(shape.height, shape.width)
    }
}

/// Sizes of a pooling layer with disjoint windows, checked.
///
/// Windows that would reach over the edge are left out (floor mode), so the last rows and columns of a plane that is
/// no multiple of the window are in no window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DisjointWindows {
    pub(crate) in_shape: FeatureShape,
    pub(crate) out_shape: FeatureShape,
    /// Height and width of the window.
    pub(crate) kernel: [usize; 2],
}

impl DisjointWindows {
    pub(crate) fn new(layer: &str, in_shape: FeatureShape, window: PoolWindow) -> Result<Self, InverseError> {
        let fail = |reason: String| Err(InverseError::Layer { layer: layer.to_owned(), reason });
        let PoolWindow { kernel: [kh, kw], stride: [sh, sw], padding: [ph, pw] } = window;
        let geometry = format!("window {kh}×{kw}, stride {sh}×{sw}, padding {ph}×{pw} on input {in_shape}");
        if kh == 0 || kw == 0 || sh == 0 || sw == 0 {
            return fail(format!("a pooling window and its stride must be at least 1: {geometry}"));
        }
        if in_shape.height < kh || in_shape.width < kw {
            return fail(format!("the pooling window does not fit the input: {geometry}"));
        }
        let count = |size: usize, kernel: usize, stride: usize| (size - kernel) / stride + 1;
        let (rows, cols) = (count(in_shape.height, kh, sh), count(in_shape.width, kw, sw));
        let out_shape = FeatureShape::image(in_shape.channels, rows, cols);
        // A stride is of no consequence along an axis that has room for one window only.
        let fits = (sh == kh || rows == 1) && (sw == kw || cols == 1);
        if !fits || ph != 0 || pw != 0 {
            return fail(format!(
                "only disjoint pooling windows (stride = kernel, no padding) can be reversed: {geometry}"
            ));
        }
        Ok(Self { in_shape, out_shape, kernel: [kh, kw] })
    }

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
