//! Batched alternating direction method of multipliers: cheap multipliers for the dual solver to start from.
//!
//! With `d = v - v0` the problem is `min ½|d|²` with `d` in a box and `A d` in a box. Splitting both boxes off,
//! every iteration solves `((1+ρ₁) I + ρ₂ AᵀA) x = ρ₁ q + ρ₂ Aᵀ s` for the whole batch. By the push-through identity
//! this takes three products, because `A x` comes for free:
//!
//! ```text
//! p = H ((1+ρ₁) s - ρ₁ A q),   x = (ρ₁ q + Aᵀ p) / (1+ρ₁),   A x = s - p/ρ₂,   H = ((1+ρ₁)/ρ₂ I + A Aᵀ)⁻¹
//! ```
//!
//! # Source
//! Boyd et al., *Distributed Optimization and Statistical Learning via the Alternating Direction Method of
//! Multipliers* (2011), §3 and §5; over-relaxation §3.4.3. The free product `A x` is an own derivation.

use faer::dyn_stack::{MemStack, StackReq};
use faer::linalg::matmul::matmul;
use faer::linalg::{temp_mat_scratch, temp_mat_zeroed};
use faer::mat::AsMatMut;
use faer::prelude::Solve;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};

use super::plan::BoxedPass;
use crate::{LinalgError, Real};

/// Weight ρ₁ of the bounds of `v`, relative to that of `|d|²`.
const BOUND_WEIGHT: f64 = 1.0;
/// Over-relaxation, in (1, 2).
const RELAXATION: f64 = 1.6;
/// Iterations per batch.
const ITERATIONS: usize = 40;

/// The factorised iteration for one matrix.
#[derive(Clone, Debug)]
pub(super) struct AdmmPlan<T> {
    /// The matrix, its rows scaled.
    a: Mat<T>,
    /// What rows and outputs are multiplied with.
    scales: Vec<T>,
    /// `H`, symmetric.
    inverse: Mat<T>,
    /// ρ₂: makes the rows as heavy as the unknowns.
    row_weight: f64,
}

impl<T: Real> AdmmPlan<T> {
    /// The plan for a matrix whose rows have been multiplied with `scales`.
    pub(super) fn new(a: MatRef<'_, f64>, scales: Vec<T>) -> Result<Self, LinalgError> {
        let (m, _) = a.shape();
        let mean = a.squared_norm_l2() / m.max(1) as f64;
        let row_weight = if mean > 0.0 { 1.0 / mean } else { 1.0 };
        let mut gram = a * a.transpose();
        for i in 0..m {
            gram[(i, i)] += (1.0 + BOUND_WEIGHT) / row_weight;
        }
        let factor = gram
            .llt(Side::Lower)
            .map_err(|error| LinalgError::Decomposition { what: "boxed: ADMM", reason: format!("{error:?}") })?;
        let inverse = factor.solve(Mat::<f64>::identity(m, m));
        let narrow = |wide: MatRef<'_, f64>| Mat::from_fn(wide.nrows(), wide.ncols(), |i, j| T::from_f64(wide[(i, j)]));
        Ok(Self { a: narrow(a), scales, inverse: narrow(inverse.as_ref()), row_weight })
    }

    /// Writes estimates of the multipliers `λ` (`m × N`) of every sample, those of the scaled rows.
    pub(super) fn multipliers(
        &self,
        pass: &BoxedPass<'_, T>,
        mut lambda: MatMut<'_, T>,
        par: Par,
        stack: &mut MemStack,
    ) {
        let (m, n) = self.a.shape();
        let batch = pass.observed_in.ncols();
        let (mut image, stack) = temp_mat_zeroed::<T, _, _>(m, batch, stack); // A x
        let (mut split_image, stack) = temp_mat_zeroed::<T, _, _>(m, batch, stack); // z2
        let (mut push, stack) = temp_mat_zeroed::<T, _, _>(m, batch, stack); // p
        let (mut weighted, stack) = temp_mat_zeroed::<T, _, _>(m, batch, stack); // (1+ρ₁) s - ρ₁ A q
        let (mut moved, stack) = temp_mat_zeroed::<T, _, _>(n, batch, stack); // x
        let (mut split, stack) = temp_mat_zeroed::<T, _, _>(n, batch, stack); // z1
        let (mut bound_dual, _) = temp_mat_zeroed::<T, _, _>(n, batch, stack); // y1
        let (mut image, mut split_image) = (image.as_mat_mut(), split_image.as_mat_mut());
        let (mut push, mut weighted) = (push.as_mat_mut(), weighted.as_mat_mut());
        let (mut moved, mut split) = (moved.as_mat_mut(), split.as_mat_mut());
        let mut bound_dual = bound_dual.as_mat_mut();
        let heavy = T::from_f64(1.0 + BOUND_WEIGHT);
        let bound = T::from_f64(BOUND_WEIGHT);
        // `lambda` holds y2 until the end.
        lambda.fill(T::ZERO);
        project(pass, self.rows(), split_image.as_mut());
        for _ in 0..ITERATIONS {
            subtract(split.as_ref(), bound_dual.as_ref(), moved.as_mut()); // q
            subtract(split_image.as_ref(), lambda.as_ref(), image.as_mut()); // s
            matmul(weighted.as_mut(), Accum::Replace, self.a.as_ref(), moved.as_ref(), -bound, par); // (m×n)(n×N)
            add_scaled(image.as_ref(), heavy, weighted.as_mut());
            matmul(push.as_mut(), Accum::Replace, self.inverse.as_ref(), weighted.as_ref(), T::ONE, par);
            scale(bound / heavy, moved.as_mut());
            let scaled = T::ONE / heavy;
            matmul(moved.as_mut(), Accum::Add, self.a.transpose(), push.as_ref(), scaled, par); // (n×m)(m×N)
            add_scaled(push.as_ref(), -T::from_f64(1.0 / self.row_weight), image.as_mut());
            relax_and_split(pass, Part::Unknowns, moved.as_ref(), split.as_mut(), bound_dual.as_mut());
            relax_and_split(pass, self.rows(), image.as_ref(), split_image.as_mut(), lambda.as_mut());
        }
        scale(-T::from_f64(self.row_weight), lambda);
    }
}

