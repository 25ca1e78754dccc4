//! Intervals and p-values of paired differences.

use std::f64::consts::PI;

/// Upper 97.5 % points of Student's t with 1, 2, .. degrees of freedom.
const T: [f64; 20] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086,
];

/// Mean of paired differences, and half the width of its 95 % interval; none for a single one.
///
/// # Source
/// Student's t for paired samples.
pub(super) fn interval(differences: &[f64]) -> (f64, Option<f64>) {
    let n = differences.len();
    let mean = differences.iter().sum::<f64>() / n.max(1) as f64;
    if n < 2 {
        return (mean, None);
    }
    let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    // Beyond the table the last entry is a little too wide.
    let quantile = T[(n - 2).min(T.len() - 1)];
    (mean, Some(quantile * (variance / n as f64).sqrt()))
}

/// Two-sided p-value of Student's t for paired samples; none for a single pair.
///
/// # Source
/// Abramowitz & Stegun, 26.7.3 and 26.7.4: sums for whole degrees of freedom.
pub(super) fn p_value(differences: &[f64]) -> Option<f64> {
    let n = differences.len();
    if n < 2 {
        return None;
    }
    let mean = differences.iter().sum::<f64>() / n as f64;
    let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    if variance == 0.0 {
        return Some(if mean == 0.0 { 1.0 } else { 0.0 });
    }
    let (freedom, t) = (n - 1, mean.abs() / (variance / n as f64).sqrt());
    let angle = (t / (freedom as f64).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    // 1 + (a/b) cos² + (a/b)((a+2)/(b+2)) cos⁴ + ..
    let sum = |first: f64, terms: usize| {
        let (mut term, mut sum) = (1.0, 1.0);
        for k in 1..terms {
            let top = first + 2.0 * (k - 1) as f64;
            term *= top / (top + 1.0) * cosine * cosine;
            sum += term;
        }
        sum
    };
    let inside = match freedom {
        1 => 2.0 * angle / PI,
        odd if odd % 2 == 1 => 2.0 / PI * (angle + sine * cosine * sum(2.0, (odd - 1) / 2)),
        even => sine * sum(1.0, even / 2),
    };
    Some((1.0 - inside).clamp(0.0, 1.0))
}

/// Holm's adjustment of the p-values of one family.
///
/// # Source
/// Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
pub(super) fn holm(values: &[f64]) -> Vec<f64> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let (mut adjusted, mut least) = (vec![0.0; values.len()], 0.0_f64);
    for (rank, place) in places.into_iter().enumerate() {
        least = least.max((values.len() - rank) as f64 * values[place]).min(1.0);
        adjusted[place] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_student() {
        assert_eq!(interval(&[1.5]), (1.5, None));
        let (mean, half) = interval(&[1.0, 2.0, 3.0]);
        // A deviation of 1 over the root of 3, times the quantile of 2 degrees of freedom.
        assert_eq!(mean, 2.0);
        assert!((half.unwrap() - 4.303 / 3.0_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn p_values_are_those_of_student() {
        // Tables of Student's t: the two-sided 5 % points of 1, 2, 3, 4, 5 and 10 degrees of freedom.
        for (freedom, t) in [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228)] {
            // Differences with mean m and the deviation that makes t of them.
            let n = freedom + 1;
            let spread: Vec<f64> = (0..n).map(|k| k as f64 - 0.5 * freedom as f64).collect();
            let variance = spread.iter().map(|d| d * d).sum::<f64>() / freedom as f64;
            let mean = t * (variance / n as f64).sqrt();
            let p = p_value(&spread.iter().map(|d| d + mean).collect::<Vec<_>>()).unwrap();
            assert!((p - 0.05).abs() < 1e-4, "{freedom}: {p}");
        }
        assert_eq!(p_value(&[1.0]), None);
        assert_eq!((p_value(&[0.0, 0.0]), p_value(&[1.0, 1.0])), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn holm_multiplies_by_what_is_left_and_never_falls() {
        // 0.01 · 3, 0.03 · 2, and 0.04 · 1, which is less than the one before.
        let found = holm(&[0.04, 0.01, 0.03]);
        assert!(
            found.iter().zip([0.06, 0.03, 0.06]).all(|(found, wanted)| (found - wanted).abs() < 1e-12),
            "{found:?}"
        );
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }
}
