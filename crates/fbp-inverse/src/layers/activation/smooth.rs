//! Increasing activations that are smooth or approach their ends.

use fbp_linalg::Real;

use super::elementary::{decay, exp_m1, ln, ln_1p, sigmoid, tanh};
use super::increasing::IncreasingMap;

#[derive(Clone, Copy)]
pub(crate) struct Tanh;

impl<T: Real> IncreasingMap<T> for Tanh {
    const ATTAINS_ENDS: bool = false;

    #[inline(always)]
    fn value(self, x: T) -> T {
        tanh(x)
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        // 4e / (1 + e)² with e = e^(-2|x|), accurate also where tanh rounds to 1.
        let e = decay(x.abs() * T::from_f64(-2.0));
        let sum = T::ONE + e;
        T::from_f64(4.0) * e / (sum * sum)
    }

    #[inline(always)]
    fn inverse(self, y: T) -> T {
        let a = y.abs();
        let magnitude = T::from_f64(0.5) * ln_1p((a + a) / (T::ONE - a));
        if y < T::ZERO { -magnitude } else { magnitude }
    }

    fn infimum(self) -> T {
        -T::ONE
    }

    fn supremum(self) -> T {
        T::ONE
    }

    fn output_scale(self) -> Option<T> {
        Some(T::ONE)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Sigmoid;

impl<T: Real> IncreasingMap<T> for Sigmoid {
    const ATTAINS_ENDS: bool = false;

    #[inline(always)]
    fn value(self, x: T) -> T {
        sigmoid(x)
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        let e = decay(-x.abs());
        let sum = T::ONE + e;
        e / (sum * sum)
    }

    #[inline(always)]
    fn inverse(self, y: T) -> T {
        ln(y / (T::ONE - y))
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

#[derive(Clone, Copy)]
pub(crate) struct Elu<T> {
    pub(crate) alpha: T,
}

impl<T: Real> IncreasingMap<T> for Elu<T> {
    const ATTAINS_ENDS: bool = false;

    #[inline(always)]
    fn value(self, x: T) -> T {
        if x > T::ZERO { x } else { self.alpha * exp_m1(x) }
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        if x > T::ZERO { T::ONE } else { self.alpha * decay(x) }
    }

    #[inline(always)]
    fn inverse(self, y: T) -> T {
        if y > T::ZERO { y } else { ln_1p(y / self.alpha) }
    }

    fn infimum(self) -> T {
        -self.alpha
    }

    fn supremum(self) -> T {
        T::INFINITY
    }

    fn output_scale(self) -> Option<T> {
        Some(self.alpha)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Softplus;

impl<T: Real> IncreasingMap<T> for Softplus {
    const ATTAINS_ENDS: bool = false;

    #[inline(always)]
    fn value(self, x: T) -> T {
        let positive = if x > T::ZERO { x } else { T::ZERO };
        positive + ln_1p(decay(-x.abs()))
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        sigmoid(x)
    }

    #[inline(always)]
    fn inverse(self, y: T) -> T {
        y + ln(-exp_m1(-y))
    }

    fn infimum(self) -> T {
        T::ZERO
    }

    fn supremum(self) -> T {
        T::INFINITY
    }

    fn output_scale(self) -> Option<T> {
        Some(T::ONE)
    }
}
