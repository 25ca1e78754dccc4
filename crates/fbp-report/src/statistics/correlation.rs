use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::bootstrap::quantile;
use super::{Spread, doubled_ranks};

/// Resamples of a bootstrap; a correlation is dearer than a mean.
const RESAMPLES: usize = 2_000;

/// Pearson's correlation of pairs; `None` with fewer than two pairs, or if one side is constant.
///
/// # Panics
/// If the two lists differ in length.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "correlation: lists of different lengths");
    let (mean_x, mean_y) = (Spread::of(x)?.mean, Spread::of(y)?.mean);
    let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(x, y)| f(x - mean_x, y - mean_y)).sum::<f64>();
    let (squares_x, squares_y) = (sum(&|x, _| x * x), sum(&|_, y| y * y));
    let scale = (squares_x * squares_y).sqrt();
    (scale > 0.0).then(|| (sum(&|x, y| x * y) / scale).clamp(-1.0, 1.0))
}

/// Spearman's rank correlation of pairs, ties at their mean rank; `None` as for [`pearson`].
///
/// # Panics
/// If the two lists differ in length.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    let ranks = |values: &[f64]| doubled_ranks(values).into_iter().map(|rank| rank as f64).collect::<Vec<_>>();
    pearson(&ranks(x), &ranks(y))
}

/// How closely two quantities go together, with bootstrap percentile 95 % intervals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Correlation {
    /// Number of pairs.
    pub pairs: usize,
    /// Pearson's correlation; none with fewer than two pairs or if one side is constant.
    pub pearson: Option<f64>,
    /// Its interval; none with fewer than three pairs.
    pub pearson_interval: Option<[f64; 2]>,
    /// Spearman's rank correlation.
    pub spearman: Option<f64>,
    /// Its interval.
    pub spearman_interval: Option<[f64; 2]>,
}

impl Correlation {
    /// Both correlations of pairs. The pairs are drawn with replacement, 2,000 times; equal values and seeds give equal
    /// intervals. Resamples in which a side is constant are left out, and if they are the majority there is no interval.
    ///
    /// # Panics
    /// If the two lists differ in length.
    ///
    /// # Source
    /// Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, §13.3.
    pub fn of(x: &[f64], y: &[f64], seed: u64) -> Self {
        let intervals = if x.len() < 3 { [None; 2] } else { intervals(x, y, seed) };
        Self {
            pairs: x.len(),
            pearson: pearson(x, y),
            pearson_interval: intervals[0],
            spearman: spearman(x, y),
            spearman_interval: intervals[1],
        }
    }
}

/// Intervals of Pearson's and of Spearman's correlation.
fn intervals(x: &[f64], y: &[f64], seed: u64) -> [Option<[f64; 2]>; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let orders = [x, y].map(order);
    let mut weights = vec![0_u32; x.len()];
    let mut found = [Vec::new(), Vec::new()];
    for _ in 0..RESAMPLES {
        // A resample is how often it holds each pair.
        weights.fill(0);
        (0..x.len()).for_each(|_| weights[rng.random_range(0..x.len())] += 1);
        found[0].extend(weighted_pearson(x, y, &weights));
        let [x, y] = [0, 1].map(|side| weighted_ranks([x, y][side], &orders[side], &weights));
        found[1].extend(weighted_pearson(&x, &y, &weights));
    }
    found.map(|mut values| {
        values.sort_by(f64::total_cmp);
        (2 * values.len() > RESAMPLES).then(|| [0.025, 0.975].map(|share| quantile(&values, share)))
    })
}

/// Positions of the values in ascending order.
fn order(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order
}

/// Mean ranks in a list that holds value `i` `weights[i]` times, doubled.
fn weighted_ranks(values: &[f64], order: &[usize], weights: &[u32]) -> Vec<f64> {
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let count: u32 = tied.iter().map(|&index| weights[index]).sum();
        tied.iter().for_each(|&index| ranks[index] = f64::from(2 * start + count + 1));
        start += count;
    }
    ranks
}

