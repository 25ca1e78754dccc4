use faer::{Mat, MatRef, Par};

use super::factor::{Factors, System};
use super::pair::Pair;
use super::retry::{Retry, Spare};
use super::two_gemm::{Build, TwoGemm};
use super::{graded, plan_methods};
use crate::{LinalgError, Real, SolveConfig, SolveSide};

/// Factorised problem of any rank: the point nearest to `v0` among those that minimise `|A v + b - y|²`.
///
/// `v = v0 + A⁺ (y - b - A v0)`, where `A⁺` is the pseudo-inverse of `A` without its singular values up to
/// `rank_tol·σ_max`. By default `rank_tol` is `max(m, n)·ε` with the rounding unit of the *weights*, because that is
/// how exactly a dependence between rows survives in them.
///
/// # Source
/// Golub & Van Loan, *Matrix Computations*, 4th ed., §5.5.4 (rank decision), §5.5.2 (minimum norm solution).
#[derive(Clone, Debug)]
pub struct TruncatedPlan<T> {
    core: TwoGemm<T>,
}

plan_methods!(TruncatedPlan);

impl<T: Real> TruncatedPlan<T> {
    /// Factorises `A` (`m × n`) with bias `b` (`m` values; zero if `None`) in `f64`.
    ///
    /// # Errors
    /// [`LinalgError::Decomposition`] if the singular value decomposition does not converge;
    /// [`LinalgError::NonFinite`] or [`LinalgError::Length`] for faulty weights.
    pub fn new<W: Real>(
        weight: MatRef<'_, W>,
        bias: Option<&[W]>,
        config: &SolveConfig,
        par: Par,
    ) -> Result<Self, LinalgError> {
        let system = System::new(weight, bias, config)?;
        let factors = Factors::of(&system, par)?;
        Ok(Self { core: TwoGemm::new(&system, build(factors), Retry::Refine(Spare::NONE), config) })
    }
}

/// Factors of a system of any rank.
pub(super) fn build(factors: Factors) -> Build {
    let facts = factors.facts;
    let rank = facts.rank;
    let Some(spectrum) = &factors.spectrum else {
        // The rank was never in doubt, so nothing is dropped and the triangle serves.
        let tall = facts.rows > facts.cols;
        return if tall { super::lstsq::build(factors) } else { super::nearest::build(factors) };
    };
    let basis = spectrum.u.get(.., ..rank).to_owned();
    let mut scaled = spectrum.v.get(.., ..rank).to_owned();
    for (j, sigma) in spectrum.sigma[..rank].iter().enumerate() {
        scaled.col_mut(j).iter_mut().for_each(|x| *x /= sigma);
    }
    // The tall one of A and Aᵀ is basis·Σ·Vᵀ, so A⁺ is V Σ⁻¹ basisᵀ or basis Σ⁻¹ Vᵀ.
    let (inner, outer) = if facts.rows > facts.cols {
        (basis.transpose().to_owned(), scaled)
    } else {
        (scaled.transpose().to_owned(), basis)
    };
    let side = if rank == facts.rows { SolveSide::Nearest } else { SolveSide::LeastSquares };
    Build { inner, outer, facts, side, ridge: None }
}

/// What the plan of [`build`] leaves out; `weight` is the matrix of the factors.
pub(super) fn spare(factors: &Factors, weight: MatRef<'_, f64>, par: Par) -> Spare<f64> {
    let deficient = factors.facts.rank < factors.facts.rows.min(factors.facts.cols);
    Spare { dropped: dropped(factors), whole: if deficient { graded::whole(weight, par) } else { None } }
}

/// Factors of the singular values that were dropped although the set-up's own precision resolves them.
fn dropped(factors: &Factors) -> Option<Pair<f64>> {
    let spectrum = factors.spectrum.as_ref()?;
    let (facts, sigma) = (factors.facts, &spectrum.sigma);
    let resolved = facts.rows.max(facts.cols) as f64 * f64::EPSILON * sigma.first()?;
    let count = sigma.iter().take_while(|&&s| s > resolved).count();
    let kept = facts.rank..count;
    if kept.is_empty() {
        return None;
    }
    let basis = spectrum.u.get(.., kept.clone()).to_owned();
    let scaled =
        Mat::from_fn(spectrum.v.nrows(), kept.len(), |i, k| spectrum.v[(i, kept.start + k)] / sigma[kept.start + k]);
    Some(if facts.rows > facts.cols {
        Pair { inner: basis.transpose().to_owned(), outer: scaled }
    } else {
        Pair { inner: scaled.transpose().to_owned(), outer: basis }
    })
}
