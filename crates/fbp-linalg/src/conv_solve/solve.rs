use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::{MatMut, MatRef, Par};

use super::cg::{Cg, Panel, State, dot, norm};
use super::circulant::Apply;
use super::config::ConvMode;
use super::goal::{Goal, Length, Root};
use super::plan::{ConvSolvePlan, Exact, Iteration};
use crate::dense::{AffinePlan, AffineSolve};
use crate::parallel::{SplitBatch, for_each_part, parts_scratch};
use crate::{LinalgError, Real, SolveReport, SolveSide, StopReason, column, column_mut, expect_finite, expect_shape};

/// Bytes of workspace that a panel of samples may take, beside that of transforms and products.
const PANEL_BYTES: usize = 48 << 20;
/// Most samples of a panel.
const PANEL: usize = 64;
/// Flop of a sample below which several samples iterate together, because a convolution of one would not fill the
/// registers.
const SMALL_FLOPS: f64 = 1e6;
/// Smallest shift of a regularised solve, as a share of the largest eigenvalue.
const SHIFT_FLOOR: f64 = 1e-14;
/// A forecast distance this many times the bound makes the exact solution not worth computing.
const HOPELESS: f64 = 3.0;
/// An iteration that has moved this many times its bound is given up.
const GIVE_UP: f64 = 1.5;
/// Relative excess over the least-squares optimum at which an exact solve ends.
const EXCESS: f64 = 10.0;
/// Residual that a trial solve must reach, and the steps that direct factors may take for it.
const TRIAL_TOL: f64 = 1e-6;
const TRIAL_ITERS: usize = 60;
/// Residual of a trial that did not converge below which the equations still count as independent.
const TRIAL_NEAR: f64 = 1e-2;

/// Vectors of a panel beside those of the iteration.
struct Fields<'a> {
    /// `y - (A v0 + b)`.
    wanted: &'a mut [f64],
    /// Whitened.
    white: &'a mut [f64],
    /// `v - v0`.
    moved: &'a mut [f64],
    /// Largest distance or residual allowed, per sample.
    limits: &'a mut [f64],
    /// What was done, per sample.
    done: &'a mut [Done],
}

/// What was done for one sample.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    satisfied: bool,
    solved: bool,
    /// Its exact solution is forecast far beyond its bound.
    hopeless: bool,
    reached: bool,
    shift: f64,
    iters: usize,
}

impl<T: Real> ConvSolvePlan<T> {
    fn lens(&self) -> (usize, usize) {
        (self.pair.near_len(), self.pair.far_len())
    }

    /// Samples that pass through the solver together, of a batch.
    fn panel(&self, batch: usize) -> usize {
        let (near, far) = self.lens();
        let bytes = 8 * (6 * near + 4 * far + self.rows() + self.cols());
        (PANEL_BYTES / bytes).clamp(2, PANEL).min(batch.max(1))
    }

    /// Samples that one thread iterates on together.
    fn together(&self) -> usize {
        if self.facts().pair_flops < SMALL_FLOPS { 8 } else { 1 }
    }

    /// Workspace of [`solve`](Self::solve) for `batch` samples, in bytes.
    pub fn solve_scratch(&self, batch: usize, par: Par) -> StackReq {
        let width = self.panel(batch);
        let (near, far) = self.lens();
        let vectors = StackReq::new::<f64>(width * (5 * near + 2 * far + 2 * self.rows() + self.cols() + 1));
        let states = StackReq::new::<State>(width).and(StackReq::new::<Done>(width));
        let pair = self.pair.scratch(width, par);
        let parts = self.part_scratch(width).or(StackReq::EMPTY);
        let iterate = parts_scratch(parts, width, par);
        let whole = self.preconditioner_scratch(width, par).or(pair).or(parts_scratch(StackReq::EMPTY, width, par));
        let dense = match &self.exact {
            Exact::Dense(plan) => plan.solve_scratch(width, par),
            Exact::Pixelwise(plan) => {
                let values = StackReq::new::<T>(2 * (self.rows() + self.cols()));
                values.and(plan.solve_scratch(self.pixels(), par))
            }
            Exact::Iteration(_) => StackReq::EMPTY,
        };
        // Slack for the alignment of the slices.
        StackReq::all_of(&[vectors, states, StackReq::new::<[u8; 64]>(16), iterate.or(whole).or(dense)])
    }

    /// Workspace of the iteration of one thread.
    fn part_scratch(&self, width: usize) -> StackReq {
        let together = self.together().min(width);
        let pair = self.pair.scratch(together, Par::Seq);
        let inner = self.preconditioner_scratch(together, Par::Seq).or(pair);
        inner.or(parts_scratch(StackReq::EMPTY, together, Par::Seq))
    }

