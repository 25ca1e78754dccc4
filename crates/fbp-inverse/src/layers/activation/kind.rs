use fbp_linalg::Real;

use crate::{Interval, InverseError};

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
    /// The hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `x / 6 + 1/2` clipped to `[0, 1]`.
    HardSigmoid,
    /// `x` for `x > 0`, else `alpha (eˣ - 1)`, with finite `alpha > 0`.
    Elu {
        /// Distance of the lower end of the range from 0.
        alpha: f64,
    },
    /// `ln(1 + eˣ)`.
    Softplus,
    /// `x Φ(x)` with the distribution function `Φ` of the normal distribution.
    Gelu,
    /// GELU with the tanh approximation, `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `x / (1 + e⁻ˣ)`, also called swish.
    Silu,
    /// `x · clip(x / 6 + 1/2, 0, 1)`.
    HardSwish,
    /// `x tanh(ln(1 + eˣ))`.
    Mish,
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

/// What is asked of all entries of a sample.
#[derive(Clone, Copy)]
pub(crate) struct Setting<T> {
    pub(crate) range: Interval<T>,
    /// Distance from the end of the function's range that counts as being there.
    pub(crate) tolerance: T,
}

impl<T: Real> Preimage<T> {
    /// The point of `[lower, upper]` nearest to the observed input. An entry whose output is met already keeps its
    /// input bit for bit, and the interval is widened by the rounding that it may have missed it by.
    #[inline(always)]
    pub(crate) fn nearest(entry: Entry<T>, range: Interval<T>, lower: T, upper: T) -> Self {
        let upper = if upper < lower { lower } else { upper };
        // An end that overflowed would be a point at infinity.
        let lower = if lower > T::MAX { T::MAX } else { lower };
        let upper = if upper < -T::MAX { -T::MAX } else { upper };
        let (x, y) = (entry.observed_in, entry.observed_out);
        let met = (entry.lower <= y) & (y <= entry.upper) & range.contains(x);
        Self {
            point: if met { x } else { x.clip(lower, upper) },
            lower: if met & (x < lower) { x } else { lower },
            upper: if met & (x > upper) { x } else { upper },
        }
    }
}

/// Entries that are reversed together: enough for loops to pay, few enough for the first cache.
pub(super) const BLOCK: usize = 128;

/// The views of up to [`BLOCK`] entries, all of one length.
pub(crate) struct EntryBlock<'a, T> {
    pub(crate) observed_in: &'a [T],
    pub(crate) observed_out: &'a [T],
    pub(crate) target_lower: &'a [T],
    pub(crate) target_upper: &'a [T],
    pub(crate) point: &'a mut [T],
    pub(crate) lower: &'a mut [T],
    pub(crate) upper: &'a mut [T],
}

impl<T: Real> EntryBlock<'_, T> {
    #[inline(always)]
    pub(crate) fn entry(&self, i: usize) -> Entry<T> {
        Entry {
            observed_in: self.observed_in[i],
            observed_out: self.observed_out[i],
            lower: self.target_lower[i],
            upper: self.target_upper[i],
        }
    }

    #[inline(always)]
    pub(crate) fn write(&mut self, i: usize, found: Preimage<T>) {
        (self.point[i], self.lower[i], self.upper[i]) = (found.point, found.lower, found.upper);
    }

    /// The same block with the lengths of all views known to be equal, so that loops need no checks.
    #[inline(always)]
    pub(crate) fn trimmed(&mut self) -> EntryBlock<'_, T> {
        let len = self.point.len();
        EntryBlock {
            observed_in: &self.observed_in[..len],
            observed_out: &self.observed_out[..len],
            target_lower: &self.target_lower[..len],
            target_upper: &self.target_upper[..len],
            point: &mut self.point[..len],
            lower: &mut self.lower[..len],
            upper: &mut self.upper[..len],
        }
    }
}

/// One activation as code: what is called per entry is branch-free and inlined into a vectorised loop.
pub(crate) trait ScalarMap<T: Real>: Copy + Send + Sync {
    /// What all entries of a sample share.
    type Context: Copy;

    fn value(self, x: T) -> T;
    fn slope(self, x: T) -> T;
    /// Exact image of an interval of inputs; ends may be infinite.
    fn image(self, range: Interval<T>) -> Interval<T>;
    /// Scale of the outputs that tolerances refer to; `None` if it is that of the feature.
    fn output_scale(self) -> Option<T>;
    fn context(self, setting: Setting<T>) -> Self::Context;
    /// By how much the output `y` may miss its interval besides rounding: the tolerance if it is at a flat end, else 0.
    fn allowance(self, y: T, context: &Self::Context) -> T;
    /// The preimages of some entries; with `POINT` the ends of the target intervals are known to be equal.
    fn preimages<const POINT: bool>(self, block: &mut EntryBlock<'_, T>, context: &Self::Context);
}

impl Activation {
    /// Whether a larger input never gives a smaller output, so that the activation commutes with max-pooling.
    pub fn is_nondecreasing(&self) -> bool {
        match *self {
            Self::LeakyRelu { slope } => slope >= 0.0,
            Self::Gelu | Self::GeluTanh | Self::Silu | Self::HardSwish | Self::Mish => false,
            _ => true,
        }
    }

    /// Checks the parameters, as numbers of type `T`.
    ///
    /// # Errors
    /// [`InverseError::Parameter`] if one is outside the range given at the variant after rounding.
    pub(super) fn check_rounded<T: Real>(&self) -> Result<(), InverseError> {
        let round = |value: f64| T::from_f64(value).to_f64();
        match *self {
            Self::LeakyRelu { slope } => Self::LeakyRelu { slope: round(slope) }.check(),
            Self::HardTanh { min, max } => Self::HardTanh { min: round(min), max: round(max) }.check(),
            Self::Elu { alpha } => Self::Elu { alpha: round(alpha) }.check(),
            _ => Ok(()),
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
            Self::Elu { alpha } if !(alpha > 0.0 && alpha.is_finite()) => fail("alpha", alpha, "(0, ∞)"),
            _ => Ok(()),
        }
    }
}
