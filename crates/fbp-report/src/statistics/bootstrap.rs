use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Samples drawn with replacement.
const RESAMPLES: usize = 10_000;

/// Seed of every bootstrap of this crate: equal records give equal reports.
pub const BOOTSTRAP_SEED: u64 = 0;

/// Percentile bootstrap interval of the mean: between the 2.5 % and the 97.5 % quantile of the means of 10,000 samples
/// drawn with replacement. Equal values and seeds give equal intervals. `None` without values.
///
/// # Source
/// Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, §13.3; quantiles interpolated as in Hyndman & Fan,
/// Amer. Statist. 50 (1996), definition 7.
pub fn bootstrap_interval(values: &[f64], seed: u64) -> Option<[f64; 2]> {
    if values.is_empty() {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = values.len();
    let mut means: Vec<f64> =
        (0..RESAMPLES).map(|_| (0..n).map(|_| values[rng.random_range(0..n)]).sum::<f64>() / n as f64).collect();
    means.sort_by(f64::total_cmp);
    Some([0.025, 0.975].map(|share| quantile(&means, share)))
}

/// Quantile of sorted values, interpolated between two neighbours.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let low = place.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (place - low as f64) * (sorted[high] - sorted[low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        // R: quantile(c(1, 2, 4, 8), c(0, 0.25, 0.5, 0.9, 1)) gives 1, 1.75, 3, 6.8, 8.
        for (share, expected) in [(0.0, 1.0), (0.25, 1.75), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)] {
            assert!((quantile(&[1.0, 2.0, 4.0, 8.0], share) - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn interval_of_many_values_is_nearly_the_normal_one() {
        // 0, 1, .., 199: mean 99.5, standard error of the mean 57.73 / √200 = 4.082.
        let values: Vec<f64> = (0..200).map(f64::from).collect();
        let [low, high] = bootstrap_interval(&values, 3).unwrap();
        assert!(
            (low - (99.5 - 1.96 * 4.082)).abs() < 0.3 && (high - (99.5 + 1.96 * 4.082)).abs() < 0.3,
            "{low} {high}"
        );
    }

    #[test]
    fn the_seed_decides_and_equal_values_have_no_spread() {
        let values: Vec<f64> = (0..30).map(|k| f64::from(k).sqrt()).collect();
        assert_eq!(bootstrap_interval(&values, 1), bootstrap_interval(&values, 1));
        assert_ne!(bootstrap_interval(&values, 1), bootstrap_interval(&values, 2));
        assert_eq!(bootstrap_interval(&[0.5; 6], 1), Some([0.5, 0.5]));
        assert_eq!(bootstrap_interval(&[], 1), None);
    }
}
