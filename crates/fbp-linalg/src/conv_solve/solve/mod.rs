//! From a batch to its solutions.

pub(crate) mod by_eigen;
pub(crate) mod cg;
pub(crate) mod goal;
pub(crate) mod modes;
pub(crate) mod regularise;
pub(crate) mod resolvent;

use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};

use crate::conv_solve::config::ConvMode;
use crate::conv_solve::operator::grid::opposite;
use crate::conv_solve::operator::rows::{Judged, Rows};
use crate::conv_solve::plan::{ConvSolvePlan, Exact};
use crate::conv_solve::solve::cg::{Panel, State, norm};
use crate::conv_solve::solve::goal::{Goal, OPTIMAL, ROOT_TOL};
use crate::conv_solve::solve::resolvent::{STEPS, resolvent_scratch};
use crate::dense::AffineSolve;
use crate::parallel::parts_scratch;
use crate::{LinalgError, Real, SolveReport, SolveSide, StopReason, column, column_mut, compile_once, expect_finite};

/// Bytes of workspace that a panel of samples may take, beside that of transforms and products.
const PANEL_BYTES: usize = 48 << 20;
/// Most samples of a panel.
const PANEL: usize = 64;
/// Flop of a sample below which several samples iterate together, because a convolution of one would not fill the
/// registers.
const SMALL_FLOPS: f64 = 1e6;

/// Vectors of a panel beside those of the iteration.
pub(crate) struct Fields<'a> {
    /// `y - (A v0 + b)`.
    pub(crate) wanted: &'a mut [f64],
    /// Whitened.
    pub(crate) white: &'a mut [f64],
    /// `v - v0`.
    pub(crate) moved: &'a mut [f64],
    /// Largest distance or residual allowed, per sample.
    pub(crate) limits: &'a mut [f64],
    /// What was done, per sample.
    pub(crate) done: &'a mut [Done],
}

/// What was done for one sample.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) satisfied: bool,
    pub(crate) solved: bool,
    /// Where its exact solution is forecast far beyond its bound: the forecast shift that meets the bound.
    pub(crate) hopeless: Option<f64>,
    pub(crate) reached: bool,
    pub(crate) shift: f64,
    pub(crate) iters: usize,
    /// Whether a shift is searched for.
    pub(crate) searched: bool,
    /// `|A d - r|` at the end of the search.
    pub(crate) misfit: f64,
    /// `|d|` below which nothing keeps the bound on the residual, as far as a search that failed knows.
    pub(crate) nearest: f64,
}

compile_once! {
    fn scratch<'a, T>(plan: &'a ConvSolvePlan<T>, batch: usize, par: Par) -> StackReq = ConvSolvePlan::<T>::batch_scratch;
    fn solve<'a, T>(plan: &'a ConvSolvePlan<T>, pass: AffineSolve<'a, T>, par: Par, stack: &'a mut MemStack)
        -> Result<SolveReport, LinalgError> = ConvSolvePlan::<T>::solve_batch;
}

impl<T: Real> ConvSolvePlan<T> {
    pub(crate) fn lens(&self) -> (usize, usize) {
        (self.operator.pair.near_len(), self.operator.pair.far_len())
    }

    /// Samples that pass through the solver together, of a batch.
    fn panel(&self, batch: usize) -> usize {
        let (near, far) = self.lens();
        let basis = if self.config.mode() == ConvMode::Exact { 0 } else { STEPS };
        let bytes = 8 * ((6 + basis) * near + 4 * far + self.rows() + self.cols());
        (PANEL_BYTES / bytes).clamp(2, PANEL).min(batch.max(1))
    }

    /// Samples that one thread iterates on together.
    pub(crate) fn together(&self) -> usize {
        if self.facts().pair_flops < SMALL_FLOPS { 8 } else { 1 }
    }

    /// Workspace of [`solve`](Self::solve) for `batch` samples.
    pub fn solve_scratch(&self, batch: usize, par: Par) -> StackReq {
        scratch(self, batch, par)
    }

