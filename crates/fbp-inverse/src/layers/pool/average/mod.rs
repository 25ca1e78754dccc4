//! Average pooling.

mod axes;
mod axis;
mod disjoint;
mod separable;

use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real};

pub use self::axes::{AverageAxes, AverageAxis};
use self::axis::MeanAxis;
use self::separable::Separable;
use super::window::{DisjointWindows, PoolWindow, Windows};
use crate::layers::columns::{MapPass, check_forward, check_jvp, check_vjp, map_columns, reverse_columns};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::layers::parts::{reverse_parts, reverse_parts_scratch};
use crate::{Interval, InverseError, JvpPass, ReversePass, ReverseReport, VjpPass};

/// Average pooling with any window, stride and padding, and its exact reverse.
///
/// * *Disjoint windows*: the nearest sites whose mean lies in the target interval are the observed ones, all shifted by
///   the same amount and clipped to the input range.
/// * *Overlapping or padded windows, point targets*: `Y = A₁ X A₂ᵀ` per channel with one small matrix per axis, so
///   `X = X0 + A₁⁺ (Y - Y0) (A₂⁺)ᵀ` is the nearest input, or the nearest of the best if the averages contradict each
///   other; it is taken where it lies in the input range.
/// * *Overlapping or padded windows, boxes or a range in the way*: the box-constrained nearest point, see
///   [`fbp_linalg::BoxedPlan`], for planes of up to [`fbp_linalg::BOXED_LIMIT`] sites.
///
/// The result is a point: sites are bound to each other, so no box would do as well. Sites in no window keep their value
/// and may be anything in the range.
///
/// # Shapes
/// `[C, H, W]` to `[C, (H + 2ph - kh)/sh + 1, (W + 2pw - kw)/sw + 1]`, rounded down (or up in ceil mode); `[C, 1, 1]` for
/// global pooling.
///
/// # Source
/// Own derivation: the projection on a half-space within a box is a clipped shift; the pseudo-inverse of a Kronecker
/// product is the product of the pseudo-inverses (Golub & Van Loan, *Matrix Computations*, 4th ed., §12.3).
#[derive(Clone, Debug)]
pub struct AvgPoolReverse<T> {
    name: String,
    method: Method<T>,
}

/// What the sum over a window is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum AvgDivisor {
    /// The number of sites of the window and of its padding, which counts as zeros (PyTorch's `count_include_pad`).
    #[default]
    Window,
    /// The number of sites of the window without its padding.
    Sites,
    /// This number, finite and not 0 (PyTorch's `divisor_override`).
    Fixed(f64),
}

#[derive(Clone, Debug)]
enum Method<T> {
    Disjoint(DisjointWindows),
    Separable(Box<Separable<T>>),
}

impl<T: Real> AvgPoolReverse<T> {
    /// Average pooling of features of shape `in_shape`, with [`AvgDivisor::Window`].
    ///
    /// # Errors
    /// As [`with_divisor`](Self::with_divisor).
    pub fn new(name: impl Into<String>, in_shape: FeatureShape, window: PoolWindow) -> Result<Self, InverseError> {
        Self::with_divisor(name, in_shape, window, AvgDivisor::Window)
    }

    /// Average pooling with any divisor.
    ///
    /// # Errors
    /// [`InverseError::Layer`], naming the geometry, if a size is 0, the padding is not smaller than the window, or the
    /// window is larger than the padded input; [`InverseError::Parameter`] for a divisor that is 0 or not finite.
    pub fn with_divisor(
        name: impl Into<String>,
        in_shape: FeatureShape,
        window: PoolWindow,
        divisor: AvgDivisor,
    ) -> Result<Self, InverseError> {
        let name = name.into();
        let windows = Windows::new(&name, in_shape, window)?;
        let disjoint = windows.disjoint().filter(|_| !matches!(divisor, AvgDivisor::Fixed(_)));
        if let Some(windows) = disjoint {
            return Ok(Self { name, method: Method::Disjoint(windows) });
        }
        let axes = AverageAxes::of(&windows, divisor)?;
        Self::separable(name, in_shape, axes)
    }

    /// Global average pooling: one window per channel.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if a channel is empty.
    pub fn global(name: impl Into<String>, in_shape: FeatureShape) -> Result<Self, InverseError> {
        Self::new(name, in_shape, PoolWindow::global(in_shape))
    }

