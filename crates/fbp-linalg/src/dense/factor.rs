use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply_householder,
};
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor::{qr_in_place, qr_in_place_scratch, recommended_block_size};
use faer::linalg::triangular_inverse::invert_upper_triangular;
use faer::{Accum, Conj, Mat, MatRef, Par};

use super::svd::{Spectrum, thin_svd};
use crate::dense::SystemFacts;
use crate::{LinalgError, Real, SolveConfig, compile_once, expect_finite};

/// Steps of the power method that estimates a norm.
const POWER_STEPS: usize = 30;
/// The rank is certain where the estimate of the smallest singular value exceeds the tolerance this many times.
const CLEARLY: f64 = 8.0;
/// Rows whose sizes differ by no more than this count as equally large.
const EVEN: f64 = 64.0;

/// An affine map `v -> A v + b`, widened to `f64`.
pub(super) struct System {
    pub(super) weight: Mat<f64>,
    pub(super) bias: Vec<f64>,
    /// Whether the caller gave the bias; otherwise only observed outputs know it.
    pub(super) has_bias: bool,
    /// Powers of two that bring the largest entry of every row into `[1, 2)`; 1 for a row of zeros.
    pub(super) scales: Vec<f64>,
    /// Singular values up to this share of the largest count as zero.
    rank_tol: f64,
}

impl System {
    /// Widens and checks the weights.
    pub(super) fn new<W: Real>(
        weight: MatRef<'_, W>,
        bias: Option<&[W]>,
        config: &SolveConfig,
    ) -> Result<Self, LinalgError> {
        widened(weight, bias, config)
    }

    fn widened<W: Real>(weight: MatRef<'_, W>, bias: Option<&[W]>, config: &SolveConfig) -> Result<Self, LinalgError> {
        let (rows, cols) = weight.shape();
        expect_finite("affine: weight", weight)?;
        let has_bias = bias.is_some();
        let bias = match bias {
            None => vec![0.0; rows],
            Some(bias) if bias.len() != rows => {
                return Err(LinalgError::Length { what: "affine: bias", expected: rows, found: bias.len() });
            }
            Some(bias) => bias.iter().map(|b| b.to_f64()).collect(),
        };
        if let Some(row) = bias.iter().position(|b| !b.is_finite()) {
            return Err(LinalgError::NonFinite { what: "affine: bias", row, column: 0 });
        }
        let rank_tol = config.rank_tol(rows, cols, W::EPSILON.to_f64());
        let weight = Mat::from_fn(rows, cols, |i, j| weight[(i, j)].to_f64());
        let scales = row_scales(weight.as_ref());
        Ok(Self { weight, bias, has_bias, scales, rank_tol })
    }

    /// The matrix with rows of equal size: the same equations, and the same nearest solution.
    pub(super) fn balanced(&self) -> Mat<f64> {
        Mat::from_fn(self.weight.nrows(), self.weight.ncols(), |i, j| self.scales[i] * self.weight[(i, j)])
    }

    /// Whether the rows are so close in size that balancing them would change no decision.
    pub(super) fn is_even(&self) -> bool {
        let (least, most) = self.scales.iter().fold((f64::INFINITY, 0.0_f64), |(a, b), &s| (a.min(s), b.max(s)));
        most <= EVEN * least
    }

    /// Whether the matrix is factorised as it stands (more rows than columns) or transposed.
    pub(super) fn is_tall(&self) -> bool {
        self.weight.nrows() > self.weight.ncols()
    }
}

compile_once! {
    fn widened<'a, W>(weight: MatRef<'a, W>, bias: Option<&'a [W]>, config: &'a SolveConfig)
        -> Result<System, LinalgError> = System::widened::<W>;
}

/// The scale of every row; see [`System::scales`].
fn row_scales(weight: MatRef<'_, f64>) -> Vec<f64> {
    let mut largest = vec![0.0_f64; weight.nrows()];
    for j in 0..weight.ncols() {
        largest.iter_mut().enumerate().for_each(|(i, most)| *most = most.max(weight[(i, j)].abs()));
    }
    // Far beyond the ends of the exponents there is nothing left to balance.
    let scale = |most: f64| if most > 0.0 { (-most.log2().floor()).clamp(-1000.0, 1000.0).exp2() } else { 1.0 };
    largest.into_iter().map(scale).collect()
}

/// Thin QR factors of the tall one of `A` and `Aᵀ`, with what they tell about the rank.
pub(super) struct Factors {
    /// Orthonormal columns, as many as the shorter side of `A`.
    pub(super) q: Mat<f64>,
    /// Inverse of the triangle; only meaningful for full rank.
    pub(super) r_inverse: Mat<f64>,
    /// Only where the rank was in doubt.
    pub(super) spectrum: Option<Spectrum>,
    pub(super) facts: SystemFacts,
}

