//! GELU, SiLU and Mish: one quadratic minimum below 0, towards 0 on the left, towards `x` on the right.

use fbp_linalg::Real;

use super::elementary::{decay, exp, ln, normal_tail, sigmoid_pair};
use super::kind::BLOCK;
use super::valley::ValleyMap;

/// A smooth valley, inverted by Newton steps on `√(f - min f)` right and `√(ln(min f / f))` left of the minimum; both
/// are nearly linear in `x`.
///
/// # Source
/// Own derivation.
pub(crate) trait SmoothValley<T: Real>: Copy + Send + Sync {
    /// Where the minimum is.
    const BOTTOM: f64;
    /// The minimum.
    const MINIMUM: f64;
    /// Second derivative at the minimum.
    const CURVATURE: f64;

    /// `(f(x), f'(x))`.
    fn value_and_slope(self, x: T) -> (T, T);

    /// First guess of the distance from the minimum, leftwards, from `v = √(ln(min f / y))` and the slope of that
    /// distance in `v` at 0.
    #[inline(always)]
    fn left_seed(v: T, slope: T) -> T {
        (v + slope) * v
    }
}

/// Makes a [`SmoothValley`] a [`ValleyMap`].
#[derive(Clone, Copy)]
pub(crate) struct Smooth<M>(pub(crate) M);

/// Newton steps: 3 leave at most `1e-8` of the output, 5 less than the rounding unit of `f64`.
#[inline(always)]
const fn steps<T>() -> usize {
    if size_of::<T>() == 4 { 3 } else { 5 }
}

/// Distance from the minimum below which its parabola gives the slope better than rounded values do.
#[inline(always)]
fn parabola<T: Real>() -> T {
    T::from_f64(if size_of::<T>() == 4 { 3e-3 } else { 1e-5 })
}

#[inline(always)]
fn root<T: Real>(square: T) -> T {
    (if square > T::ZERO { square } else { T::ZERO }).sqrt()
}

impl<T: Real, M: SmoothValley<T>> ValleyMap<T> for Smooth<M> {
    const ATTAINS_LEFT_END: bool = false;

    #[inline(always)]
    fn value(self, x: T) -> T {
        self.0.value_and_slope(x).0
    }

    #[inline(always)]
    fn slope(self, x: T) -> T {
        self.0.value_and_slope(x).1
    }

    fn minimum(self) -> (T, T) {
        (T::from_f64(M::BOTTOM), T::from_f64(M::MINIMUM))
    }

    fn left_end(self) -> T {
        T::ZERO
    }

    #[inline(always)]
    fn right_inverses(self, values: &mut [T]) {
        let (bottom, minimum) = self.minimum();
        let (half, two) = (T::from_f64(0.5), T::from_f64(2.0));
        let flat = T::from_f64((2.0 / M::CURVATURE).sqrt());
        let (mut wanted, mut outputs) = ([T::ZERO; BLOCK], [T::ZERO; BLOCK]);
        for ((wanted, output), x) in wanted.iter_mut().zip(&mut outputs).zip(&mut *values) {
            let y = *x;
            (*wanted, *output) = (root(y - minimum), y);
            let (near, far) = (bottom + *wanted * flat, y + half * exp(-y));
            *x = if y < half { near } else { far };
        }
        let evaluate = |x: T| {
            let (value, slope) = self.0.value_and_slope(x);
            let height = root(value - minimum);
            (value, height, if x - bottom < parabola::<T>() { flat } else { two * height / slope })
        };
        for _ in 1..steps::<T>() {
            for (x, &wanted) in values.iter_mut().zip(&wanted) {
                let (_, height, ratio) = evaluate(*x);
                let next = *x - (height - wanted) * ratio;
                *x = if next > bottom { next } else { bottom };
            }
        }
        // The last step compares the outputs themselves: near 0 they have digits that the roots have lost.
        for ((x, &wanted), &y) in values.iter_mut().zip(&wanted).zip(&outputs) {
            let (value, height, ratio) = evaluate(*x);
            let sum = height + wanted;
            let gap = if sum > T::ZERO { (value - y) / sum } else { T::ZERO };
            let next = *x - gap * ratio;
            *x = if next > bottom { next } else { bottom };
        }
    }

    #[inline(always)]
    fn left_inverses(self, values: &mut [T]) {
        let (bottom, minimum) = self.minimum();
        let flat = T::from_f64((-2.0 * M::MINIMUM / M::CURVATURE).sqrt());
        let mut wanted = [T::ZERO; BLOCK];
        for (wanted, x) in wanted.iter_mut().zip(&mut *values) {
            *wanted = root(ln(minimum / *x));
            *x = bottom - M::left_seed(*wanted, flat);
        }
        for _ in 0..steps::<T>() {
            for (x, &wanted) in values.iter_mut().zip(&wanted) {
                let (value, slope) = self.0.value_and_slope(*x);
                let height = root(ln(minimum / value));
                let ratio =
                    if bottom - *x < parabola::<T>() { -flat } else { T::from_f64(-2.0) * height * value / slope };
                let next = *x - (height - wanted) * ratio;
                *x = if next < bottom { next } else { bottom };
            }
        }
    }

