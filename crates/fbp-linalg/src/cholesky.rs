use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::{factor, solve};
use faer::linalg::matmul::triangular::{BlockStructure, matmul as matmul_of_blocks};
use faer::linalg::solvers::{DenseSolveCore, Llt, Solve};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};

use crate::{compile_once, norm_sq};

/// The Cholesky factor of a symmetric positive definite matrix, `A = L Lᵀ`: faer's, compiled in this crate.
///
/// # Source
/// Golub & Van Loan, *Matrix Computations*, 4th ed., §4.2.
///
/// # Example
/// ```
/// use faer::mat;
/// use fbp_linalg::Cholesky;
///
/// let factor = Cholesky::new(mat![[4.0, 2.0], [2.0, 10.0]].as_ref()).ok_or("not positive definite")?;
/// assert_eq!(factor.lower()[(1, 0)], 1.0);
/// assert_eq!(factor.solve(mat![[8.0], [22.0]].as_ref()), mat![[1.0], [2.0]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cholesky(Llt<f64>);

impl Cholesky {
    /// Factorises `a` (`n × n`), of which the lower triangle is read; none unless it is positive definite.
    ///
    /// # Panics
    /// If `a` is not square.
    pub fn new(a: MatRef<'_, f64>) -> Option<Self> {
        a.llt(Side::Lower).ok().map(Self)
    }

    /// `L`: `n × n`, zero above the diagonal.
    pub fn lower(&self) -> MatRef<'_, f64> {
        self.0.L()
    }

    /// `L⁻¹`: `n × n`, zero above the diagonal.
    pub fn inverse_lower(&self) -> Mat<f64> {
        let mut inverse = Mat::zeros(self.lower().nrows(), self.lower().ncols());
        invert_lower(self.lower(), inverse.as_mut());
        inverse
    }

    /// The diagonal of `A⁻¹`: `n` numbers, the squared norms of the columns of `L⁻¹`.
    pub fn inverse_diagonal(&self) -> Vec<f64> {
        let inverse = self.inverse_lower();
        (0..inverse.ncols()).map(|j| norm_sq(&inverse.col_as_slice(j)[j..])).collect()
    }

    /// `A⁻¹`: `n × n`.
    pub fn inverse(&self) -> Mat<f64> {
        self.0.inverse()
    }

    /// `A⁻¹ B` for `B` of `n × k`.
    ///
    /// # Panics
    /// If `rhs` has another number of rows.
    pub fn solve(&self, rhs: MatRef<'_, f64>) -> Mat<f64> {
        self.0.solve(rhs)
    }
}

/// Replaces the lower triangle of `a` (`n × n`) by its Cholesky factor, and leaves the other one as it is; false, with `a`
/// spoilt, unless it is positive definite.
///
/// # Panics
/// If `a` is not square.
pub fn cholesky_in_place(a: MatMut<'_, f64>, par: Par) -> bool {
    let mut memory = MemBuffer::new(factor::cholesky_in_place_scratch::<f64>(a.nrows(), par, Default::default()));
    let stack = MemStack::new(&mut memory);
    factor::cholesky_in_place(a, Default::default(), par, stack, Default::default()).is_ok()
}

/// Replaces `rhs` (`n × k`) by the solution of `L Lᵀ x = rhs`; of `lower` (`n × n`) the lower triangle is read.
///
/// # Panics
/// If the shapes do not fit.
pub fn solve_cholesky_in_place(lower: MatRef<'_, f64>, rhs: MatMut<'_, f64>, par: Par) {
    let mut memory = MemBuffer::new(solve::solve_in_place_scratch::<f64>(lower.nrows(), rhs.ncols(), par));
    solve::solve_in_place(lower, rhs, par, MemStack::new(&mut memory));
}

/// Replaces `rhs` (`n × k`) by the solution of `L x = rhs`; of `lower` (`n × n`) the lower triangle is read.
///
/// # Panics
/// If the shapes do not fit.
pub fn solve_lower_in_place(lower: MatRef<'_, f64>, rhs: MatMut<'_, f64>, par: Par) {
    solve_lower_triangular_in_place(lower, rhs, par);
}

/// The inverse of a lower triangular matrix (`n × n`), into the lower triangle of `inverse`.
///
/// # Panics
/// If the shapes do not fit.
pub fn invert_lower(lower: MatRef<'_, f64>, inverse: MatMut<'_, f64>) {
    invert_lower_triangular(inverse, lower, Par::Seq);
}