/// Pearson's correlation of a list that holds pair `i` `weights[i]` times; none if a side is constant.
fn weighted_pearson(x: &[f64], y: &[f64], weights: &[u32]) -> Option<f64> {
    let sum = |f: &dyn Fn(usize) -> f64| (0..x.len()).map(|i| f64::from(weights[i]) * f(i)).sum::<f64>();
    let n = sum(&|_| 1.0);
    let (mean_x, mean_y) = (sum(&|i| x[i]) / n, sum(&|i| y[i]) / n);
    let squares = |values: &[f64], mean: f64| sum(&|i| (values[i] - mean).powi(2));
    // Rounding leaves a constant side with a spread of that size.
    let spread = |values: &[f64], mean: f64| {
        let found = squares(values, mean);
        (found > n * (8.0 * f64::EPSILON * mean).powi(2)).then_some(found)
    };
    let scale = (spread(x, mean_x)? * spread(y, mean_y)?).sqrt();
    (scale > 0.0).then(|| (sum(&|i| (x[i] - mean_x) * (y[i] - mean_y)) / scale).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worked_example_and_its_ranks() {
        // By hand: deviations (-2, -1, 0, 1, 2) and (-1.8, -0.8, -0.8, 1.2, 2.2): 10 / √(10 · 10.8).
        let (x, y) = ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 2.0, 4.0, 5.0]);
        assert!((pearson(&x, &y).unwrap() - 10.0 / 108.0_f64.sqrt()).abs() < 1e-12);
        // Ranks of y: 1, 2.5, 2.5, 4, 5: 9.5 / √(10 · 9.5).
        assert!((spearman(&x, &y).unwrap() - 9.5 / 95.0_f64.sqrt()).abs() < 1e-12);
        let exponential = x.map(f64::exp);
        assert_eq!(spearman(&x, &exponential), Some(1.0));
        assert_eq!((pearson(&x, &[3.0; 5]), pearson(&[1.0], &[1.0]), pearson(&[], &[])), (None, None, None));
    }

    #[test]
    fn weights_stand_for_repeated_pairs() {
        let (x, y) = ([1.0, 2.0, 2.0, 5.0], [3.0, 1.0, 4.0, 4.0]);
        let weights = [2, 0, 1, 3];
        let repeat = |values: &[f64]| -> Vec<f64> {
            values.iter().zip(weights).flat_map(|(&v, n)| std::iter::repeat_n(v, n as usize)).collect()
        };
        let close = |a: Option<f64>, b: Option<f64>| (a.unwrap() - b.unwrap()).abs() < 1e-12;
        assert!(close(weighted_pearson(&x, &y, &weights), pearson(&repeat(&x), &repeat(&y))));
        let ranks = [x, y].map(|values| weighted_ranks(&values, &order(&values), &weights));
        assert!(close(weighted_pearson(&ranks[0], &ranks[1], &weights), spearman(&repeat(&x), &repeat(&y))));
        assert_eq!(weighted_pearson(&[0.1; 3], &[1.0, 2.0, 3.0], &[1, 1, 1]), None);
    }

    #[test]
    fn intervals_hold_the_truth_and_follow_the_seed() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        // y = x + noise of the same spread: the correlation is 1 / √2.
        let x: Vec<f64> = (0..400).map(|_| rng.random::<f64>()).collect();
        let y: Vec<f64> = x.iter().map(|x| x + rng.random::<f64>()).collect();
        let found = Correlation::of(&x, &y, 1);
        let [low, high] = found.pearson_interval.unwrap();
        assert!(low < 0.5f64.sqrt() && 0.5f64.sqrt() < high && high - low < 0.15, "{found:?}");
        let [low, high] = found.spearman_interval.unwrap();
        assert!(low < found.spearman.unwrap() && found.spearman.unwrap() < high, "{found:?}");
        assert_eq!(found, Correlation::of(&x, &y, 1));
        assert_ne!(found, Correlation::of(&x, &y, 2));
        let constant = Correlation::of(&[1.0; 5], &[1.0, 2.0, 3.0, 4.0, 5.0], 0);
        assert_eq!((constant.pearson, constant.pearson_interval, constant.spearman_interval), (None, None, None));
        assert_eq!(Correlation::of(&[1.0, 2.0], &[1.0, 3.0], 0).pearson_interval, None);
        assert_eq!(Correlation::of(&[], &[], 0), Correlation::default());
    }
}
