use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};

use super::cg::{Cg, Panel, State, norm};
use super::goal::{Goal, Length};
use crate::conv_solve::config::ConvMode;
use crate::conv_solve::inverse::apply::Apply;
use crate::conv_solve::plan::{ConvSolvePlan, Exact, Iteration};
use crate::conv_solve::solve::{Fields, Vectors};
use crate::dense::{AffinePlan, AffineSolve};
use crate::parallel::{SplitBatch, for_each_part};
use crate::{LinalgError, Real, column, column_mut};

/// A forecast distance this many times the bound makes the exact solution not worth computing.
const HOPELESS: f64 = 3.0;
/// An iteration that has moved this many times its bound is given up.
const GIVE_UP: f64 = 1.5;
/// Relative excess over the least-squares optimum at which an exact solve ends.
const EXCESS: f64 = 10.0;
/// Steps that an exact solve may take with direct factors.
const DIRECT_ITERS: usize = 60;

impl<T: Real> ConvSolvePlan<T> {
    /// The phases of the mode.
    pub(crate) fn run_modes(
        &self,
        pass: &mut AffineSolve<'_, T>,
        fields: &mut Fields<'_>,
        vectors: &mut Vectors<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let rows = self.rows();
        let mode = self.config.mode();
        for j in 0..pass.batch() {
            let (start, target) = (pass.observed_in.col(j), pass.target.col(j));
            let size = |col: faer::ColRef<'_, T>| col.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>().sqrt();
            fields.limits[j] = match mode {
                ConvMode::Exact => f64::INFINITY,
                ConvMode::Tolerance(delta) => delta * size(target),
                ConvMode::Bounded(rho) => rho * size(start),
                ConvMode::Auto(rho) => {
                    let size = size(start);
                    if size > 0.0 { rho * size } else { f64::INFINITY }
                }
            };
            let done = &mut fields.done[j];
            let enough = match mode {
                ConvMode::Exact => false,
                ConvMode::Tolerance(_) => norm(&fields.wanted[j * rows..][..rows]) <= fields.limits[j],
                ConvMode::Bounded(_) | ConvMode::Auto(_) => fields.limits[j] == 0.0,
            };
            if done.satisfied || enough {
                (done.solved, done.reached) = (true, true);
            }
        }
        match mode {
            ConvMode::Exact => self.exact(pass, fields, vectors, par, stack),
            ConvMode::Tolerance(_) => {
                self.regularise(Length::Residual, fields, vectors, par, stack)?;
                self.exact(pass, fields, vectors, par, stack)
            }
            ConvMode::Bounded(_) | ConvMode::Auto(_) => {
                self.exact(pass, fields, vectors, par, stack)?;
                self.regularise(Length::Distance, fields, vectors, par, stack)
            }
        }
    }

    /// The exact solution of every sample that is not solved yet; a sample whose solution exceeds its bound stays
    /// unsolved.
    fn exact(
        &self,
        pass: &mut AffineSolve<'_, T>,
        fields: &mut Fields<'_>,
        vectors: &mut Vectors<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let bounded = matches!(self.config.mode(), ConvMode::Bounded(_) | ConvMode::Auto(_));
        if fields.done.iter().all(|done| done.solved) {
            return Ok(());
        }
        match &self.exact {
            Exact::Dense(plan) => {
                plan.solve(AffineSolve { solution: pass.solution.as_mut(), ..*pass }, par, stack)?;
                self.take_solution(pass, fields)?;
            }
            Exact::Pixelwise(plan) => {
                for j in 0..pass.batch() {
                    self.solve_pixels(plan, pass, j, par, stack)?;
                }
                self.take_solution(pass, fields)?;
            }
            Exact::Iteration(iteration) => self.iterate(iteration, fields, vectors, bounded, par, stack)?,
        }
        let cols = self.cols();
        let direct = !matches!(self.exact, Exact::Iteration(_));
        for (j, moved) in fields.moved.chunks_exact(cols).enumerate() {
            let done = &mut fields.done[j];
            done.reached |= direct && !done.solved;
            // Within a bound, what was not reached may be improved upon.
            let within = !bounded || (done.reached && norm(moved) <= fields.limits[j]);
            done.solved |= within && done.hopeless.is_none();
        }
        Ok(())
    }

    /// `moved <- solution - v0` for samples that are not solved yet.
    fn take_solution(&self, pass: &AffineSolve<'_, T>, fields: &mut Fields<'_>) -> Result<(), LinalgError> {
        for (j, moved) in fields.moved.chunks_exact_mut(self.cols()).enumerate() {
            if !fields.done[j].solved {
                let solution = column("affine", pass.solution.as_ref(), j)?;
                let pairs = solution.iter().zip(column("affine", pass.observed_in, j)?);
                moved.iter_mut().zip(pairs).for_each(|(d, (v, v0))| *d = v.to_f64() - v0.to_f64());
            }
        }
        Ok(())
    }

