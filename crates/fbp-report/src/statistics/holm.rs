/// p-values adjusted for the number of questions, in the order given.
///
/// The `i`-th smallest of `m` values becomes the largest of `(m - k + 1) · p_(k)` for `k = 1..i`, at most 1: rejecting
/// what is at or below 5 % then errs, over the whole table, in at most 5 % of all tables. NaN stays NaN and does not
/// count.
///
/// # Source
/// Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&index| !p[index].is_nan()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![f64::NAN; p.len()];
    let mut largest = 0.0_f64;
    for (rank, &index) in order.iter().enumerate() {
        largest = largest.max((order.len() - rank) as f64 * p[index]).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_step_down_procedure() {
        // By hand: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 1 · 0.04, which may not fall below the one before it.
        let close = |found: Vec<f64>, expected: &[f64]| {
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{found:?}");
        };
        close(holm(&[0.01, 0.04, 0.03, 0.005]), &[0.03, 0.06, 0.06, 0.02]);
        close(holm(&[0.9, 0.8]), &[1.0, 1.0]);
        close(holm(&[]), &[]);
        let with_gap = holm(&[0.02, f64::NAN, 0.5]);
        assert!((with_gap[0] - 0.04).abs() < 1e-15 && with_gap[1].is_nan() && with_gap[2] == 0.5);
    }
}
