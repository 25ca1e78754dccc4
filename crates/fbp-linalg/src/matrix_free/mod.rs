//! Box-constrained nearest points for linear maps that are too large to be written down.
//!
//! ```text
//! min ½|v - v0|²   subject to   lo <= w0 + A(v - v0) <= hi,   l <= v <= u
//! ```
//!
//! is solved sample by sample from products with `A` and `Aᵀ` alone, in `f64`, by a proximal method of multipliers. Rows of
//! very different norms are scaled by powers of two first; what misses then is solved as it is, so that boxes out of reach
//! are missed by the least in the units of the outputs. Every row of the rounded point is judged by its own scale.

mod map;
mod newton;
mod polish;
mod solver;
#[cfg(test)]
mod tests;
mod wide;

use faer::Par;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};

pub use map::{LinearMap, MapScale};

use crate::boxed::BoxedPass;
use crate::parallel::{SplitBatch, for_each_part, parts_scratch};
use crate::{LinalgError, Real, SolveReport, SolveSide, StopReason, column, column_mut, compile_once};
use map::EvenMap;
use solver::{Solved, Solver};
use wide::{FIRST_TOLERANCE, Sample, Wide};

/// What a solve without a matrix says about itself.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MatrixFreeReport {
    /// As of every other solver of boxes; `iters` counts products with `A` and `Aᵀ`, in pairs.
    pub solve: SolveReport,
    /// Largest error of the optimality conditions, relative to the entries of the points.
    pub optimality: f64,
}

impl MatrixFreeReport {
    fn merge(self, other: Self) -> Self {
        Self { solve: self.solve.merge(other.solve), optimality: self.optimality.max(other.optimality) }
    }
}

/// Workspace of [`solve_in_boxes`] on the stack; the vectors of the iteration are allocated per call, because they
/// are small beside its work and most layers never need them.
pub fn boxes_scratch(batch: usize, par: Par) -> StackReq {
    parts_scratch(StackReq::EMPTY, batch, par)
}

compile_once! {
    /// Writes the nearest point of every sample.
    ///
    /// A box that no point within the bounds reaches gets the nearest point among those that come closest to it.
    ///
    /// # Errors
    /// Those of the map, and [`LinalgError::NonFinite`] if a sample overflows.
    pub fn solve_in_boxes<'a, T>(
        map: &'a dyn LinearMap, scale: MapScale, pass: BoxedPass<'a, T>, par: Par, stack: &'a mut MemStack,
    ) -> Result<MatrixFreeReport, LinalgError> = solve_batch;
}

fn solve_batch<T: Real>(
    map: &dyn LinearMap,
    scale: MapScale,
    pass: BoxedPass<'_, T>,
    par: Par,
    stack: &mut MemStack,
) -> Result<MatrixFreeReport, LinalgError> {
    let (rows, cols) = map.shape();
    let even = EvenMap::of(map, scale)?;
    let even_scale = even.as_ref().map(|even| MapScale::of(even)).transpose()?;
    let run = |mut pass: BoxedPass<'_, T>, _: &mut MemStack| {
        let solve = SolveReport::direct(SolveSide::Boxed, rows.min(cols));
        let mut report = MatrixFreeReport { solve, optimality: 0.0 };
        let mut memory = MemBuffer::new(map.scratch().and(StackReq::new::<f64>(rows)));
        let mut solver = Solver::new(map, scale);
        let mut even_solver = even.as_ref().zip(even_scale).map(|(even, scale)| {
            let scales: &[f64] = &even.scales;
            (Solver::new(even, scale), scales)
        });
        let mut wide = Wide::new(map.row_terms(MemStack::new(&mut memory))?);
        for index in 0..pass.batch() {
            let sample = Sample {
                observed_in: column("boxes: observed_in", pass.observed_in, index)?,
                observed_out: column("boxes: observed_out", pass.observed_out, index)?,
                lower: column("boxes: lower", pass.lower, index)?,
                upper: column("boxes: upper", pass.upper, index)?,
                bounds: pass.bounds,
            };
            let point = column_mut("boxes: solution", pass.solution.as_mut(), index)?;
            let even = even_solver.as_mut().map(|(solver, scales)| (solver, *scales));
            let solved = solve_sample((&mut solver, even), &mut wide, (&sample, &mut *point), &mut memory)?;
            if let Some(row) = point.iter().position(|v| !v.is_finite()) {
                return Err(LinalgError::NonFinite { what: "nearest point in boxes", row, column: index });
            }
            report = report.merge(solved);
        }
        Ok(report)
    };
    let merge = |left: Result<MatrixFreeReport, LinalgError>, right| Ok(left?.merge(right?));
    for_each_part(pass, StackReq::EMPTY, par, stack, &run, &merge)
}