    /// One sample of a 1×1 kernel: every pixel is a sample of a small dense system.
    fn solve_pixels(
        &self,
        plan: &AffinePlan<T>,
        pass: &mut AffineSolve<'_, T>,
        j: usize,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let pixels = self.pixels();
        let (rows, cols) = (plan.rows(), plan.cols());
        let turned = |from: &[T], at: usize, channels: usize| from[at % channels * pixels + at / channels];
        let start = column("affine", pass.observed_in, j)?;
        let target = column("affine", pass.target, j)?;
        let (observed_in, stack) = stack.make_with(cols * pixels, |at| turned(start, at, cols));
        let (wanted, stack) = stack.make_with(rows * pixels, |at| turned(target, at, rows));
        let observed = pass.observed_out.map(|view| column("affine", view, j)).transpose()?;
        let (observed_out, stack) =
            stack.make_with(rows * pixels, |at| observed.map_or(T::ZERO, |from| turned(from, at, rows)));
        let (mut solution, stack) = stack.make_with(cols * pixels, |_| T::ZERO);
        let inner = AffineSolve {
            observed_in: MatRef::from_column_major_slice(&observed_in, cols, pixels),
            observed_out: observed.map(|_| MatRef::from_column_major_slice(&observed_out, rows, pixels)),
            target: MatRef::from_column_major_slice(&wanted, rows, pixels),
            solution: MatMut::from_column_major_slice_mut(&mut solution, cols, pixels),
        };
        plan.solve(inner, par, stack)?;
        let to = column_mut("affine", pass.solution.as_mut(), j)?;
        for (at, x) in solution.iter().enumerate() {
            to[at % cols * pixels + at / cols] = *x;
        }
        Ok(())
    }

    /// Conjugate gradients for the exact solution.
    fn iterate(
        &self,
        iteration: &Iteration,
        fields: &mut Fields<'_>,
        vectors: &mut Vectors<'_>,
        bounded: bool,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let tolerance = self.config.tolerance(T::EPSILON.to_f64());
        // What periodic inverses forecast may be wrong by much for small images, where nothing costs much.
        if bounded && !self.solves_together() && !self.rescue_pays() {
            self.skip_hopeless(fields, vectors, par, stack);
        }
        for (j, state) in vectors.states.iter_mut().enumerate() {
            // Distances grow with every step, so that a sample beyond its bound stays beyond it.
            let give_up = if bounded { GIVE_UP * fields.limits[j] } else { f64::INFINITY };
            *state = State::new(Goal::Fixed { tolerance, excess: EXCESS * tolerance, give_up }, 0.0);
            state.stopped = fields.done[j].solved || fields.done[j].hopeless.is_some();
        }
        let wanted = match &iteration.whitening {
            Some(whitening) => {
                whitening.apply(fields.wanted, fields.white);
                &*fields.white
            }
            None => &*fields.wanted,
        };
        let apply = |par: Par| {
            move |_: &[State], res: &[f64], z: &mut [f64], stack: &mut MemStack| {
                iteration.precondition(Apply { r: res, z }, &self.operator.grid, par, stack);
            }
        };
        let panel = vectors.panel(wanted);
        let cg = |precondition| Cg {
            pair: &iteration.pair,
            in_unknowns: self.operator.in_unknowns,
            goes_on: false,
            precondition,
            max_iters: self.config.max_iters().min(self.useful_iters()),
            norm: iteration.scale.sqrt(),
        };
        if self.solves_together() {
            cg(apply(par)).run(panel, par, stack)?;
        } else {
            self.in_parts(panel, &cg(apply(Par::Seq)), par, stack)?;
        }
        self.take_correction(fields, vectors);
        Ok(())
    }

    /// Runs an iteration on parts of a panel, a few samples at a time.
    pub(crate) fn in_parts<M>(
        &self,
        panel: Panel<'_>,
        cg: &Cg<'_, M>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError>
    where
        M: Fn(&[State], &[f64], &mut [f64], &mut MemStack) + Sync,
    {
        let part = self.part_scratch(panel.batch());
        let run = |part: Panel<'_>, stack: &mut MemStack| -> Result<(), LinalgError> {
            let mut rest = part;
            while rest.batch() > 0 {
                let count = self.together().min(rest.batch());
                let (some, others) = rest.split_at(count);
                if !some.states.iter().all(|state| state.stopped) {
                    cg.run(some, Par::Seq, stack)?;
                }
                rest = others;
            }
            Ok(())
        };
        for_each_part(panel, part, par, stack, &run, &|a: Result<(), LinalgError>, b| a.and(b))
    }

    /// Most steps of an exact solve that make sense: around direct factors the first few dozen lead to the end, or none do.
    pub(crate) fn useful_iters(&self) -> usize {
        if self.solves_together() { DIRECT_ITERS } else { usize::MAX }
    }

    /// Takes over the corrections of samples that were not solved when the iteration began.
    pub(crate) fn take_correction(&self, fields: &mut Fields<'_>, vectors: &Vectors<'_>) {
        let cols = self.cols();
        let (near, _) = self.lens();
        let count = vectors.states.len();
        let source =
            if self.operator.in_unknowns { &vectors.near[..count * near] } else { &vectors.far[..count * cols] };
        let samples = fields.moved.chunks_exact_mut(cols).zip(source.chunks_exact(cols));
        for ((moved, source), (done, state)) in samples.zip(fields.done.iter_mut().zip(vectors.states.iter())) {
            if !done.solved && (done.searched || !state.goal.is_search()) {
                moved.copy_from_slice(source);
                done.iters += state.iters;
                (done.reached, done.shift) = (state.reached, state.shift);
            }
        }
    }

    /// Leaves out samples whose exact solution is forecast far beyond their bound.
    fn skip_hopeless(&self, fields: &mut Fields<'_>, vectors: &mut Vectors<'_>, par: Par, stack: &mut MemStack) {
        let Some(_) = &self.inverses.ladder else { return };
        for j in 0..fields.done.len() {
            if !fields.done[j].solved && fields.limits[j].is_finite() {
                let (shift, largest) = self.forecast(Length::Distance, j, fields, vectors, par, stack);
                fields.done[j].hopeless = (largest > HOPELESS * fields.limits[j]).then_some(shift);
            }
        }
    }
}