    fn batch_scratch(&self, batch: usize, par: Par) -> StackReq {
        let width = self.panel(batch);
        let (near, far) = self.lens();
        let vectors = StackReq::new::<f64>(width * (5 * near + 2 * far + 2 * self.rows() + self.cols() + 1));
        let states = StackReq::new::<State>(width).and(StackReq::new::<Done>(width));
        let pair = self.operator.pair.scratch(width, par);
        let parts = self.part_scratch(width).or(StackReq::EMPTY);
        let iterate = parts_scratch(parts, width, par).or(self.equations().scratch());
        let whole = self.preconditioner_scratch(width, par).or(pair).or(parts_scratch(StackReq::EMPTY, width, par));
        let dense = match &self.exact {
            Exact::Dense(plan) => plan.solve_scratch(width, par),
            Exact::Pixelwise(plan) => {
                let values = StackReq::new::<T>(2 * (self.rows() + self.cols()));
                values.and(plan.solve_scratch(self.pixels(), par))
            }
            Exact::Iteration(_) => StackReq::EMPTY,
        };
        let bases =
            if self.config.mode() == ConvMode::Exact { StackReq::EMPTY } else { resolvent_scratch(near, width) };
        // Slack for the alignment of the slices.
        StackReq::all_of(&[vectors, states, StackReq::new::<[u8; 64]>(16), iterate.or(whole.and(bases)).or(dense)])
    }

    /// Workspace of the iteration of one thread.
    pub(crate) fn part_scratch(&self, width: usize) -> StackReq {
        let together = self.together().min(width);
        let pair = self.operator.pair.scratch(together, Par::Seq);
        let inner = self.preconditioner_scratch(together, Par::Seq).or(pair);
        inner.or(parts_scratch(StackReq::EMPTY, together, Par::Seq))
    }

    /// Solves for every column of `pass.target`, in the way that the plan's mode asks for.
    ///
    /// The vectors live on the stack. Modes that may regularise make factors when a shift first needs them, and share them
    /// between calls, threads and plans [with other parameters](Self::with_config): first calls may take seconds, and up to
    /// five sets of factors of the size of the exact ones stay in memory.
    ///
    /// The report's residual is `r - A(v - v0)` with the rounded `v`, in `f64`, where `r` is the target minus the observed
    /// output; its λ is the largest that a sample was regularised with. A sample counts as unattained by the scale of each row,
    /// see [`attained`](crate::attained). [`StopReason::MaxIterations`] says that the residual or distance of a sample was not
    /// shown to be the optimum.
    ///
    /// # Errors
    /// [`LinalgError::Shape`] and [`LinalgError::Strided`] for views of another size or layout;
    /// [`LinalgError::NonFinite`] for data that are not finite or overflow.
    ///
    /// # Panics
    /// If `stack` is smaller than [`solve_scratch`](Self::solve_scratch) of the same batch and `par`.
    pub fn solve(&self, pass: AffineSolve<'_, T>, par: Par, stack: &mut MemStack) -> Result<SolveReport, LinalgError> {
        solve(self, pass, par, stack)
    }

