use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{Mat, MatRef, Par};

use crate::LinalgError;

/// Thin singular value decomposition `A = U diag(σ) Vᵀ`.
#[derive(Clone, Debug)]
pub struct Spectrum {
    /// Left vectors, as many columns as the shorter side of `A`.
    pub u: Mat<f64>,
    /// Singular values in descending order.
    pub sigma: Vec<f64>,
    /// Right vectors.
    pub v: Mat<f64>,
}

/// Decomposes a matrix of any shape: faer's decomposition, compiled once.
///
/// # Errors
/// [`LinalgError::Decomposition`] if it breaks down.
pub fn thin_svd(a: MatRef<'_, f64>, par: Par) -> Result<Spectrum, LinalgError> {
    let (rows, cols) = a.shape();
    let order = rows.min(cols);
    let (mut u, mut v, mut sigma) = (Mat::zeros(rows, order), Mat::zeros(cols, order), Diag::zeros(order));
    let thin = ComputeSvdVectors::Thin;
    let mut memory = MemBuffer::new(svd_scratch::<f64>(rows, cols, thin, thin, par, Default::default()));
    let stack = MemStack::new(&mut memory);
    svd(a, sigma.as_mut(), Some(u.as_mut()), Some(v.as_mut()), par, stack, Default::default())
        .map_err(|why| LinalgError::Decomposition { what: "svd", reason: format!("{why:?}") })?;
    let sigma = sigma.column_vector().iter().copied().collect();
    Ok(Spectrum { u, sigma, v })
}
