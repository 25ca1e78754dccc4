use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{Spread, bootstrap_interval, wilcoxon_greater};

/// What paired differences say about "greater than zero".
///
/// # Units
/// Those of the differences.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedComparison {
    /// Number of differences.
    pub pairs: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, with `n - 1`; none for a single pair.
    pub deviation: Option<f64>,
    /// Bootstrap percentile 95 % interval of the mean; none for a single pair.
    pub interval: Option<[f64; 2]>,
    /// p-value of the one-sided paired t-test; none for a single pair.
    pub p_t: Option<f64>,
    /// p-value of the one-sided Wilcoxon signed-rank test; none if all differences are zero.
    pub p_wilcoxon: Option<f64>,
    /// Cohen's `d_z`, mean over standard deviation; none if there is no spread.
    pub d_z: Option<f64>,
}

impl PairedComparison {
    /// Statistics of some differences; `seed` is that of the bootstrap. `None` without differences.
    ///
    /// # Source
    /// t-test: Student, "The probable error of a mean", Biometrika 6 (1908). `d_z`: Cohen, *Statistical Power Analysis*,
    /// 2nd ed., 1988, §2.3.5.
    pub fn of(differences: &[f64], seed: u64) -> Option<Self> {
        let Spread { mean, deviation } = Spread::of(differences)?;
        let pairs = differences.len();
        Some(Self {
            pairs,
            mean,
            deviation,
            interval: if pairs > 1 { bootstrap_interval(differences, seed) } else { None },
            p_t: deviation.and_then(|deviation| t_greater(mean, deviation, pairs)),
            p_wilcoxon: wilcoxon_greater(differences),
            d_z: deviation.filter(|deviation| *deviation > 0.0).map(|deviation| mean / deviation),
        })
    }

    /// p-value of the two-sided t-test.
    pub fn p_t_two_sided(&self) -> Option<f64> {
        self.p_t.map(|p| 2.0 * p.min(1.0 - p))
    }
}

/// One-sided p-value of `n` differences of the given mean and standard deviation.
fn t_greater(mean: f64, deviation: f64, n: usize) -> Option<f64> {
    if n < 2 {
        return None;
    }
    let t = mean / (deviation / (n as f64).sqrt());
    if t.is_nan() {
        // Neither mean nor spread: nothing speaks for either side.
        return Some(0.5);
    }
    if t.is_infinite() {
        return Some(if t > 0.0 { 0.0 } else { 1.0 });
    }
    StudentsT::new(0.0, 1.0, (n - 1) as f64).ok().map(|distribution| distribution.sf(t))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_sleep_data_give_his_value() {
        // Student 1908 (additional hours of sleep, drug 2 minus drug 1); R: t = 4.0621, df = 9, two-sided p = 0.002833.
        let differences = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4];
        let found = PairedComparison::of(&differences, 0).unwrap();
        assert!((found.mean - 1.58).abs() < 1e-12 && (found.deviation.unwrap() - 1.229_995).abs() < 1e-6);
        assert!((found.p_t.unwrap() - 0.001_416_5).abs() < 5e-7, "{found:?}");
        assert!((found.p_t_two_sided().unwrap() - 0.002_833).abs() < 1e-6);
        assert!((found.d_z.unwrap() - 1.58 / 1.229_995).abs() < 1e-6);
        // Nine differences that are not zero, all positive.
        assert_eq!(found.p_wilcoxon, Some(1.0 / 512.0));
        let [low, high] = found.interval.unwrap();
        assert!(low > 0.8 && high < 2.6 && low < found.mean);
    }

    #[test]
    fn quantiles_of_t_are_the_tabulated_ones() {
        // 97.5 % quantiles: 12.706 with 1, 2.262 with 9, 2.042 with 30 degrees of freedom.
        for (t, df) in [(12.706, 1), (2.262, 9), (2.042, 30)] {
            let n = df + 1;
            let p = t_greater(t, (n as f64).sqrt(), n).unwrap();
            assert!((p - 0.025).abs() < 2e-5, "{df}: {p}");
        }
    }

    #[test]
    fn differences_without_spread_and_single_ones_have_answers() {
        let all = |value: f64| PairedComparison::of(&[value; 5], 0).unwrap();
        assert_eq!((all(0.5).p_t, all(-0.5).p_t, all(0.0).p_t), (Some(0.0), Some(1.0), Some(0.5)));
        assert_eq!((all(0.5).d_z, all(0.0).p_wilcoxon), (None, None));
        let one = PairedComparison::of(&[0.2], 0).unwrap();
        assert_eq!((one.pairs, one.p_t, one.p_t_two_sided(), one.interval), (1, None, None, None));
        assert_eq!(PairedComparison::of(&[], 0), None);
    }
}
