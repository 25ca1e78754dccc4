//! Comparisons for the tests of the operations.

use candle_core::{Tensor, Var};
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Fails, with both numbers, if they differ by more than `tol` or one is NaN.
pub(crate) fn assert_near(what: &str, found: f32, expected: f64, tol: f64) {
    let error = (f64::from(found) - expected).abs();
    assert!(error <= tol, "{what}: {found} instead of {expected}, error {error:e} > {tol:e}");
}

/// Fails at the first entry that differs by more than `tol` times the largest expected value.
pub(crate) fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tol: f64) {
    assert_eq!(found.dims(), expected.dims(), "{what}: shapes");
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (found, expected) = (flat(found), flat(expected));
    let scale = expected.iter().fold(0.0_f64, |m, &e| m.max(f64::from(e).abs()));
    for (i, (&f, &e)) in found.iter().zip(&expected).enumerate() {
        assert_near(&format!("{what}, entry {i}"), f, e.into(), tol * scale);
    }
}

/// Seeded values in `[-1, 1)`.
pub(crate) fn random(dims: &[usize], seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let data: Vec<f32> = (0..dims.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(data, dims, &candle_core::Device::Cpu).unwrap()
}

/// The same as a variable.
pub(crate) fn random_var(dims: &[usize], seed: u64) -> Var {
    Var::from_tensor(&random(dims, seed)).unwrap()
}

/// Gradients of `Σ weights ∘ f(vars)` with respect to every variable.
pub(crate) fn gradients(output: &Tensor, weights: &Tensor, vars: &[&Var]) -> Vec<Tensor> {
    let grads = (output * weights).unwrap().sum_all().unwrap().backward().unwrap();
    vars.iter().map(|v| grads.get(v.as_tensor()).unwrap().clone()).collect()
}
