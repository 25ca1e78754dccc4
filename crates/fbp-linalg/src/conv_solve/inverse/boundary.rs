use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Accum, Mat, MatMut, Par};

use super::elimination::Elimination;
use super::fft::{PlaneFft, Precision};
use super::strips::Strips;
use super::symbol::{C64, Symbol};
use crate::LinalgError;
use crate::conv_solve::operator::grid::Sites;

/// Real kernels of a symbol's entries, one plane of cells after the other.
pub(crate) fn kernels(symbol: &mut [C64], fft: &PlaneFft<f64>) -> Vec<f64> {
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
pub(crate) fn gather(
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

pub(crate) fn failed(reason: String) -> LinalgError {
    LinalgError::Decomposition { what: "conv solve: boundary", reason }
}

/// Replaces a symmetric positive definite matrix (lower triangle read) by its inverse, both triangles.
pub(crate) fn invert_spd(mut a: MatMut<'_, f64>, par: Par) -> Result<(), LinalgError> {
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
///
/// ```text
/// [ t_NN   q_NF ]      t = T⁻¹, q = T⁻¹ M, z = I - Mᴴ T⁻¹ M   as real kernels,
/// [ q_NFᵀ -z_FF ]      N, F = missing sites of the near and the far field
/// ```
///
/// Whole missing rows are eliminated first ([`Elimination`]), which makes the rest of it half as large for square images.
///
/// # Source
/// Own derivation; quasi-definite matrices: Vanderbei, *SIAM J. Optim.* 5 (1995) 100.
pub(crate) struct Boundary<'a> {
    pub(crate) symbol: &'a Symbol,
    /// `(M Mᴴ + shift)⁻¹`.
    pub(crate) inverse: &'a [C64],
    pub(crate) near: &'a Sites,
    pub(crate) far: &'a Sites,
    pub(crate) size: [usize; 2],
    pub(crate) fft: &'a PlaneFft<f64>,
}

/// The boundary system of one group, solved.
#[derive(Clone, Debug)]
pub(crate) struct Solved<P> {
    /// On whole missing rows, where they are eliminated.
    pub(crate) strips: Option<Strips<P>>,
    /// The inverse on the sites that are left.
    pub(crate) rest: Mat<P>,
}

impl<P> Solved<P> {
    /// The missing sites of a field that are left.
    pub(crate) fn sites<'a>(&self, of: &'a Sites) -> &'a [u32] {
        if self.strips.is_some() { &of.others } else { &of.missing }
    }
}

/// The three symbols of the boundary system.
pub(crate) struct Symbols {
    pub(crate) t: Vec<C64>,
    pub(crate) q: Vec<C64>,
    pub(crate) z: Vec<C64>,
}

/// Largest order of a boundary system, a little more than 0.5 GiB in `f64`.
pub(crate) const BOUNDARY_LIMIT: usize = 8448;

/// Largest condition of the part of the system on missing rows with which they are eliminated, in roundings of the result
/// and of the set-up. Measured for kernel 5, 64 × 64, padding 2: up to 7e3 for 8 → 8 channels and 3e4 for 8 → 16, condition
/// 1e5; 9e6 without padding, where what is left then is not definite any more.
const RESULT_ROUNDINGS: f64 = 0.5;
const SET_UP_ROUNDINGS: f64 = 1e-5;