    /// Solves for every column of `pass.target`, in the way that the plan's mode asks for.
    ///
    /// Allocates nothing. The report's residual is `r - A(v - v0)` with the rounded `v`, in `f64`, where `r` is the
    /// target minus the observed output; its λ is the largest that a sample was regularised with.
    ///
    /// # Errors
    /// [`LinalgError::Shape`] and [`LinalgError::Strided`] for views of another size or layout;
    /// [`LinalgError::NonFinite`] for data that are not finite or overflow.
    ///
    /// # Panics
    /// If `stack` is smaller than [`solve_scratch`](Self::solve_scratch) of the same batch and `par`.
    pub fn solve(&self, pass: AffineSolve<'_, T>, par: Par, stack: &mut MemStack) -> Result<SolveReport, LinalgError> {
        check(&pass, (self.rows(), self.cols()))?;
        expect_finite("affine: target", pass.target)?;
        expect_finite("affine: observed_in", pass.observed_in)?;
        if let Some(observed_out) = pass.observed_out {
            expect_finite("affine: observed_out", observed_out)?;
        }
        let width = self.panel(pass.batch());
        let mut report = self.empty_report();
        let mut rest = pass;
        while rest.batch() > 0 {
            let count = width.min(rest.batch());
            let (panel, others) = split_at(rest, count);
            report = merge(report, self.solve_panel(panel, par, stack)?);
            rest = others;
        }
        Ok(report)
    }

    fn empty_report(&self) -> SolveReport {
        let rank = self.rows().min(self.cols());
        match &self.exact {
            Exact::Dense(plan) | Exact::Pixelwise(plan) => {
                let facts = plan.facts();
                let full = facts.rank == facts.rows;
                let side = if full { SolveSide::Nearest } else { SolveSide::LeastSquares };
                let rank =
                    if matches!(self.exact, Exact::Pixelwise(_)) { facts.rank * self.pixels() } else { facts.rank };
                SolveReport::direct(side, rank)
            }
            Exact::Iteration(iteration) => {
                let nearest = iteration.whitening.is_some();
                let side = if nearest { SolveSide::Nearest } else { SolveSide::LeastSquares };
                SolveReport { stop: StopReason::Converged, ..SolveReport::direct(side, rank) }
            }
        }
    }

