//! Convolutions with 3×3 kernels and stride 1 by the minimal filtering of Winograd, for `f32` where rounding of some 1e-6 of
//! the sum of the absolute products is allowed.
//!
//! S. Winograd, "Arithmetic Complexity of Computations" (1980); A. Lavin and S. Gray, "Fast Algorithms for Convolutional
//! Neural Networks", CVPR 2016. Vectors run along channels: strips of an image are transposed to `[pixel][channel]`, their
//! tiles are transformed, and every one of the 36 points is a matrix product over the channels.

mod forward;
mod gradient;
mod pixels;
mod product;
#[cfg(test)]
mod tests;
mod transform;

use super::Conv2dGeometry;
use crate::FeatureShape;
use crate::lanes::MAX_LANES;

pub(super) use forward::Winograd;
pub(super) use gradient::WinogradGrad;

use self::transform::{IN, OUT, POINTS, TAPS};

/// Columns of a panel of weights, products or tiles; the last panel may be half as wide.
const PANEL: usize = 64;
/// Numbers of columns are rounded up to a multiple of it: two vectors, so that products have enough accumulators.
const HALF_PANEL: usize = 2 * MAX_LANES;

/// Tiles of 4×4 outputs that cover a plane.
#[derive(Clone, Copy, Debug)]
struct Tiling {
    /// What is padded and cut into tiles.
    input: FeatureShape,
    /// What the tiles cover.
    output: FeatureShape,
    padding: [usize; 2],
}

impl Tiling {
    /// Rows and columns of tiles.
    fn grid(&self) -> [usize; 2] {
        [self.output.height.div_ceil(OUT), self.output.width.div_ceil(OUT)]
    }

    /// Tiles of one sample.
    fn count(&self) -> usize {
        self.grid().iter().product()
    }

    /// Pixels of a row of a padded strip.
    fn strip_width(&self) -> usize {
        OUT * self.grid()[1] + TAPS - 1
    }

    /// Cells of a strip of the input: the rows that one row of tiles needs.
    fn strip_len(&self) -> usize {
        IN * self.strip_width() * padded(self.input.channels)
    }
}

/// Whether the geometry is one of 3×3 taps next to each other, with at most two rows and columns of padding.
fn fits(g: &Conv2dGeometry) -> bool {
    let plain = g.kernel() == [TAPS; 2] && g.stride() == [1; 2] && g.dilation() == [1; 2] && g.groups() == 1;
    plain && g.padding().iter().all(|padding| *padding < TAPS)
}

/// Distance between what belongs to one point and to the next one: [`MAX_LANES`] more than the `cells`, whose number is a multiple of twice
/// that and often a high power of two, with which all points of a tile would share few sets of the cache.
fn point_pitch(cells: usize) -> usize {
    cells + MAX_LANES
}

/// Channels, rounded up to whole vectors.
fn padded(channels: usize) -> usize {
    channels.next_multiple_of(HALF_PANEL)
}

/// First columns and widths of the panels of so many padded columns.
fn panels(columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..columns).step_by(PANEL).map(move |first| (first, PANEL.min(columns - first)))
}