compile_once! {
    /// The lower triangle of `alpha · lhs · rhs` in place of that of `dst`, or added to it, for products that are symmetric.
    ///
    /// # Shapes
    /// `dst`: `m × m`, `lhs`: `m × k`, `rhs`: `k × m`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn matmul_lower<'a, T>(
        dst: MatMut<'a, T>, accum: Accum, lhs: MatRef<'a, T>, rhs: MatRef<'a, T>, alpha: T, par: Par,
    ) -> () = lower_triangle::<T>;
}

fn lower_triangle<T: crate::Real>(
    dst: MatMut<'_, T>,
    accum: Accum,
    lhs: MatRef<'_, T>,
    rhs: MatRef<'_, T>,
    alpha: T,
    par: Par,
) {
    let (lower, full) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
    matmul_of_blocks(dst, lower, accum, lhs, full, rhs, full, alpha, par);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{normal_mat, rng};

    /// A matrix of eigenvalues above 1, and the same with its upper triangle spoilt.
    fn positive(n: usize) -> [Mat<f64>; 2] {
        let root = normal_mat::<f64>(n, n, &mut rng(n as u64));
        let whole = &root * root.transpose() + Mat::<f64>::identity(n, n);
        let half = Mat::from_fn(n, n, |i, j| if i >= j { whole[(i, j)] } else { f64::NAN });
        [whole, half]
    }

    fn assert_near(what: &str, a: &Mat<f64>, b: &Mat<f64>, scale: f64) {
        let n = a.nrows() as f64;
        assert!((a - b).norm_max() <= 8.0 * n * f64::EPSILON * scale, "{what}: {}", (a - b).norm_max());
    }

    #[test]
    fn factors_solve_and_are_inverted() {
        for n in [1, 2, 5, 33, 70] {
            let [whole, half] = positive(n);
            let condition = whole.norm_l2() * (n as f64).max(1.0);
            let factor = Cholesky::new(half.as_ref()).unwrap();
            let product = factor.lower() * factor.lower().transpose();
            assert_near("L Lᵀ", &product, &whole, whole.norm_max());
            let rhs = normal_mat::<f64>(n, 3, &mut rng(1));
            let solved = factor.solve(rhs.as_ref());
            assert_near("A x", &(&whole * &solved), &rhs, condition);
            assert_near("A⁻¹ b", &(factor.inverse() * &rhs), &solved, condition);
            let (found, inverse) = (factor.inverse_diagonal(), factor.inverse());
            let [found, exact] = [Mat::from_fn(n, 1, |i, _| found[i]), Mat::from_fn(n, 1, |i, _| inverse[(i, i)])];
            assert_near("diagonal", &found, &exact, condition);
            let unit = factor.lower() * factor.inverse_lower();
            assert_near("L L⁻¹", &unit, &Mat::identity(n, n), condition);
            let mut in_place = half.clone();
            assert!(cholesky_in_place(in_place.as_mut(), Par::Seq));
            let mut found = rhs.clone();
            solve_cholesky_in_place(in_place.as_ref(), found.as_mut(), Par::Seq);
            assert_near("in place", &found, &solved, condition);
            let mut half_way = rhs.clone();
            solve_lower_in_place(in_place.as_ref(), half_way.as_mut(), Par::Seq);
            assert_near("L x", &(factor.lower() * &half_way), &rhs, condition);
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        let a = faer::mat![[1.0, 2.0], [2.0, 1.0]];
        assert!(Cholesky::new(a.as_ref()).is_none() && !cholesky_in_place(a.clone().as_mut(), Par::Seq));
        let nothing = faer::mat![[f64::NAN]];
        assert!(Cholesky::new(nothing.as_ref()).is_none() && !cholesky_in_place(nothing.clone().as_mut(), Par::Seq));
    }

    #[test]
    fn only_the_lower_triangle_of_a_product_is_written() {
        let (a, n) = (normal_mat::<f32>(9, 4, &mut rng(3)), 9);
        let whole = &a * a.transpose();
        let mut found = Mat::from_fn(n, n, |_, _| 7.0_f32);
        matmul_lower(found.as_mut(), Accum::Replace, a.as_ref(), a.transpose(), 2.0, Par::Seq);
        for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let expected = if i >= j { 2.0 * whole[(i, j)] } else { 7.0 };
            assert!((found[(i, j)] - expected).abs() <= 64.0 * f32::EPSILON, "{i} {j}");
        }
    }
}
