use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::{MatMut, MatRef, Par};

use super::cg::{Cg, Panel, State, dot, norm};
use super::circulant::Apply;
use super::config::ConvMode;
use super::goal::{Goal, Length, Root};
use super::plan::{ConvSolvePlan, Exact, Iteration, TRIAL_TOL};
use super::resolvent::{Resolvent, SETTLED, STEPS, with_resolvents};
use super::shifted::{Factors, Unshifted};
use super::solve::{Done, Fields, Vectors};
use crate::dense::{AffinePlan, AffineSolve};
use crate::parallel::{SplitBatch, for_each_part};
use crate::{LinalgError, Real, column, column_mut};

/// Smallest shift of a regularised solve, as a share of the largest eigenvalue.
const SHIFT_FLOOR: f64 = 1e-14;
/// What a forecast shift is multiplied by in least squares with padding, where the periodic operator has unknowns in the
/// padding that there are not. Measured for 8 → 8, 12 and 16 channels, kernel 5, 32 × 32 and 64 × 64, condition 1e2 to
/// 1e5: 0.02 to 0.20, median 0.10; without padding 0.9 to 2.0.
const FORECAST_PADDED: f64 = 0.1;
/// Smallest forecast in least squares, as a share of the largest eigenvalue: below it the border decides. Measured where
/// the forecast was less, for a distance of ten norms: 6e-6 to 9e-5, median 6e-5 (8 → 16 channels, 32 × 32 and 64 × 64).
const LEAST_FORECAST: f64 = 4e-5;
/// A forecast distance this many times the bound makes the exact solution not worth computing.
const HOPELESS: f64 = 3.0;
/// An iteration that has moved this many times its bound is given up.
const GIVE_UP: f64 = 1.5;
/// Relative excess over the least-squares optimum at which an exact solve ends.
const EXCESS: f64 = 10.0;
/// Shifts, as shares of the largest eigenvalue, below which the system is factored: periodic inverses hang on the border
/// of the image there (measured: 8 -> 8 channels, kernel 5, padding 2, 64 × 64, share 1e-5: no end in 1000 steps against
/// 10), and in least squares already at larger shifts.
const SMALL_SHIFT: f64 = 3e-4;
const SMALL_SHIFT_LEAST_SQUARES: f64 = 3e-3;
/// Applications of factors after which the search for a shift looks whether others are nearer: the first where it has
/// found the shift with less than this residual, the second in any case; and how far from the wanted shift, as a ratio,
/// they have to be for that.
const GLANCES: [usize; 2] = [3, 6];
const TRUSTED: f64 = 0.2;
const FAR: f64 = 4.0;
/// Most such looks: with each the search can move on by more than a decade.
const MOST_GLANCES: usize = 4;
/// Steps of a solve with a small shift and periodic inverses.
const HARD_STEPS: usize = 200;
/// Steps that an exact solve may take with direct factors.
const DIRECT_ITERS: usize = 60;

