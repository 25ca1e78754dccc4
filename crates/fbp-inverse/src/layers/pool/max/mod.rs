//! Max-pooling.

mod cover;
mod disjoint;
mod overlapping;
mod relax;

use std::marker::PhantomData;

use faer::dyn_stack::{MemStack, StackReq};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real};

use super::window::{DisjointWindows, PoolWindow, Windows};
use crate::layers::columns::{MapPass, check_forward, check_jvp, check_vjp, map_columns, reverse_columns};
use crate::layers::kernel::{LayerKernel, operator_once};
use crate::layers::parts::{reverse_parts, reverse_parts_scratch};
use crate::{Interval, InverseError, JvpPass, ReversePass, ReverseReport, VjpPass};

/// Max-pooling with any window, stride and padding, and its reverse.
///
/// With the target interval `[lo, hi]` of a window no site may exceed `hi` and one, the *witness*, must reach `lo`.
/// A site may thus be at most `u`, the smallest `hi` of the windows that hold it, and a window that no site reaches
/// after `x = min(x0, u)` needs a site to be raised. The witness gets the box `[lo, u]`, every other site `(-∞, u]`,
/// both within the input range; where `lo` is `-∞` there is no witness. Sites in no window keep their value and may be
/// anything in the range.
///
/// # What is exact
/// * *Targets are hit bit for bit* wherever some input hits them. Within the input range that is always so if
///   `kernel <= 2 · stride - 1` and `padding <= kernel / 2`, because every window then has a site of its own.
/// * *Disjoint windows*: the nearest input. The witness is the site that is largest already, the first one on ties.
/// * *Overlapping windows whose targets are different points*: the nearest input, as no site can serve two windows.
/// * *Overlapping windows with equal targets or with intervals*: choosing the sites is a weighted set cover, which has
///   no fast exact method. A local search (highest floors first, then merging, dropping and exchanging sites) finds
///   an input that is the nearest but for rare cases (2 of 720 random 4 × 4 planes, the worst 9 % too far in square).
/// * *Targets that contradict each other*: they are brought to the nearest ones, in least squares, that do not, with
///   the witnesses fixed to where they meet least resistance. Another choice of witnesses may miss by less; by at most
///   14 % less was found on small random planes.
///
/// # Shapes
/// `[C, H, W]` to `[C, (H + 2ph - kh)/sh + 1, (W + 2pw - kw)/sw + 1]`, rounded down (or up in ceil mode).
///
/// # Source
/// Own derivation: `min Σ (x_i - x0_i)²` subject to `max_i x_i ∈ [lo, hi]`; `u` is the morphological opening of the
/// target. Hildreth, *A quadratic programming procedure*, Naval Res. Logist. Quart. 4 (1957), for contradictions.
#[derive(Clone, Debug)]
pub struct MaxPoolReverse<T> {
    name: String,
    windows: Windows,
    disjoint: Option<DisjointWindows>,
    scalar: PhantomData<T>,
}

impl<T: Real> MaxPoolReverse<T> {
    /// Max-pooling of features of shape `in_shape`.
    ///
    /// # Errors
    /// [`InverseError::Layer`], naming the geometry, if a size is 0, the padding is not smaller than the window, or the
    /// window is larger than the padded input.
    pub fn new(name: impl Into<String>, in_shape: FeatureShape, window: PoolWindow) -> Result<Self, InverseError> {
        let name = name.into();
        let windows = Windows::new(&name, in_shape, window)?;
        let disjoint = windows.disjoint();
        Ok(Self { name, windows, disjoint, scalar: PhantomData })
    }
}

operator_once!(MaxPoolReverse);

impl<T: Real> LayerKernel<T> for MaxPoolReverse<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        self.windows.in_shape
    }

    fn out_shape(&self) -> FeatureShape {
        self.windows.out_shape
    }

    fn out_range(&self, in_range: Interval<T>) -> Interval<T> {
        in_range
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
        let pass = MapPass { first: input, second: input, out: output };
        match &self.disjoint {
            Some(windows) => map_columns(&disjoint::Forward(windows), pass, par),
            None => map_columns(&overlapping::Forward(&self.windows), pass, par),
        }
        Ok(())
    }

    fn reverse_scratch(&self, batch: usize, par: Par) -> StackReq {
        match self.disjoint {
            Some(_) => StackReq::EMPTY,
            None => reverse_parts_scratch::<T>(&overlapping::Reverse(&self.windows), batch, par),
        }
    }

    fn reverse(&self, pass: ReversePass<'_, T>, par: Par, stack: &mut MemStack) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        match &self.disjoint {
            Some(windows) => Ok(reverse_columns(&disjoint::Reverse(windows), pass, par)),
            None => reverse_parts(&overlapping::Reverse(&self.windows), pass, par, stack)
                .map_err(InverseError::in_layer(&self.name)),
        }
    }

    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let JvpPass { at, tangent_in, tangent_out } = pass;
        let pass = MapPass { first: at, second: tangent_in, out: tangent_out };
        match &self.disjoint {
            Some(windows) => map_columns(&disjoint::Gather(windows), pass, par),
            None => map_columns(&overlapping::Gather(&self.windows), pass, par),
        }
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let VjpPass { at, cotangent_out, cotangent_in } = pass;
        let pass = MapPass { first: at, second: cotangent_out, out: cotangent_in };
        match &self.disjoint {
            Some(windows) => map_columns(&disjoint::Scatter(windows), pass, par),
            None => map_columns(&overlapping::Scatter(&self.windows), pass, par),
        }
        Ok(())
    }
}
