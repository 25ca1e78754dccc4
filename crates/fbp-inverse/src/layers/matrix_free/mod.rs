//! Box-constrained nearest points for linear maps that are too large to be written down.
//!
//! ```text
//! min ½|v - v0|²   subject to   lo <= w0 + A(v - v0) <= hi,   l <= v <= u
//! ```
//!
//! is solved sample by sample from products with `A` and `Aᵀ` alone, in `f64`; see [`solver`]. Rows of very different norms
//! are scaled by powers of two first; what misses then is solved as it is, so that boxes out of reach are missed by the
//! least in the units of the outputs. Every row of the rounded point is judged by its own scale.

mod newton;
mod polish;
mod solver;
#[cfg(test)]
mod tests;

use faer::Par;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use fbp_linalg::attained::{attained_slack, observed_slack};
use fbp_linalg::{LinalgError, Real, for_each_part, parts_scratch};

use super::columns::{Outcome, Sample, SampleBox, account, is_within, sample_of};
use crate::{ReversePass, ReverseReport};

use polish::correction;
use solver::{Problem, Solved, Solver};

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

    /// `sizes <- Σ_j abs(a_ij) x_j`, for `x >= 0`.
    fn magnitudes(&self, x: &[f64], sizes: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError>;

    /// Number of coefficients of every row that are not zero.
    fn row_terms(&self, stack: &mut MemStack) -> Result<Vec<f64>, LinalgError>;

    /// Flop of a product with `A` and one with `Aᵀ`.
    fn flops(&self) -> f64;
}

/// A map whose rows are multiplied with powers of two that make them of one size.
struct EvenMap<'a, M> {
    map: &'a M,
    scales: Vec<f64>,
}

