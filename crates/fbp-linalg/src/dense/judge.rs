//! Whether the samples of a panel are attained, row by row.

use super::columns::column;
use super::factor::System;
use super::two_gemm::{Temps, TwoGemm};
use crate::Real;
use crate::attained::attained_slack;
use crate::dense::AffineSolve;

/// Columns whose terms are added before it is asked whether they are enough.
const STRIDE: usize = 4;

/// Share of the slack that counts: adding up a row's terms to judge it errs by the rest, at most, with the features in
/// double precision.
pub(super) const SURE: f64 = 15.0 / 16.0;

/// What the judgement knows of the rows beforehand.
#[derive(Clone, Debug)]
pub(super) struct Rows<T> {
    /// Root mean square of the coefficients of every row.
    means: Vec<T>,
    /// Whether the plan knows the bias; otherwise the observed output tells it.
    has_bias: bool,
}

impl<T: Real> Rows<T> {
    pub(super) fn of(system: &System) -> Self {
        let (rows, cols) = system.weight.shape();
        let mut means = vec![0.0_f64; rows];
        for j in 0..cols {
            means.iter_mut().enumerate().for_each(|(i, mean)| *mean += system.weight[(i, j)].powi(2));
        }
        let means = means.into_iter().map(|squares| T::from_f64((squares / cols.max(1) as f64).sqrt())).collect();
        Self { means, has_bias: system.has_bias }
    }
}

/// One sample, as the judgement sees it.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a, T> {
    pub(super) start: &'a [T],
    pub(super) observed: Option<&'a [T]>,
    pub(super) target: &'a [T],
}

impl<'a, T: Real> Seen<'a, T> {
    pub(super) fn of(pass: &AffineSolve<'a, T>, j: usize) -> Self {
        Self {
            start: column(pass.observed_in, j),
            observed: pass.observed_out.map(|out| column(out, j)),
            target: column(pass.target, j),
        }
    }
}

/// Target less output of a row, and the sum of the magnitudes of its terms.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowState {
    pub(super) rest: f64,
    pub(super) scale: f64,
}

impl<T: Real> TwoGemm<T> {
    /// Terms of a row: its coefficients and the bias.
    pub(super) fn terms(&self) -> usize {
        self.weight.ncols() + 1
    }

    /// Judges every sample, tries again where that may help, and returns how many stay unattained.
    pub(super) fn settle(&self, pass: &mut AffineSolve<'_, T>, temps: &mut Temps<'_, T>) -> usize {
        let (arch, mut next, mut unattained) = (pulp::Arch::new(), 0, 0);
        while let Some(missed) = arch.dispatch(Judge { plan: self, pass, temps, next }) {
            unattained += usize::from(!self.try_again(pass, temps, missed));
            next = missed + 1;
        }
        unattained
    }

    /// Whether row `i` is met, from its terms in double precision.
    #[inline(never)]
    fn is_met(&self, i: usize, solution: &[T], seen: Seen<'_, T>) -> bool {
        let bias = self.bias_of(i, seen);
        let (mut image, mut scale) = (bias, bias.abs());
        for (j, v) in solution.iter().enumerate() {
            let term = self.weight[(i, j)].to_f64() * v.to_f64();
            image += term;
            scale += term.abs();
        }
        (seen.target[i].to_f64() - image).abs() <= SURE * attained_slack::<T>(self.terms(), scale)
    }

    /// Bias of a row: the plan's, or what the observed output says it is.
    pub(super) fn bias_of(&self, i: usize, seen: Seen<'_, T>) -> f64 {
        match seen.observed {
            Some(observed) if !self.rows.has_bias => {
                let terms = seen.start.iter().enumerate().map(|(j, v)| self.weight[(i, j)].to_f64() * v.to_f64());
                observed[i].to_f64() - terms.sum::<f64>()
            }
            _ => self.bias[i].to_f64(),
        }
    }
}

/// Rows that are compared together.
const LANES: usize = 8;

/// Share of `ε √k |a_i| |v - v0|/√n`, the rounding of a product, that is added to residuals before they are judged cheaply.
const NOISE: f64 = 0.5;

/// Finds the first sample from `next` on with a row that is not met: cheaply where the target alone shows that a row's
/// scale is large enough.
struct Judge<'a, 'p, 't, T> {
    plan: &'a TwoGemm<T>,
    pass: &'a AffineSolve<'p, T>,
    temps: &'a Temps<'t, T>,
    next: usize,
}