impl Factors {
    /// Factorises a system.
    ///
    /// The rank of a well-conditioned matrix is certified from the norms of the triangle and its inverse, estimated by
    /// the power method; otherwise the singular values of the matrix decide. Those of the triangle would not do: without
    /// pivoting its rounding can exceed a tolerance of a few `max(m, n)·ε` (seen: 27 ε for a 10 × 16 matrix of rank 6).
    ///
    /// # Errors
    /// [`LinalgError::Decomposition`] if the singular value decomposition does not converge.
    pub(super) fn of(system: &System, par: Par) -> Result<Self, LinalgError> {
        Self::of_matrix(system.weight.as_ref(), system.rank_tol, par)
    }

    /// As [`of`](Self::of), for the rows of the system brought to equal size.
    pub(super) fn balanced(system: &System, par: Par) -> Result<Self, LinalgError> {
        Self::of_matrix(system.balanced().as_ref(), system.rank_tol, par)
    }

    fn of_matrix(weight: MatRef<'_, f64>, rank_tol: f64, par: Par) -> Result<Self, LinalgError> {
        let (rows, cols) = weight.shape();
        let tall = if rows > cols { weight } else { weight.transpose() };
        let (q, r) = thin_qr(tall, par);
        let size = r.nrows();
        let mut r_inverse = Mat::zeros(size, size);
        let mut facts = SystemFacts { rows, cols, rank: size, condition: 1.0 };
        let regular = (0..size).all(|j| r[(j, j)] != 0.0);
        if regular {
            invert_upper_triangular(r_inverse.as_mut(), r.as_ref(), par);
            facts.condition = norm_estimate(r.as_ref(), par) * norm_estimate(r_inverse.as_ref(), par);
            // False for NaN, which an overflow in the inverse leads to.
            if size == 0 || CLEARLY * rank_tol * facts.condition < 1.0 {
                facts.condition = facts.condition.max(1.0);
                return Ok(Self { q, r_inverse, spectrum: None, facts });
            }
        }
        let spectrum = thin_svd(tall, par)?;
        let largest = spectrum.sigma.first().copied().unwrap_or(0.0);
        facts.rank = spectrum.sigma.iter().take_while(|&&s| s > rank_tol * largest).count();
        facts.condition = if facts.rank == 0 { 1.0 } else { largest / spectrum.sigma[facts.rank - 1] };
        Ok(Self { q, r_inverse, spectrum: Some(spectrum), facts })
    }

    /// Whether the shorter side of the matrix has full rank.
    pub(super) fn full_rank(&self) -> bool {
        self.facts.rank == self.facts.rows.min(self.facts.cols)
    }
}

/// `Q` and `R` of a matrix with at least as many rows as columns.
fn thin_qr(tall: MatRef<'_, f64>, par: Par) -> (Mat<f64>, Mat<f64>) {
    let (rows, cols) = tall.shape();
    if cols == 0 {
        return (Mat::zeros(rows, 0), Mat::zeros(0, 0));
    }
    let block = recommended_block_size::<f64>(rows, cols);
    let mut packed = tall.to_owned();
    let mut coefficients = Mat::zeros(block, cols);
    let scratch = qr_in_place_scratch::<f64>(rows, cols, block, par, Default::default());
    let scratch = scratch.or(apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(rows, block, cols));
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    qr_in_place(packed.as_mut(), coefficients.as_mut(), par, stack, Default::default());
    let r = Mat::from_fn(cols, cols, |i, j| if i <= j { packed[(i, j)] } else { 0.0 });
    let mut q = Mat::identity(rows, cols);
    apply_householder(packed.as_ref(), coefficients.as_ref(), Conj::No, q.as_mut(), par, stack);
    (q, r)
}

/// Largest singular value by the power method on `AᵀA`: a lower bound, usually within a few per cent.
fn norm_estimate(a: MatRef<'_, f64>, par: Par) -> f64 {
    // Any start that is not orthogonal to the wanted vector does; this one is spread evenly and without period.
    let mut x = Mat::from_fn(a.ncols(), 1, |i, _| (0.618_033_988_749_894_9 * (i + 1) as f64).fract() - 0.5);
    let mut y = Mat::zeros(a.nrows(), 1);
    let mut norm = 0.0;
    for _ in 0..POWER_STEPS {
        let length = x.norm_l2();
        if length == 0.0 {
            return 0.0;
        }
        x *= faer::Scale(1.0 / length);
        matmul(y.as_mut(), Accum::Replace, a, x.as_ref(), 1.0, par);
        norm = y.norm_l2();
        matmul(x.as_mut(), Accum::Replace, a.transpose(), y.as_ref(), 1.0, par);
    }
    norm
}