impl<M: LinearMap> LinearMap for EvenMap<'_, M> {
    fn shape(&self) -> (usize, usize) {
        self.map.shape()
    }

    fn scratch(&self) -> StackReq {
        self.map.scratch().and(StackReq::new::<f64>(self.scales.len()))
    }

    fn apply(&self, x: &[f64], image: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError> {
        self.map.apply(x, image, stack)?;
        image.iter_mut().zip(&self.scales).for_each(|(y, scale)| *y *= scale);
        Ok(())
    }

    fn adjoint(&self, weights: &[f64], sum: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError> {
        let (scaled, stack) = stack.collect(weights.iter().zip(&self.scales).map(|(weight, scale)| weight * scale));
        self.map.adjoint(&scaled, sum, stack)
    }

    fn row_squares(&self, stack: &mut MemStack) -> Result<Vec<f64>, LinalgError> {
        let mut squares = self.map.row_squares(stack)?;
        squares.iter_mut().zip(&self.scales).for_each(|(square, scale)| *square *= scale * scale);
        Ok(squares)
    }

    fn magnitudes(&self, x: &[f64], sizes: &mut [f64], stack: &mut MemStack) -> Result<(), LinalgError> {
        self.map.magnitudes(x, sizes, stack)?;
        sizes.iter_mut().zip(&self.scales).for_each(|(size, scale)| *size *= scale);
        Ok(())
    }

    fn row_terms(&self, stack: &mut MemStack) -> Result<Vec<f64>, LinalgError> {
        self.map.row_terms(stack)
    }

    fn flops(&self) -> f64 {
        self.map.flops()
    }
}

/// Largest ratio of two row norms that is left as it is, as in [`fbp_linalg::BoxedPlan`].
const MOST_UNEVEN: f64 = 16.0;
/// Powers of two that a row may be scaled by.
const MOST_POWERS: f64 = 60.0;

impl<'a, M: LinearMap> EvenMap<'a, M> {
    /// None if the rows are of about one size, and keep the metric in which boxes out of reach are missed by the least.
    fn of(map: &'a M, scale: MapScale) -> Result<Option<Self>, LinalgError> {
        if scale.largest_row <= MOST_UNEVEN * scale.smallest_row {
            return Ok(None);
        }
        let mut memory = MemBuffer::new(map.scratch());
        let squares = map.row_squares(MemStack::new(&mut memory))?;
        let even = |square: f64| {
            let power = (-0.5 * square.log2()).ceil().clamp(-MOST_POWERS, MOST_POWERS);
            if square > 0.0 { power.exp2() } else { 1.0 }
        };
        Ok(Some(Self { map, scales: squares.into_iter().map(even).collect() }))
    }
}

/// Sizes of a map that scale the iteration.
#[derive(Clone, Copy, Debug)]
pub(super) struct MapScale {
    /// Mean squared norm of a row; 1 for a map of zeros.
    mean_square: f64,
    /// Mean squared norm of a column.
    column_square: f64,
    /// Largest norm of a row, and the smallest of those that are not zero.
    largest_row: f64,
    smallest_row: f64,
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
        let smallest = squares.iter().filter(|x| **x > 0.0).fold(largest, |smallest, x| smallest.min(*x));
        Ok(Self {
            mean_square: mean,
            column_square: total / cols.max(1) as f64,
            largest_row: largest.sqrt(),
            smallest_row: smallest.sqrt(),
        })
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
    let even = EvenMap::of(map, scale)?;
    let even_scale = even.as_ref().map(MapScale::of).transpose()?;
    let run = |mut pass: ReversePass<'_, T>, _: &mut MemStack| {
        let mut report = ReverseReport { samples: pass.batch(), rank: rows.min(cols), ..ReverseReport::default() };
        let mut memory = MemBuffer::new(map.scratch().and(StackReq::new::<f64>(rows)));
        let mut solver = Solver::new(map, scale);
        let mut even_solver = even.as_ref().zip(even_scale).map(|(even, scale)| Solver::new(even, scale));
        let mut wide = Wide { terms: map.row_terms(MemStack::new(&mut memory))?, ..Wide::default() };
        for index in 0..pass.batch() {
            let (sample, mut target) = sample_of(&mut pass, index);
            let solvers = (&mut solver, even_solver.as_mut());
            let outcome = reverse_sample(solvers, &mut wide, (&sample, &mut target), index, &mut report, &mut memory)?;
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
    /// For judging: the point, its image, the bias and sizes of the rows.
    point: Vec<f64>,
    reached: Vec<f64>,
    bias: Vec<f64>,
    sizes: [Vec<f64>; 2],
    /// Coefficients of the rows.
    terms: Vec<f64>,
}

impl Wide {
    /// Takes a sample over, its outputs multiplied with `scales`.
    fn take<T: Real>(&mut self, sample: &Sample<'_, T>, scales: Option<&[f64]>) {
        let parts =
            [(&mut self.image, sample.observed_out), (&mut self.lower, sample.lower), (&mut self.upper, sample.upper)];
        for (to, from) in parts {
            to.clear();
            to.extend(from.iter().map(|value| value.to_f64()));
            if let Some(scales) = scales {
                to.iter_mut().zip(scales).for_each(|(value, scale)| *value *= scale);
            }
        }
        self.start.clear();
        self.start.extend(sample.observed_in.iter().map(|value| value.to_f64()));
    }

    fn problem<T: Real>(&self, sample: &Sample<'_, T>, scale: MapScale, share: f64) -> Problem<'_> {
        let Self { start, image, lower, upper, .. } = self;
        let size = scale.largest_row * norm(start) + reach(image, lower, upper);
        Problem {
            start,
            image,
            lower,
            upper,
            bounds: (sample.in_range.lower.to_f64(), sample.in_range.upper.to_f64()),
            tolerance: share * T::EPSILON.to_f64() * size,
            precision: T::EPSILON.to_f64() * (share / TOLERANCES[0]).min(1.0),
        }
    }

    /// What the rows of the sample miss at a rounded point, by the definition of attained: the largest distance, and the
    /// largest in units of what a row may miss. The outputs are taken as they are.
    fn judge<T: Real>(
        &mut self,
        map: &impl LinearMap,
        sample: &Sample<'_, T>,
        point: &[T],
        stack: &mut MemStack,
    ) -> Result<(f64, f64), LinalgError> {
        self.take(sample, None);
        let (rows, _) = map.shape();
        let Self { start, image, lower, upper, point: moved, reached, bias, sizes: [from, sizes], terms } = self;
        for to in [&mut *reached, &mut *bias, &mut *from, &mut *sizes] {
            to.resize(rows, 0.0);
        }
        moved.clear();
        moved.extend(point.iter().zip(start.iter()).map(|(v, start)| v.to_f64() - start));
        map.apply(moved, reached, stack)?;
        map.apply(start, bias, stack)?;
        moved.iter_mut().zip(start.iter()).for_each(|(to, start)| *to = start.abs());
        map.magnitudes(moved, from, stack)?;
        moved.iter_mut().zip(point).for_each(|(to, v)| *to = v.to_f64().abs());
        map.magnitudes(moved, sizes, stack)?;
        let (mut most, mut worst) = (0.0_f64, 0.0_f64);
        for i in 0..rows {
            let at = image[i] + reached[i];
            let gap = (at - at.clip(lower[i], upper[i])).abs();
            let scale = sizes[i] + (image[i] - bias[i]).abs();
            // The bias is a term too.
            let terms = terms[i] as usize + 1;
            let slack = attained_slack::<T>(terms, scale) + observed_slack::<T>(terms, from[i] + image[i].abs());
            most = if gap.is_nan() { f64::INFINITY } else { most.max(gap) };
            worst = if gap <= slack {
                worst.max(if slack > 0.0 { gap / slack } else { 0.0 })
            } else {
                worst.max(gap / slack)
            };
        }
        Ok((most, if most.is_finite() { worst } else { f64::INFINITY }))
    }
}

impl Wide {
    /// Corrects a point that was judged last, if that brings it closer; returns what it then misses.
    fn polish<T: Real>(
        &mut self,
        map: &impl LinearMap,
        sample: &Sample<'_, T>,
        point: &mut [T],
        before: (f64, f64),
        stack: &mut MemStack,
    ) -> Result<(f64, f64), LinalgError> {
        let (low, high) = (sample.in_range.lower, sample.in_range.upper);
        let at = |row: usize| self.image[row] + self.reached[row];
        let rows = 0..self.image.len();
        let mut gaps: Vec<f64> = rows.clone().map(|i| at(i).clip(self.lower[i], self.upper[i]) - at(i)).collect();
        // What comes this close to its end may not move.
        let near = NEAR_END * before.0;
        let active: Vec<bool> = rows.map(|i| at(i) - self.lower[i] <= near || self.upper[i] - at(i) <= near).collect();
        let free: Vec<bool> = point.iter().map(|v| low < *v && *v < high).collect();
        let change = correction(map, &mut gaps, (&free, &active), stack)?;
        let kept = point.to_vec();
        point.iter_mut().zip(&change).for_each(|(v, d)| *v = sample.in_range.clip(T::from_f64(v.to_f64() + d)));
        let after = self.judge(map, sample, point, stack)?;
        if after.1 < before.1 {
            return Ok(after);
        }
        point.copy_from_slice(&kept);
        self.judge(map, sample, point, stack)
    }
}

/// Roundings that a row may miss while the iteration goes on, and those of the second try, which is as much sharper in all.
const TOLERANCES: [f64; 2] = [16.0, 0.25];
/// A miss of at most so many times what counts as attained is worth a second try.
const NEARLY: f64 = 1e3;
/// Corrections of a point that nearly attains its box.
const POLISHES: usize = 2;
/// Distance of a row to its end that a correction leaves as it is, in units of the largest miss.
const NEAR_END: f64 = 4.0;

fn reverse_sample<T: Real, M: LinearMap>(
    (solver, even): (&mut Solver<'_, M>, Option<&mut Solver<'_, EvenMap<'_, M>>>),
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
    let stack = MemStack::new(memory);
    let map = solver.map;
    let mut solved = None;
    if let Some(even) = even {
        let scales = Some(&*even.map.scales);
        solved = Some(attempts(even, scales, map, wide, (sample, &mut *target), stack)?)
            .filter(|(_, _, missed)| *missed <= 1.0);
    }
    // Boxes out of reach are missed by the least as the outputs are.
    let (solved, mut violation, mut missed) = match solved {
        Some(solved) => solved,
        None => attempts(solver, None, map, wide, (sample, &mut *target), stack)?,
    };
    for _ in 0..POLISHES {
        if !(missed > 1.0 && missed <= NEARLY) {
            break;
        }
        (violation, missed) = wide.polish(map, sample, target.point, (violation, missed), stack)?;
    }
    if let Some(row) = target.point.iter().position(|v| !v.is_finite()) {
        return Err(LinalgError::NonFinite { what: "nearest point in boxes", row, column: index });
    }
    keep(target);
    report.iters = report.iters.max(solved.products);
    report.stopped_early |= !solved.converged;
    report.kkt_max = report.kkt_max.max(solved.residual);
    Ok(Outcome { violation, missed: missed.is_nan() || missed > 1.0 })
}

/// Solves the sample in `wide`, once more and more sharply if that nearly attained its box; returns the solve, the violation
/// and what is missed in units of what counts as attained.
fn attempts<T: Real, M: LinearMap, N: LinearMap>(
    solver: &mut Solver<'_, M>,
    scales: Option<&[f64]>,
    map: &N,
    wide: &mut Wide,
    (sample, target): (&Sample<'_, T>, &mut SampleBox<'_, T>),
    stack: &mut MemStack,
) -> Result<(Solved, f64, f64), LinalgError> {
    let mut attempt = |share: f64| {
        wide.take(sample, scales);
        let solved = solver.solve(&wide.problem(sample, solver.scale, share), stack)?;
        for (point, &v) in target.point.iter_mut().zip(solver.solution()) {
            *point = sample.in_range.clip(T::from_f64(v));
        }
        let (violation, missed) = wide.judge(map, sample, target.point, stack)?;
        Ok((solved, violation, missed))
    };
    let first = attempt(TOLERANCES[0])?;
    if first.2 <= 1.0 || first.2 > NEARLY { Ok(first) } else { attempt(TOLERANCES[1]) }
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
