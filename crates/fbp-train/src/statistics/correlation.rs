use super::{Spread, doubled_ranks};

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
}