    fn solve_batch(
        &self,
        pass: AffineSolve<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<SolveReport, LinalgError> {
        pass.check((self.rows(), self.cols()))?;
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
            let (panel, others) = rest.split_at(count);
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
        let first = Goal::within(1.0, 1.0);
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
        let plane = rows / self.operator.bias.len();
        for (j, (wanted, done)) in fields.wanted.chunks_exact_mut(rows).zip(fields.done.iter_mut()).enumerate() {
            let target = column("affine", pass.target, j)?;
            if let Some(observed) = pass.observed_out {
                let observed = column("affine", observed, j)?;
                let pairs = target.iter().zip(observed);
                wanted.iter_mut().zip(pairs).for_each(|(w, (y, o))| *w = y.to_f64() - o.to_f64());
            } else {
                for ((wanted, target), bias) in
                    wanted.chunks_exact_mut(plane).zip(target.chunks_exact(plane)).zip(&self.operator.bias)
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
        if self.operator.in_unknowns {
            self.operator.pair.to_far(moved, image, par, stack)
        } else {
            self.operator.pair.to_near(moved, image, par, stack)
        }
    }

    pub(crate) fn pixels(&self) -> usize {
        self.rows() / self.operator.bias.len()
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
        let image = if self.operator.in_unknowns {
            &mut vectors.far[..count * rows]
        } else {
            &mut vectors.near[..count * rows]
        };
        self.image(fields.moved, image, par, stack)?;
        let mut report = self.empty_report();
        for (j, (wanted, image)) in fields.wanted.chunks_exact(rows).zip(image.chunks_exact(rows)).enumerate() {
            let target = column("affine", pass.target, j)?;
            let solution = column("affine", pass.solution.as_ref(), j)?;
            let rest = || wanted.iter().zip(image).map(|(w, y)| w - y);
            let length = target.iter().map(|y| y.to_f64() * y.to_f64()).sum::<f64>().sqrt();
            let missed = rest().map(|x| x * x).sum::<f64>().sqrt();
            let violation = rest().fold(0.0_f64, |most, x| most.max(x.abs()));
            if !(missed.is_finite() && violation.is_finite()) {
                return Err(LinalgError::NonFinite { what: "affine: residual", row: 0, column: j });
            }
            let judged = Judged { solution, target, bias: &self.operator.bias, wanted, image };
            let unattained = self.equations().is_missed(&judged, stack)?;
            let done = fields.done[j];
            let regularised = done.shift > 0.0;
            let moved = norm(&fields.moved[j * cols..][..cols]);
            let reached =
                self.is_direct() || (done.reached && self.is_optimal(&done, fields.limits[j], (moved, missed)));
            report = merge(
                report,
                SolveReport {
                    side: if regularised { SolveSide::Regularised } else { report.side },
                    stop: if reached { report.stop } else { StopReason::MaxIterations },
                    iters: done.iters,
                    lambda: if regularised { done.shift } else { 0.0 },
                    residual_relative: missed / if length > 0.0 { length } else { 1.0 },
                    violation_max: violation,
                    violation_sum: violation,
                    satisfied: usize::from(done.satisfied),
                    unattained: usize::from(unattained),
                    ..report
                },
            );
        }
        Ok(report)
    }

    /// Whether what is returned is optimal within its bound, as far as that shows in the end.
    fn is_optimal(&self, done: &Done, limit: f64, (moved, missed): (f64, f64)) -> bool {
        let ConvMode::Tolerance(_) = self.config.mode() else { return true };
        if done.shift > 0.0 {
            return missed <= limit * (1.0 + ROOT_TOL);
        }
        // After a search that failed: the exact solution, unless even that one misses by as much as is allowed.
        !done.searched || moved <= (1.0 + OPTIMAL) * done.nearest || missed >= (1.0 - ROOT_TOL) * limit
    }

    /// The equations, with their scales.
    fn equations(&self) -> Rows<'_> {
        let near = self.operator.pair.near;
        Rows { pair: &self.operator.pair, end: if self.operator.in_unknowns { opposite(near) } else { near } }
    }

    fn is_direct(&self) -> bool {
        matches!(self.exact, Exact::Dense(_) | Exact::Pixelwise(_)) && self.config.mode() == ConvMode::Exact
    }
}

/// As [`SolveReport::merge`], except that one regularised sample makes the batch a regularised one.
fn merge(a: SolveReport, b: SolveReport) -> SolveReport {
    let side = if a.side == SolveSide::Regularised { a.side } else { b.side };
    SolveReport { side, ..a.merge(b) }
}

/// Vectors of the iteration, for as many samples as there are states.
pub(crate) struct Vectors<'a> {
    pub(crate) near: &'a mut [f64],
    pub(crate) far: &'a mut [f64],
    pub(crate) states: &'a mut [State],
}

impl Vectors<'_> {
    pub(crate) fn panel<'b>(&'b mut self, wanted: &'b [f64]) -> Panel<'b> {
        let (near, far) = (self.near.len() / 5, self.far.len() / 2);
        let (x, rest) = self.near.split_at_mut(near);
        let (p, rest) = rest.split_at_mut(near);
        let (z, rest) = rest.split_at_mut(near);
        let (res, old) = rest.split_at_mut(near);
        let (y, q) = self.far.split_at_mut(far);
        Panel { states: self.states, wanted, x, p, z, res, old, y, q }
    }
}
