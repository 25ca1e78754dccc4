use faer::{MatRef, Par};

use super::factor::{Factors, System};
use super::plan_methods;
use super::retry::{Retry, Spare};
use super::two_gemm::{Build, TwoGemm};
use crate::{LinalgError, Real, SolveConfig, SolveSide};

/// Factorised least-squares problem `min |A v + b - y|²`, `A` of full column rank and more rows than columns.
///
/// `v = v0 + R⁻¹ Qᵀ (y - b - A v0)` with `A = QR`; the answer does not depend on `v0`, only its rounding errors do.
///
/// # Source
/// Golub & Van Loan, *Matrix Computations*, 4th ed., §5.3.2; refinement with `A` itself, §5.3.8.
#[derive(Clone, Debug)]
pub struct LeastSquaresPlan<T> {
    core: TwoGemm<T>,
}

plan_methods!(LeastSquaresPlan);

impl<T: Real> LeastSquaresPlan<T> {
    /// Factorises `A` (`m × n`, `m > n`) with bias `b` (`m` values; zero if `None`) in `f64`.
    ///
    /// # Errors
    /// [`LinalgError::Decomposition`] if the columns are numerically dependent or not fewer than the rows;
    /// [`LinalgError::NonFinite`] or [`LinalgError::Length`] for faulty weights.
    pub fn new<W: Real>(
        weight: MatRef<'_, W>,
        bias: Option<&[W]>,
        config: &SolveConfig,
        par: Par,
    ) -> Result<Self, LinalgError> {
        let system = System::new(weight, bias, config)?;
        let refuse = |reason| Err(LinalgError::Decomposition { what: "least-squares plan", reason });
        if !system.is_tall() {
            return refuse(format!("{} rows for {} columns", weight.nrows(), weight.ncols()));
        }
        let factors = Factors::of(&system, par)?;
        if !factors.full_rank() {
            return refuse(format!("rank {} of {} columns", factors.facts.rank, factors.facts.cols));
        }
        Ok(Self { core: TwoGemm::new(&system, build(factors), Retry::Refine(Spare::NONE), config) })
    }
}

/// Factors of a tall system of full column rank.
pub(super) fn build(factors: Factors) -> Build {
    Build {
        inner: factors.q.transpose().to_owned(),
        outer: factors.r_inverse,
        facts: factors.facts,
        side: SolveSide::LeastSquares,
        ridge: None,
    }
}