impl Boundary<'_> {
    /// Solves the boundary system in `f64` and rounds the result to `P`.
    ///
    /// Missing rows are eliminated if that is allowed, and if their part of the system alone is not too ill-conditioned.
    ///
    /// # Errors
    /// [`LinalgError::Decomposition`] if a block is not numerically definite, or if the system is too large without
    /// elimination.
    pub(crate) fn solve<P: Precision>(&self, eliminate: bool, par: Par) -> Result<Solved<P>, LinalgError> {
        let (near, far) = (self.near, self.far);
        if eliminate && !(near.lines.is_empty() && far.lines.is_empty()) {
            let limit = (RESULT_ROUNDINGS / P::EPSILON.to_f64()).min(SET_UP_ROUNDINGS / f64::EPSILON);
            match self.eliminated(limit, par) {
                Ok(solved) => return Ok(solved),
                Err(error) => tracing::debug!(%error, "conv solve: missing rows are not eliminated"),
            }
        }
        let order = near.missing.len() + far.missing.len();
        if order > BOUNDARY_LIMIT {
            return Err(failed(format!("{order} missing sites are too many")));
        }
        self.whole(par)
    }

    /// The same without elimination.
    pub(crate) fn whole<P: Precision>(&self, par: Par) -> Result<Solved<P>, LinalgError> {
        let mut rest = self.gathered([&self.near.missing, &self.far.missing], &self.symbols());
        invert_quasi_definite(rest.as_mut(), self.near.missing.len(), par)?;
        Ok(Solved { strips: None, rest: P::rounded(rest) })
    }

    /// The same with elimination, if its condition is within a limit.
    pub(crate) fn eliminated<P: Precision>(&self, limit: f64, par: Par) -> Result<Solved<P>, LinalgError> {
        let (near, far) = (self.near, self.far);
        let symbols = self.symbols();
        let mut rest = self.gathered([&near.others, &far.others], &symbols);
        let inverses = Elimination::new(self, symbols).run(&mut rest, limit, par)?;
        invert_quasi_definite(rest.as_mut(), near.others.len(), par)?;
        let strips = Strips::new([&near.lines, &far.lines], self.size, &inverses);
        Ok(Solved { strips: Some(strips), rest: P::rounded(rest) })
    }

    fn symbols(&self) -> Symbols {
        let t = self.inverse.to_vec();
        if self.far.missing.is_empty() {
            return Symbols { t, q: Vec::new(), z: Vec::new() };
        }
        let q = self.symbol.solved(self.inverse);
        let z = self.symbol.complement(&q);
        Symbols { t, q, z }
    }

    /// The system on some missing sites of both fields: its lower triangle.
    fn gathered(&self, [near, far]: [&[u32]; 2], symbols: &Symbols) -> Mat<f64> {
        let Symbol { p, q, .. } = *self.symbol;
        let (n, f) = (near.len(), far.len());
        let mut whole = Mat::<f64>::zeros(n + f, n + f);
        let (mut corner, _, mut below, mut last) = whole.as_mut().split_at_mut(n, n);
        if n > 0 {
            gather(corner.as_mut(), near, near, &kernels(&mut symbols.t.clone(), self.fft), p, self.size);
        }
        if n > 0 && f > 0 {
            let coupling = kernels(&mut symbols.q.clone(), self.fft);
            gather(below.as_mut().transpose_mut(), near, far, &coupling, q, self.size);
        }
        if f > 0 {
            gather(last.as_mut(), far, far, &kernels(&mut symbols.z.clone(), self.fft), q, self.size);
            last *= faer::Scale(-1.0);
        }
        whole
    }
}

/// Replaces a symmetric quasi-definite matrix (lower triangle read), whose first `n` rows are its positive part, by its
/// inverse, both triangles.
fn invert_quasi_definite(mut a: MatMut<'_, f64>, n: usize, par: Par) -> Result<(), LinalgError> {
    let order = a.nrows();
    let (mut corner, mut side, mut below, mut last) = a.as_mut().split_at_mut(n, n);
    invert_spd(corner.as_mut(), par)?;
    last *= faer::Scale(-1.0);
    if n > 0 && order > n {
        let (turned, whole) = (below.as_ref().transpose(), BlockStructure::Rectangular);
        matmul(side.as_mut(), Accum::Replace, corner.as_ref(), turned, 1.0, par);
        let lower = BlockStructure::TriangularLower;
        triangular::matmul(last.as_mut(), lower, Accum::Add, below.as_ref(), whole, side.as_ref(), whole, 1.0, par);
    }
    invert_spd(last.as_mut(), par)?;
    if n > 0 && order > n {
        // `side` holds the corner's inverse times the coupling.
        matmul(below.as_mut().transpose_mut(), Accum::Replace, side.as_ref(), last.as_ref(), 1.0, par);
        matmul(corner.as_mut(), Accum::Add, below.as_ref().transpose(), side.as_ref().transpose(), -1.0, par);
        for j in 0..order - n {
            for i in 0..n {
                side[(i, j)] = below[(j, i)];
            }
        }
    }
    last *= faer::Scale(-1.0);
    if a.as_ref().col_iter().any(|col| col.iter().any(|x| !x.is_finite())) {
        return Err(failed("the inverse is not finite".to_owned()));
    }
    Ok(())
}
