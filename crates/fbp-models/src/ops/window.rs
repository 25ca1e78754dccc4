use std::ops::Range;

use candle_core::{Result, bail};
use fbp_inverse::PoolWindow;

use crate::pair::Pair;

/// Geometry of a pooling layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Size of a window.
    pub kernel: Pair,
    /// Distance between two windows.
    pub stride: Pair,
    /// Rows and columns added on every side; smaller than the window.
    pub padding: Pair,
    /// Whether windows may reach over the far edge (rounding the number of windows up); otherwise they are left out.
    pub ceil: bool,
}

impl From<Window> for PoolWindow {
    fn from(window: Window) -> Self {
        let Window { kernel, stride, padding, ceil } = window;
        Self { kernel: kernel.dims(), stride: stride.dims(), padding: padding.dims(), ceil_mode: ceil }
    }
}

/// Sizes of one pooling call: `planes` images of `h × w`, each pooled to `out_h × out_w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Planes {
    pub(super) planes: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) out_h: usize,
    pub(super) out_w: usize,
}

impl Window {
    /// Disjoint windows without padding.
    pub fn disjoint(kernel: impl Into<Pair>) -> Self {
        let kernel = kernel.into();
        Self { kernel, stride: kernel, padding: Pair::default(), ceil: false }
    }

    /// Sizes for a tensor `[N, C, H, W]`.
    pub(super) fn planes(&self, op: &'static str, dims: &[usize]) -> Result<Planes> {
        let &[n, c, h, w] = dims else { bail!("{op}: expected [N, C, H, W], found {dims:?}") };
        match PoolWindow::from(*self).counts([h, w]) {
            Some([out_h, out_w]) => Ok(Planes { planes: n * c, h, w, out_h, out_w }),
            None => bail!("{op}: a window of {} with padding {} does not fit into {h}×{w}", self.kernel, self.padding),
        }
    }

    /// Input rows of output row `oy`, without the padding.
    #[inline(always)]
    pub(super) fn rows(&self, oy: usize, h: usize) -> Range<usize> {
        clipped(oy * self.stride.h, self.kernel.h, self.padding.h, h)
    }

    /// Input columns of output column `ox`, without the padding.
    #[inline(always)]
    pub(super) fn cols(&self, ox: usize, w: usize) -> Range<usize> {
        clipped(ox * self.stride.w, self.kernel.w, self.padding.w, w)
    }
}

#[inline(always)]
fn clipped(start: usize, kernel: usize, padding: usize, size: usize) -> Range<usize> {
    start.saturating_sub(padding)..(start + kernel - padding).min(size)
}

impl Planes {
    pub(super) fn in_len(&self) -> usize {
        self.h * self.w
    }

    pub(super) fn out_len(&self) -> usize {
        self.out_h * self.out_w
    }
}
