//! The activations as functions on slices and on batches: where the choice of the function becomes code.

use faer::Par;
use fbp_linalg::{LinalgError, Real};
use pulp::{Arch, NullaryFnOnce};

use super::increasing::Increasing;
use super::kind::{Activation, ScalarMap};
use super::operator::{Forward, Reverse, Slope};
use super::piecewise::{Folded, HardSigmoid, HardSwish, HardTanh, Leaky, Relu};
use super::smooth::{Elu, Sigmoid, Softplus, Tanh};
use super::smooth_valley::{Gelu, GeluTanh, Mish, Silu, Smooth};
use super::valley::Valley;
use crate::layers::columns::{MapPass, SampleMap, map_columns, reverse_columns};
use crate::{Interval, ReversePass, ReverseReport};

/// Runs `$body` with `$map` bound to the code of the activation.
macro_rules! with_map {
    (@run $map:ident, $code:expr, $body:expr) => {{
        let $map = $code;
        $body
    }};
    ($activation:expr, $scalar:ty, $map:ident => $body:expr) => {{
        let scalar = <$scalar>::from_f64;
        match $activation {
            Activation::Relu => with_map!(@run $map, Increasing(Relu), $body),
            Activation::Relu6 => {
                with_map!(@run $map, Increasing(HardTanh { min: scalar(0.0), max: scalar(6.0) }), $body)
            }
            Activation::LeakyRelu { slope } if scalar(slope) > scalar(0.0) => {
                with_map!(@run $map, Increasing(Leaky { slope: scalar(slope) }), $body)
            }
            Activation::LeakyRelu { slope } if scalar(slope) < scalar(0.0) => {
                with_map!(@run $map, Valley(Folded { slope: scalar(slope) }), $body)
            }
            Activation::LeakyRelu { .. } => with_map!(@run $map, Increasing(Relu), $body),
            Activation::HardTanh { min, max } => {
                with_map!(@run $map, Increasing(HardTanh { min: scalar(min), max: scalar(max) }), $body)
            }
            Activation::Tanh => with_map!(@run $map, Increasing(Tanh), $body),
            Activation::Sigmoid => with_map!(@run $map, Increasing(Sigmoid), $body),
            Activation::HardSigmoid => with_map!(@run $map, Increasing(HardSigmoid), $body),
            Activation::Elu { alpha } => with_map!(@run $map, Increasing(Elu { alpha: scalar(alpha) }), $body),
            Activation::Softplus => with_map!(@run $map, Increasing(Softplus), $body),
            Activation::Gelu => with_map!(@run $map, Valley(Smooth(Gelu)), $body),
            Activation::GeluTanh => with_map!(@run $map, Valley(Smooth(GeluTanh)), $body),
            Activation::Silu => with_map!(@run $map, Valley(Smooth(Silu)), $body),
            Activation::HardSwish => with_map!(@run $map, Valley(HardSwish), $body),
            Activation::Mish => with_map!(@run $map, Valley(Smooth(Mish)), $body),
        }
    }};
}
struct OnSlices<'a, K, T> {
    kernel: K,
    first: &'a [T],
    second: &'a [T],
    out: &'a mut [T],
}

impl<T: Real, K: SampleMap<T>> NullaryFnOnce for OnSlices<'_, K, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.kernel.map_sample(self.first, self.second, self.out);
    }
}

fn expect_length(what: &'static str, expected: usize, found: usize) -> Result<(), LinalgError> {
    if found == expected { Ok(()) } else { Err(LinalgError::Length { what, expected, found }) }
}

impl Activation {
    /// Exact image of an interval of inputs.
    pub fn image<T: Real>(&self, range: Interval<T>) -> Interval<T> {
        with_map!(*self, T, map => map.image(range))
    }

    /// `output[i] = f(input[i])`, vectorised.
    ///
    /// # Errors
    /// [`LinalgError::Length`] if the slices have different lengths.
    pub fn forward_slice<T: Real>(&self, input: &[T], output: &mut [T]) -> Result<(), LinalgError> {
        expect_length("activation: output", input.len(), output.len())?;
        with_map!(*self, T, map => {
            Arch::new().dispatch(OnSlices { kernel: Forward(map), first: input, second: input, out: output });
        });
        Ok(())
    }

    /// `output[i] = f'(input[i]) · direction[i]`, vectorised: the product with the Jacobian and with its transpose.
    ///
    /// # Errors
    /// [`LinalgError::Length`] if the slices have different lengths.
    pub fn slope_slice<T: Real>(&self, input: &[T], direction: &[T], output: &mut [T]) -> Result<(), LinalgError> {
        expect_length("activation: direction", input.len(), direction.len())?;
        expect_length("activation: output", input.len(), output.len())?;
        with_map!(*self, T, map => {
            Arch::new().dispatch(OnSlices { kernel: Slope(map), first: input, second: direction, out: output });
        });
        Ok(())
    }

    pub(super) fn forward_columns<T: Real>(&self, pass: MapPass<'_, T>, par: Par) {
        with_map!(*self, T, map => map_columns(&Forward(map), pass, par));
    }

    pub(super) fn slope_columns<T: Real>(&self, pass: MapPass<'_, T>, par: Par) {
        with_map!(*self, T, map => map_columns(&Slope(map), pass, par));
    }

    pub(super) fn reverse_columns<T: Real>(&self, tolerance: T, pass: ReversePass<'_, T>, par: Par) -> ReverseReport {
        with_map!(*self, T, map => reverse_columns(&Reverse { map, tolerance }, pass, par))
    }
}