impl<T> AdmmPlan<T> {
    fn rows(&self) -> Part<'_, T> {
        Part::Rows { scales: &self.scales }
    }
}

/// Workspace of [`AdmmPlan::multipliers`] for an `m × n` matrix and `batch` samples.
pub(super) fn admm_scratch<T: Real>((m, n): (usize, usize), batch: usize) -> StackReq {
    let rows = temp_mat_scratch::<T>(m, batch);
    let cols = temp_mat_scratch::<T>(n, batch);
    StackReq::all_of(&[rows, rows, rows, rows, cols, cols, cols])
}

/// Which of the two boxes.
#[derive(Clone, Copy)]
enum Part<'a, T> {
    Unknowns,
    Rows { scales: &'a [T] },
}

/// Nearest point of the box of `part`, in terms of the correction, to every entry.
fn project<T: Real>(pass: &BoxedPass<'_, T>, part: Part<'_, T>, mut values: MatMut<'_, T>) {
    for j in 0..values.ncols() {
        for i in 0..values.nrows() {
            let (low, high) = ends(pass, part, i, j);
            values[(i, j)] = values[(i, j)].clip(low, high);
        }
    }
}

#[inline(always)]
fn ends<T: Real>(pass: &BoxedPass<'_, T>, part: Part<'_, T>, i: usize, j: usize) -> (T, T) {
    match part {
        Part::Unknowns => {
            let start = pass.observed_in[(i, j)];
            (pass.bounds.0 - start, pass.bounds.1 - start)
        }
        Part::Rows { scales } => {
            let start = pass.observed_out[(i, j)];
            (scales[i] * (pass.lower[(i, j)] - start), scales[i] * (pass.upper[(i, j)] - start))
        }
    }
}

/// `h = α x + (1-α) z`, `z <- clip(h + y)`, `y <- y + h - z`.
fn relax_and_split<T: Real>(
    pass: &BoxedPass<'_, T>,
    part: Part<'_, T>,
    x: MatRef<'_, T>,
    mut z: MatMut<'_, T>,
    mut y: MatMut<'_, T>,
) {
    let (alpha, rest) = (T::from_f64(RELAXATION), T::from_f64(1.0 - RELAXATION));
    for j in 0..x.ncols() {
        for i in 0..x.nrows() {
            let (low, high) = ends(pass, part, i, j);
            let shifted = alpha * x[(i, j)] + rest * z[(i, j)] + y[(i, j)];
            let split = shifted.clip(low, high);
            z[(i, j)] = split;
            y[(i, j)] = shifted - split;
        }
    }
}

fn subtract<T: Real>(a: MatRef<'_, T>, b: MatRef<'_, T>, out: MatMut<'_, T>) {
    faer::zip!(out, a, b).for_each(|faer::unzip!(out, a, b)| *out = *a - *b);
}

fn add_scaled<T: Real>(a: MatRef<'_, T>, factor: T, out: MatMut<'_, T>) {
    faer::zip!(out, a).for_each(|faer::unzip!(out, a)| *out += factor * *a);
}

fn scale<T: Real>(factor: T, out: MatMut<'_, T>) {
    faer::zip!(out).for_each(|faer::unzip!(out)| *out *= factor);
}
