use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Accum, Mat, MatMut, Par};

use super::fft::PlaneFft;
use super::grid::Sites;
use super::symbol::{C64, Symbol};
use crate::{LinalgError, Real};

/// Real kernels of a symbol's entries, one plane of cells after the other.
pub(super) fn kernels(symbol: &mut [C64], fft: &PlaneFft<f64>) -> Vec<f64> {
    let cells = fft.plane_len();
    let planes = symbol.len() / fft.spectrum_len();
    let mut out = vec![0.0; planes * cells];
    let mut scratch = vec![C64::default(); fft.scratch_len()];
    for (from, to) in symbol.chunks_exact_mut(fft.spectrum_len()).zip(out.chunks_exact_mut(cells)) {
        fft.inverse(from, to, &mut scratch);
        to.iter_mut().for_each(|x| *x /= cells as f64);
    }
    out
}

/// Gathers `kernel[c_i, c_j, pos_i - pos_j mod N]` for two lists of sites.
pub(super) fn gather(
    mut out: MatMut<'_, f64>,
    rows: &[u32],
    cols: &[u32],
    kernel: &[f64],
    inner: usize,
    size: [usize; 2],
) {
    let cells = size[0] * size[1];
    let place = |at: u32| {
        let (plane, cell) = (at as usize / cells, at as usize % cells);
        (plane, cell / size[1], cell % size[1])
    };
    for (j, &col) in cols.iter().enumerate() {
        let (cj, hj, wj) = place(col);
        for (i, &row) in rows.iter().enumerate() {
            let (ci, hi, wi) = place(row);
            let (h, w) = ((hi + size[0] - hj) % size[0], (wi + size[1] - wj) % size[1]);
            out[(i, j)] = kernel[(ci * inner + cj) * cells + h * size[1] + w];
        }
    }
}

fn failed(reason: String) -> LinalgError {
    LinalgError::Decomposition { what: "conv solve: boundary", reason }
}

/// Replaces a symmetric positive definite matrix (lower triangle read) by its inverse, both triangles.
pub(super) fn invert_spd(mut a: MatMut<'_, f64>, par: Par) -> Result<(), LinalgError> {
    let n = a.nrows();
    if n == 0 {
        return Ok(());
    }
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f64>(n, par, Default::default()));
    cholesky_in_place(a.as_mut(), Default::default(), par, MemStack::new(&mut memory), Default::default())
        .map_err(|why| failed(format!("{why:?}")))?;
    let mut inverse = Mat::<f64>::zeros(n, n);
    invert_lower_triangular(inverse.as_mut(), a.as_ref(), par);
    let lower = inverse.as_ref();
    triangular::matmul(
        a.as_mut(),
        BlockStructure::TriangularLower,
        Accum::Replace,
        lower.transpose(),
        BlockStructure::TriangularUpper,
        lower,
        BlockStructure::TriangularLower,
        1.0,
        par,
    );
    for j in 0..n {
        for i in 0..j {
            a[(i, j)] = a[(j, i)];
        }
    }
    Ok(())
}

/// What the boundary system of one group is built from.
pub(super) struct Boundary<'a> {
    pub(super) symbol: &'a Symbol,
    /// `(M Mᴴ + shift)⁻¹`.
    pub(super) inverse: &'a [C64],
    pub(super) near: &'a Sites,
    pub(super) far: &'a Sites,
    pub(super) size: [usize; 2],
    pub(super) fft: &'a PlaneFft<f64>,
}

impl Boundary<'_> {
    /// Inverse of the quasi-definite boundary matrix, rounded to `P`:
    ///
    /// ```text
    /// [ t_NN   q_NF ]      t = T⁻¹, q = T⁻¹ M, z = I - Mᴴ T⁻¹ M   as real kernels,
    /// [ q_NFᵀ -z_FF ]      N, F = missing sites of the near and the far field
    /// ```
    ///
    /// # Errors
    /// [`LinalgError::Decomposition`] if a block is not numerically definite.
    ///
    /// # Source
    /// Own derivation; quasi-definite matrices: Vanderbei, *SIAM J. Optim.* 5 (1995) 100.
    pub(super) fn inverse<P: Real>(&self, par: Par) -> Result<Mat<P>, LinalgError> {
        let Symbol { p, q, .. } = *self.symbol;
        let (near, far) = (&self.near.missing, &self.far.missing);
        let (n, f) = (near.len(), far.len());
        let mut whole = Mat::<f64>::zeros(n + f, n + f);
        let t = kernels(&mut self.inverse.to_vec(), self.fft);
        let (mut corner, mut side, _, mut last) = whole.as_mut().split_at_mut(n, n);
        gather(corner.as_mut(), near, near, &t, p, self.size);
        invert_spd(corner.as_mut(), par)?;
        if f > 0 {
            let mut solved = self.symbol.solved(self.inverse);
            let mut rest = self.symbol.complement(&solved);
            let z = kernels(&mut rest, self.fft);
            gather(last.as_mut(), far, far, &z, q, self.size);
            drop((z, rest));
            let mut coupling = Mat::<f64>::zeros(n, f);
            gather(coupling.as_mut(), near, far, &kernels(&mut solved, self.fft), q, self.size);
            let mut pushed = Mat::<f64>::zeros(n, f); // t⁻¹ q
            matmul(pushed.as_mut(), Accum::Replace, corner.as_ref(), coupling.as_ref(), 1.0, par);
            matmul(last.as_mut(), Accum::Add, coupling.transpose(), pushed.as_ref(), 1.0, par);
            invert_spd(last.as_mut(), par)?;
            matmul(side.as_mut(), Accum::Replace, pushed.as_ref(), last.as_ref(), 1.0, par);
            matmul(corner.as_mut(), Accum::Add, side.as_ref(), pushed.transpose(), -1.0, par);
            last *= faer::Scale(-1.0);
        }
        for j in 0..n {
            for i in n..n + f {
                whole[(i, j)] = whole[(j, i)];
            }
        }
        if whole.as_ref().col_iter().any(|col| col.iter().any(|x| !x.is_finite())) {
            return Err(failed("the inverse is not finite".to_owned()));
        }
        Ok(Mat::from_fn(n + f, n + f, |i, j| P::from_f64(whole[(i, j)])))
    }
}
