//! Piecewise linear activations.

use fbp_linalg::Real;

use super::increasing::IncreasingMap;

#[derive(Clone, Copy)]
pub(crate) struct Relu;

impl<T: Real> IncreasingMap<T> for Relu {
    const ATTAINS_ENDS: bool = true;

    #[inline(always)]
    fn value(self, x: T) -> T {
        if x > T::ZERO { x } else { T::ZERO }
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        if x > T::ZERO { T::ONE } else { T::ZERO }
    }

    #[inline(always)]
    fn inverse(self, y: T) -> T {
        y
    }

    fn infimum(self) -> T {
        T::ZERO
    }

    fn supremum(self) -> T {
        T::INFINITY
    }

    fn output_scale(self) -> Option<T> {
        None
    }
}

#[derive(Clone, Copy)]
pub(crate) struct HardTanh<T> {
    pub(crate) min: T,
    pub(crate) max: T,
}

impl<T: Real> IncreasingMap<T> for HardTanh<T> {
    const ATTAINS_ENDS: bool = true;

    #[inline(always)]
    fn value(self, x: T) -> T {
        x.clip(self.min, self.max)
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        if (x > self.min) & (x < self.max) { T::ONE } else { T::ZERO }
    }

    #[inline(always)]
    fn inverse(self, y: T) -> T {
        y
    }

    fn infimum(self) -> T {
        self.min
    }

    fn supremum(self) -> T {
        self.max
    }

    fn output_scale(self) -> Option<T> {
        Some(self.max - self.min)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct HardSigmoid;

impl<T: Real> IncreasingMap<T> for HardSigmoid {
    const ATTAINS_ENDS: bool = true;

    #[inline(always)]
    fn value(self, x: T) -> T {
        (x * T::from_f64(1.0 / 6.0) + T::from_f64(0.5)).clip(T::ZERO, T::ONE)
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        let three = T::from_f64(3.0);
        if (x > -three) & (x < three) { T::from_f64(1.0 / 6.0) } else { T::ZERO }
    }

    #[inline(always)]
    fn inverse(self, y: T) -> T {
        T::from_f64(6.0) * (y - T::from_f64(0.5))
    }

    fn infimum(self) -> T {
        T::ZERO
    }

    fn supremum(self) -> T {
        T::ONE
    }

    fn output_scale(self) -> Option<T> {
        Some(T::ONE)
    }
}

/// Slope `> 0` below zero.
#[derive(Clone, Copy)]
pub(crate) struct Leaky<T> {
    pub(crate) slope: T,
}

impl<T: Real> IncreasingMap<T> for Leaky<T> {
    const ATTAINS_ENDS: bool = true;

    #[inline(always)]
    fn value(self, x: T) -> T {
        if x > T::ZERO { x } else { x * self.slope }
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        if x > T::ZERO { T::ONE } else { self.slope }
    }

    #[inline(always)]
    fn inverse(self, y: T) -> T {
        if y > T::ZERO { y } else { y / self.slope }
    }

    fn infimum(self) -> T {
        T::NEG_INFINITY
    }

    fn supremum(self) -> T {
        T::INFINITY
    }

    fn output_scale(self) -> Option<T> {
        None
    }
}
