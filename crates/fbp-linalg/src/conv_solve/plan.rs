use std::sync::{Arc, OnceLock};

use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};

use crate::conv_solve::config::{ConvMode, ConvSolveConfig};
use crate::conv_solve::inverse::apply::Apply;
use crate::conv_solve::inverse::border::Border;
use crate::conv_solve::inverse::circulant::Circulant;
use crate::conv_solve::inverse::eigen::Eigen;
use crate::conv_solve::inverse::ladder::Ladder;
use crate::conv_solve::inverse::preconditioner::Preconditioner;
use crate::conv_solve::inverse::shifted::{Borders, Shifted};
use crate::conv_solve::operator::grid::Grid;
use crate::conv_solve::operator::pair::Pair;
use crate::conv_solve::operator::whiten::Whitening;
use crate::conv_solve::recipe::{ConvFacts, ConvRecipe};
use crate::conv_solve::system::ConvSystem;
use crate::dense::AffinePlan;
use crate::{LinalgError, Real};

/// Conjugate gradients for the exact solution.
#[derive(Clone, Debug)]
pub(crate) struct Iteration {
    pub(crate) pair: Pair,
    pub(crate) whitening: Option<Whitening>,
    pub(crate) preconditioner: Preconditioner,
    /// What is added to a periodic preconditioner.
    pub(crate) border: Option<Border>,
    /// Largest eigenvalue of the periodic system.
    pub(crate) scale: f64,
}

impl Iteration {
    /// `z <- M r` for every sample.
    pub(crate) fn precondition(&self, pass: Apply<'_>, grid: &Grid, par: Par, stack: &mut MemStack) {
        let Apply { r, z } = pass;
        self.preconditioner.apply(Apply { r, z: &mut *z }, (grid, self.pair.near), par, stack);
        if let Some(border) = &self.border {
            border.add(Apply { r, z }, par, stack);
        }
    }
}

/// How the exact solution is found.
#[derive(Clone, Debug)]
pub(crate) enum Exact<T> {
    Dense(Arc<AffinePlan<T>>),
    Pixelwise(Arc<AffinePlan<T>>),
    Iteration(Arc<Iteration>),
}

/// The operator `A`, seen from the space that is iterated in, and what is added to it.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    pub(crate) pair: Pair,
    pub(crate) grid: Grid,
    /// Largest eigenvalue of the periodic `A Aᵀ`.
    pub(crate) scale: f64,
    /// Whether that space is the one of the unknowns: least squares.
    pub(crate) in_unknowns: bool,
    /// One value per channel of the equations.
    pub(crate) bias: Vec<f64>,
}

/// How systems with a shift, of regularised solves, are inverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShiftedBy {
    /// By the eigenvalues of a system that is dense anyway.
    Eigenvalues,
    /// By direct factors, where shifts are small.
    Factors,
    /// By periodic inverses, with windows along the border where those pay.
    Periodic,
}

/// Inverses of systems with a shift, as far as they were needed; plans with other parameters share them.
#[derive(Clone, Debug)]
pub(crate) struct ShiftedInverses {
    pub(crate) by: ShiftedBy,
    /// Periodic ones for all shifts, for modes that may regularise.
    pub(crate) ladder: Option<Arc<Ladder>>,
    pub(crate) factors: Arc<Shifted>,
    pub(crate) windows: Arc<Borders>,
    pub(crate) eigenvalues: Arc<OnceLock<Option<Eigen>>>,
}

/// Exact reversal of a convolution of any size and geometry: for each sample the `v` nearest to `v0` with
/// `A v + b = y`, the nearest least-squares solution, or what [`ConvMode`] asks for.
///
/// The operator is the convolution with its true zero padding; it is never formed unless it is small.
/// [`ConvRecipe::choose`] decides how, from sizes alone. Equations that under-determine the input are first mixed across
/// channels so that the kernels are orthonormal, which changes no solution and removes their condition number.
///
/// # Shapes
/// `v` is `in_len × N` and `y` is `out_len × N`, one column per sample.
///
/// # Source
/// Own derivation, see the module.
#[derive(Clone, Debug)]
pub struct ConvSolvePlan<T> {
    pub(crate) operator: Operator,
    pub(crate) exact: Exact<T>,
    pub(crate) inverses: ShiftedInverses,
    pub(crate) config: ConvSolveConfig,
    pub(crate) recipe: ConvRecipe,
    pub(crate) facts: ConvFacts,
    /// Shift of the preconditioner where the periodic operator is singular.
    pub(crate) shift: f64,
}

