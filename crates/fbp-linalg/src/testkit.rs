//! Seeded data, tolerances that follow from the rounding unit, and comparisons that say where they failed.
//!
//! Everything random takes a generator; [`for_seeds`] makes them and names the seed that failed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use faer::{Mat, MatRef};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use crate::Real;

/// How far a computed value may lie from its oracle: `|actual - expected| <= relative · max(scale, max |expected|)`.
///
/// `relative` is a multiple of the rounding unit, so that a tolerance always says which errors it allows for:
///
/// ```
/// use fbp_linalg::{assert_close, testkit::Tol};
/// let sum: f32 = [0.1_f32, 0.2, 0.3].iter().sum();
/// assert_close!([sum], [0.6], Tol::eps::<f32>().times(3));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tol {
    relative: f64,
    scale: f64,
}

impl Tol {
    /// One rounding unit of `T`.
    pub fn eps<T: Real>() -> Self {
        Self { relative: T::EPSILON.to_f64(), scale: 0.0 }
    }

    /// `count` times as much; usually the number of terms of a sum.
    #[must_use]
    pub fn times(self, count: usize) -> Self {
        self.by(count as f64)
    }

    /// `factor` times as much; usually a condition number.
    #[must_use]
    pub fn by(self, factor: f64) -> Self {
        Self { relative: self.relative * factor, ..self }
    }

    /// Size of the terms that were summed, where cancellation can leave a result that is much smaller.
    #[must_use]
    pub fn scale(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// Tolerance relative to the size of the expected values.
    pub fn relative(&self) -> f64 {
        self.relative
    }

    /// Largest allowed difference where the largest expected magnitude is `largest`.
    pub fn bound(&self, largest: f64) -> f64 {
        self.relative * self.scale.max(largest)
    }
}

/// Numbers that [`assert_close!`](crate::assert_close) compares, column by column where it is a matrix.
pub trait Values {
    /// All values, widened.
    fn values(&self) -> Vec<f64>;
}

impl<T: Real> Values for [T] {
    fn values(&self) -> Vec<f64> {
        self.iter().map(|x| x.to_f64()).collect()
    }
}

impl<T: Real> Values for Vec<T> {
    fn values(&self) -> Vec<f64> {
        self.as_slice().values()
    }
}

impl<T: Real, const N: usize> Values for [T; N] {
    fn values(&self) -> Vec<f64> {
        self.as_slice().values()
    }
}

impl<T: Real> Values for MatRef<'_, T> {
    fn values(&self) -> Vec<f64> {
        let at = |column| (0..self.nrows()).map(move |row| self[(row, column)].to_f64());
        (0..self.ncols()).flat_map(at).collect()
    }
}

impl<T: Real> Values for Mat<T> {
    fn values(&self) -> Vec<f64> {
        self.as_ref().values()
    }
}

impl<V: Values + ?Sized> Values for &V {
    fn values(&self) -> Vec<f64> {
        (**self).values()
    }
}

impl<V: Values + ?Sized> Values for &mut V {
    fn values(&self) -> Vec<f64> {
        (**self).values()
    }
}

/// Compares computed values with their oracle; the text of the error names the worst index.
///
/// # Errors
/// Lengths that differ, a value that is not finite on one side only, or a difference above the tolerance.
pub fn compare(actual: &(impl Values + ?Sized), expected: &(impl Values + ?Sized), tol: Tol) -> Result<(), String> {
    let (actual, expected) = (actual.values(), expected.values());
    if actual.len() != expected.len() {
        return Err(format!("{} values, expected {}", actual.len(), expected.len()));
    }
    let largest = expected.iter().filter(|x| x.is_finite()).fold(0.0_f64, |m, x| m.max(x.abs()));
    let bound = tol.bound(largest);
    let error = |i: usize| if actual[i] == expected[i] { 0.0 } else { (actual[i] - expected[i]).abs() };
    // NaN counts as the worst error of all.
    let rank = |i: usize| if error(i).is_nan() { f64::INFINITY } else { error(i) };
    let Some(worst) = (0..actual.len()).max_by(|&i, &j| rank(i).total_cmp(&rank(j))) else { return Ok(()) };
    if error(worst) <= bound {
        return Ok(());
    }
    let wrong = (0..actual.len()).filter(|&i| rank(i) > bound).count();
    Err(format!(
        "index {worst} of {}: {:e}, expected {:e}, error {:.3e} > {bound:.3e} (largest {largest:.3e}; {wrong} values wrong)",
        actual.len(),
        actual[worst],
        expected[worst],
        error(worst),
    ))
}

/// Asserts that values agree within a [`Tol`]; NaN fails, and the message names the worst index and its values.
#[macro_export]
macro_rules! assert_close {
    ($actual:expr, $expected:expr, $tol:expr $(,)?) => {
        if let Err(difference) = $crate::testkit::compare(&$actual, &$expected, $tol) {
            panic!("{} is not close to {}: {difference}", stringify!($actual), stringify!($expected));
        }
    };
    ($actual:expr, $expected:expr, $tol:expr, $($context:tt)+) => {
        if let Err(difference) = $crate::testkit::compare(&$actual, &$expected, $tol) {
            panic!(
                "{} is not close to {} ({}): {difference}",
                stringify!($actual), stringify!($expected), format_args!($($context)+),
            );
        }
    };
}

