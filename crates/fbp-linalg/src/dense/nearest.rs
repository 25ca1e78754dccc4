use faer::{MatRef, Par};

use super::factor::{Factors, System};
use super::plan_methods;
use super::retry::{Retry, Spare};
use super::two_gemm::{Build, TwoGemm};
use crate::{LinalgError, Real, SolveConfig, SolveSide};

/// Factorised nearest-solution problem `min |v - v0|²` subject to `A v + b = y`, `A` of full row rank.
///
/// `v = v0 + Q R⁻ᵀ D (y - b - A v0)` with `(DA)ᵀ = QR`, where the powers of two in `D` bring the rows to equal size: they
/// change no solution, and the rank is decided without them getting in the way.
///
/// # Source
/// Golub & Van Loan, *Matrix Computations*, 4th ed., §5.6.2; refinement with `A` itself, §3.5.3.
///
/// ```
/// use faer::dyn_stack::{MemBuffer, MemStack};
/// use faer::{Mat, Par, mat};
/// use fbp_linalg::SolveConfig;
/// use fbp_linalg::dense::{AffineSolve, NearestPlan};
///
/// let plan = NearestPlan::<f32>::new(mat![[1.0, 1.0]].as_ref(), None, &SolveConfig::default(), Par::Seq)?;
/// let mut memory = MemBuffer::new(plan.solve_scratch(1, Par::Seq));
/// let (observed, target) = (mat![[3.0_f32], [0.0]], mat![[5.0_f32]]);
/// let mut solution = Mat::zeros(2, 1);
/// let pass = AffineSolve {
///     observed_in: observed.as_ref(),
///     observed_out: None,
///     target: target.as_ref(),
///     solution: solution.as_mut(),
/// };
/// let report = plan.solve(pass, Par::Seq, MemStack::new(&mut memory))?;
/// assert!((solution[(0, 0)] - 4.0).abs() < 1e-6 && (solution[(1, 0)] - 1.0).abs() < 1e-6);
/// assert_eq!(report.unattained, 0);
/// # Ok::<(), fbp_linalg::LinalgError>(())
/// ```
#[derive(Clone, Debug)]
pub struct NearestPlan<T> {
    core: TwoGemm<T>,
}

plan_methods!(NearestPlan);

impl<T: Real> NearestPlan<T> {
    /// Factorises `A` (`m × n`, `m <= n`) with bias `b` (`m` values; zero if `None`) in `f64`.
    ///
    /// # Errors
    /// [`LinalgError::Decomposition`] if the rows are numerically dependent; [`LinalgError::NonFinite`] or
    /// [`LinalgError::Length`] for faulty weights.
    pub fn new<W: Real>(
        weight: MatRef<'_, W>,
        bias: Option<&[W]>,
        config: &SolveConfig,
        par: Par,
    ) -> Result<Self, LinalgError> {
        let system = System::new(weight, bias, config)?;
        let factors = Factors::balanced(&system, par)?;
        if factors.facts.rank < factors.facts.rows {
            let reason = format!("rank {} of {} rows", factors.facts.rank, factors.facts.rows);
            return Err(LinalgError::Decomposition { what: "nearest plan", reason });
        }
        let build = build(factors).of_balanced(&system.scales);
        Ok(Self { core: TwoGemm::new(&system, build, Retry::Refine(Spare::NONE), config) })
    }
}

/// Factors of a system of full row rank.
pub(super) fn build(factors: Factors) -> Build {
    Build {
        inner: factors.r_inverse.transpose().to_owned(),
        outer: factors.q,
        facts: factors.facts,
        side: SolveSide::Nearest,
        ridge: None,
    }
}
