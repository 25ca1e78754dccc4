use std::sync::{Arc, OnceLock};

use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};

use super::border::Border;
use super::cg::{Pair, State, norm};
use super::circulant::{Apply, Circulant, GroupParts, opposite};
use super::config::{ConvMode, ConvSolveConfig};
use super::eigen::{EIGEN_LIMIT, Eigen};
use super::fft::PlaneFft;
use super::grid::{End, Grid, NOWHERE};
use super::ladder::Ladder;
use super::matrix::{dense, pixelwise};
use super::recipe::{ConvFacts, ConvRecipe};
use super::shifted::{Borders, Shifted};
use super::symbol::{self, Symbol, scale, symbols};
use super::system::{ConvSystem, bias};
use super::whiten::Whitening;
use crate::conv2d::Conv2d;
use crate::dense::AffinePlan;
use crate::{LinalgError, Real, compile_once};

/// What the conjugate gradients for the exact solution are preconditioned with.
#[derive(Clone, Debug)]
pub(super) enum Preconditioner {
    /// The identity over this eigenvalue.
    Scale(f64),
    Single(Circulant<f32>),
    Double(Circulant<f64>),
}

impl Preconditioner {
    /// `z <- M r` for every sample.
    pub(super) fn apply(&self, pass: Apply<'_>, at: (&Grid, End), par: Par, stack: &mut MemStack) {
        match self {
            Self::Scale(scale) => pass.z.iter_mut().zip(pass.r).for_each(|(z, r)| *z = r / scale),
            Self::Single(plan) => plan.apply(pass, at, par, stack),
            Self::Double(plan) => plan.apply(pass, at, par, stack),
        }
    }
}

/// Conjugate gradients for the exact solution.
#[derive(Clone, Debug)]
pub(super) struct Iteration {
    pub(super) pair: Pair,
    pub(super) whitening: Option<Whitening>,
    pub(super) preconditioner: Preconditioner,
    /// What is added to a periodic preconditioner.
    pub(super) border: Option<Border>,
    /// Largest eigenvalue of the periodic system.
    pub(super) scale: f64,
}

impl Iteration {
    /// `z <- M r` for every sample.
    pub(super) fn precondition(&self, pass: Apply<'_>, grid: &Grid, par: Par, stack: &mut MemStack) {
        let Apply { r, z } = pass;
        self.preconditioner.apply(Apply { r, z: &mut *z }, (grid, self.pair.near), par, stack);
        if let Some(border) = &self.border {
            border.add(Apply { r, z }, par, stack);
        }
    }
}

/// Ways to build a plan, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// In the space of the equations, where that may be.
    Equations,
    /// The same with direct factors of a slightly shifted system, in `f64`.
    ShiftedEquations,
    /// In the space of the unknowns, where dependent equations do no harm.
    LeastSquares,
}

/// How the boundary system of a plan is built.
#[derive(Clone, Copy, Debug)]
struct Build {
    /// Smallest shift, as a share of the largest eigenvalue.
    least_shift: f64,
    /// Whether missing rows may be eliminated.
    eliminate: bool,
}

/// How the exact solution is found.
#[derive(Clone, Debug)]
pub(super) enum Exact<T> {
    Dense(Arc<AffinePlan<T>>),
    Pixelwise(Arc<AffinePlan<T>>),
    Iteration(Arc<Iteration>),
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
    pub(super) pair: Pair,
    pub(super) grid: Grid,
    pub(super) exact: Exact<T>,
    pub(super) ladder: Option<Arc<Ladder>>,
    /// Direct factors of regularised systems, as far as they were needed.
    pub(super) shifted: Arc<Shifted>,
    /// Windows along the border for regularised systems, as far as they were needed.
    pub(super) borders: Arc<Borders>,
    /// Eigenvalues of a small system, once they were needed.
    pub(super) eigen: Arc<OnceLock<Option<Eigen>>>,
    /// Largest eigenvalue of the periodic `A Aᵀ`.
    pub(super) scale: f64,
    pub(super) in_unknowns: bool,
    pub(super) bias: Vec<f64>,
    pub(super) config: ConvSolveConfig,
    recipe: ConvRecipe,
    /// Whether factors of regularised systems pay, even if those of the exact one are of no use.
    pub(super) factors_pay: bool,
    facts: ConvFacts,
    /// Shift of the preconditioner where the periodic operator is singular.
    shift: f64,
}