    /// Adaptive average pooling to planes of `height × width`: window `i` of `n` along an axis of `size` sites goes from
    /// `⌊i · size / n⌋` to `⌈(i + 1) · size / n⌉`, as in PyTorch.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if a size is 0.
    pub fn adaptive(
        name: impl Into<String>,
        in_shape: FeatureShape,
        [height, width]: [usize; 2],
    ) -> Result<Self, InverseError> {
        let name = name.into();
        if height > 0 && width > 0 && in_shape.height.is_multiple_of(height) && in_shape.width.is_multiple_of(width) {
            return Self::new(name, in_shape, PoolWindow::disjoint(in_shape.height / height, in_shape.width / width));
        }
        let axes = AverageAxes::adaptive(&name, in_shape, [height, width])?;
        Self::separable(name, in_shape, axes)
    }

    fn separable(name: String, in_shape: FeatureShape, axes: AverageAxes) -> Result<Self, InverseError> {
        let axis = |size, axis: AverageAxis| MeanAxis::new(size, axis.windows, axis.weights);
        let rows = axis(in_shape.height, axes.rows).map_err(InverseError::in_layer(&name))?;
        let cols = axis(in_shape.width, axes.cols).map_err(InverseError::in_layer(&name))?;
        let separable = Separable::new(in_shape.channels, rows, cols).map_err(InverseError::in_layer(&name))?;
        Ok(Self { name, method: Method::Separable(Box::new(separable)) })
    }

    fn map(&self, pass: MapPass<'_, T>, par: Par) {
        match &self.method {
            Method::Disjoint(windows) => map_columns(&disjoint::Forward(windows), pass, par),
            Method::Separable(axes) => map_columns(&separable::Forward(axes), pass, par),
        }
    }
}

operator_once!(AvgPoolReverse);

impl<T: Real> LayerKernel<T> for AvgPoolReverse<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        match &self.method {
            Method::Disjoint(windows) => windows.in_shape,
            Method::Separable(axes) => axes.in_shape(),
        }
    }

    fn out_shape(&self) -> FeatureShape {
        match &self.method {
            Method::Disjoint(windows) => windows.out_shape,
            Method::Separable(axes) => axes.out_shape(),
        }
    }

    fn structure(&self) -> crate::Structure {
        crate::Structure::AFFINE
    }

    fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
        let Method::Separable(axes) = &self.method else { return in_range };
        // Padding and a divisor of one's own make the weights of a window sum to something else than 1.
        let (rows, cols) = (axes.rows.sums(), axes.cols.sums());
        let sums = [rows.0 * cols.0, rows.0 * cols.1, rows.1 * cols.0, rows.1 * cols.1].map(T::from_f64);
        let ends = sums.map(|sum| {
            // A weight that rounds to 0 makes the output 0, not NaN.
            let at = |x: T| if sum == T::ZERO { T::ZERO } else { sum * x };
            let (a, b) = (at(in_range.lower), at(in_range.upper));
            Interval::new(a.min(b), a.max(b))
        });
        ends.into_iter().fold(ends[0], |all, end| Interval::new(all.lower.min(end.lower), all.upper.max(end.upper)))
    }

    fn out_ranges(&self, in_ranges: &crate::ChannelRanges<T>) -> crate::ChannelRanges<T> {
        in_ranges.map(|range| self.out_range(range))
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        self.map(MapPass { first: input, second: input, out: output }, par);
        Ok(())
    }

    fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        match &self.method {
            Method::Disjoint(_) => StackReq::EMPTY,
            Method::Separable(axes) => reverse_parts_scratch::<T>(&separable::Reverse(axes), batch, par),
        }
    }

    fn reverse(&self, pass: ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        match &self.method {
            Method::Disjoint(windows) => Ok(reverse_columns(&disjoint::Reverse(windows), pass, par)),
            Method::Separable(axes) => {
                let report = reverse_parts(&separable::Reverse(axes), pass, par, stack);
                let report = report.map_err(InverseError::in_layer(&self.name))?;
                Ok(ReverseReport { rank: self.in_shape().channels * axes.rows.rank * axes.cols.rank, ..report })
            }
        }
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let JvpPass { tangent_in, tangent_out, .. } = pass;
        self.map(MapPass { first: tangent_in, second: tangent_in, out: tangent_out }, par);
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let VjpPass { cotangent_out, cotangent_in, .. } = pass;
        let pass = MapPass { first: cotangent_out, second: cotangent_out, out: cotangent_in };
        match &self.method {
            Method::Disjoint(windows) => map_columns(&disjoint::Spread(windows), pass, par),
            Method::Separable(axes) => map_columns(&separable::Spread(axes), pass, par),
        }
        Ok(())
    }
}
