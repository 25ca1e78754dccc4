//! Box-constrained nearest points for linear maps that are too large to be written down.
//!
//! ```text
//! min ½|v - v0|²   subject to   lo <= w0 + A(v - v0) <= hi,   l <= v <= u
//! ```
//!
//! is solved sample by sample from products with `A` and `Aᵀ` alone, in `f64`; see [`solver`].

mod newton;
mod solver;
#[cfg(test)]
mod tests;

use faer::Par;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use fbp_linalg::{LinalgError, Real, for_each_part, parts_scratch};

use super::columns::{Outcome, Sample, SampleBox, account, is_within, sample_of};
use crate::{ReversePass, ReverseReport};

use solver::{Problem, Solver};

/// A linear map `A` in double precision.
pub(super) trait LinearMap: Sync {
    /// Number of rows and of columns.
    fn shape(&self) -> (usize, usize);

    /// Workspace of one product.
    fn scratch(&self) -> StackReq;

    /// `image <- A x`.
    fn apply(&self, x: &[f64], image: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError>;

    /// `sum <- Aᵀ weights`.
    fn adjoint(&self, weights: &[f64], sum: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError>;

    /// Sum of the squares of every row.
    fn row_squares(&self, stack: &mut MemStack) -> Result<Vec<f64>, LinalgError>;

    /// Flop of a product with `A` and one with `Aᵀ`.
    fn flops(&self) -> f64;
}

/// Sizes of a map that scale the iteration.
#[derive(Clone, Copy, Debug)]
pub(super) struct MapScale {
    /// Mean squared norm of a row; 1 for a map of zeros.
    mean_square: f64,
    /// Mean squared norm of a column.
    column_square: f64,
    /// Largest norm of a row.
    largest_row: f64,
}

impl MapScale {
    /// Measures a map.
    pub(super) fn of(map: &impl LinearMap) -> Result<Self, LinalgError> {
        let mut memory = MemBuffer::new(map.scratch());
        let squares = map.row_squares(MemStack::new(&mut memory))?;
        let (rows, cols) = map.shape();
        let total: f64 = squares.iter().sum();
        let mean = if total > 0.0 { total / rows as f64 } else { 1.0 };
        let largest = squares.iter().fold(0.0_f64, |largest, x| largest.max(*x));
        Ok(Self { mean_square: mean, column_square: total / cols.max(1) as f64, largest_row: largest.sqrt() })
    }

    /// About the largest singular value.
    fn norm(&self) -> f64 {
        2.0 * self.mean_square.max(self.column_square).sqrt()
    }
}

/// Workspace of [`reverse_in_boxes`] on the stack; the vectors of the iteration are allocated per call, because they
/// are small beside its work and most layers never need them.
pub(super) fn boxes_scratch(batch: usize, par: Par) -> StackReq {
    parts_scratch(StackReq::EMPTY, batch, par)
}

/// Writes the nearest point of every sample into `pass.target_in.point` and its box as that point.
///
/// A box that no point of the range reaches gets the nearest point among those that come closest to it.
///
/// # Errors
/// Those of the map, and [`LinalgError::NonFinite`] if a sample overflows.
pub(super) fn reverse_in_boxes<T: Real>(
    map: &impl LinearMap,
    scale: MapScale,
    pass: ReversePass<'_, T>,
    par: Par,
    stack: &mut MemStack,
) -> Result<ReverseReport, LinalgError> {
    let (rows, cols) = map.shape();
    let run = |mut pass: ReversePass<'_, T>, _: &mut MemStack| {
        let mut report = ReverseReport { samples: pass.batch(), rank: rows.min(cols), ..ReverseReport::default() };
        let mut memory = MemBuffer::new(map.scratch());
        let mut solver = Solver::new(map, scale);
        let mut wide = Wide::default();
        for index in 0..pass.batch() {
            let (sample, mut target) = sample_of(&mut pass, index);
            let outcome =
                reverse_sample(&mut solver, &mut wide, (&sample, &mut target), index, &mut report, &mut memory)?;
            account(&mut report, &sample, &mut target, outcome);
        }
        Ok(report)
    };
    let merge = |left: Result<ReverseReport, LinalgError>, right| Ok(left?.merge(right?));
    for_each_part(pass, StackReq::EMPTY, par, stack, &run, &merge)
}

/// A sample in `f64`, in vectors that the next one uses again.
#[derive(Debug, Default)]
struct Wide {
    start: Vec<f64>,
    image: Vec<f64>,
    lower: Vec<f64>,
    upper: Vec<f64>,
}

impl Wide {
    fn take<T: Real>(&mut self, sample: &Sample<'_, T>) {
        let parts = [
            (&mut self.start, sample.observed_in),
            (&mut self.image, sample.observed_out),
            (&mut self.lower, sample.lower),
            (&mut self.upper, sample.upper),
        ];
        for (to, from) in parts {
            to.clear();
            to.extend(from.iter().map(|value| value.to_f64()));
        }
    }
}

fn reverse_sample<T: Real, M: LinearMap>(
    solver: &mut Solver<'_, M>,
    wide: &mut Wide,
    (sample, target): (&Sample<'_, T>, &mut SampleBox<'_, T>),
    index: usize,
    report: &mut ReverseReport,
    memory: &mut MemBuffer,
) -> Result<Outcome, LinalgError> {
    let keep = |target: &mut SampleBox<'_, T>| {
        target.lower.copy_from_slice(target.point);
        target.upper.copy_from_slice(target.point);
    };
    if is_within(sample.observed_out, sample.lower, sample.upper) {
        target.point.copy_from_slice(sample.observed_in);
        keep(target);
        return Ok(Outcome::MET);
    }
    wide.take(sample);
    let Wide { start, image, lower, upper } = &*wide;
    let bounds = (sample.in_range.lower.to_f64(), sample.in_range.upper.to_f64());
    let problem = Problem {
        start,
        image,
        lower,
        upper,
        bounds,
        tolerance: T::EPSILON.to_f64() * 16.0 * (solver.scale.largest_row * norm(start) + reach(image, lower, upper)),
        precision: T::EPSILON.to_f64(),
    };
    let stack = MemStack::new(memory);
    let solved = solver.solve(&problem, stack)?;
    for (point, &v) in target.point.iter_mut().zip(solver.solution()) {
        *point = sample.in_range.clip(T::from_f64(v));
    }
    if let Some(row) = target.point.iter().position(|v| !v.is_finite()) {
        return Err(LinalgError::NonFinite { what: "nearest point in boxes", row, column: index });
    }
    let violation = solver.violation_at(&problem, target.point, stack)?;
    keep(target);
    report.iters = report.iters.max(solved.products);
    report.stopped_early |= !solved.converged;
    report.kkt_max = report.kkt_max.max(solved.residual);
    Ok(Outcome { violation, missed: violation > solved.tolerance })
}

/// Largest observed or wanted output.
fn reach(image: &[f64], lower: &[f64], upper: &[f64]) -> f64 {
    let ends = lower.iter().zip(upper);
    image.iter().zip(ends).fold(0.0_f64, |most, (y, (lo, hi))| most.max(y.abs()).max(y.max(*lo).min(*hi).abs()))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    const WIDTH: usize = 8;
    let mut lanes = [0.0; WIDTH];
    let (a_body, a_rest) = a.as_chunks::<WIDTH>();
    let (b_body, b_rest) = b.as_chunks::<WIDTH>();
    for (a, b) in a_body.iter().zip(b_body) {
        for k in 0..WIDTH {
            lanes[k] += a[k] * b[k];
        }
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}
