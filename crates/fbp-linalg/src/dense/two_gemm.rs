use std::mem::MaybeUninit;

use faer::dyn_stack::{MemStack, StackReq};
use faer::linalg::matmul::matmul;
use faer::linalg::{temp_mat_scratch, temp_mat_zeroed};
use faer::mat::AsMatMut;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use super::columns::{Extent, Finite, column, column_mut, subtract};
use super::factor::System;
use super::judge::Rows;
use super::pair::{narrow, scale_columns};
use super::retry::{Retry, Wide};
use crate::dense::{AffineSolve, GramSide, SystemFacts};
use crate::{LinalgError, Real, SolveConfig, SolveReport, SolveSide, compile_once, expect_finite};

/// Samples that are solved together, so that what they need beside the factors stays in the cache.
const PANEL: usize = 128;
/// A batch with fewer samples per thread is not split; its products are.
const MIN_SPLIT: usize = 32;

/// A factorised problem whose correction is `v - v0 = outer·(inner·r)`, with refinement.
#[derive(Clone, Debug)]
pub(super) struct TwoGemm<T> {
    pub(super) weight: Mat<T>,
    pub(super) bias: Vec<T>,
    inner: Mat<T>,
    outer: Mat<T>,
    pub(super) facts: SystemFacts,
    side: SolveSide,
    ridge: Option<GramSide>,
    pub(super) lambda: f64,
    refine_steps: usize,
    pub(super) rows: Rows<T>,
    pub(super) retry: Retry<T>,
}

/// What a plan hands over when it is built: both factors in `f64`.
pub(super) struct Build {
    /// `k × m`.
    pub(super) inner: Mat<f64>,
    /// `n × k`.
    pub(super) outer: Mat<f64>,
    pub(super) facts: SystemFacts,
    pub(super) side: SolveSide,
    /// λ and the side it was factorised on.
    pub(super) ridge: Option<(f64, GramSide)>,
}

impl Build {
    /// The plan of the system itself, from that of its rows times `scales`.
    pub(super) fn of_balanced(mut self, scales: &[f64]) -> Self {
        scale_columns(&mut self.inner, scales);
        self
    }
}

compile_once! {
    fn rounded<'a, T>(system: &'a System, build: Build, retry: Retry<f64>, config: &'a SolveConfig) -> TwoGemm<T> =
        TwoGemm::<T>::rounded;
    fn solve<'a, T>(plan: &'a TwoGemm<T>, pass: AffineSolve<'a, T>, par: Par, stack: &'a mut MemStack)
        -> Result<SolveReport, LinalgError> = TwoGemm::<T>::solve_batch;
}

/// Some sample of a panel ended in a value that is not finite.
struct NotFinite;

/// Workspace of one panel.
pub(super) struct Temps<'a, T> {
    /// Target minus observed output.
    pub(super) wanted: MatMut<'a, T>,
    /// What is left of it.
    pub(super) rest: MatMut<'a, T>,
    /// Correction `v - v0`.
    pub(super) moved: MatMut<'a, T>,
    /// Coordinates `inner·rest`.
    coords: MatMut<'a, T>,
    /// Their sum over the refinement steps, for a ridge on the dual side.
    total: MatMut<'a, T>,
    /// Of a sample that is repeated.
    pub(super) wide: Wide<'a>,
}

impl<T: Real> TwoGemm<T> {
    /// Rounds the factors to the precision of the features.
    pub(super) fn new(system: &System, build: Build, retry: Retry<f64>, config: &SolveConfig) -> Self {
        rounded(system, build, retry, config)
    }

    fn rounded(system: &System, build: Build, retry: Retry<f64>, config: &SolveConfig) -> Self {
        Self {
            weight: narrow(&system.weight),
            bias: system.bias.iter().map(|&b| T::from_f64(b)).collect(),
            inner: narrow(&build.inner),
            outer: narrow(&build.outer),
            facts: build.facts,
            side: build.side,
            ridge: build.ridge.map(|(_, side)| side),
            lambda: build.ridge.map_or(0.0, |(lambda, _)| lambda),
            refine_steps: config.refine_steps(),
            rows: Rows::of(system),
            retry: retry.narrow(),
        }
    }

