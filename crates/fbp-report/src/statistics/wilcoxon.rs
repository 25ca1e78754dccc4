use statrs::distribution::{ContinuousCDF, Normal};

use super::doubled_ranks;

/// Up to this many differences that are not zero, the test enumerates the distribution exactly.
pub const EXACT_PAIRS: usize = 25;

/// p-value of the one-sided Wilcoxon signed-rank test that differences are *greater* than zero.
///
/// Zeros are left out, and equal sizes share the mean of their ranks. With up to [`EXACT_PAIRS`] differences left it is
/// the exact probability, over all assignments of signs, that the ranks of the positive ones sum up to what was
/// observed or more; ties are then no problem either. Above, the normal approximation with corrections for ties and
/// continuity. `None` if no difference is left.
///
/// # Source
/// Wilcoxon, "Individual comparisons by ranking methods", Biometrics 1 (1945); distribution by the recursion of
/// Mann & Whitney; correction for ties: Lehmann, *Nonparametrics*, 1975, §3.2.
pub fn wilcoxon_greater(differences: &[f64]) -> Option<f64> {
    let differences: Vec<f64> = differences.iter().copied().filter(|&difference| difference != 0.0).collect();
    if differences.is_empty() || differences.iter().any(|difference| difference.is_nan()) {
        return None;
    }
    let sizes: Vec<f64> = differences.iter().map(|difference| difference.abs()).collect();
    let ranks = doubled_ranks(&sizes);
    let positive = differences.iter().zip(&ranks).filter(|(difference, _)| **difference > 0.0);
    let statistic: usize = positive.map(|(_, rank)| rank).sum();
    if ranks.len() <= EXACT_PAIRS { Some(exact(&ranks, statistic)) } else { Some(approximate(&ranks, statistic)) }
}

/// Share of the `2ⁿ` assignments of signs whose positive (doubled) ranks sum up to `statistic` or more.
fn exact(ranks: &[usize], statistic: usize) -> f64 {
    let total: usize = ranks.iter().sum();
    // counts[s]: assignments with sum s; at most 2²⁵, which is exact.
    let mut counts = vec![0_u64; total + 1];
    counts[0] = 1;
    let mut reached = 0;
    for &rank in ranks {
        for sum in (0..=reached).rev() {
            counts[sum + rank] += counts[sum];
        }
        reached += rank;
    }
    let above: u64 = counts[statistic..].iter().sum();
    above as f64 / (1_u64 << ranks.len()) as f64
}

fn approximate(ranks: &[usize], statistic: usize) -> f64 {
    let n = ranks.len() as f64;
    let mean = n * (n + 1.0) / 4.0;
    // Var = Σ rank² / 4 with the mean ranks of ties, which contains the correction for them.
    let variance: f64 = ranks.iter().map(|&rank| (rank as f64 / 2.0).powi(2)).sum::<f64>() / 4.0;
    let excess = statistic as f64 / 2.0 - mean;
    // The sum moves in steps of one: half a step towards the mean.
    Normal::standard().sf((excess - 0.5) / variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_samples_have_the_probabilities_of_published_tables() {
        // Wilcoxon 1945, table II, and later ones: P(W+ >= 15 | n = 5) = 1/32, P(W- <= 3 | n = 8) = 5/256,
        // P(W- <= 8 | n = 10) = 25/1024.
        assert_eq!(wilcoxon_greater(&[1.0, 2.0, 3.0, 4.0, 5.0]), Some(1.0 / 32.0));
        assert_eq!(wilcoxon_greater(&[1.0, 2.0, -3.0, 4.0, 5.0, 6.0, 7.0, 8.0]), Some(5.0 / 256.0));
        let ten = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, 9.0, 10.0];
        assert_eq!(wilcoxon_greater(&ten), Some(25.0 / 1024.0));
        // The other way round: all but the assignments whose sum is below 8.
        assert_eq!(wilcoxon_greater(&ten.map(|x| -x)), Some(1.0 - count_below(10, 8) / 1024.0));
    }

    /// Number of assignments of `1..=n` whose sum is below `limit`, one by one.
    fn count_below(n: u32, limit: u32) -> f64 {
        let sum = |signs: u32| (0..n).filter(|k| signs >> k & 1 == 1).map(|k| k + 1).sum::<u32>();
        (0..1_u32 << n).filter(|&signs| sum(signs) < limit).count() as f64
    }

    #[test]
    fn darwins_maize_has_the_published_value() {
        // R: wilcox.test(d): V = 96, two-sided p = 0.04126; no two sizes are equal.
        let d = [49., -67., 8., 16., 6., 23., 28., 41., 14., 29., 56., 24., 75., 60., -48.];
        assert!((wilcoxon_greater(&d).unwrap() - 0.020_63).abs() < 5e-6);
    }

    #[test]
    fn ties_and_zeros_are_enumerated_by_hand() {
        // Sizes 1, 1, 2 have ranks 1.5, 1.5, 3; signs +, -, +: the sum is 4.5. Of eight assignments the sums are
        // 0, 1.5, 1.5, 3, 3, 4.5, 4.5, 6: three are at least 4.5.
        assert_eq!(wilcoxon_greater(&[1.0, -1.0, 2.0]), Some(3.0 / 8.0));
        assert_eq!(wilcoxon_greater(&[1.0, 0.0, -1.0, 0.0, 2.0]), Some(3.0 / 8.0));
        assert_eq!(wilcoxon_greater(&[0.0, 0.0]), None);
        assert_eq!(wilcoxon_greater(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn the_approximation_meets_the_exact_value() {
        let differences: Vec<f64> = (1..=25).map(|k| if k % 3 == 0 { -f64::from(k) } else { f64::from(k) }).collect();
        let ranks = doubled_ranks(&differences.iter().map(|d| d.abs()).collect::<Vec<_>>());
        let statistic = differences.iter().zip(&ranks).filter(|(d, _)| **d > 0.0).map(|(_, rank)| rank).sum();
        let (exact, approximate) = (exact(&ranks, statistic), approximate(&ranks, statistic));
        assert!((exact - approximate).abs() < 2e-3, "{exact} {approximate}");
        let many: Vec<f64> = (1..=40).map(|k| if k % 4 == 0 { -f64::from(k) } else { f64::from(k) }).collect();
        // n = 40, W+ = 820 - 220 = 600: mean 410, variance 40·41·81/24 = 5535, z = 189.5 / 74.40 = 2.547.
        assert!((wilcoxon_greater(&many).unwrap() - 0.005_43).abs() < 2e-5);
    }
}