impl<T: Real> ConvSolvePlan<T> {
    /// The phases of the mode.
    pub(super) fn run_modes(
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
        if bounded && !self.solves_together() {
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
                iteration.precondition(Apply { r: res, z }, &self.grid, par, stack);
            }
        };
        let panel = vectors.panel(wanted);
        let cg = |precondition| Cg {
            pair: &iteration.pair,
            in_unknowns: self.in_unknowns,
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

    /// Factors the system for shifts like this one, if it is so small that periodic inverses would hang on the border of
    /// the image. Done once for every decade of shifts.
    fn prepare_shift(&self, shift: f64, par: Par) {
        let share = shift / self.scale;
        let largest = if self.in_unknowns { SMALL_SHIFT_LEAST_SQUARES } else { SMALL_SHIFT };
        if share > largest {
            return;
        }
        let system = Unshifted { pair: &self.pair, grid: &self.grid, scale: self.scale };
        if self.factors_pay {
            self.shifted.prepare(share, &system, par);
        } else if self.ladder.is_some() && self.facts().border_pays(HARD_STEPS) {
            self.borders.prepare(share, &system, par);
        }
    }

    /// Runs an iteration on parts of a panel, a few samples at a time.
    fn in_parts<M>(&self, panel: Panel<'_>, cg: &Cg<'_, M>, par: Par, stack: &mut MemStack) -> Result<(), LinalgError>
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
    fn useful_iters(&self) -> usize {
        if self.solves_together() { DIRECT_ITERS } else { usize::MAX }
    }

    /// Takes over the corrections of samples that were not solved when the iteration began.
    fn take_correction(&self, fields: &mut Fields<'_>, vectors: &Vectors<'_>) {
        let cols = self.cols();
        let (near, _) = self.lens();
        let count = vectors.states.len();
        let source = if self.in_unknowns { &vectors.near[..count * near] } else { &vectors.far[..count * cols] };
        let samples = fields.moved.chunks_exact_mut(cols).zip(source.chunks_exact(cols));
        for ((moved, source), (done, state)) in samples.zip(fields.done.iter_mut().zip(vectors.states.iter())) {
            if !done.solved {
                moved.copy_from_slice(source);
                done.iters += state.iters;
                (done.reached, done.shift) = (state.reached, state.shift);
            }
        }
    }

    /// Leaves out samples whose exact solution is forecast far beyond their bound.
    fn skip_hopeless(&self, fields: &mut Fields<'_>, vectors: &mut Vectors<'_>, par: Par, stack: &mut MemStack) {
        let Some(_) = &self.ladder else { return };
        for j in 0..fields.done.len() {
            if !fields.done[j].solved && fields.limits[j].is_finite() {
                let (shift, largest) = self.forecast(Length::Distance, j, fields, vectors, par, stack);
                fields.done[j].hopeless = (largest > HOPELESS * fields.limits[j]).then_some(shift);
            }
        }
    }

    /// A shift to start from, and the length at the smallest shift of the ladder.
    fn forecast(
        &self,
        length: Length,
        j: usize,
        fields: &Fields<'_>,
        vectors: &mut Vectors<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> (f64, f64) {
        let Some(ladder) = &self.ladder else { return (self.blind_shift(), 0.0) };
        let ((near, _), rows) = (self.lens(), self.rows());
        let wanted = &fields.wanted[j * rows..][..rows];
        let squares = dot(wanted, wanted);
        let (g, z) = vectors.near[..2 * near].split_at_mut(near);
        if self.in_unknowns {
            if self.pair.to_near(wanted, g, par, stack).is_err() {
                return (self.blind_shift(), 0.0);
            }
        } else {
            g.copy_from_slice(wanted);
        }
        let at = (&self.grid, self.pair.near);
        let falling = length.falling(self.in_unknowns, squares);
        ladder.forecast(length.falling_to(fields.limits[j]), falling, Apply { r: g, z }, at, stack)
    }

    /// A shift to start from where there is no forecast: one with factors, which show where to go, if they pay.
    fn blind_shift(&self) -> f64 {
        let share = if !self.factors_pay {
            1e-3
        } else if self.in_unknowns {
            SMALL_SHIFT_LEAST_SQUARES
        } else {
            SMALL_SHIFT
        };
        share * self.scale
    }

    /// Looks for the shifts of all samples, and their solutions, with factors for a shift nearby.
    fn foresee<'a>(
        &'a self,
        length: Length,
        mut factors: &'a Factors,
        fields: &Fields<'_>,
        vectors: &mut Vectors<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let (near, rows) = (self.pair.near_len(), self.rows());
        let at = (&self.grid, self.pair.near);
        with_resolvents(near, vectors.states.len(), stack, |resolvents, bases, stack| {
            let panel = vectors.panel(fields.wanted);
            if self.in_unknowns {
                self.pair.to_near(panel.wanted, panel.res, par, stack)?;
            } else {
                panel.res.copy_from_slice(panel.wanted);
            }
            panel.p.copy_from_slice(panel.res);
            let find = |j: usize, resolvent: &Resolvent, factored: f64| {
                let wanted = &panel.wanted[j * rows..][..rows];
                let falling = length.falling(self.in_unknowns, dot(wanted, wanted));
                resolvent.find(length.falling_to(fields.limits[j]), factored, falling)
            };
            let (mut applications, mut glances) = (0, 0);
            while applications <= STEPS {
                applications += 1;
                factors.inverse.apply(Apply { r: panel.p, z: panel.z }, at, par, stack);
                let (z, p) = (&mut *panel.z, &mut *panel.p);
                let samples = Extension { resolvents: &mut *resolvents, bases: &mut *bases, g: panel.res, z, p };
                let extend = |samples: Extension<'_>, _: &mut MemStack| samples.run();
                for_each_part(samples, StackReq::EMPTY, par, stack, &extend, &|(), ()| ());
                let active = || panel.states.iter().enumerate().filter(|(_, state)| !state.stopped);
                let found = |j: usize| find(j, &resolvents[j], factors.shift);
                if applications < GLANCES[0] {
                    continue;
                }
                let rest = active().map(|(j, _)| resolvents[j].residual(found(j) - factors.shift)).fold(0.0, f64::max);
                if glances < MOST_GLANCES && (rest <= TRUSTED || applications == GLANCES[1]) {
                    glances += 1;
                    if let Some(better) = self.better_factors(factors, active().map(|(j, _)| found(j)), par) {
                        factors = better;
                        applications = 0;
                        resolvents.fill(Resolvent::default());
                        panel.p.copy_from_slice(panel.res);
                        continue;
                    }
                }
                if rest <= SETTLED {
                    break;
                }
            }
            for (j, state) in panel.states.iter_mut().enumerate().filter(|(_, state)| !state.stopped) {
                state.shift = find(j, &resolvents[j], factors.shift);
                let basis = &bases[j * STEPS * near..][..STEPS * near];
                resolvents[j].solution(state.shift - factors.shift, basis, &mut panel.x[j * near..][..near]);
            }
            Ok(())
        })
    }

    /// Factors that suit these shifts better by much; they are made if there are none.
    fn better_factors(&self, factors: &Factors, shifts: impl Iterator<Item = f64>, par: Par) -> Option<&Factors> {
        let (count, sum) = shifts.fold((0.0, 0.0), |(count, sum), shift| (count + 1.0, sum + shift.ln()));
        let shift = (sum / count).exp();
        if (factors.shift / FAR..=factors.shift * FAR).contains(&shift) {
            return None;
        }
        self.prepare_shift(shift, par);
        self.shifted.nearest(shift / self.scale).filter(|better| better.shift != factors.shift)
    }

    /// Regularised solutions of the samples that are not solved yet, with the shift that gives the wanted length.
    fn regularise(
        &self,
        length: Length,
        fields: &mut Fields<'_>,
        vectors: &mut Vectors<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        // A residual of zero is that of the exact solution.
        let skipped = |done: &Done, limit: f64| done.solved || limit == 0.0;
        if fields.done.iter().zip(&*fields.limits).all(|(done, limit)| skipped(done, *limit)) {
            return Ok(());
        }
        let floor = SHIFT_FLOOR * self.scale;
        // The objective errs by its square.
        let accuracy = 0.5 * self.config.tolerance(T::EPSILON.to_f64()).sqrt();
        let eigen = self.eigen(par);
        for j in 0..fields.done.len() {
            let mut state = State::new(Goal::Root(Root::new(length, fields.limits[j], floor, accuracy)), floor);
            if skipped(&fields.done[j], fields.limits[j]) {
                state.stopped = true;
            } else if eigen.is_none() {
                let known = fields.done[j].hopeless.filter(|_| length == Length::Distance);
                let shift = known.unwrap_or_else(|| self.forecast(length, j, fields, vectors, par, stack).0);
                let padded = !self.grid.sites(self.pair.near).missing.is_empty();
                state.shift = match self.in_unknowns {
                    true if padded => (FORECAST_PADDED * shift).max(LEAST_FORECAST * self.scale),
                    true => shift.max(LEAST_FORECAST * self.scale),
                    false => shift.max(floor),
                };
                self.prepare_shift(state.shift, par);
            }
            vectors.states[j] = state;
        }
        let at = (&self.grid, self.pair.near);
        let near = self.pair.near_len();
        let common = |states: &[State]| {
            let shifts = states.iter().filter(|state| !state.stopped).map(|state| state.shift);
            self.shifted.common(shifts, self.scale)
        };
        let precondition = |states: &[State], res: &[f64], z: &mut [f64], par: Par, stack: &mut MemStack| {
            if let Some(eigen) = eigen {
                return eigen.apply(states, Apply { r: res, z }, par, stack);
            }
            if let Some(factors) = common(states) {
                return factors.inverse.apply(Apply { r: res, z }, at, par, stack);
            }
            let samples = res.chunks_exact(near).zip(z.chunks_exact_mut(near));
            for ((res, z), state) in samples.zip(states).filter(|(_, state)| !state.stopped) {
                match (&self.ladder, self.shifted.nearest(state.shift / self.scale)) {
                    (_, Some(factors)) => factors.inverse.apply(Apply { r: res, z }, at, par, stack),
                    (Some(ladder), None) => {
                        ladder.apply(state.shift, Apply { r: res, z: &mut *z }, at, stack);
                        if let Some(border) = self.borders.nearest(state.shift / self.scale) {
                            border.add(Apply { r: res, z }, Par::Seq, stack);
                        }
                    }
                    (None, None) => {
                        let scale = state.shift.max(1e-4 * self.scale);
                        z.iter_mut().zip(res).for_each(|(z, r)| *z = r / scale);
                    }
                }
            }
        };
        let (in_unknowns, max_iters) = (self.in_unknowns, self.config.max_iters());
        // Factors are read from memory once for all samples, which then go together.
        let common = if eigen.is_none() { common(vectors.states) } else { None };
        let together = eigen.is_some() || common.is_some();
        if let Some(eigen) = eigen {
            self.solve_by_eigen(eigen, (length, floor), fields, vectors, par, stack)?;
        } else if let Some(factors) = common {
            self.foresee(length, factors, fields, vectors, par, stack)?;
        }
        let threads = if together { par } else { Par::Seq };
        let precondition = move |states: &[State], res: &[f64], z: &mut [f64], stack: &mut MemStack| {
            precondition(states, res, z, threads, stack);
        };
        let size = self.scale.sqrt();
        let cg = Cg { pair: &self.pair, in_unknowns, goes_on: together, precondition, max_iters, norm: size };
        let panel = vectors.panel(fields.wanted);
        if together {
            cg.run(panel, par, stack)?
        } else {
            self.in_parts(panel, &cg, par, stack)?
        }
        self.take_correction(fields, vectors);
        self.settle(length, fields, vectors.states);
        Ok(())
    }

    /// Whether regularised solutions are what was asked for; those a little too long are shortened.
    fn settle(&self, length: Length, fields: &mut Fields<'_>, states: &[State]) {
        for (j, done) in fields.done.iter_mut().enumerate().filter(|(_, done)| !done.solved) {
            match length {
                Length::Distance => {
                    let moved = &mut fields.moved[j * self.cols()..][..self.cols()];
                    // The search ends below the bound but for rounding, unless it was given up.
                    let share = fields.limits[j] / norm(moved);
                    if share < 1.0 {
                        moved.iter_mut().for_each(|d| *d *= share);
                    }
                    done.solved = true;
                }
                Length::Residual => {
                    done.solved = fields.limits[j] > 0.0 && states[j].misfit <= fields.limits[j];
                    if !done.solved {
                        done.shift = 0.0;
                    }
                }
            }
        }
    }

    /// Where the iteration for `B Bᵀ x = wanted` ends after so many steps at most; called while the plan is built.
    pub(super) fn trial(
        &self,
        iteration: &Iteration,
        wanted: &[f64],
        max_iters: usize,
        par: Par,
    ) -> Result<State, LinalgError> {
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
                iteration.precondition(Apply { r: res, z }, &self.grid, par, stack);
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
}

/// The bases of some samples, and the vectors that extend them.
struct Extension<'a> {
    resolvents: &'a mut [Resolvent],
    bases: &'a mut [f64],
    g: &'a [f64],
    z: &'a mut [f64],
    p: &'a mut [f64],
}

impl Extension<'_> {
    fn run(self) {
        let near = self.g.len() / self.resolvents.len().max(1);
        let vectors = self.g.chunks_exact(near).zip(self.z.chunks_exact_mut(near)).zip(self.p.chunks_exact_mut(near));
        let bases = self.resolvents.iter_mut().zip(self.bases.chunks_exact_mut(STEPS * near));
        for ((resolvent, basis), ((g, z), p)) in bases.zip(vectors) {
            resolvent.extend(basis, g, z, p);
        }
    }
}

impl SplitBatch for Extension<'_> {
    fn batch(&self) -> usize {
        self.resolvents.len()
    }

    fn split_at(self, count: usize) -> (Self, Self) {
        let near = self.g.len() / self.resolvents.len().max(1);
        let (resolvents, resolvents_rest) = self.resolvents.split_at_mut(count);
        let (bases, bases_rest) = self.bases.split_at_mut(count * STEPS * near);
        let (g, g_rest) = self.g.split_at(count * near);
        let (z, z_rest) = self.z.split_at_mut(count * near);
        let (p, p_rest) = self.p.split_at_mut(count * near);
        (
            Self { resolvents, bases, g, z, p },
            Self { resolvents: resolvents_rest, bases: bases_rest, g: g_rest, z: z_rest, p: p_rest },
        )
    }
}
