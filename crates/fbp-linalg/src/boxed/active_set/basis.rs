//! The orthonormal basis of the active rows, by Gram-Schmidt twice.

use super::{ActiveSet, DEPENDENT, Side};
use crate::boxed::rows::RowSource;

impl<R: RowSource<f64>> ActiveSet<'_, R> {
    /// Basis of all active rows; drops those that depend on earlier ones.
    pub(super) fn factorise(&mut self) {
        let count = std::mem::take(&mut self.count);
        for k in 0..count {
            let (row, sign, weight) = (self.active[k], self.signs[k], self.weights[k]);
            self.append(row, sign, weight);
        }
    }

    /// Adds a row to the active ones; false if it depends on them.
    pub(super) fn append(&mut self, row: usize, sign: f64, weight: f64) -> bool {
        let (n, k) = (self.sides.len(), self.count);
        if k == self.active.len() {
            return false;
        }
        for ((to, &a), &side) in self.across.iter_mut().zip(self.rows.row(row)).zip(self.sides.iter()) {
            *to = if side == Side::Free { a } else { 0.0 };
        }
        let size = square(self.across).sqrt();
        self.split();
        let rest = square(self.across).sqrt();
        if rest <= DEPENDENT * size || rest == 0.0 {
            return false;
        }
        let rank = self.active.len();
        self.triangle[k * rank..][..k].copy_from_slice(&self.along[..k]);
        self.triangle[k * rank + k] = rest;
        let column = &mut self.basis[k * n..][..n];
        column.iter_mut().zip(self.across.iter()).for_each(|(to, z)| *to = z / rest);
        (self.active[k], self.signs[k], self.weights[k]) = (row, sign, weight);
        self.count += 1;
        true
    }

    /// Splits `across` into its coefficients `along` the basis and what is left.
    pub(super) fn split(&mut self) {
        let n = self.sides.len();
        self.along[..self.count].fill(0.0);
        crate::dispatch(
            #[inline(always)]
            || {
                for _ in 0..2 {
                    for k in 0..self.count {
                        let column = &self.basis[k * n..][..n];
                        let weight = dot(column, self.across);
                        self.along[k] += weight;
                        self.across.iter_mut().zip(column).for_each(|(z, q)| *z -= weight * q);
                    }
                }
            },
        );
        self.operations += 8.0 * (n * self.count) as f64;
    }

    /// `to <- R⁻¹ along` with the triangle `R` of the basis.
    pub(super) fn solve_triangle(&self, along: &[f64], to: &mut [f64]) {
        let rank = self.active.len();
        to[..self.count].copy_from_slice(&along[..self.count]);
        for k in (0..self.count).rev() {
            to[k] /= self.triangle[k * rank + k];
            let weight = to[k];
            for (to, r) in to[..k].iter_mut().zip(&self.triangle[k * rank..]) {
                *to -= weight * r;
            }
        }
    }
}

#[inline(always)]
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let (a_body, a_tail) = a.as_chunks::<LANES>();
    let (b_body, b_tail) = b.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for (a, b) in a_body.iter().zip(b_body) {
        for l in 0..LANES {
            lanes[l] += a[l] * b[l];
        }
    }
    a_tail.iter().zip(b_tail).fold(lanes.into_iter().sum::<f64>(), |sum, (a, b)| sum + a * b)
}

#[inline(always)]
pub(super) fn square(a: &[f64]) -> f64 {
    dot(a, a)
}
