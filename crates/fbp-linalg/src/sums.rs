//! Sums over long vectors in double precision, in a fixed number of parts so that they vectorise: the same on every machine.

use crate::{Real, dispatch};

/// Sums that are kept at a time.
const PARTS: usize = 16;

/// Sum of a term per entry of two slices of the same length.
#[inline(always)]
fn sum<T: Real>(a: &[T], b: &[T], term: impl Fn(T, T) -> f64) -> f64 {
    let (a, a_rest) = a.as_chunks::<PARTS>();
    let (b, b_rest) = b.as_chunks::<PARTS>();
    let mut sums = [0.0; PARTS];
    for (a, b) in a.iter().zip(b) {
        for i in 0..PARTS {
            sums[i] += term(a[i], b[i]);
        }
    }
    for ((sum, &a), &b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum += term(a, b);
    }
    sums.iter().sum()
}

/// Squared Euclidean norm.
///
/// ```
/// assert_eq!(fbp_linalg::norm_sq(&[3.0_f32, 4.0]), 25.0);
/// ```
pub fn norm_sq<T: Real>(values: &[T]) -> f64 {
    dispatch(
        #[inline(always)]
        || sum(values, values, |v, _| v.to_f64() * v.to_f64()),
    )
}

/// Squared Euclidean distance of two vectors; entries that only one of them has count for nothing. Differences are rounded to the
/// scalar.
pub fn distance_sq<T: Real>(a: &[T], b: &[T]) -> f64 {
    dispatch(
        #[inline(always)]
        || {
            sum(a, b, |a, b| {
                let step = (a - b).to_f64();
                step * step
            })
        },
    )
}

/// `gᵀ(a - b)`; entries that not all of them have count for nothing. Differences are rounded to the scalar.
pub fn slope_along<T: Real>(g: &[T], a: &[T], b: &[T]) -> f64 {
    dispatch(
        #[inline(always)]
        || {
            let (g, g_rest) = g.as_chunks::<PARTS>();
            let (a, a_rest) = a.as_chunks::<PARTS>();
            let (b, b_rest) = b.as_chunks::<PARTS>();
            let mut sums = [0.0; PARTS];
            for ((g, a), b) in g.iter().zip(a).zip(b) {
                for i in 0..PARTS {
                    sums[i] += g[i].to_f64() * (a[i] - b[i]).to_f64();
                }
            }
            for (((sum, &g), &a), &b) in sums.iter_mut().zip(g_rest).zip(a_rest).zip(b_rest) {
                *sum += g.to_f64() * (a - b).to_f64();
            }
            sums.iter().sum()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_plain_loops() {
        for len in [0, 1, 15, 16, 17, 100] {
            let values = |step: f64| (0..len).map(move |i| (step * i as f64).sin()).collect::<Vec<f64>>();
            let [g, a, b] = [0.3, 0.7, 1.1].map(values);
            let plain = |term: &dyn Fn(usize) -> f64| (0..len).map(term).sum::<f64>();
            let tolerance = 4.0 * len as f64 * f64::EPSILON * len.max(1) as f64;
            let is_near = |found: f64, wanted: f64| assert!((found - wanted).abs() <= tolerance, "{found} {wanted}");
            is_near(norm_sq(&a), plain(&|i| a[i] * a[i]));
            is_near(distance_sq(&a, &b), plain(&|i| (a[i] - b[i]) * (a[i] - b[i])));
            is_near(slope_along(&g, &a, &b), plain(&|i| g[i] * (a[i] - b[i])));
        }
    }
}
