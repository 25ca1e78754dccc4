use fbp_linalg::Real;

use super::increasing::Increasing;
use super::piecewise::{HardSigmoid, HardTanh, Leaky, Relu};
use crate::{InverseError, Range};

/// An elementwise activation function.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x` for `x >= 0`, else `slope · x`; the slope is finite and may be negative.
    LeakyRelu {
        /// Slope for negative inputs.
        slope: f64,
    },
    /// `x` clipped to `[min, max]`, with finite `min < max`.
    HardTanh {
        /// Smallest output.
        min: f64,
        /// Largest output.
        max: f64,
    },
    /// `x / 6 + 1/2` clipped to `[0, 1]`.
    HardSigmoid,
}

/// What one entry of a reverse pass is given.
#[derive(Clone, Copy)]
pub(crate) struct Entry<T> {
    pub(crate) observed_in: T,
    pub(crate) observed_out: T,
    /// Target interval.
    pub(crate) lower: T,
    pub(crate) upper: T,
}

/// What it returns: the nearest preimage and the interval of inputs that would do as well.
#[derive(Clone, Copy)]
pub(crate) struct Preimage<T> {
    pub(crate) point: T,
    pub(crate) lower: T,
    pub(crate) upper: T,
}

/// What all entries of a sample share.
#[derive(Clone, Copy)]
pub(crate) struct Setting<T> {
    pub(crate) range: Range<T>,
    /// Distance from the end of the function's range that counts as being there.
    pub(crate) tolerance: T,
}

/// One activation as code: every method is branch-free and inlined into a vectorised loop.
pub(crate) trait ScalarMap<T: Real>: Copy + Send + Sync {
    fn value(self, x: T) -> T;
    fn slope(self, x: T) -> T;
    /// Exact image of an interval of inputs; ends may be infinite.
    fn image(self, range: Range<T>) -> Range<T>;
    /// Scale of the outputs that tolerances refer to; `None` if it is that of the feature.
    fn output_scale(self) -> Option<T>;
    fn preimage(self, entry: Entry<T>, setting: Setting<T>, image: Range<T>) -> Preimage<T>;
}

/// Runs `$body` with `$map` bound to the code of the activation.
macro_rules! with_map {
    ($activation:expr, $scalar:ty, $map:ident => $body:expr) => {
        match $activation {
            Activation::Relu => {
                let $map = Increasing(Relu);
                $body
            }
            Activation::Relu6 => {
                let $map = Increasing(HardTanh { min: <$scalar>::ZERO, max: <$scalar>::from_f64(6.0) });
                $body
            }
            Activation::LeakyRelu { slope } => {
                let $map = Increasing(Leaky { slope: <$scalar>::from_f64(slope) });
                $body
            }
            Activation::HardTanh { min, max } => {
                let $map = Increasing(HardTanh { min: <$scalar>::from_f64(min), max: <$scalar>::from_f64(max) });
                $body
            }
            Activation::HardSigmoid => {
                let $map = Increasing(HardSigmoid);
                $body
            }
        }
    };
}
pub(super) use with_map;

impl Activation {
    /// Whether a larger input never gives a smaller output, so that the activation commutes with max-pooling.
    pub fn is_nondecreasing(&self) -> bool {
        match *self {
            Self::LeakyRelu { slope } => slope >= 0.0,
            Self::Relu | Self::Relu6 | Self::HardTanh { .. } | Self::HardSigmoid => true,
        }
    }

    /// Checks the parameters.
    ///
    /// # Errors
    /// [`InverseError::Parameter`] if one is outside the range given at the variant.
    pub fn check(&self) -> Result<(), InverseError> {
        let fail = |name, value, range| Err(InverseError::Parameter { name, value, range });
        match *self {
            Self::LeakyRelu { slope } if !slope.is_finite() => fail("slope", slope, "(-∞, ∞)"),
            Self::HardTanh { min, .. } if !min.is_finite() => fail("min", min, "(-∞, ∞)"),
            Self::HardTanh { min, max } if !(min < max && max.is_finite()) => fail("max", max, "(min, ∞)"),
            _ => Ok(()),
        }
    }

    /// Exact image of an interval of inputs.
    pub fn image<T: Real>(&self, range: Range<T>) -> Range<T> {
        with_map!(*self, T, map => map.image(range))
    }
}
