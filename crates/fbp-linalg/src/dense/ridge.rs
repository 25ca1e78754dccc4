use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Mat, MatRef, Par};

use super::factor::{Factors, System, product};
use super::plan_methods;
use super::retry::Retry;
use super::two_gemm::{Build, TwoGemm};
use crate::dense::{GramSide, SystemFacts};
use crate::{LinalgError, Real, SolveConfig, SolveSide};

/// Factorised ridge problem `min |A v + b - y|² + λ|v - v0|²`, centred at the reference `v0`.
///
/// With `L` the Cholesky factor of the smaller Gram matrix, `v - v0` is `(AᵀL⁻ᵀ) L⁻¹ r` for `AAᵀ + λI = LLᵀ` and
/// `L⁻ᵀ (L⁻¹Aᵀ) r` for `AᵀA + λI = LLᵀ`, `r = y - b - A v0`; both factors are formed in `f64`. Refinement works on the
/// augmented matrix `[A √λI]` or `[A; √λI]`, of which `AᵀL⁻ᵀ` is a part of the orthogonal factor, so the condition
/// number of the Gram matrix enters in `f64` only.
///
/// # Source
/// Golub & Van Loan, *Matrix Computations*, 4th ed., §6.1.4; the dual form by the push-through identity
/// `(AᵀA + λI)⁻¹Aᵀ = Aᵀ(AAᵀ + λI)⁻¹`; the refinement is an own derivation.
#[derive(Clone, Debug)]
pub struct RidgePlan<T> {
    core: TwoGemm<T>,
}

plan_methods!(RidgePlan);

impl<T: Real> RidgePlan<T> {
    /// Factorises `A` (`m × n`) with bias `b` (`m` values; zero if `None`) and the λ of `config` in `f64`.
    ///
    /// # Errors
    /// [`LinalgError::Parameter`] if λ is zero; [`LinalgError::Decomposition`] if it is too small to make the Gram
    /// matrix numerically definite; [`LinalgError::NonFinite`] or [`LinalgError::Length`] for faulty weights.
    pub fn new<W: Real>(
        weight: MatRef<'_, W>,
        bias: Option<&[W]>,
        config: &SolveConfig,
        par: Par,
    ) -> Result<Self, LinalgError> {
        if config.lambda() == 0.0 {
            return Err(LinalgError::Parameter { name: "lambda", value: 0.0, range: "(0, ∞) for a ridge plan" });
        }
        let system = System::new(weight, bias, config)?;
        let facts = Factors::of(&system, par)?.facts;
        Ok(Self { core: TwoGemm::new(&system, build(&system, facts, config.lambda(), par)?, Retry::None, config) })
    }

    /// The Gram matrix that was factorised.
    pub fn gram_side(&self) -> GramSide {
        GramSide::smaller(self.rows(), self.cols())
    }
}

/// Factors of a ridge problem.
pub(super) fn build(system: &System, facts: SystemFacts, lambda: f64, par: Par) -> Result<Build, LinalgError> {
    let side = GramSide::smaller(facts.rows, facts.cols);
    let weight = system.weight.as_ref();
    let wide = match side {
        GramSide::Dual => weight,
        GramSide::Primal => weight.transpose(),
    };
    let mut gram = product(wide, wide.transpose(), par);
    let size = gram.nrows();
    for j in 0..size {
        gram[(j, j)] += lambda;
    }
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f64>(size, par, Default::default()));
    let stack = MemStack::new(&mut memory);
    let largest = (0..size).map(|j| gram[(j, j)]).fold(0.0, f64::max);
    let factorised = cholesky_in_place(gram.as_mut(), Default::default(), par, stack, Default::default());
    // A pivot of the size of the rounding errors is one of them.
    let pivot = (0..size).map(|j| gram[(j, j)] * gram[(j, j)]).fold(f64::INFINITY, f64::min);
    if factorised.is_err() || pivot <= size as f64 * f64::EPSILON * largest {
        let reason = format!("λ = {lambda:e} does not make the Gram matrix numerically definite");
        return Err(LinalgError::Decomposition { what: "ridge plan", reason });
    }
    let mut inverse = Mat::zeros(size, size);
    invert_lower_triangular(inverse.as_mut(), gram.as_ref(), par);
    let (inner, outer) = match side {
        GramSide::Dual => {
            let outer = product(weight.transpose(), inverse.transpose(), par);
            (inverse, outer)
        }
        GramSide::Primal => {
            let inner = product(inverse.as_ref(), weight.transpose(), par);
            (inner, inverse.transpose().to_owned())
        }
    };
    Ok(Build { inner, outer, facts, side: SolveSide::Regularised, ridge: Some((lambda, side)) })
}