    fn solve_panel(
        &self,
        mut pass: AffineSolve<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<SolveReport, LinalgError> {
        let (count, (near, far)) = (pass.batch(), self.lens());
        let zeros = |_| 0.0_f64;
        let (mut wanted, stack) = stack.make_with(count * self.rows(), zeros);
        let (mut white, stack) = stack.make_with(count * self.rows(), zeros);
        let (mut moved, stack) = stack.make_with(count * self.cols(), zeros);
        let (mut limits, stack) = stack.make_with(count, zeros);
        let (mut done, stack) = stack.make_with(count, |_| Done::default());
        let (mut near_fields, stack) = stack.make_with(5 * count * near, zeros);
        let (mut far_fields, stack) = stack.make_with(2 * count * far, zeros);
        let first = Goal::Fixed { tolerance: 1.0, excess: 1.0, give_up: f64::INFINITY };
        let (mut states, stack) = stack.make_with(count, |_| State::new(first, 0.0));
        let mut fields =
            Fields { wanted: &mut wanted, white: &mut white, moved: &mut moved, limits: &mut limits, done: &mut done };
        let mut vectors = Vectors { near: &mut near_fields, far: &mut far_fields, states: &mut states };
        self.wanted(&pass, &mut fields, par, stack)?;
        self.run_modes(&mut pass, &mut fields, &mut vectors, par, stack)?;
        self.finish(pass, &mut fields, &mut vectors, par, stack)
    }

    /// `wanted <- y - (A v0 + b)` and the samples that need nothing.
    fn wanted(
        &self,
        pass: &AffineSolve<'_, T>,
        fields: &mut Fields<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), LinalgError> {
        let (rows, cols) = (self.rows(), self.cols());
        if pass.observed_out.is_none() {
            for (j, start) in fields.moved.chunks_exact_mut(cols).enumerate() {
                start.iter_mut().zip(column("affine", pass.observed_in, j)?).for_each(|(to, x)| *to = x.to_f64());
            }
            self.image(fields.moved, fields.wanted, par, stack)?;
            fields.moved.fill(0.0);
        }
        let plane = rows / self.bias.len();
        for (j, (wanted, done)) in fields.wanted.chunks_exact_mut(rows).zip(fields.done.iter_mut()).enumerate() {
            let target = column("affine", pass.target, j)?;
            if let Some(observed) = pass.observed_out {
                let observed = column("affine", observed, j)?;
                let pairs = target.iter().zip(observed);
                wanted.iter_mut().zip(pairs).for_each(|(w, (y, o))| *w = y.to_f64() - o.to_f64());
            } else {
                for ((wanted, target), bias) in
                    wanted.chunks_exact_mut(plane).zip(target.chunks_exact(plane)).zip(&self.bias)
                {
                    wanted.iter_mut().zip(target).for_each(|(w, y)| *w = y.to_f64() - (*w + bias));
                }
            }
            done.satisfied = wanted.iter().all(|w| *w == 0.0);
        }
        Ok(())
    }

    /// `image <- A moved`.
    fn image(&self, moved: &[f64], image: &mut [f64], par: Par, stack: &mut MemStack) -> Result<(), LinalgError> {
        if self.in_unknowns {
            self.pair.to_far(moved, image, par, stack)
        } else {
            self.pair.to_near(moved, image, par, stack)
        }
    }

    /// The phases of the mode.
    fn run_modes(
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
            let within =
                matches!(mode, ConvMode::Tolerance(_)) && norm(&fields.wanted[j * rows..][..rows]) <= fields.limits[j];
            if done.satisfied || within || fields.limits[j] == 0.0 {
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
        for (j, moved) in fields.moved.chunks_exact(cols).enumerate() {
            let done = &mut fields.done[j];
            if !done.solved && !done.hopeless && (!bounded || norm(moved) <= fields.limits[j]) {
                done.solved = true;
                if !matches!(self.exact, Exact::Iteration(_)) {
                    done.reached = true;
                }
            }
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

    fn pixels(&self) -> usize {
        self.rows() / self.bias.len()
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
        let may_give_up = bounded && !self.solves_together();
        if may_give_up {
            self.skip_hopeless(fields, vectors, par, stack);
        }
        for (j, state) in vectors.states.iter_mut().enumerate() {
            let give_up = if may_give_up { GIVE_UP * fields.limits[j] } else { f64::INFINITY };
            *state = State::new(Goal::Fixed { tolerance, excess: EXCESS * tolerance, give_up }, 0.0);
            state.stopped = fields.done[j].solved || fields.done[j].hopeless;
        }
        let wanted = match &iteration.whitening {
            Some(whitening) => {
                whitening.apply(fields.wanted, fields.white);
                &*fields.white
            }
            None => &*fields.wanted,
        };
        let at = (&self.grid, iteration.pair.near);
        let apply = |par: Par| {
            move |_: &[State], res: &[f64], z: &mut [f64], stack: &mut MemStack| {
                iteration.preconditioner.apply(Apply { r: res, z }, at, par, stack);
            }
        };
        let panel = vectors.panel(wanted);
        let cg = |precondition| Cg {
            pair: &iteration.pair,
            in_unknowns: self.in_unknowns,
            precondition,
            max_iters: self.config.max_iters(),
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
                let (_, largest) = self.forecast(Length::Distance, j, fields, vectors, par, stack);
                if largest > HOPELESS * fields.limits[j] {
                    fields.done[j].hopeless = true;
                }
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
        let Some(ladder) = &self.ladder else { return (1e-3 * self.scale, 0.0) };
        let ((near, _), rows) = (self.lens(), self.rows());
        let wanted = &fields.wanted[j * rows..][..rows];
        let squares = dot(wanted, wanted);
        let (g, z) = vectors.near[..2 * near].split_at_mut(near);
        if self.in_unknowns {
            if self.pair.to_near(wanted, g, par, stack).is_err() {
                return (1e-3 * self.scale, 0.0);
            }
        } else {
            g.copy_from_slice(wanted);
        }
        let distance = |shift: f64, found: super::circulant::Forecast| {
            let square = if self.in_unknowns { found.square } else { found.product - shift * found.square };
            square.max(0.0).sqrt()
        };
        let misfit = |shift: f64, found: super::circulant::Forecast| {
            let square = if self.in_unknowns {
                squares - found.product - shift * found.square
            } else {
                shift * shift * found.square
            };
            square.max(1e-12 * squares).sqrt()
        };
        let at = (&self.grid, self.pair.near);
        let pass = Apply { r: g, z };
        match length {
            Length::Distance => ladder.forecast(fields.limits[j], distance, pass, at, stack),
            Length::Residual => {
                ladder.forecast(1.0 / fields.limits[j], |shift, found| 1.0 / misfit(shift, found), pass, at, stack)
            }
        }
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
        if fields.done.iter().all(|done| done.solved) {
            return Ok(());
        }
        let floor = SHIFT_FLOOR * self.scale;
        for j in 0..fields.done.len() {
            let mut state = State::new(Goal::Root(Root::new(length, fields.limits[j], floor)), floor);
            if fields.done[j].solved {
                state.stopped = true;
            } else {
                let (shift, _) = self.forecast(length, j, fields, vectors, par, stack);
                state.shift = shift.max(floor);
            }
            vectors.states[j] = state;
        }
        let at = (&self.grid, self.pair.near);
        let near = self.pair.near_len();
        let precondition = |states: &[State], res: &[f64], z: &mut [f64], stack: &mut MemStack| {
            let samples = res.chunks_exact(near).zip(z.chunks_exact_mut(near));
            for ((res, z), state) in samples.zip(states).filter(|(_, state)| !state.stopped) {
                match &self.ladder {
                    Some(ladder) => ladder.apply(state.shift, Apply { r: res, z }, at, stack),
                    None => {
                        let scale = state.shift.max(1e-4 * self.scale);
                        z.iter_mut().zip(res).for_each(|(z, r)| *z = r / scale);
                    }
                }
            }
        };
        let (in_unknowns, max_iters) = (self.in_unknowns, self.config.max_iters());
        let cg = Cg { pair: &self.pair, in_unknowns, precondition, max_iters };
        self.in_parts(vectors.panel(fields.wanted), &cg, par, stack)?;
        self.take_correction(fields, vectors);
        for (j, done) in fields.done.iter_mut().enumerate().filter(|(_, done)| !done.solved) {
            match length {
                Length::Distance => {
                    let moved = &mut fields.moved[j * self.cols()..][..self.cols()];
                    // The search ends within its tolerance on either side; the bound holds.
                    let share = fields.limits[j] / norm(moved);
                    if share < 1.0 {
                        moved.iter_mut().for_each(|d| *d *= share);
                    }
                    done.solved = true;
                }
                Length::Residual => {
                    done.solved = vectors.states[j].misfit <= fields.limits[j];
                    if !done.solved {
                        done.shift = 0.0;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the solutions and measures what they really attain.
    fn finish(
        &self,
        mut pass: AffineSolve<'_, T>,
        fields: &mut Fields<'_>,
        vectors: &mut Vectors<'_>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<SolveReport, LinalgError> {
        let (rows, cols, count) = (self.rows(), self.cols(), pass.batch());
        for (j, moved) in fields.moved.chunks_exact_mut(cols).enumerate() {
            let start = column("affine", pass.observed_in, j)?;
            let solution = column_mut("affine", pass.solution.as_mut(), j)?;
            for ((v, &v0), d) in solution.iter_mut().zip(start).zip(moved) {
                *v = if *d == 0.0 { v0 } else { T::from_f64(v0.to_f64() + *d) };
                *d = v.to_f64() - v0.to_f64();
            }
        }
        expect_finite("affine: solution", pass.solution.as_ref())?;
        let (near, _) = self.lens();
        let image = if self.in_unknowns { &mut vectors.far[..count * rows] } else { &mut vectors.near[..count * near] };
        self.image(fields.moved, image, par, stack)?;
        let mut report = self.empty_report();
        for (j, (wanted, image)) in fields.wanted.chunks_exact(rows).zip(image.chunks_exact(rows)).enumerate() {
            let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0_f64, |m, x| m.max(x.abs()));
            let rest = || wanted.iter().zip(image).map(|(w, y)| w - y);
            let target = column("affine", pass.target, j)?;
            let length = target.iter().map(|y| y.to_f64() * y.to_f64()).sum::<f64>().sqrt();
            let missed = rest().map(|x| x * x).sum::<f64>().sqrt();
            let violation = largest(&mut rest());
            if !(missed.is_finite() && violation.is_finite()) {
                return Err(LinalgError::NonFinite { what: "affine: residual", row: 0, column: j });
            }
            let scale = largest(&mut target.iter().map(|y| y.to_f64())).max(largest(&mut wanted.iter().copied()));
            let done = fields.done[j];
            let regularised = done.shift > 0.0;
            report = merge(
                report,
                SolveReport {
                    side: if regularised { SolveSide::Regularised } else { report.side },
                    stop: if done.reached || self.is_direct() { report.stop } else { StopReason::MaxIterations },
                    iters: done.iters,
                    lambda: if regularised { done.shift } else { 0.0 },
                    residual_relative: missed / if length > 0.0 { length } else { 1.0 },
                    violation_max: violation,
                    violation_sum: violation,
                    satisfied: usize::from(done.satisfied),
                    unattained: usize::from(violation > self.config.attained_tol() * scale),
                    ..report
                },
            );
        }
        Ok(report)
    }

    /// Whether `B Bᵀ x = wanted` has a solution that the iteration finds; called while the plan is built.
    pub(super) fn trial(&self, iteration: &Iteration, wanted: &[f64], par: Par) -> Result<bool, LinalgError> {
        let (near, far) = self.lens();
        let mut memory = MemBuffer::new(self.solve_scratch(1, par));
        let goal = Goal::Fixed { tolerance: TRIAL_TOL, excess: TRIAL_TOL, give_up: f64::INFINITY };
        let mut states = [State::new(goal, 0.0)];
        let (mut near_fields, mut far_fields) = (vec![0.0; 5 * near], vec![0.0; 2 * far]);
        let mut vectors = Vectors { near: &mut near_fields, far: &mut far_fields, states: &mut states };
        let at = (&self.grid, iteration.pair.near);
        let cg = Cg {
            pair: &iteration.pair,
            in_unknowns: false,
            precondition: |_: &[State], res: &[f64], z: &mut [f64], stack: &mut MemStack| {
                iteration.preconditioner.apply(Apply { r: res, z }, at, par, stack);
            },
            max_iters: if self.solves_together() { TRIAL_ITERS } else { self.config.max_iters() },
        };
        cg.run(vectors.panel(wanted), par, MemStack::new(&mut memory))?;
        // Ill-conditioned equations get there in the end; dependent ones do not come near.
        let near_enough = !self.in_unknowns && !self.solves_together() && states[0].misfit <= TRIAL_NEAR * norm(wanted);
        Ok(states[0].reached || near_enough)
    }

    fn is_direct(&self) -> bool {
        matches!(self.exact, Exact::Dense(_) | Exact::Pixelwise(_)) && self.config.mode() == ConvMode::Exact
    }
}

/// Compares all views with an `m × n` system.
fn check<T: Real>(pass: &AffineSolve<'_, T>, (rows, cols): (usize, usize)) -> Result<(), LinalgError> {
    let batch = pass.batch();
    let expect = |what, view: MatRef<'_, T>, rows| {
        expect_shape(what, view.shape(), (rows, batch))?;
        if batch > 0 { column(what, view, 0).map(|_| ()) } else { Ok(()) }
    };
    expect("affine: target", pass.target, rows)?;
    expect("affine: observed_in", pass.observed_in, cols)?;
    if let Some(observed_out) = pass.observed_out {
        expect("affine: observed_out", observed_out, rows)?;
    }
    expect("affine: solution", pass.solution.as_ref(), cols)
}

/// The first `at` samples and the others.
fn split_at<T: Real>(pass: AffineSolve<'_, T>, at: usize) -> (AffineSolve<'_, T>, AffineSolve<'_, T>) {
    let AffineSolve { observed_in, observed_out, target, solution } = pass;
    let (in_left, in_right) = observed_in.split_at_col(at);
    let (out_left, out_right) = observed_out.map(|out| out.split_at_col(at)).unzip();
    let (target_left, target_right) = target.split_at_col(at);
    let (left, right) = solution.split_at_col_mut(at);
    (
        AffineSolve { observed_in: in_left, observed_out: out_left, target: target_left, solution: left },
        AffineSolve { observed_in: in_right, observed_out: out_right, target: target_right, solution: right },
    )
}

/// As [`SolveReport::merge`], except that one regularised sample makes the batch a regularised one.
fn merge(a: SolveReport, b: SolveReport) -> SolveReport {
    let side = if a.side == SolveSide::Regularised { a.side } else { b.side };
    SolveReport { side, ..a.merge(b) }
}

/// Vectors of the iteration, for as many samples as there are states.
struct Vectors<'a> {
    near: &'a mut [f64],
    far: &'a mut [f64],
    states: &'a mut [State],
}

impl Vectors<'_> {
    fn panel<'b>(&'b mut self, wanted: &'b [f64]) -> Panel<'b> {
        let (near, far) = (self.near.len() / 5, self.far.len() / 2);
        let (x, rest) = self.near.split_at_mut(near);
        let (p, rest) = rest.split_at_mut(near);
        let (z, rest) = rest.split_at_mut(near);
        let (res, old) = rest.split_at_mut(near);
        let (y, q) = self.far.split_at_mut(far);
        Panel { states: self.states, wanted, x, p, z, res, old, y, q }
    }
}
