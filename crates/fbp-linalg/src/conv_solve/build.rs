//! How a plan is built: the space to iterate in, the recipe, and trials that show what sizes do not tell.

use std::sync::Arc;

use faer::Par;
use faer::dyn_stack::{MemBuffer, MemStack};

use crate::conv_solve::config::{ConvMode, ConvSolveConfig};
use crate::conv_solve::inverse::apply::Apply;
use crate::conv_solve::inverse::border::Border;
use crate::conv_solve::inverse::circulant::{Circulant, GroupParts};
use crate::conv_solve::inverse::eigen::EIGEN_LIMIT;
use crate::conv_solve::inverse::fft::PlaneFft;
use crate::conv_solve::inverse::ladder::Ladder;
use crate::conv_solve::inverse::preconditioner::Preconditioner;
use crate::conv_solve::inverse::symbol::{self, Symbol, scale, symbols};
use crate::conv_solve::matrix::{dense, pixelwise};
use crate::conv_solve::operator::grid::{End, Grid, NOWHERE, opposite};
use crate::conv_solve::operator::pair::Pair;
use crate::conv_solve::operator::whiten::Whitening;
use crate::conv_solve::plan::{ConvSolvePlan, Exact, Iteration, Operator, ShiftedBy, ShiftedInverses};
use crate::conv_solve::recipe::{ConvFacts, ConvRecipe};
use crate::conv_solve::solve::Vectors;
use crate::conv_solve::solve::cg::{Cg, State, norm};
use crate::conv_solve::solve::goal::Goal;
use crate::conv_solve::system::{ConvSystem, bias};
use crate::conv2d::Conv2d;
use crate::{LinalgError, Real, compile_once};

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
const TRIAL_TOL: f64 = 1e-6;
/// Residual of a trial that did not converge below which the equations still count as independent.
const TRIAL_NEAR: f64 = 1e-2;
/// Smallest share of the largest eigenvalue with which `f32` factors still contract quickly.
const SINGLE: f64 = 3e-5;

