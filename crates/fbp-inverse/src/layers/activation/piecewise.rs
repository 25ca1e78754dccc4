//! Piecewise linear activations.

use fbp_linalg::Real;

use super::increasing::IncreasingMap;
use super::valley::ValleyMap;

#[derive(Clone, Copy)]
pub(crate) struct Relu;

impl<T: Real> IncreasingMap<T> for Relu {
    const ATTAINS_ENDS: bool = true;

    #[inline(always)]
    fn value(self, x: T) -> T {
        if x <= T::ZERO { T::ZERO } else { x }
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
        Some((self.max - self.min).min(T::MAX))
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

/// Slope `< 0` below zero: a valley at 0.
#[derive(Clone, Copy)]
pub(crate) struct Folded<T> {
    pub(crate) slope: T,
}

impl<T: Real> ValleyMap<T> for Folded<T> {
    const ATTAINS_LEFT_END: bool = true;

    #[inline(always)]
    fn value(self, x: T) -> T {
        if x > T::ZERO { x } else { x * self.slope }
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        if x > T::ZERO { T::ONE } else { self.slope }
    }

    fn minimum(self) -> (T, T) {
        (T::ZERO, T::ZERO)
    }

    fn left_end(self) -> T {
        T::INFINITY
    }

    #[inline(always)]
    fn right_inverses(self, _values: &mut [T]) {
        // The identity.
    }

    #[inline(always)]
    fn left_inverses(self, values: &mut [T]) {
        values.iter_mut().for_each(|y| *y /= self.slope);
    }

    fn output_scale(self) -> Option<T> {
        None
    }
}

/// `x · clip(x / 6 + 1/2, 0, 1)`, with its minimum -3/8 at -3/2.
#[derive(Clone, Copy)]
pub(crate) struct HardSwish;

impl<T: Real> ValleyMap<T> for HardSwish {
    const ATTAINS_LEFT_END: bool = true;

    #[inline(always)]
    fn value(self, x: T) -> T {
        x * (x * T::from_f64(1.0 / 6.0) + T::from_f64(0.5)).clip(T::ZERO, T::ONE)
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        let three = T::from_f64(3.0);
        let inner = x * T::from_f64(1.0 / 3.0) + T::from_f64(0.5);
        let right = if x < three { inner } else { T::ONE };
        if x > -three { right } else { T::ZERO }
    }

    fn minimum(self) -> (T, T) {
        (T::from_f64(-1.5), T::from_f64(-0.375))
    }

    fn left_end(self) -> T {
        T::ZERO
    }

    #[inline(always)]
    fn right_inverses(self, values: &mut [T]) {
        // (-3 + √(9 + 24y)) / 2 without cancellation near 0.
        let three = T::from_f64(3.0);
        for y in values {
            let inner = T::from_f64(12.0) * *y / (three + discriminant(*y));
            *y = if *y < three { inner } else { *y };
        }
    }

    #[inline(always)]
    fn left_inverses(self, values: &mut [T]) {
        values.iter_mut().for_each(|y| *y = T::from_f64(-0.5) * (T::from_f64(3.0) + discriminant(*y)));
    }

    fn output_scale(self) -> Option<T> {
        Some(T::from_f64(0.375))
    }
}

/// `√(9 + 24y)`.
#[inline(always)]
fn discriminant<T: Real>(y: T) -> T {
    let square = y * T::from_f64(24.0) + T::from_f64(9.0);
    (if square > T::ZERO { square } else { T::ZERO }).sqrt()
}