    /// The factors of the plan.
    pub(super) fn factors(&self) -> (MatRef<'_, T>, MatRef<'_, T>) {
        (self.inner.as_ref(), self.outer.as_ref())
    }

    pub(super) fn solve_scratch(&self, batch: usize, par: Par) -> StackReq {
        batch_scratch(batch, par, |width| self.panel_scratch(width))
    }

    /// Workspace that is enough for every plan of a `rows × cols` matrix.
    pub(super) fn largest_scratch((rows, cols): (usize, usize), batch: usize, par: Par) -> StackReq {
        let rank = rows.min(cols);
        let panel = |width| sizes_scratch::<T>([rows, rows, cols, rank, rank], width).and(Wide::scratch((rows, cols)));
        batch_scratch(batch, par, panel)
    }

    fn panel_scratch(&self, width: usize) -> StackReq {
        let (rows, cols) = self.weight.shape();
        let rank = self.inner.nrows();
        let total = if self.ridge == Some(GramSide::Dual) { rank } else { 0 };
        sizes_scratch::<T>([rows, rows, cols, rank, total], width).and(Wide::scratch((rows, cols)))
    }

    pub(super) fn solve(
        &self,
        pass: AffineSolve<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<SolveReport, LinalgError> {
        solve(self, pass, par, stack)
    }

    fn solve_batch(
        &self,
        mut pass: AffineSolve<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<SolveReport, LinalgError> {
        pass.check(self.weight.shape())?;
        let empty = SolveReport { lambda: self.lambda, ..SolveReport::direct(self.side, self.facts.rank) };
        if pass.batch() == 0 {
            return Ok(empty);
        }
        let split = Split::of(pass.batch(), par);
        let outcome = if split.workers == 1 {
            self.solve_panels(pass.by_ref(), split, stack)
        } else {
            let bytes = self.panel_scratch(split.width).unaligned_bytes_required();
            let (scratch, _) = stack.make_uninit::<u8>(split.workers * bytes);
            self.solve_parallel(pass.by_ref(), split, scratch)
        };
        outcome.map(|report| empty.merge(report)).map_err(|NotFinite| first_not_finite(&pass))
    }

    /// Halves the batch among the workers, each with its share of the workspace.
    fn solve_parallel(
        &self,
        pass: AffineSolve<'_, T>,
        split: Split,
        scratch: &mut [MaybeUninit<u8>],
    ) -> Result<SolveReport, NotFinite> {
        if split.workers == 1 {
            return self.solve_panels(pass, split, MemStack::new(scratch));
        }
        let left = split.workers / 2;
        let panels = pass.batch().div_ceil(split.width);
        let samples = (panels * left / split.workers * split.width).min(pass.batch());
        let (scratch_left, scratch_right) = scratch.split_at_mut(scratch.len() / split.workers * left);
        let (pass_left, pass_right) = pass.split_at(samples);
        let (left, right) = rayon::join(
            || self.solve_parallel(pass_left, Split { workers: left, ..split }, scratch_left),
            || self.solve_parallel(pass_right, Split { workers: split.workers - left, ..split }, scratch_right),
        );
        Ok(left?.merge(right?))
    }

    /// One panel after the other.
    fn solve_panels(
        &self,
        mut pass: AffineSolve<'_, T>,
        split: Split,
        stack: &mut MemStack,
    ) -> Result<SolveReport, NotFinite> {
        let mut report = SolveReport::direct(self.side, self.facts.rank);
        while pass.batch() > 0 {
            let (panel, rest) = {
                let width = split.width.min(pass.batch());
                pass.split_at(width)
            };
            report = report.merge(self.solve_panel(panel, split.inner_par, stack)?);
            pass = rest;
        }
        Ok(report)
    }

    fn solve_panel(&self, pass: AffineSolve<'_, T>, par: Par, stack: &mut MemStack) -> Result<SolveReport, NotFinite> {
        let (rows, cols) = self.weight.shape();
        let (rank, batch) = (self.inner.nrows(), pass.batch());
        let total = if self.ridge == Some(GramSide::Dual) { rank } else { 0 };
        let (mut wanted, stack) = temp_mat_zeroed::<T, _, _>(rows, batch, stack);
        let (mut rest, stack) = temp_mat_zeroed::<T, _, _>(rows, batch, stack);
        let (mut moved, stack) = temp_mat_zeroed::<T, _, _>(cols, batch, stack);
        let (mut coords, stack) = temp_mat_zeroed::<T, _, _>(rank, batch, stack);
        let (mut total, stack) = temp_mat_zeroed::<T, _, _>(total, batch, stack);
        let (mut wide, _) = stack.make_with(Wide::len((rows, cols)), |_| 0.0_f64);
        let mut temps = Temps {
            wanted: wanted.as_mat_mut(),
            rest: rest.as_mat_mut(),
            moved: moved.as_mat_mut(),
            coords: coords.as_mat_mut(),
            total: total.as_mat_mut(),
            wide: Wide::new(&mut wide, (rows, cols)),
        };
        self.correction_wanted(&pass, temps.wanted.as_mut(), par);
        self.correct(&mut temps, par);
        self.finish(pass, &mut temps, par)
    }

    /// `wanted <- y - (A v0 + b)`.
    fn correction_wanted(&self, pass: &AffineSolve<'_, T>, mut wanted: MatMut<'_, T>, par: Par) {
        if let Some(observed_out) = pass.observed_out {
            for j in 0..pass.batch() {
                subtract(column_mut(wanted.as_mut(), j), column(pass.target, j), column(observed_out, j));
            }
            return;
        }
        for j in 0..pass.batch() {
            column_mut(wanted.as_mut(), j).copy_from_slice(&self.bias);
        }
        matmul(wanted.as_mut(), Accum::Add, self.weight.as_ref(), pass.observed_in, T::ONE, par);
        for j in 0..pass.batch() {
            for (w, &y) in column_mut(wanted.as_mut(), j).iter_mut().zip(column(pass.target, j)) {
                *w = y - *w;
            }
        }
    }

    /// `moved <- outer·inner·wanted`, refined.
    ///
    /// With a ridge, the refined system is the augmented one, `[A √λI]` (dual) or `[A; √λI]` (primal), whose
    /// orthogonal factor the two factors are parts of.
    fn correct(&self, temps: &mut Temps<'_, T>, par: Par) {
        let Temps { wanted, rest, moved, coords, total, .. } = temps;
        let (inner, outer) = (self.inner.as_ref(), self.outer.as_ref());
        let lambda = T::from_f64(self.lambda);
        matmul(coords.as_mut(), Accum::Replace, inner, wanted.as_ref(), T::ONE, par);
        matmul(moved.as_mut(), Accum::Replace, outer, coords.as_ref(), T::ONE, par);
        if self.ridge == Some(GramSide::Dual) {
            total.copy_from(coords.as_ref());
        }
        for _ in 0..self.refine_steps {
            self.residual(wanted.as_ref(), moved.as_ref(), rest.as_mut(), par);
            if self.ridge == Some(GramSide::Dual) {
                matmul(rest.as_mut(), Accum::Add, inner.transpose(), total.as_ref(), -lambda, par);
            }
            matmul(coords.as_mut(), Accum::Replace, inner, rest.as_ref(), T::ONE, par);
            match self.ridge {
                Some(GramSide::Dual) => *total += coords.as_ref(),
                Some(GramSide::Primal) => {
                    matmul(coords.as_mut(), Accum::Add, outer.transpose(), moved.as_ref(), -lambda, par);
                }
                None => {}
            }
            matmul(moved.as_mut(), Accum::Add, outer, coords.as_ref(), T::ONE, par);
        }
    }

    /// `rest <- wanted - A moved`.
    fn residual(&self, wanted: MatRef<'_, T>, moved: MatRef<'_, T>, mut rest: MatMut<'_, T>, par: Par) {
        rest.copy_from(wanted);
        matmul(rest, Accum::Add, self.weight.as_ref(), moved, -T::ONE, par);
    }

    /// Writes the solution and measures what it really attains.
    fn finish(
        &self,
        mut pass: AffineSolve<'_, T>,
        temps: &mut Temps<'_, T>,
        par: Par,
    ) -> Result<SolveReport, NotFinite> {
        let arch = pulp::Arch::new();
        let solution = pass.solution.as_mut();
        let finite = arch.dispatch(Step { solution, observed_in: pass.observed_in, moved: temps.moved.as_mut() });
        self.residual(temps.wanted.as_ref(), temps.moved.as_ref(), temps.rest.as_mut(), par);
        let unattained = if finite { self.settle(&mut pass, temps) } else { 0 };
        let (wanted, rest) = (temps.wanted.as_ref(), temps.rest.as_ref());
        let measured = arch.dispatch(Measure { wanted, rest, target: pass.target });
        match measured {
            Some(measured) if finite => {
                Ok(SolveReport { side: self.side, rank: self.facts.rank, unattained, ..measured })
            }
            _ => Err(NotFinite),
        }
    }
}

/// `solution <- observed_in + moved`, and `moved` the difference that is left after rounding; whether all is finite.
struct Step<'a, T> {
    solution: MatMut<'a, T>,
    observed_in: MatRef<'a, T>,
    moved: MatMut<'a, T>,
}

impl<T: Real> pulp::WithSimd for Step<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, _: S) -> bool {
        let mut finite = Finite::new();
        for j in 0..self.observed_in.ncols() {
            let (solution, moved) = (column_mut(self.solution.as_mut(), j), column_mut(self.moved.as_mut(), j));
            finite.step(solution, column(self.observed_in, j), moved);
        }
        finite.holds()
    }
}

