use fbp_linalg::FeatureShape;

use super::AvgDivisor;
use crate::InverseError;
use crate::layers::pool::window::{Axis, PoolWindow, Windows};

/// The windows of an average along one axis.
#[derive(Clone, Debug, PartialEq)]
pub struct AverageAxis {
    /// First site of every window and the one after its last, without the padding.
    pub windows: Vec<[usize; 2]>,
    /// What a site counts for in every window; the weight of a site of a plane is the product of those of both axes.
    pub weights: Vec<f64>,
}

/// The windows of an average over planes: `Y = A₁ X A₂ᵀ`, one matrix per axis, constant on the sites of a window.
#[derive(Clone, Debug, PartialEq)]
pub struct AverageAxes {
    /// Down the plane.
    pub rows: AverageAxis,
    /// Across the plane.
    pub cols: AverageAxis,
}

impl AverageAxes {
    /// Windows of a fixed size over features of shape `in_shape`.
    ///
    /// # Errors
    /// [`InverseError::Layer`], naming the layer and the geometry, if a size is 0, the padding is not smaller than the
    /// window, or the window is larger than the padded input; [`InverseError::Parameter`] for a divisor that is 0 or not
    /// finite.
    pub fn windows(
        layer: &str,
        in_shape: FeatureShape,
        window: PoolWindow,
        divisor: AvgDivisor,
    ) -> Result<Self, InverseError> {
        Self::of(&Windows::new(layer, in_shape, window)?, divisor)
    }

    pub(super) fn of(windows: &Windows, divisor: AvgDivisor) -> Result<Self, InverseError> {
        let weights = |axis: &Axis| -> Vec<f64> {
            let divisor = |window: usize| match divisor {
                // Padding beyond the far edge, which rounding up can reach, does not count.
                AvgDivisor::Window => axis.kernel.min(axis.size + 2 * axis.padding - window * axis.stride),
                AvgDivisor::Sites => axis.sites(window).len(),
                AvgDivisor::Fixed(_) => 1,
            };
            (0..axis.count).map(|window| 1.0 / divisor(window) as f64).collect()
        };
        let sites = |axis: &Axis| (0..axis.count).map(|w| axis.sites(w)).map(|run| [run.start, run.end]).collect();
        let axis = |axis: &Axis| AverageAxis { windows: sites(axis), weights: weights(axis) };
        let mut axes = Self { rows: axis(&windows.rows), cols: axis(&windows.cols) };
        if let AvgDivisor::Fixed(value) = divisor {
            if !value.is_finite() || value == 0.0 {
                return Err(InverseError::Parameter { name: "divisor", value, range: "finite, not 0" });
            }
            axes.rows.weights.iter_mut().for_each(|weight| *weight /= value);
        }
        Ok(axes)
    }

    /// As many windows as given: window `i` of `n` along an axis of `size` sites goes from `⌊i · size / n⌋` to
    /// `⌈(i + 1) · size / n⌉`, as in PyTorch.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if a size is 0.
    pub fn adaptive(layer: &str, in_shape: FeatureShape, [height, width]: [usize; 2]) -> Result<Self, InverseError> {
        if height == 0 || width == 0 || in_shape.len() == 0 {
            let reason = format!("adaptive pooling from {in_shape} to {height}×{width} has an empty side");
            return Err(InverseError::Layer { layer: layer.to_owned(), reason });
        }
        let axis = |size: usize, count: usize| {
            let windows: Vec<[usize; 2]> =
                (0..count).map(|i| [i * size / count, ((i + 1) * size).div_ceil(count)]).collect();
            let weights = windows.iter().map(|[start, end]| 1.0 / (end - start) as f64).collect();
            AverageAxis { windows, weights }
        };
        Ok(Self { rows: axis(in_shape.height, height), cols: axis(in_shape.width, width) })
    }
}
