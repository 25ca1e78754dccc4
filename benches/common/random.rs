//! Seeded data. The library has the same in its test kit, but switching that on would build the library once more for the
//! benchmarks alone.

use faer::Mat;
use fbp_linalg::Real;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// The generator of one seed.
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
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