/// Smallest share of the largest eigenvalue that counts as invertible.
const SINGULAR: f64 = 1e-8;
/// Shift, as a share of the largest eigenvalue, where the periodic operator is singular.
const SINGULAR_SHIFT: f64 = 1e-6;
/// The same where only the convolution itself is nearly singular. Measured on 8 → 8 channels, kernel 5, padding 2,
/// 32 × 32, whose `f32` factors without a shift lead nowhere: 1e-6 needs 33 steps, 1e-8 needs 8, 1e-10 needs 4.
const EQUATIONS_SHIFT: f64 = 1e-10;
/// Steps of a trial after which the periodic inverse is not good enough.
const FEW_STEPS: usize = 100;
/// Residual that a trial solve must reach.
pub(super) const TRIAL_TOL: f64 = 1e-6;
/// Residual of a trial that did not converge below which the equations still count as independent.
const TRIAL_NEAR: f64 = 1e-2;
/// Smallest share of the largest eigenvalue with which `f32` factors still contract quickly.
const SINGLE: f64 = 3e-5;

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

    fn build<W: Real>(
        system: &ConvSystem<'_, W>,
        config: &ConvSolveConfig,
        recipe: Option<ConvRecipe>,
        par: Par,
    ) -> Result<Self, LinalgError> {
        system.check()?;
        let widened = |values: &[W]| values.iter().map(|v| v.to_f64()).collect::<Vec<f64>>();
        let (weight, bias) = (widened(system.weight), system.bias.map(widened));
        let ConvSystem { geometry, transposed, .. } = *system;
        let system = ConvSystem { geometry, weight: &weight, bias: bias.as_deref(), transposed };
        build(&system, W::EPSILON.to_f64(), config, recipe, par)
    }

    /// Builds the plan of widened weights that were given to the precision `epsilon`.
    fn build_wide(
        system: &ConvSystem<'_, f64>,
        epsilon: f64,
        config: &ConvSolveConfig,
        recipe: Option<ConvRecipe>,
        par: Par,
    ) -> Result<Self, LinalgError> {
        // Nearly singular and dependent equations show in a trial only.
        for attempt in [Attempt::Equations, Attempt::ShiftedEquations, Attempt::LeastSquares] {
            if let Some(plan) = Self::attempt(system, epsilon, config, (recipe, attempt), par)? {
                return Ok(plan);
            }
        }
        Err(LinalgError::Decomposition { what: "conv solve", reason: "no space to iterate in".to_owned() })
    }

    /// Builds the plan in one way; `None` if it turned out that another one is needed.
    fn attempt(
        system: &ConvSystem<'_, f64>,
        epsilon: f64,
        config: &ConvSolveConfig,
        (recipe, attempt): (Option<ConvRecipe>, Attempt),
        par: Par,
    ) -> Result<Option<Self>, LinalgError> {
        let weight = system.weight.to_vec();
        let (g, grid) = (&system.geometry, Grid::new(&system.geometry));
        let equations = system.equations();
        let (rows, cols) = (system.out_shape().len(), system.in_shape().len());
        let planes = |end| grid.sites(end).planes;
        let wide = rows <= cols
            && planes(equations) <= planes(opposite(equations))
            && grid.sites(equations).all_used()
            && attempt != Attempt::LeastSquares;
        let whitening = if wide { Whitening::new(g, equations, &weight, par) } else { None };
        let in_unknowns = whitening.is_none();
        if in_unknowns && attempt == Attempt::ShiftedEquations {
            return Ok(None);
        }
        let near = if in_unknowns { opposite(equations) } else { equations };
        let facts = facts(system, &grid, near, config.samples_expected());
        let recipe = recipe.filter(|recipe| facts.cost(*recipe).0.is_finite());
        let recipe = recipe.unwrap_or_else(|| ConvRecipe::choose(&facts));
        let pair = Pair { conv: Conv2d::new(*g), weight, near };
        let fft = PlaneFft::new(grid.size());
        let symbols = symbols_of_few(&facts, &pair, &grid, &fft);
        let scale = scale(&symbols, &pair.weight);
        let mut plan = Self {
            exact: Exact::Iteration(Arc::new(Iteration {
                pair: pair.clone(),
                whitening: None,
                preconditioner: Preconditioner::Scale(scale),
                border: None,
                scale,
            })),
            ladder: None,
            shifted: Arc::default(),
            borders: Arc::default(),
            eigen: Arc::default(),
            bias: bias(system),
            config: *config,
            pair,
            grid,
            scale,
            in_unknowns,
            recipe,
            factors_pay: matches!(recipe, ConvRecipe::Boundary | ConvRecipe::Dense)
                && !symbols.is_empty()
                && facts.cost(ConvRecipe::Boundary).0.is_finite(),
            facts,
            shift: 0.0,
        };
        if config.mode() != ConvMode::Exact {
            plan.ladder = Ladder::new(&plan.grid, near, &symbols, scale).map(Arc::new);
        }
        match recipe {
            ConvRecipe::Dense => plan.exact = Exact::Dense(Arc::new(dense(system, epsilon, par)?)),
            ConvRecipe::Pixelwise => plan.exact = Exact::Pixelwise(Arc::new(pixelwise(system, epsilon, par)?)),
            _ => {
                let least = if attempt == Attempt::ShiftedEquations { EQUATIONS_SHIFT } else { 0.0 };
                let mut build = Build { least_shift: least, eliminate: true };
                plan.prepare(whitening.clone(), &symbols, build, &fft, par)?;
                let mut regular = (plan.recipe == ConvRecipe::Plain && in_unknowns) || plan.is_regular(&fft, par)?;
                if !regular && plan.eliminates() {
                    // What is left may be far worse conditioned than the whole.
                    build.eliminate = false;
                    plan.prepare(whitening, &symbols, build, &fft, par)?;
                    regular = plan.is_regular(&fft, par)?;
                }
                if !regular && !in_unknowns {
                    return Ok(None);
                }
                if !regular {
                    // Only what commutes with the operator leads to the nearest of many solutions.
                    plan.recipe = ConvRecipe::Plain;
                    plan.prepare(None, &symbols, build, &fft, par)?;
                }
            }
        }
        tracing::debug!(rows, cols, plan.facts.boundary, recipe = ?plan.recipe, plan.shift, "conv solve plan");
        Ok(Some(plan))
    }

    /// The same system with other parameters. The factors are shared; a mode that may regularise adds some of its own, at
    /// once or when a shift first needs them ([`solve`](Self::solve)). The recipe stays that of the first parameters.
    #[must_use]
    pub fn with_config(&self, config: &ConvSolveConfig) -> Self {
        with_config(self, config)
    }

    fn configured(&self, config: &ConvSolveConfig) -> Self {
        let mut plan = Self { config: *config, ..self.clone() };
        plan.facts.samples = config.samples_expected();
        if config.mode() != ConvMode::Exact && plan.ladder.is_none() {
            let symbols = symbols_of_few(&plan.facts, &plan.pair, &plan.grid, &PlaneFft::new(plan.grid.size()));
            plan.ladder = Ladder::new(&plan.grid, plan.pair.near, &symbols, plan.scale).map(Arc::new);
        }
        plan
    }

    /// The same plan for features of another precision; `None` where its factors are those of one precision, as dense
    /// ones are.
    pub fn for_features<U: Real>(&self) -> Option<ConvSolvePlan<U>> {
        let Exact::Iteration(iteration) = &self.exact else { return None };
        Some(ConvSolvePlan {
            pair: self.pair.clone(),
            grid: self.grid.clone(),
            exact: Exact::Iteration(Arc::clone(iteration)),
            ladder: self.ladder.clone(),
            shifted: Arc::clone(&self.shifted),
            borders: Arc::clone(&self.borders),
            eigen: Arc::clone(&self.eigen),
            scale: self.scale,
            in_unknowns: self.in_unknowns,
            bias: self.bias.clone(),
            config: self.config,
            recipe: self.recipe,
            factors_pay: self.factors_pay,
            facts: self.facts,
            shift: self.shift,
        })
    }

    /// Whether the system that the iteration solves has a solution for an arbitrary right-hand side. Where that takes
    /// many steps with the periodic inverse, windows along the border are added to it.
    fn is_regular(&mut self, fft: &PlaneFft<f64>, par: Par) -> Result<bool, LinalgError> {
        let Exact::Iteration(iteration) = &mut self.exact else { return Ok(true) };
        let mut iteration = Arc::clone(iteration);
        let wanted = arbitrary(&self.grid.sites(iteration.pair.near).index, self.pair.near_len());
        let solved = |trial: &State| trial.misfit <= 2.0 * TRIAL_TOL * norm(&wanted);
        // Where periodic inverses are singular, windows leave them as bad as they are.
        if self.recipe == ConvRecipe::Periodic && self.shift == 0.0 {
            let trial = self.trial(&iteration, &wanted, FEW_STEPS, par)?;
            let regular = solved(&trial);
            if regular && !self.facts.border_pays(trial.iters) {
                return Ok(true);
            }
            let symbols = symbols(&iteration.pair, &self.grid, &iteration.pair.weight, fft);
            let border = Border::new(&self.grid, iteration.pair.near, &symbols, self.shift, fft, par);
            iteration = Arc::new(Iteration { border, ..Iteration::clone(&iteration) });
            self.exact = Exact::Iteration(Arc::clone(&iteration));
            if regular {
                return Ok(true);
            }
        }
        let trial = self.trial(&iteration, &wanted, usize::MAX, par)?;
        // Ill-conditioned equations get there in the end; dependent ones do not come near.
        let near_enough = !self.in_unknowns && !self.solves_together() && trial.misfit <= TRIAL_NEAR * norm(&wanted);
        Ok(solved(&trial) || near_enough)
    }

    /// Whether missing rows are eliminated from the boundary system.
    fn eliminates(&self) -> bool {
        let Exact::Iteration(iteration) = &self.exact else { return false };
        match &iteration.preconditioner {
            Preconditioner::Scale(_) => false,
            Preconditioner::Single(plan) => plan.eliminates(),
            Preconditioner::Double(plan) => plan.eliminates(),
        }
    }

    /// Prepares conjugate gradients, with the boundary system if the recipe says so.
    fn prepare(
        &mut self,
        whitening: Option<Whitening>,
        plain: &[Symbol],
        build: Build,
        fft: &PlaneFft<f64>,
        par: Par,
    ) -> Result<(), LinalgError> {
        let mut pair = self.pair.clone();
        let white;
        let mut symbols = plain;
        if let Some(whitening) = &whitening {
            pair.weight.clone_from(&whitening.weight);
            if !symbols.is_empty() {
                white = symbol::symbols(&pair, &self.grid, &pair.weight, fft);
                symbols = &white;
            }
        }
        let scale = scale(symbols, &pair.weight);
        self.shift = 0.0;
        let periodic = matches!(self.recipe, ConvRecipe::Boundary | ConvRecipe::Periodic) && !symbols.is_empty();
        let mut preconditioner = Preconditioner::Scale(scale);
        if periodic {
            preconditioner = self.periodic(&pair, symbols, (scale, build), fft, par)?;
        } else {
            self.recipe = ConvRecipe::Plain;
        }
        self.exact = Exact::Iteration(Arc::new(Iteration { pair, whitening, preconditioner, border: None, scale }));
        Ok(())
    }

    fn periodic(
        &mut self,
        pair: &Pair,
        symbols: &[Symbol],
        (scale, build): (f64, Build),
        fft: &PlaneFft<f64>,
        par: Par,
    ) -> Result<Preconditioner, LinalgError> {
        let invert = |shift: f64| -> Option<Vec<_>> { symbols.iter().map(|s| s.gram_inverse(shift)).collect() };
        let least = |inverses: &[super::symbol::GramInverse]| {
            inverses.iter().map(|inverse| inverse.least).fold(f64::INFINITY, f64::min)
        };
        let regular = |inverses: &Vec<_>| least(inverses) >= SINGULAR * scale;
        let Build { least_shift, eliminate } = build;
        let mut inverses = if least_shift == 0.0 { invert(0.0).filter(regular) } else { None };
        if inverses.is_none() {
            self.shift = scale * if least_shift == 0.0 { SINGULAR_SHIFT } else { least_shift };
            inverses = invert(self.shift);
        }
        let Some(inverses) = inverses else {
            // Weights of zero: every correction is zero, and the first step says so.
            self.recipe = ConvRecipe::Plain;
            return Ok(Preconditioner::Scale(1.0));
        };
        let parts: Vec<_> = symbols
            .iter()
            .zip(&inverses)
            .map(|(symbol, inverse)| GroupParts { symbol, inverse: &inverse.values })
            .collect();
        // Rounding outside the range of the operator is amplified by the inverse shift, and nothing would remove it.
        let single = self.shift == 0.0 && least(&inverses) >= SINGLE * scale;
        let (grid, near) = (&self.grid, pair.near);
        if self.recipe == ConvRecipe::Boundary {
            let built = if single {
                Circulant::with_boundary(grid, near, &parts, eliminate, fft, par).map(Preconditioner::Single)
            } else {
                Circulant::with_boundary(grid, near, &parts, eliminate, fft, par).map(Preconditioner::Double)
            };
            match built {
                Ok(preconditioner) => return Ok(preconditioner),
                Err(error) => tracing::warn!(%error, "no boundary system: conjugate gradients instead"),
            }
            self.recipe = ConvRecipe::Periodic;
        }
        Ok(if single {
            Preconditioner::Single(Circulant::periodic(grid, near, &parts))
        } else {
            Preconditioner::Double(Circulant::periodic(grid, near, &parts))
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
    pub(super) fn solves_together(&self) -> bool {
        self.recipe == ConvRecipe::Boundary || matches!(self.exact, Exact::Dense(_))
    }

    /// Workspace of a preconditioner.
    pub(super) fn preconditioner_scratch(&self, batch: usize, par: Par) -> StackReq {
        let at = (&self.grid, self.pair.near);
        let exact = match &self.exact {
            Exact::Iteration(iteration) => {
                let border = Border::scratch_of(&self.grid, self.pair.near, batch);
                let whole = match &iteration.preconditioner {
                    Preconditioner::Scale(_) => StackReq::EMPTY,
                    Preconditioner::Single(plan) => plan.scratch(at.0, at.1, batch, par),
                    Preconditioner::Double(plan) => plan.scratch(at.0, at.1, batch, par),
                };
                whole.or(border)
            }
            Exact::Dense(_) | Exact::Pixelwise(_) => StackReq::EMPTY,
        };
        let ladder = self.ladder.as_ref().map_or(StackReq::EMPTY, |ladder| ladder.scratch(at.0, at.1, par));
        let shifted = if self.factors_pay && self.config.mode() != ConvMode::Exact {
            Circulant::<f64>::scratch_of(at.0, at.1, batch, par)
        } else {
            StackReq::EMPTY
        };
        let regularises = self.config.mode() != ConvMode::Exact;
        let eigen = if self.eigen_pays() || (regularises && self.rescue_pays()) {
            Eigen::scratch(self.pair.near_len(), batch)
        } else {
            StackReq::EMPTY
        };
        exact.or(ladder).or(shifted).or(eigen)
    }

    /// Whether regularised solves go by eigenvalues: of a system that is dense anyway.
    pub(super) fn eigen_pays(&self) -> bool {
        matches!(self.exact, Exact::Dense(_)) && self.pair.near_len() <= EIGEN_LIMIT
    }
}

compile_once! {
    fn build<'a, T>(
        system: &'a ConvSystem<'a, f64>, epsilon: f64, config: &'a ConvSolveConfig, recipe: Option<ConvRecipe>, par: Par,
    ) -> Result<ConvSolvePlan<T>, LinalgError> = ConvSolvePlan::<T>::build_wide;
    fn with_config<'a, T>(plan: &'a ConvSolvePlan<T>, config: &'a ConvSolveConfig) -> ConvSolvePlan<T> =
        ConvSolvePlan::<T>::configured;
}

fn facts(system: &ConvSystem<'_, f64>, grid: &Grid, near: End, samples: usize) -> ConvFacts {
    let g = &system.geometry;
    let simple = g.kernel() == [1, 1] && g.stride() == [1, 1] && g.padding() == [0, 0] && g.groups() == 1;
    ConvFacts {
        rows: system.out_shape().len(),
        cols: system.in_shape().len(),
        groups: g.groups(),
        near_planes: grid.sites(near).planes,
        far_planes: grid.sites(opposite(near)).planes,
        cells: grid.cells(),
        boundary: grid.boundary(),
        elimination_flops: grid.elimination_flops(),
        pair_flops: 2.0 * g.flops(1) as f64,
        pixelwise: simple,
        samples,
    }
}

/// Values without period, of either sign, where a field of so many entries takes part in the convolution; `sites` are
/// those of one group.
fn arbitrary(sites: &[u32], len: usize) -> Vec<f64> {
    let value = |i: usize| (0.618_033_988_749_894_9 * (i + 1) as f64).fract() - 0.5;
    (0..len).map(|i| if sites[i % sites.len()] == NOWHERE { 0.0 } else { value(i) }).collect()
}

/// The symbols, where there are so few channels that anything per frequency can pay.
fn symbols_of_few(facts: &ConvFacts, pair: &Pair, grid: &Grid, fft: &PlaneFft<f64>) -> Vec<Symbol> {
    let few = facts.near_planes.max(facts.far_planes) <= 64;
    if few { symbols(pair, grid, &pair.weight, fft) } else { Vec::new() }
}