/// What is left of the wanted corrections, as a report; `None` if it is not finite.
struct Measure<'a, T> {
    wanted: MatRef<'a, T>,
    rest: MatRef<'a, T>,
    target: MatRef<'a, T>,
}

impl<T: Real> pulp::WithSimd for Measure<'_, T> {
    type Output = Option<SolveReport>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Option<SolveReport> {
        let mut report = SolveReport::direct(SolveSide::Nearest, 0);
        let mut finite = true;
        for j in 0..self.target.ncols() {
            let missed = Extent::of(column(self.rest, j));
            let target = Extent::of(column(self.target, j));
            let wanted = Extent::of(column(self.wanted, j));
            finite &= missed.squares.is_finite();
            let length = if target.squares > 0.0 { target.squares.sqrt() } else { 1.0 };
            report.residual_relative = report.residual_relative.max(missed.squares.sqrt() / length);
            report.violation_max = report.violation_max.max(missed.largest);
            report.violation_sum += missed.largest;
            report.satisfied += usize::from(wanted.largest == 0.0);
        }
        finite.then_some(report)
    }
}

/// How a batch is cut into panels and shared among threads.
#[derive(Clone, Copy)]
struct Split {
    workers: usize,
    width: usize,
    /// Parallelism of the products inside one panel.
    inner_par: Par,
}

