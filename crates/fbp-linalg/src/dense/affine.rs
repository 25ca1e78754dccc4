use faer::dyn_stack::StackReq;
use faer::{MatRef, Par};

use super::factor::{Factors, System};
use super::pair::Pair;
use super::retry::{Retry, Spare};
use super::two_gemm::{Build, TwoGemm};
use super::{nearest, plan_methods, ridge, truncated};
use crate::dense::AffineRecipe;
use crate::{LinalgError, Real, SolveConfig};

/// Factorised affine system of any shape and rank: the point nearest to `v0` among the least-squares solutions of
/// `A v + b = y`, or the ridge solution where the caller's λ applies.
///
/// Rows may differ in size by any number of decades: rank and condition number are those of the rows brought to equal
/// size by powers of two, which changes no solution. Equations that contradict each other are weighed as they stand.
/// Singular values that the precision of the weights does not vouch for are dropped; a sample that misses its target for
/// want of them gets them back where that attains it at about the same size of `v`.
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
        let factors = Factors::balanced(&system, par)?;
        let facts = factors.facts;
        let recipe = AffineRecipe::choose(&facts, config);
        tracing::debug!(facts.rows, facts.cols, facts.rank, facts.condition, ?recipe, "affine plan");
        let (build, retry) = match recipe {
            AffineRecipe::Nearest => (nearest::build(factors).of_balanced(&system.scales), Retry::Refine(Spare::NONE)),
            AffineRecipe::LeastSquares | AffineRecipe::Truncated => {
                let (mut build, retry) = least_squares(&system, factors, par)?;
                build.facts = facts;
                (build, retry)
            }
            AffineRecipe::Ridge(_) => (ridge::build(&system, facts, config.lambda(), par)?, Retry::None),
        };
        Ok(Self { core: TwoGemm::new(&system, build, retry, config), recipe })
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

/// Factors for the metric of the rows as they stand, which is what inconsistent equations are weighed by, and what to try
/// for samples whose equations may be consistent.
fn least_squares(system: &System, balanced: Factors, par: Par) -> Result<(Build, Retry<f64>), LinalgError> {
    let plain = Factors::of(system, par)?;
    let retry = if system.is_even() {
        Retry::Refine(truncated::spare(&plain, system.weight.as_ref(), par))
    } else {
        let spare = truncated::spare(&balanced, system.balanced().as_ref(), par).of_balanced(&system.scales);
        let Build { inner, outer, .. } = truncated::build(balanced).of_balanced(&system.scales);
        Retry::Balanced(Pair { inner, outer }, spare)
    };
    Ok((truncated::build(plain), retry))
}
