use std::marker::PhantomData;

use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real};

use super::window::{DisjointWindows, PoolWindow, Windows};
use crate::layers::columns::{
    MapPass, Outcome, Sample, SampleBox, SampleMap, SampleReverse, check_forward, check_jvp, check_vjp,
    largest_magnitude, map_columns, reverse_columns,
};
use crate::layers::shift::clipped_shift;
use crate::{
    DifferentiableOperator, InverseError, JvpPass, Range, ReverseOperator, ReversePass, ReverseReport, VjpPass,
};

/// Average pooling over disjoint windows and its exact reverse.
///
/// The nearest sites whose mean lies in the target interval are the observed ones, all shifted by the same amount and
/// clipped to the input range. The result is a point: sites are bound to each other, so no box would do as well.
/// Sites in no window keep their value and may be anything in the range.
///
/// # Shapes
/// `[C, H, W]` to `[C, H/kh, W/kw]`, rounded down; `[C, 1, 1]` for global pooling.
///
/// # Source
/// Own derivation: the projection on a half-space within a box is a clipped shift.
#[derive(Clone, Debug)]
pub struct AvgPoolReverse<T> {
    name: String,
    windows: DisjointWindows,
    scalar: PhantomData<T>,
}

impl<T: Real> AvgPoolReverse<T> {
    /// Average pooling of features of shape `in_shape`.
    ///
    /// # Errors
    /// [`InverseError::Layer`], naming the geometry, if the windows overlap, are padded, empty or larger than the input.
    pub fn new(name: impl Into<String>, in_shape: FeatureShape, window: PoolWindow) -> Result<Self, InverseError> {
        let name = name.into();
        let windows = Windows::new(&name, in_shape, window)?;
        let Some(windows) = windows.disjoint() else {
            return Err(InverseError::Layer { layer: name, reason: "windows must be disjoint".to_owned() });
        };
        Ok(Self { name, windows, scalar: PhantomData })
    }

    /// Global average pooling: one window per channel.
    ///
    /// # Errors
    /// [`InverseError::Layer`] if a channel is empty.
    pub fn global(name: impl Into<String>, in_shape: FeatureShape) -> Result<Self, InverseError> {
        Self::new(name, in_shape, PoolWindow::global(in_shape))
    }
}

/// The sites of one window, row by row.
#[inline(always)]
fn sites(windows: &DisjointWindows, corner: usize) -> impl Iterator<Item = usize> + use<> {
    let ([kh, kw], width) = (windows.kernel, windows.in_shape.width);
    (0..kh).flat_map(move |row| corner + row * width..corner + row * width + kw)
}

/// Sum of consecutive values in lanes, so that long runs vectorise.
#[inline(always)]
fn run_sum<T: Real>(values: &[T]) -> T {
    let mut lanes = [T::ZERO; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane += x);
    }
    let lanes = lanes.iter().fold(T::ZERO, |sum, &x| sum + x);
    rest.iter().fold(lanes, |sum, &x| sum + x)
}

/// Sum of a window.
#[inline(always)]
fn window_sum<T: Real>(windows: &DisjointWindows, values: &[T], corner: usize) -> T {
    let ([kh, kw], width) = (windows.kernel, windows.in_shape.width);
    if kw == width {
        return run_sum(&values[corner..corner + kh * kw]);
    }
    let row_sum = |row: usize| values[corner + row * width..][..kw].iter().fold(T::ZERO, |sum, &x| sum + x);
    (0..kh).fold(T::ZERO, |sum, row| sum + row_sum(row))
}

/// Forward kernel, also the Jacobian.
struct Forward<'a>(&'a DisjointWindows);

impl<T: Real> SampleMap<T> for Forward<'_> {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        let share = T::from_f64(1.0 / self.0.sites() as f64);
        self.0.for_each_window(|index, corner| out[index] = window_sum(self.0, input, corner) * share);
    }
}

/// The adjoint of [`Forward`].
struct Spread<'a>(&'a DisjointWindows);