impl Split {
    fn of(batch: usize, par: Par) -> Self {
        let threads = match par {
            Par::Seq => 1,
            Par::Rayon(threads) => threads.get(),
        };
        let workers = threads.min(batch / MIN_SPLIT).max(1);
        let width = batch.div_ceil(workers).clamp(1, PANEL);
        Self { workers, width, inner_par: if workers == 1 { par } else { Par::Seq } }
    }
}

fn batch_scratch(batch: usize, par: Par, panel: impl Fn(usize) -> StackReq) -> StackReq {
    let split = Split::of(batch, par);
    let one = panel(split.width);
    if split.workers == 1 { one } else { StackReq::new::<u8>(split.workers * one.unaligned_bytes_required()) }
}

fn sizes_scratch<T: Real>(sizes: [usize; 5], width: usize) -> StackReq {
    StackReq::all_of(&sizes.map(|size| temp_mat_scratch::<T>(size, width)))
}

/// Finds what made a batch fail: an input, or an overflow on the way to the solution.
fn first_not_finite<T: Real>(pass: &AffineSolve<'_, T>) -> LinalgError {
    let inputs = [
        ("affine: target", Some(pass.target)),
        ("affine: observed_in", Some(pass.observed_in)),
        ("affine: observed_out", pass.observed_out),
        ("affine: solution", Some(pass.solution.as_ref())),
    ];
    let found = inputs.into_iter().find_map(|(what, view)| expect_finite(what, view?).err());
    found.unwrap_or(LinalgError::NonFinite { what: "affine: residual", row: 0, column: 0 })
}