/// The generator of one seed.
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Runs a test body for the seeds `0..count`.
///
/// # Panics
/// If the body panics; the message then starts with the seed.
pub fn for_seeds(count: u64, mut body: impl FnMut(&mut ChaCha8Rng)) {
    for seed in 0..count {
        let outcome = catch_unwind(AssertUnwindSafe(|| body(&mut rng(seed))));
        if let Err(payload) = outcome {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
            panic!("seed {seed}: {text}");
        }
    }
}

/// Independent standard normal values.
pub fn normal_vec<T: Real>(len: usize, rng: &mut ChaCha8Rng) -> Vec<T> {
    (0..len).map(|_| T::from_f64(rng.sample(StandardNormal))).collect()
}

/// Independent values, uniform in `[low, high)`.
pub fn uniform_vec<T: Real>(len: usize, low: f64, high: f64, rng: &mut ChaCha8Rng) -> Vec<T> {
    (0..len).map(|_| T::from_f64(low + (high - low) * rng.random::<f64>())).collect()
}

/// Matrix of independent standard normal values, drawn column by column.
pub fn normal_mat<T: Real>(rows: usize, cols: usize, rng: &mut ChaCha8Rng) -> Mat<T> {
    let values = normal_vec::<T>(rows * cols, rng);
    Mat::from_fn(rows, cols, |i, j| values[j * rows + i])
}

/// Matrix of independent values, uniform in `[low, high)`, drawn column by column.
pub fn uniform_mat<T: Real>(rows: usize, cols: usize, low: f64, high: f64, rng: &mut ChaCha8Rng) -> Mat<T> {
    let values = uniform_vec::<T>(rows * cols, low, high, rng);
    Mat::from_fn(rows, cols, |i, j| values[j * rows + i])
}

/// A linear map and what should be its adjoint, as functions that overwrite their second argument.
#[derive(Debug)]
pub struct AdjointPair<A, B> {
    /// Length of an input of the map.
    pub in_len: usize,
    /// Length of an output of the map.
    pub out_len: usize,
    /// `y <- Ax`.
    pub apply: A,
    /// `x <- Aᵀy`.
    pub adjoint: B,
}

/// Asserts `<Ax, y> = <x, Aᵀy>` for random `x` and `y`, relative to `|Ax||y| + |x||Aᵀy|`.
///
/// # Panics
/// If the two inner products differ by more than the tolerance.
pub fn adjoint_test<T: Real>(
    mut pair: AdjointPair<impl FnMut(&[T], &mut [T]), impl FnMut(&[T], &mut [T])>,
    tol: Tol,
    rng: &mut ChaCha8Rng,
) {
    let (x, y) = (normal_vec::<T>(pair.in_len, rng), normal_vec::<T>(pair.out_len, rng));
    let (mut ax, mut aty) = (vec![T::from_f64(f64::NAN); y.len()], vec![T::from_f64(f64::NAN); x.len()]);
    (pair.apply)(&x, &mut ax);
    (pair.adjoint)(&y, &mut aty);
    let dot = |a: &[T], b: &[T]| a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum::<f64>();
    let norm = |a: &[T]| dot(a, a).sqrt();
    let scale = norm(&ax) * norm(&y) + norm(&x) * norm(&aty);
    assert_close!([dot(&ax, &y)], [dot(&x, &aty)], tol.scale(scale), "adjoint test");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_fails_on_nan_length_and_distance() {
        let tol = Tol::eps::<f64>().times(4);
        assert!(compare(&[1.0, f64::NAN], &[1.0, 2.0], tol).is_err());
        assert!(compare(&[1.0, f64::NAN], &[1.0, f64::NAN], tol).is_err());
        assert!(compare(&[1.0], &[1.0, 2.0], tol).is_err());
        assert!(compare(&[1.0 + 1e-14], &[1.0], tol).is_err());
        assert!(compare(&[1.0 + f64::EPSILON, f64::INFINITY], &[1.0, f64::INFINITY], tol).is_ok());
    }

    #[test]
    fn scale_allows_for_cancellation() {
        let tol = Tol::eps::<f64>();
        assert!(compare(&[1e-14], &[0.0], tol).is_err());
        assert!(compare(&[1e-14], &[0.0], tol.scale(100.0)).is_ok());
    }

    #[test]
    #[should_panic(expected = "seed 3: three")]
    fn for_seeds_names_the_seed() {
        let mut seed = 0;
        for_seeds(5, |_| {
            assert!(seed != 3, "three");
            seed += 1;
        });
    }

    #[test]
    #[should_panic(expected = "adjoint test")]
    fn adjoint_test_finds_a_wrong_factor() {
        let apply = |x: &[f64], y: &mut [f64]| y[0] = x[0] + x[1];
        let adjoint = |y: &[f64], x: &mut [f64]| x.copy_from_slice(&[y[0], 1.001 * y[0]]);
        let pair = AdjointPair { in_len: 2, out_len: 1, apply, adjoint };
        adjoint_test(pair, Tol::eps::<f64>().times(2), &mut rng(0));
    }
}