impl<T: Real> ConvSolvePlan<T> {
    pub(crate) fn build<W: Real>(
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
            inverses: ShiftedInverses {
                by: ShiftedBy::Periodic,
                ladder: None,
                factors: Arc::default(),
                windows: Arc::default(),
                eigenvalues: Arc::default(),
            },
            operator: Operator { pair, grid, scale, in_unknowns, bias: bias(system) },
            config: *config,
            recipe,
            facts,
            shift: 0.0,
        };
        if config.mode() != ConvMode::Exact {
            plan.inverses.ladder = Ladder::new(&plan.operator.grid, near, &symbols, scale).map(Arc::new);
        }
        let factors_pay = matches!(recipe, ConvRecipe::Boundary | ConvRecipe::Dense)
            && !symbols.is_empty()
            && facts.cost(ConvRecipe::Boundary).0.is_finite();
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
        plan.inverses.by = plan.shifted_by(factors_pay);
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
        if config.mode() != ConvMode::Exact && plan.inverses.ladder.is_none() {
            let symbols = symbols_of_few(
                &plan.facts,
                &plan.operator.pair,
                &plan.operator.grid,
                &PlaneFft::new(plan.operator.grid.size()),
            );
            plan.inverses.ladder =
                Ladder::new(&plan.operator.grid, plan.operator.pair.near, &symbols, plan.operator.scale).map(Arc::new);
        }
        plan
    }

    /// Whether the system that the iteration solves has a solution for an arbitrary right-hand side. Where that takes
    /// many steps with the periodic inverse, windows along the border are added to it.
    fn is_regular(&mut self, fft: &PlaneFft<f64>, par: Par) -> Result<bool, LinalgError> {
        let Exact::Iteration(iteration) = &mut self.exact else { return Ok(true) };
        let mut iteration = Arc::clone(iteration);
        let wanted = arbitrary(&self.operator.grid.sites(iteration.pair.near).index, self.operator.pair.near_len());
        let solved = |trial: &State| trial.misfit <= 2.0 * TRIAL_TOL * norm(&wanted);
        // Where periodic inverses are singular, windows leave them as bad as they are.
        if self.recipe == ConvRecipe::Periodic && self.shift == 0.0 {
            let trial = self.trial(&iteration, &wanted, FEW_STEPS, par)?;
            let regular = solved(&trial);
            if regular && !self.facts.border_pays(trial.iters) {
                return Ok(true);
            }
            let symbols = symbols(&iteration.pair, &self.operator.grid, &iteration.pair.weight, fft);
            let border = Border::new(&self.operator.grid, iteration.pair.near, &symbols, self.shift, fft, par);
            iteration = Arc::new(Iteration { border, ..Iteration::clone(&iteration) });
            self.exact = Exact::Iteration(Arc::clone(&iteration));
            if regular {
                return Ok(true);
            }
        }
        let trial = self.trial(&iteration, &wanted, usize::MAX, par)?;
        // Ill-conditioned equations get there in the end; dependent ones do not come near.
        let near_enough =
            !self.operator.in_unknowns && !self.solves_together() && trial.misfit <= TRIAL_NEAR * norm(&wanted);
        Ok(solved(&trial) || near_enough)
    }

    /// Where the iteration for `B Bᵀ x = wanted` ends after so many steps at most; called while the plan is built.
    fn trial(&self, iteration: &Iteration, wanted: &[f64], max_iters: usize, par: Par) -> Result<State, LinalgError> {
        let (near, far) = self.lens();
        let mut memory = MemBuffer::new(self.solve_scratch(1, par));
        let goal = Goal::within(TRIAL_TOL, TRIAL_TOL);
        let mut states = [State::new(goal, 0.0)];
        let (mut near_fields, mut far_fields) = (vec![0.0; 5 * near], vec![0.0; 2 * far]);
        let mut vectors = Vectors { near: &mut near_fields, far: &mut far_fields, states: &mut states };
        let cg = Cg {
            pair: &iteration.pair,
            in_unknowns: false,
            goes_on: false,
            precondition: |_: &[State], res: &[f64], z: &mut [f64], stack: &mut MemStack| {
                iteration.precondition(Apply { r: res, z }, &self.operator.grid, par, stack);
            },
            max_iters: max_iters.min(self.useful_iters()),
            norm: iteration.scale.sqrt(),
        };
        cg.run(vectors.panel(wanted), par, MemStack::new(&mut memory))?;
        // Of dependent equations the recurrence may lose the residual; the solution is then huge.
        let (x, z, q) = (&near_fields[..near], &mut vec![0.0; near], &mut vec![0.0; far]);
        iteration.pair.to_far(x, q, par, MemStack::new(&mut memory))?;
        iteration.pair.to_near(q, z, par, MemStack::new(&mut memory))?;
        let [mut state] = states;
        state.misfit = wanted.iter().zip(z).map(|(w, z)| (w - *z) * (w - *z)).sum::<f64>().sqrt();
        Ok(state)
    }

    /// How systems with a shift are inverted; `factors_pay` where there are direct factors and they are not too large.
    fn shifted_by(&self, factors_pay: bool) -> ShiftedBy {
        match &self.exact {
            Exact::Dense(_) if self.operator.pair.near_len() <= EIGEN_LIMIT => ShiftedBy::Eigenvalues,
            _ if factors_pay => ShiftedBy::Factors,
            _ => ShiftedBy::Periodic,
        }
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
        let mut pair = self.operator.pair.clone();
        let white;
        let mut symbols = plain;
        if let Some(whitening) = &whitening {
            pair.weight.clone_from(&whitening.weight);
            if !symbols.is_empty() {
                white = symbol::symbols(&pair, &self.operator.grid, &pair.weight, fft);
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
        let least = |inverses: &[crate::conv_solve::inverse::symbol::GramInverse]| {
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
        let (grid, near) = (&self.operator.grid, pair.near);
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