impl<T: Real> ConvSolvePlan<T> {
    /// Chooses a recipe and builds its factors in `f64`.
    ///
    /// # Errors
    /// [`LinalgError::Length`] or [`LinalgError::NonFinite`] for faulty weights, [`LinalgError::Decomposition`] if a
    /// dense decomposition breaks down.
    pub fn new<W: Real>(system: &ConvSystem<'_, W>, config: &ConvSolveConfig, par: Par) -> Result<Self, LinalgError> {
        Self::build(system, config, None, par)
    }

    /// As [`new`](Self::new) with a given recipe; one that does not apply, or whose [`ConvFacts::cost`] is infinite, is
    /// replaced by one that does.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_recipe<W: Real>(
        system: &ConvSystem<'_, W>,
        config: &ConvSolveConfig,
        recipe: ConvRecipe,
        par: Par,
    ) -> Result<Self, LinalgError> {
        Self::build(system, config, Some(recipe), par)
    }

    /// The same plan for features of another precision; `None` where its factors are those of one precision, as dense
    /// ones are.
    pub fn for_features<U: Real>(&self) -> Option<ConvSolvePlan<U>> {
        let Exact::Iteration(iteration) = &self.exact else { return None };
        Some(ConvSolvePlan {
            operator: self.operator.clone(),
            exact: Exact::Iteration(Arc::clone(iteration)),
            inverses: self.inverses.clone(),
            config: self.config,
            recipe: self.recipe,
            facts: self.facts,
            shift: self.shift,
        })
    }

    /// How the plan solves exactly.
    pub fn recipe(&self) -> ConvRecipe {
        self.recipe
    }

    /// The sizes that the recipe was chosen by.
    pub fn facts(&self) -> &ConvFacts {
        &self.facts
    }

    /// The parameters that it solves with.
    pub fn config(&self) -> &ConvSolveConfig {
        &self.config
    }

    /// Number of equations `m`.
    pub fn rows(&self) -> usize {
        self.facts.rows
    }

    /// Number of unknowns `n`.
    pub fn cols(&self) -> usize {
        self.facts.cols
    }

    /// Shift `a` of the direct solver where the periodic operator is singular, 0 elsewhere.
    ///
    /// The conjugate gradients around it remove its influence, so that the solution is that without a shift.
    pub fn shift(&self) -> f64 {
        self.shift
    }

    /// Whether whole batches pass through the solver together.
    pub(crate) fn solves_together(&self) -> bool {
        self.recipe == ConvRecipe::Boundary || matches!(self.exact, Exact::Dense(_))
    }

    /// Workspace of a preconditioner.
    pub(crate) fn preconditioner_scratch(&self, batch: usize, par: Par) -> StackReq {
        let at = (&self.operator.grid, self.operator.pair.near);
        let exact = match &self.exact {
            Exact::Iteration(iteration) => {
                let border = Border::scratch_of(&self.operator.grid, self.operator.pair.near, batch);
                let whole = match &iteration.preconditioner {
                    Preconditioner::Scale(_) => StackReq::EMPTY,
                    Preconditioner::Single(plan) => plan.scratch(at.0, at.1, batch, par),
                    Preconditioner::Double(plan) => plan.scratch(at.0, at.1, batch, par),
                };
                whole.or(border)
            }
            Exact::Dense(_) | Exact::Pixelwise(_) => StackReq::EMPTY,
        };
        let ladder = self.inverses.ladder.as_ref().map_or(StackReq::EMPTY, |ladder| ladder.scratch(at.0, at.1, par));
        if self.config.mode() == ConvMode::Exact {
            return exact.or(ladder);
        }
        let shifted = if self.inverses.by == ShiftedBy::Factors {
            Circulant::<f64>::scratch_of(at.0, at.1, batch, par)
        } else {
            StackReq::EMPTY
        };
        let eigen = if self.inverses.by == ShiftedBy::Eigenvalues || self.rescue_pays() {
            Eigen::scratch(self.operator.pair.near_len(), batch)
        } else {
            StackReq::EMPTY
        };
        exact.or(ladder).or(shifted).or(eigen)
    }
}