    fn output_scale(self) -> Option<T> {
        Some(T::from_f64(-M::MINIMUM))
    }
}

/// Seed left of the minimum for both forms of GELU, whose tails fall like a normal density.
#[inline(always)]
fn gelu_seed<T: Real>(v: T, slope: T) -> T {
    (slope + T::from_f64(0.28) * v / (T::from_f64(0.5) + v)) * v
}

/// `x Φ(x)`.
#[derive(Clone, Copy)]
pub(crate) struct Gelu;

impl<T: Real> SmoothValley<T> for Gelu {
    const BOTTOM: f64 = -0.751_791_524_693_564_5;
    const MINIMUM: f64 = -0.169_971_207_479_903_66;
    const CURVATURE: f64 = 0.431_493_992_314_046_9;

    #[inline(always)]
    fn value_and_slope(self, x: T) -> (T, T) {
        const DENSITY: f64 = 0.398_942_280_401_432_7; // 1 / √(2π)
        let (decay, scaled) = normal_tail(x.abs());
        let tail = decay * scaled;
        // Left of 0 in a form without cancellation: Φ + xφ = e^(-x²/2) (scaled tail - |x| / √(2π)).
        let left = (x * tail, decay * (scaled + x * T::from_f64(DENSITY)));
        let upper = T::ONE - tail;
        let right = (x * upper, upper + x * decay * T::from_f64(DENSITY));
        if x < T::ZERO { left } else { right }
    }

    #[inline(always)]
    fn left_seed(v: T, slope: T) -> T {
        gelu_seed(v, slope)
    }
}

/// `x σ(2c (x + 0.044715 x³))`, `c = √(2/π)`: GELU with its tanh approximation.
#[derive(Clone, Copy)]
pub(crate) struct GeluTanh;

impl<T: Real> SmoothValley<T> for GeluTanh {
    const BOTTOM: f64 = -0.752_461_422_071_016_2;
    const MINIMUM: f64 = -0.170_040_750_571_254_05;
    const CURVATURE: f64 = 0.430_400_091_024_858_5;

    #[inline(always)]
    fn value_and_slope(self, x: T) -> (T, T) {
        const LINEAR: f64 = 1.595_769_121_605_730_7; // 2 √(2/π)
        const CUBIC: f64 = LINEAR * 0.044_715;
        // Far out the share is 0 or 1, and powers would overflow.
        let far = T::from_f64(32.0);
        let near = x.clip(-far, far);
        let square = near * near;
        let argument = near * square.mul_add(T::from_f64(CUBIC), T::from_f64(LINEAR));
        let (share, rest) = sigmoid_pair(argument);
        let steepness = square.mul_add(T::from_f64(3.0 * CUBIC), T::from_f64(LINEAR));
        (x * share, share * (near * rest * steepness + T::ONE))
    }

    #[inline(always)]
    fn left_seed(v: T, slope: T) -> T {
        gelu_seed(v, slope)
    }
}

/// `x σ(x)`.
#[derive(Clone, Copy)]
pub(crate) struct Silu;

impl<T: Real> SmoothValley<T> for Silu {
    const BOTTOM: f64 = -1.278_464_542_761_074;
    const MINIMUM: f64 = -0.278_464_542_761_073_8;
    const CURVATURE: f64 = 0.217_811_705_719_800_1;

    #[inline(always)]
    fn value_and_slope(self, x: T) -> (T, T) {
        let (share, rest) = sigmoid_pair(x);
        (x * share, share * (x * rest + T::ONE))
    }
}

/// `x tanh(ln(1 + eˣ))`.
#[derive(Clone, Copy)]
pub(crate) struct Mish;

impl<T: Real> SmoothValley<T> for Mish {
    const BOTTOM: f64 = -1.192_431_214_515_495_4;
    const MINIMUM: f64 = -0.308_843_413_017_250_4;
    const CURVATURE: f64 = 0.266_947_914_049_534_5;

    #[inline(always)]
    fn value_and_slope(self, x: T) -> (T, T) {
        // tanh(ln(1 + e)) = n / (n + 2) with n = e (e + 2); for e^22 the quotient rounds to 1 and the derivative of n is
        // negligible.
        let far = T::from_f64(22.0);
        let near = if x > far { far } else { x };
        let e = decay(near);
        let two = T::from_f64(2.0);
        let n = e * (e + two);
        let share = n / (n + two);
        // The derivative of n is 2e (e + 1).
        let steepness = T::from_f64(4.0) * e * (e + T::ONE) / ((n + two) * (n + two));
        (x * share, near * steepness + share)
    }
}