/// Slack per unit of scale, and rounding per unit of a mean coefficient.
#[derive(Clone, Copy)]
struct Shares<T> {
    slack: T,
    noise: T,
}

impl<T: Real> pulp::WithSimd for Judge<'_, '_, '_, T> {
    type Output = Option<usize>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Option<usize> {
        let terms = self.plan.terms();
        let slack = T::from_f64(attained_slack::<T>(terms, 1.0));
        let noise = T::from_f64(NOISE * T::EPSILON.to_f64() * (terms as f64).sqrt());
        // A sample that was met before has nothing left and has not moved.
        (self.next..self.pass.batch()).find(|&j| {
            let length = squares(column(self.temps.moved.as_ref(), j)).sqrt();
            !self.is_met(j, Shares { slack, noise: noise * length })
        })
    }
}

/// `Σ x²`, in the precision of the features.
#[inline(always)]
fn squares<T: Real>(x: &[T]) -> T {
    let mut sums = [T::ZERO; 2 * LANES];
    let (chunks, rest) = x.as_chunks::<{ 2 * LANES }>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, &x)| *sum += x * x);
    }
    rest.iter().fold(sums.into_iter().sum(), |sum: T, &x| sum + x * x)
}

impl<T: Real> Judge<'_, '_, '_, T> {
    /// Whether every row of sample `j` is met.
    #[inline(always)]
    fn is_met(&self, j: usize, shares: Shares<T>) -> bool {
        let (rests, rest) = column(self.temps.rest.as_ref(), j).as_chunks::<LANES>();
        let (targets, target) = column(self.pass.target, j).as_chunks::<LANES>();
        let (means, mean) = self.plan.rows.means.as_chunks::<LANES>();
        let blocks = rests.iter().zip(targets).zip(means).zip((0..).step_by(LANES));
        for (((rest, target), mean), start) in blocks {
            if !self.is_block_met((j, start), (rest, target, mean), shares) {
                return false;
            }
        }
        self.is_block_met((j, rests.len() * LANES), (rest, target, mean), shares)
    }

    /// Whether up to [`LANES`] rows are met, from row `start` on.
    #[inline(always)]
    fn is_block_met(&self, at: (usize, usize), (rest, target, mean): (&[T], &[T], &[T]), shares: Shares<T>) -> bool {
        let mut needed = [T::ZERO; LANES];
        let mut met = true;
        let rows = needed.iter_mut().zip(rest).zip(target).zip(mean);
        for (((needed, &rest), &target), &mean) in rows {
            // Twice, so that what comes near the limit is measured exactly.
            *needed = rest.abs() + rest.abs() + shares.noise * mean;
            // The terms of a row add up to at least its output. False for NaN.
            met &= *needed <= shares.slack * (target - rest).abs();
        }
        met || self.is_block_large_enough(at, rest.len(), &needed, shares.slack) || self.is_each_met(at, rest.len())
    }

    /// Whether the terms of the rows add up to what they need, asked after every few columns.
    #[inline(always)]
    fn is_block_large_enough(&self, (j, start): (usize, usize), rows: usize, needed: &[T; LANES], slack: T) -> bool {
        let mut scale = [T::ZERO; LANES];
        let solution = column(self.pass.solution.as_ref(), j);
        for (columns, values) in (0..).step_by(STRIDE).zip(solution.chunks(STRIDE)) {
            for (k, &v) in (columns..).zip(values) {
                let coefficients = &column(self.plan.weight.as_ref(), k)[start..start + rows];
                for (scale, &a) in scale.iter_mut().zip(coefficients) {
                    *scale += (a * v).abs();
                }
            }
            if needed.iter().zip(&scale).fold(true, |met, (&needed, &scale)| met & (needed <= slack * scale)) {
                return true;
            }
        }
        false
    }

    /// Whether the rows are met one by one, which is rarely in doubt.
    #[inline(never)]
    fn is_each_met(&self, (j, start): (usize, usize), rows: usize) -> bool {
        let (solution, seen) = (column(self.pass.solution.as_ref(), j), Seen::of(self.pass, j));
        (start..start + rows).all(|i| self.plan.is_met(i, solution, seen))
    }
}
