use std::collections::BTreeMap;

use faer::Mat;
use fbp_linalg::Cholesky;
use rayon::prelude::*;

use super::statistics::Sums;

/// Changes of the weights of every output: `Δ` with `min Σ |r - Δ x̃|² + λ |Δ|²` over the support of each, zero elsewhere.
///
/// Outputs of one support share a factorisation. The result is exactly zero where nothing is missing.
///
/// # Source
/// Golub & Van Loan, *Matrix Computations*, 4th ed., §6.1.4, on the columns of the support.
#[derive(Clone, Debug, Default)]
pub(super) struct Ridge<'a> {
    /// Outputs of every support.
    groups: Vec<(&'a [usize], Vec<usize>)>,
}

/// The rows and columns of a support, with `lambda` added to the diagonal.
pub(super) fn block(gram: &Mat<f64>, support: &[usize], lambda: f64) -> Mat<f64> {
    let mut block = Mat::zeros(support.len(), support.len());
    for (j, &column) in support.iter().enumerate() {
        let (own, all) = (block.col_as_slice_mut(j), gram.col_as_slice(column));
        own.iter_mut().zip(support).for_each(|(value, &row)| *value = all[row]);
        own[j] += lambda;
    }
    block
}

/// Supports that differ, in their order, each with the outputs that have it.
pub(super) fn by_support(supports: &[Vec<usize>]) -> Vec<(&[usize], Vec<usize>)> {
    let mut groups: BTreeMap<&[usize], Vec<usize>> = BTreeMap::new();
    for (output, support) in supports.iter().enumerate() {
        groups.entry(support).or_default().push(output);
    }
    groups.into_iter().collect()
}

/// Dampings to try until a block is positive definite: `lambda`, and five that are ten times the one before.
pub(super) fn dampings(lambda: f64) -> impl Iterator<Item = f64> {
    // Without any input nothing can be missing that could be had.
    let least = if lambda > 0.0 { lambda } else { f64::EPSILON };
    (0..6).map(move |power| least * 10.0_f64.powi(power))
}

impl<'a> Ridge<'a> {
    /// `supports`: the entries of a column that every output has, the constant among them.
    pub(super) fn new(supports: &'a [Vec<usize>]) -> Self {
        Self { groups: by_support(supports) }
    }

    /// A column of changes for every output; none if a block is not positive definite with this damping.
    pub(super) fn solve(&self, sums: &Sums, lambda: f64) -> Option<Mat<f64>> {
        let len = sums.gram.nrows();
        let solve = |(support, outputs): &(&[usize], Vec<usize>)| {
            let right = Mat::from_fn(support.len(), outputs.len(), |i, k| sums.cross[(support[i], outputs[k])]);
            if right.norm_max() == 0.0 {
                return Some(right);
            }
            let factor = Cholesky::new(block(&sums.gram, support, lambda).as_ref())?;
            let found = factor.solve(right.as_ref());
            found.is_all_finite().then_some(found)
        };
        let found: Option<Vec<Mat<f64>>> = self.groups.par_iter().map(solve).collect();
        let mut changes = Mat::zeros(len, sums.cross.ncols());
        for ((support, outputs), found) in self.groups.iter().zip(found?) {
            for (k, &output) in outputs.iter().enumerate() {
                for (i, &entry) in support.iter().enumerate() {
                    changes[(entry, output)] = found[(i, k)];
                }
            }
        }
        Some(changes)
    }
}

/// Shares of the mean diagonal entry that are tried as damping.
const DAMPING: [f64; 5] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1];
/// Damping where no image is left to choose it with.
pub(super) const DEFAULT_DAMPING: f64 = 1e-2;
/// Outputs that choose for all of a layer: a solve for every damping costs as much as the last one.
const CHOOSERS: usize = 16;

/// The damping, as a share of the mean diagonal entry, whose solution on one part of the images misses least on the other.
///
/// # Source
/// Hold-out choice of a ridge parameter: Hastie, Tibshirani & Friedman, *The Elements of Statistical Learning*, 2nd ed., §7.2.
pub(super) fn choose_damping(supports: &[Vec<usize>], inputs: usize, [fit, held]: [&Sums; 2]) -> f64 {
    if held.count == 0 || fit.count == 0 {
        return DEFAULT_DAMPING;
    }
    let step = supports.len().div_ceil(CHOOSERS).max(1);
    let choosers: Vec<usize> = (0..supports.len()).step_by(step).collect();
    let own: Vec<Vec<usize>> = choosers.iter().map(|&output| supports[output].clone()).collect();
    let some = |sums: &Sums| Sums {
        gram: sums.gram.clone(),
        cross: Mat::from_fn(sums.cross.nrows(), choosers.len(), |i, k| sums.cross[(i, choosers[k])]),
        missing: choosers.iter().map(|&output| sums.missing[output]).collect(),
        count: sums.count,
    };
    let (some, judge) = (some(fit), some(held));
    let ridge = Ridge::new(&own);
    let error = |damping: &f64| {
        let changes = ridge.solve(&some, damping * fit.scale(inputs))?;
        Some((*damping, judge.residuals(changes.as_ref()).iter().sum::<f64>()))
    };
    let found = DAMPING.iter().filter_map(error).min_by(|a, b| a.1.total_cmp(&b.1));
    found.map_or(DEFAULT_DAMPING, |(damping, _)| damping)
}

/// The changes with this damping, or with the least more for which all blocks are positive definite.
pub(super) fn solve_damped(supports: &[Vec<usize>], sums: &Sums, lambda: f64) -> Option<Mat<f64>> {
    let ridge = Ridge::new(supports);
    dampings(lambda).find_map(|lambda| ridge.solve(sums, lambda))
}
