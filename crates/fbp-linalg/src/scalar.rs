use std::fmt::{Display, LowerExp};
use std::iter::Sum;
use std::ops::{Add, Div, Mul, Neg, Sub};

use faer::traits::RealField;

use crate::conv2d::Compiled;
use crate::lanes::Lanes;

/// The two scalars that every solver and kernel of this project works in: `f32` and `f64`.
///
/// Set-up is always done in `f64`; `Real` is the type of the features that plans are applied to.
pub trait Real:
    RealField
    + Lanes
    + Compiled
    + Copy
    + Default
    + Display
    + LowerExp
    + PartialOrd
    + Sum
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + Send
    + Sync
    + 'static
{
    /// Name of the type as users write it: `"f32"` or `"f64"`.
    const NAME: &'static str;
    /// Distance from 1 to the next larger number.
    const EPSILON: Self;
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// Positive infinity, the upper end of a half-open range.
    const INFINITY: Self;
    /// Negative infinity, the lower end of a half-open range.
    const NEG_INFINITY: Self;

    /// Rounds a double to this type.
    fn from_f64(value: f64) -> Self;
    /// Widens (or keeps) the value as a double.
    fn to_f64(self) -> f64;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;
    /// NaN.
    fn is_nan(self) -> bool;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// The smaller value; if one is NaN, the other.
    fn min(self, other: Self) -> Self;
    /// The larger value; if one is NaN, the other.
    fn max(self, other: Self) -> Self;
    /// The nearest point of `[lower, upper]`; needs `lower <= upper`. Unlike `f32::clamp` it never panics.
    #[inline(always)]
    fn clip(self, lower: Self, upper: Self) -> Self {
        let raised = if self < lower { lower } else { self };
        if raised > upper { upper } else { raised }
    }
}

macro_rules! impl_real {
    ($scalar:ident) => {
        impl Real for $scalar {
            const NAME: &'static str = stringify!($scalar);
            const EPSILON: Self = $scalar::EPSILON;
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const INFINITY: Self = $scalar::INFINITY;
            const NEG_INFINITY: Self = $scalar::NEG_INFINITY;

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $scalar
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                $scalar::is_finite(self)
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                $scalar::is_nan(self)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $scalar::abs(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                $scalar::sqrt(self)
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                $scalar::min(self, other)
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                $scalar::max(self, other)
            }
        }
    };
}

impl_real!(f32);
impl_real!(f64);