impl<T: Real> SampleMap<T> for Spread<'_> {
    #[inline(always)]
    fn map_sample(&self, cotangent: &[T], _second: &[T], out: &mut [T]) {
        let share = T::from_f64(1.0 / self.0.sites() as f64);
        self.0.for_each_leftover(|sites| out[sites].fill(T::ZERO));
        self.0.for_each_window(|index, corner| {
            for row in 0..self.0.kernel[0] {
                let start = corner + row * self.0.in_shape.width;
                out[start..start + self.0.kernel[1]].fill(cotangent[index] * share);
            }
        });
    }
}

/// Reverse kernel.
struct Reverse<'a>(&'a DisjointWindows);

impl<T: Real> SampleReverse<T> for Reverse<'_> {
    #[inline(always)]
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome<T> {
        let (windows, range, count) = (self.0, sample.in_range, self.0.sites() as f64);
        windows.for_each_leftover(|sites| {
            target.lower[sites.clone()].fill(range.lower);
            target.upper[sites.clone()].fill(range.upper);
            for site in sites {
                target.point[site] = range.clip(sample.observed_in[site]);
            }
        });
        let (mut violation, share) = (T::ZERO, T::from_f64(1.0 / count));
        windows.for_each_window(|index, corner| {
            let (lo, hi) = (sample.lower[index], sample.upper[index]);
            let mean = sample.observed_out[index];
            let wanted = mean.clip(lo, hi);
            let shift = wanted - mean;
            // Without a bound in the way, the shift is the difference of the means.
            let mut inside = true;
            for row in 0..windows.kernel[0] {
                let start = corner + row * windows.in_shape.width;
                let block = start..start + windows.kernel[1];
                for (point, &x) in target.point[block.clone()].iter_mut().zip(&sample.observed_in[block]) {
                    *point = x + shift;
                    inside &= range.contains(*point);
                }
            }
            if !inside {
                let entries =
                    || sites(windows, corner).map(|site| (sample.observed_in[site], range.lower, range.upper));
                // Clipping the observed input to the range may have moved its mean into the interval already.
                let kept: f64 = entries().map(|(x, ..)| range.clip(x).to_f64()).sum();
                let total = kept.clip(lo.to_f64() * count, hi.to_f64() * count);
                let shift = clipped_shift(entries, total);
                for site in sites(windows, corner) {
                    let moved = sample.observed_in[site].to_f64() + shift;
                    target.point[site] = range.clip(T::from_f64(moved));
                }
            }
            for row in 0..windows.kernel[0] {
                let start = corner + row * windows.in_shape.width;
                let block = start..start + windows.kernel[1];
                target.lower[block.clone()].copy_from_slice(&target.point[block.clone()]);
                target.upper[block.clone()].copy_from_slice(&target.point[block]);
            }
            let reached = window_sum(windows, target.point, corner) * share;
            violation = violation.max(lo - reached).max(reached - hi);
        });
        let size = largest_magnitude(target.point) + largest_magnitude(sample.observed_out);
        let tolerance = T::EPSILON * size * T::from_f64(8.0 + count);
        Outcome { violation, tolerance }
    }
}

impl<T: Real> ReverseOperator<T> for AvgPoolReverse<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        self.windows.in_shape
    }

    fn out_shape(&self) -> FeatureShape {
        self.windows.out_shape
    }

    fn out_range(&self, in_range: Range<T>) -> Range<T> {
        in_range
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        map_columns(&Forward(&self.windows), MapPass { first: input, second: input, out: output }, par);
        Ok(())
    }

    fn reverse(
        &self,
        pass: ReversePass<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        Ok(reverse_columns(&Reverse(&self.windows), pass, par))
    }

    fn differentiable(&self) -> Option<&dyn DifferentiableOperator<T>> {
        Some(self)
    }
}

impl<T: Real> DifferentiableOperator<T> for AvgPoolReverse<T> {
    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let JvpPass { tangent_in, tangent_out, .. } = pass;
        map_columns(&Forward(&self.windows), MapPass { first: tangent_in, second: tangent_in, out: tangent_out }, par);
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let VjpPass { cotangent_out, cotangent_in, .. } = pass;
        let pass = MapPass { first: cotangent_out, second: cotangent_out, out: cotangent_in };
        map_columns(&Spread(&self.windows), pass, par);
        Ok(())
    }
}
