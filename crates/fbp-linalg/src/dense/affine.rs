use faer::dyn_stack::StackReq;
use faer::{MatRef, Par};

use super::factor::{Factors, System};
use super::two_gemm::TwoGemm;
use super::{lstsq, nearest, plan_methods, ridge, truncated};
use crate::dense::AffineRecipe;
use crate::{LinalgError, Real, SolveConfig};

/// Factorised affine system of any shape and rank: the point nearest to `v0` among the least-squares solutions of
/// `A v + b = y`, or the ridge solution where the caller's λ applies.
///
/// [`AffineRecipe::choose`] decides how, from the size, the numerical rank and the condition number; all three are in
/// [`facts`](Self::facts), and every solve reports the rank, λ and the residual that remains.
///
/// ```
/// use faer::dyn_stack::{MemBuffer, MemStack};
/// use faer::{Mat, Par, mat};
/// use fbp_linalg::dense::{AffinePlan, AffineRecipe, AffineSolve};
/// use fbp_linalg::{SolveConfig, SolveParams};
///
/// // The same equation twice: rank 1, and contradicting targets are met half-way.
/// let weight = mat![[1.0_f32, 1.0], [1.0, 1.0]];
/// let plan = AffinePlan::<f32>::new(weight.as_ref(), None, &SolveConfig::default(), Par::Seq)?;
/// assert_eq!((plan.recipe(), plan.facts().rank), (AffineRecipe::Truncated, 1));
///
/// let mut memory = MemBuffer::new(plan.solve_scratch(1, Par::Seq));
/// let (observed, target) = (mat![[3.0_f32], [1.0]], mat![[0.0_f32], [2.0]]);
/// let mut solution = Mat::zeros(2, 1);
/// let pass = AffineSolve {
///     observed_in: observed.as_ref(),
///     observed_out: None,
///     target: target.as_ref(),
///     solution: solution.as_mut(),
/// };
/// let report = plan.solve(pass, Par::Seq, MemStack::new(&mut memory))?;
/// assert!((solution[(0, 0)] - 1.5).abs() < 1e-6 && (solution[(1, 0)] + 0.5).abs() < 1e-6);
/// assert_eq!(report.unattained, 1);
/// # Ok::<(), fbp_linalg::LinalgError>(())
/// ```
#[derive(Clone, Debug)]
pub struct AffinePlan<T> {
    core: TwoGemm<T>,
    recipe: AffineRecipe,
}

plan_methods!(AffinePlan);

impl<T: Real> AffinePlan<T> {
    /// Factorises `A` (`m × n`) with bias `b` (`m` values; zero if `None`) in `f64`.
    ///
    /// # Errors
    /// [`LinalgError::NonFinite`] or [`LinalgError::Length`] for faulty weights; [`LinalgError::Decomposition`] if a
    /// decomposition breaks down.
    pub fn new<W: Real>(
        weight: MatRef<'_, W>,
        bias: Option<&[W]>,
        config: &SolveConfig,
        par: Par,
    ) -> Result<Self, LinalgError> {
        let system = System::new(weight, bias, config)?;
        let factors = Factors::of(&system, par)?;
        let facts = factors.facts;
        let recipe = AffineRecipe::choose(&facts, config);
        tracing::debug!(facts.rows, facts.cols, facts.rank, facts.condition, ?recipe, "affine plan");
        let build = match recipe {
            AffineRecipe::Nearest => nearest::build(factors),
            AffineRecipe::LeastSquares => lstsq::build(factors),
            AffineRecipe::Truncated => truncated::build(factors),
            AffineRecipe::Ridge(_) => ridge::build(&system, facts, config.lambda(), par)?,
        };
        Ok(Self { core: TwoGemm::new(&system, build, config), recipe })
    }

    /// Workspace in bytes that is enough for any plan of an `m × n` matrix, before one is built.
    pub fn largest_scratch(shape: (usize, usize), batch: usize, par: Par) -> StackReq {
        TwoGemm::<T>::largest_scratch(shape, batch, par)
    }

    /// How the system is solved.
    pub fn recipe(&self) -> AffineRecipe {
        self.recipe
    }
}