/// Roundings that a row may miss in the second try, which is as much sharper in all.
const SECOND_TOLERANCE: f64 = 0.25;
/// A miss of at most so many times what counts as attained is worth a second try.
const NEARLY: f64 = 1e3;
/// Corrections of a point that nearly attains its box.
const POLISHES: usize = 2;
/// Solves one sample: with rows of even size if they are not, and as they are if that misses.
fn solve_sample<T: Real>(
    (solver, even): (&mut Solver<'_>, Option<(&mut Solver<'_>, &[f64])>),
    wide: &mut Wide,
    (sample, point): (&Sample<'_, T>, &mut [T]),
    memory: &mut MemBuffer,
) -> Result<MatrixFreeReport, LinalgError> {
    let mut solve = SolveReport::direct(SolveSide::Boxed, 0);
    if sample.is_met() {
        point.copy_from_slice(sample.observed_in);
        solve.satisfied = 1;
        return Ok(MatrixFreeReport { solve, optimality: 0.0 });
    }
    let stack = MemStack::new(memory);
    let map = solver.map;
    let mut solved = None;
    if let Some((even, scales)) = even {
        solved = Some(attempts(even, Some(scales), map, wide, (sample, &mut *point), stack)?)
            .filter(|(_, _, missed)| *missed <= 1.0);
    }
    // Boxes out of reach are missed by the least as the outputs are.
    let (solved, mut violation, mut missed) = match solved {
        Some(solved) => solved,
        None => attempts(solver, None, map, wide, (sample, &mut *point), stack)?,
    };
    for _ in 0..POLISHES {
        if !(missed > 1.0 && missed <= NEARLY) {
            break;
        }
        (violation, missed) = wide.polish(map, sample, point, (violation, missed), stack)?;
    }
    solve.stop = if solved.converged { StopReason::Converged } else { StopReason::MaxIterations };
    solve.iters = solved.products;
    (solve.violation_max, solve.violation_sum) = (violation, violation);
    solve.unattained = usize::from(missed.is_nan() || missed > 1.0);
    Ok(MatrixFreeReport { solve, optimality: solved.residual })
}

/// Solves the sample in `wide`, once more and more sharply if that nearly attained its box; returns the solve, the violation
/// and what is missed in units of what counts as attained.
fn attempts<T: Real>(
    solver: &mut Solver<'_>,
    scales: Option<&[f64]>,
    map: &dyn LinearMap,
    wide: &mut Wide,
    (sample, point): (&Sample<'_, T>, &mut [T]),
    stack: &mut MemStack,
) -> Result<(Solved, f64, f64), LinalgError> {
    let mut attempt = |share: f64| {
        wide.take(sample, scales);
        let solved = solver.solve(&wide.problem(sample, solver.scale, share), stack)?;
        for (point, &v) in point.iter_mut().zip(solver.solution()) {
            *point = T::from_f64(v).clip(sample.bounds.0, sample.bounds.1);
        }
        let (violation, missed) = wide.judge(map, sample, point, stack)?;
        Ok((solved, violation, missed))
    };
    let first = attempt(FIRST_TOLERANCE)?;
    if first.2 <= 1.0 || first.2 > NEARLY { Ok(first) } else { attempt(SECOND_TOLERANCE) }
}