/// `A B`, both in `f64`.
pub(super) fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>, par: Par) -> Mat<f64> {
    let mut c = Mat::zeros(a.nrows(), b.ncols());
    matmul(c.as_mut(), Accum::Replace, a, b, 1.0, par);
    c
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Tol, for_seeds, normal_mat};
    use crate::{SolveParams, assert_close};

    fn factors(weight: &Mat<f64>, rank_tol: f64) -> (System, Factors) {
        let config = SolveParams::new().rank_tol(rank_tol).check().unwrap();
        let system = System::new(weight.as_ref(), None, &config).unwrap();
        let factors = Factors::of(&system, Par::Seq).unwrap();
        (system, factors)
    }

    #[test]
    fn factors_reproduce_the_matrix_and_its_condition() {
        for_seeds(6, |rng| {
            for (rows, cols) in [(1, 1), (3, 9), (9, 3), (40, 40), (30, 70)] {
                let weight = normal_mat::<f64>(rows, cols, rng);
                let (system, found) = factors(&weight, 1e-13);
                let tall = if system.is_tall() { weight.clone() } else { weight.transpose().to_owned() };
                assert!(found.full_rank() && found.spectrum.is_none());
                let sigma = weight.singular_values().unwrap();
                let condition = sigma[0] / sigma[sigma.len() - 1];
                let share = found.facts.condition / condition;
                assert!((0.85..1.0 + 1e-9).contains(&share), "{rows} × {cols}: estimate is {share} of the truth");
                // Q spans the columns: tall R⁻¹ = Q.
                let q = product(tall.as_ref(), found.r_inverse.as_ref(), Par::Seq);
                assert_close!(q, found.q, Tol::eps::<f64>().times(8 * rows.max(cols)).by(condition));
                let gram = product(found.q.transpose(), found.q.as_ref(), Par::Seq);
                assert_close!(gram, Mat::<f64>::identity(gram.nrows(), gram.ncols()), Tol::eps::<f64>().times(100));
            }
        });
    }

    #[test]
    fn a_doubtful_rank_is_decided_by_singular_values() {
        let mut weight = Mat::<f64>::identity(4, 6);
        weight[(3, 3)] = 1e-9;
        let (_, found) = factors(&weight, 1e-8);
        assert_eq!((found.facts.rank, found.facts.condition), (3, 1.0));
        let (_, found) = factors(&weight, 5e-10);
        assert_eq!(found.facts.rank, 4);
        assert!(found.spectrum.is_some(), "too close to be certain");
        assert_close!([found.facts.condition], [1e9], Tol::eps::<f64>().times(8));
        let (_, found) = factors(&weight, 1e-12);
        assert!(found.full_rank() && found.spectrum.is_none());
    }

    /// Rows that repeat each other in other places, as those of strided convolutions do: the triangle looks as if its rank
    /// were 7.
    #[test]
    fn the_rank_does_not_depend_on_the_rounding_of_the_triangle() {
        let row = |entries: &[(usize, f64)]| {
            (0..16).map(|j| entries.iter().find(|e| e.0 == j).map_or(0.0, |e| e.1)).collect()
        };
        let channel = |[a, b, c, d]: [f64; 4]| -> [Vec<f64>; 5] {
            [
                row(&[(1, b), (9, d)]),
                row(&[(2, b), (10, d)]),
                row(&[(0, a), (3, b), (8, c), (11, d)]),
                row(&[(1, a), (9, c)]),
                row(&[(2, a), (10, c)]),
            ]
        };
        let first = [-1.0215215630151213, -0.5999160621920203, 1.3085821149196566, 0.7791335172022575];
        let second = [2.8616318505888785, 1.337872918025503, -0.11143019126024394, 0.45703570531676035];
        let rows: Vec<Vec<f64>> = channel(first).into_iter().chain(channel(second)).collect();
        let (_, found) = factors(&Mat::from_fn(10, 16, |i, j| rows[i][j]), 16.0 * f64::EPSILON);
        assert_eq!(found.facts.rank, 6);
        assert!(found.facts.condition < 3.0);
    }

    #[test]
    fn matrices_without_entries_or_of_zeros_have_rank_zero() {
        for (rows, cols) in [(0, 0), (0, 3), (3, 0), (2, 5), (5, 2), (1, 1)] {
            let (_, found) = factors(&Mat::zeros(rows, cols), 1e-12);
            assert_eq!((found.facts.rank, found.facts.condition), (0, 1.0), "{rows} × {cols}");
        }
    }

    #[test]
    fn weights_and_biases_are_checked() {
        let config = SolveConfig::default();
        let mut weight = Mat::<f32>::identity(2, 3);
        let wrong = System::new(weight.as_ref(), Some(&[0.0; 3]), &config).err();
        assert_eq!(wrong, Some(LinalgError::Length { what: "affine: bias", expected: 2, found: 3 }));
        let wrong = System::new(weight.as_ref(), Some(&[0.0, f32::NAN]), &config).err();
        assert_eq!(wrong, Some(LinalgError::NonFinite { what: "affine: bias", row: 1, column: 0 }));
        weight[(1, 2)] = f32::INFINITY;
        let wrong = System::new(weight.as_ref(), None, &config).err();
        assert_eq!(wrong, Some(LinalgError::NonFinite { what: "affine: weight", row: 1, column: 2 }));
    }
}
