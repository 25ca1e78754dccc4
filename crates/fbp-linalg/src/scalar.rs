use std::fmt::{Display, LowerExp};
use std::iter::Sum;
use std::ops::{Add, Div, Mul, Neg, Sub};

use faer::traits::RealField;

use crate::lanes::Lanes;

/// The two scalars that every solver and kernel of this project works in: `f32` and `f64`.
///
/// Set-up is always done in `f64`; `Real` is the type of the features that plans are applied to.
pub trait Real:
    RealField
    + Lanes
    + Sealed
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
    /// Largest finite number.
    const MAX: Self;
    /// Smallest positive number of full precision: below it, rounding no longer falls with the number.
    const MIN_POSITIVE: Self;
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
    /// `self · factor + addend`, rounded once; a single instruction where the processor has it.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// `2^self` for integral `self` from the exponent of the smallest normal number to that of the largest.
    ///
    /// Made of integer operations without a branch, so that loops over it vectorise; other arguments give nonsense.
    fn exp2_integral(self) -> Self;
    /// `(m, k)` with `self = m · 2^k`, `m` in `[√½, √2)` and `k` integral, for positive normal numbers.
    ///
    /// Vectorises like [`exp2_integral`](Self::exp2_integral).
    fn split_exponent(self) -> (Self, Self);
    /// Runs the version of some work that was compiled for this type; see [`compile_once!`](crate::compile_once).
    #[doc(hidden)]
    fn per_scalar<'a, W: PerScalar>(args: W::Args<'a, Self>) -> W::Output<'a, Self>;
    /// The nearest point of `[lower, upper]`; needs `lower <= upper`. Unlike `f32::clamp` it never panics.
    #[inline(always)]
    fn clip(self, lower: Self, upper: Self) -> Self {
        let raised = if self < lower { lower } else { self };
        if raised > upper { upper } else { raised }
    }
}

/// Generic work that is compiled for `f32` and `f64` in the crate that names it, and not again in every crate that calls
/// it. Implemented by [`compile_once!`](crate::compile_once).
///
/// A generic function is compiled wherever it is used with concrete types; both methods here are not generic, so that
/// crates above find them compiled. A solver costs a user's program seconds to call instead of minutes.
pub trait PerScalar {
    /// The arguments, as a tuple.
    type Args<'a, T: Real>;
    /// What the work returns.
    type Output<'a, T: Real>;

    /// The work in `f32`.
    fn single<'a>(args: Self::Args<'a, f32>) -> Self::Output<'a, f32>;

    /// The work in `f64`.
    fn double<'a>(args: Self::Args<'a, f64>) -> Self::Output<'a, f64>;
}

/// Keeps [`Real`] to the types that kernels are compiled for.
pub trait Sealed {}

macro_rules! impl_real {
    ($scalar:ident, $bits:ident, $compiled:ident) => {
        impl Sealed for $scalar {}

        impl Real for $scalar {
            const NAME: &'static str = stringify!($scalar);
            const EPSILON: Self = $scalar::EPSILON;
            const MAX: Self = $scalar::MAX;
            const MIN_POSITIVE: Self = $scalar::MIN_POSITIVE;
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
            #[inline(always)]
            fn mul_add(self, factor: Self, addend: Self) -> Self {
                $scalar::mul_add(self, factor, addend)
            }
            #[inline(always)]
            fn exp2_integral(self) -> Self {
                const MANTISSA: u32 = $scalar::MANTISSA_DIGITS - 1;
                const BIAS: $scalar = ($scalar::MAX_EXP - 1) as $scalar;
                // At this size the spacing is 1, so that an integral sum stands in the lowest bits.
                const SHIFT: $scalar = 1.5 * (1_u64 << MANTISSA) as $scalar;
                $scalar::from_bits((self + (SHIFT + BIAS)).to_bits() << MANTISSA)
            }
            #[inline(always)]
            fn split_exponent(self) -> (Self, Self) {
                const MANTISSA: u32 = $scalar::MANTISSA_DIGITS - 1;
                const BIAS: $scalar = ($scalar::MAX_EXP - 1) as $scalar;
                const SHIFT: $scalar = (1_u64 << MANTISSA) as $scalar;
                const ROOT_HALF: $bits = (std::f64::consts::FRAC_1_SQRT_2 as $scalar).to_bits();
                const ONE: $bits = (1.0 as $scalar).to_bits();
                let moved = self.to_bits().wrapping_add(ONE - ROOT_HALF);
                let exponent = $scalar::from_bits((moved >> MANTISSA) | SHIFT.to_bits()) - (SHIFT + BIAS);
                let mantissa = $scalar::from_bits((moved & ((1 << MANTISSA) - 1)) + ROOT_HALF);
                (mantissa, exponent)
            }
            #[inline(always)]
            fn per_scalar<'a, W: PerScalar>(args: W::Args<'a, Self>) -> W::Output<'a, Self> {
                W::$compiled(args)
            }
        }
    };
}

impl_real!(f32, u32, single);
impl_real!(f64, u64, double);

#[cfg(test)]
mod tests {
    use super::*;

    fn exponents<T: Real>(range: std::ops::RangeInclusive<i32>) {
        let smallest = *range.start();
        for k in range {
            let power = T::from_f64(f64::from(k)).exp2_integral();
            assert_eq!(power.to_f64(), 2.0_f64.powi(k), "2^{k} in {}", T::NAME);
            for m in [0.75, 1.0, 1.25, 1.5, 1.96875] {
                let x = power * T::from_f64(m);
                let (mantissa, exponent) = x.split_exponent();
                let is_normal = m >= 1.0 || k > smallest;
                if is_normal {
                    assert!((0.7..1.43).contains(&mantissa.to_f64()), "{m} · 2^{k}: mantissa {mantissa}");
                    // In two steps, because 2^1024 is no double.
                    let rest = 2.0_f64.powi((exponent.to_f64() * 0.5) as i32);
                    let back = mantissa.to_f64()
                        * rest
                        * 2.0_f64.powi(exponent.to_f64() as i32 - (exponent.to_f64() * 0.5) as i32);
                    assert_eq!(back, x.to_f64(), "{m} · 2^{k}");
                }
            }
        }
    }

    #[test]
    fn exponents_of_both_scalars() {
        exponents::<f32>(-126..=127);
        exponents::<f64>(-1022..=1023);
    }
}
