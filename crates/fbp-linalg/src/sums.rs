//! Sums over long vectors in double precision, in a fixed number of parts so that they vectorise: the same on every machine.

use crate::{Real, dispatch};

/// Sums that are kept at a time.
const PARTS: usize = 16;

/// Sum of a term per entry of three slices, as far as all of them go.
#[inline(always)]
fn sum<T: Real>([a, b, c]: [&[T]; 3], term: impl Fn(T, T, T) -> f64) -> f64 {
    let len = a.len().min(b.len()).min(c.len());
    let ([a, a_rest], [b, b_rest], [c, c_rest]) = (parts(&a[..len]), parts(&b[..len]), parts(&c[..len]));
    let mut sums = [0.0; PARTS];
    for ((a, b), c) in a.chunks_exact(PARTS).zip(b.chunks_exact(PARTS)).zip(c.chunks_exact(PARTS)) {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += term(a[i], b[i], c[i]);
        }
    }
    for (((sum, &a), &b), &c) in sums.iter_mut().zip(a_rest).zip(b_rest).zip(c_rest) {
        *sum += term(a, b, c);
    }
    sums.iter().sum()
}

/// What fills whole parts of a slice, and the rest.
#[inline(always)]
fn parts<T>(values: &[T]) -> [&[T]; 2] {
    let (whole, rest) = values.split_at(values.len() / PARTS * PARTS);
    [whole, rest]
}

/// Squared Euclidean norm `|v|²`.
///
/// ```
/// assert_eq!(fbp_linalg::norm_sq(&[3.0_f32, 4.0]), 25.0);
/// ```
pub fn norm_sq<T: Real>(v: &[T]) -> f64 {
    dispatch(
        #[inline(always)]
        || sum([v; 3], |v, _, _| v.to_f64() * v.to_f64()),
    )
}

/// Squared Euclidean distance `|a - b|²` of two vectors, as far as both go. Differences are rounded to the scalar.
///
/// ```
/// assert_eq!(fbp_linalg::distance_sq(&[4.0_f32, 1.0], &[1.0, 5.0]), 25.0);
/// ```
pub fn distance_sq<T: Real>(a: &[T], b: &[T]) -> f64 {
    dispatch(
        #[inline(always)]
        || {
            sum([a, b, b], |a, b, _| {
                let step = (a - b).to_f64();
                step * step
            })
        },
    )
}

/// What a linear function with the gradient `g` changes by from `b` to `a`: `gᵀ(a - b)`, as far as all three go. Differences are
/// rounded to the scalar.
///
/// ```
/// assert_eq!(fbp_linalg::slope_along(&[2.0_f32, -1.0], &[4.0, 1.0], &[1.0, 5.0]), 10.0);
/// ```
pub fn slope_along<T: Real>(g: &[T], a: &[T], b: &[T]) -> f64 {
    dispatch(
        #[inline(always)]
        || sum([g, a, b], |g, a, b| g.to_f64() * (a - b).to_f64()),
    )
}

/// Squared Euclidean distance of a point to a box, as far as all three slices go; infinite if an entry of the point is NaN, or infinite
/// and outside.
///
/// ```
/// assert_eq!(fbp_linalg::distance_to_box_sq(&[3.0_f32, 5.0, -1.0], &[0.0, 4.0, 2.0], &[1.0, 6.0, 2.0]), 13.0);
/// assert_eq!(fbp_linalg::distance_to_box_sq(&[f64::NAN], &[0.0], &[1.0]), f64::INFINITY);
/// ```
pub fn distance_to_box_sq<T: Real>(point: &[T], lower: &[T], upper: &[T]) -> f64 {
    let square = dispatch(
        #[inline(always)]
        || {
            sum([point, lower, upper], |v, lower, upper| {
                let gap = if lower <= v && v <= upper { 0.0 } else { v.to_f64() - v.clip(lower, upper).to_f64() };
                gap * gap
            })
        },
    );
    if square.is_nan() { f64::INFINITY } else { square }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<T: Real>(len: usize, step: f64) -> Vec<T> {
        (0..len).map(|i| T::from_f64((step * i as f64).sin())).collect()
    }

    fn check<T: Real>(lens: [usize; 3]) {
        let [g, a, b] = [(lens[0], 0.3), (lens[1], 0.7), (lens[2], 1.1)].map(|(len, step)| values::<T>(len, step));
        let (ga, gb) = (g.iter().zip(&a), a.iter().zip(&b));
        let difference = |a: T, b: T| (a - b).to_f64();
        let slope: f64 = ga.zip(&b).map(|((g, a), b)| g.to_f64() * difference(*a, *b)).sum();
        let distance: f64 = gb.map(|(a, b)| difference(*a, *b).powi(2)).sum();
        let norm: f64 = a.iter().map(|v| v.to_f64().powi(2)).sum();
        // Each sum in another order: the terms are below 4.
        let tolerance = 4.0 * (lens[1] * lens[1]) as f64 * f64::EPSILON;
        let to_box: f64 = g
            .iter()
            .zip(a.iter().zip(&b))
            .map(|(v, (x, y))| {
                let (v, x, y) = (v.to_f64(), x.to_f64(), y.to_f64());
                let (lower, upper) = (x.min(y), x.max(y));
                (lower - v).max(v - upper).max(0.0).powi(2)
            })
            .sum();
        let ends = a.iter().zip(&b).map(|(&x, &y)| if x < y { (x, y) } else { (y, x) });
        let (lower, upper): (Vec<T>, Vec<T>) = ends.unzip();
        let pairs = [
            (norm_sq(&a), norm),
            (distance_sq(&a, &b), distance),
            (slope_along(&g, &a, &b), slope),
            (distance_to_box_sq(&g, &lower, &upper), to_box),
        ];
        for (found, plain) in pairs {
            assert!((found - plain).abs() <= tolerance, "{lens:?}: {found} {plain}");
        }
    }

    #[test]
    fn distances_to_boxes_know_infinity_and_nan() {
        let infinity = f32::INFINITY;
        for at in [0, 15, 16, 39] {
            let (mut point, mut upper) = (vec![0.5_f32; 40], vec![1.0; 40]);
            let lower = vec![-infinity; 40];
            point[at] = infinity;
            assert_eq!(distance_to_box_sq(&point, &lower, &upper), f64::INFINITY, "{at}");
            upper[at] = infinity;
            assert_eq!(distance_to_box_sq(&point, &lower, &upper), 0.0, "{at}");
            point[at] = f32::NAN;
            assert_eq!(distance_to_box_sq(&point, &lower, &upper), f64::INFINITY, "{at}");
        }
    }

    #[test]
    fn sums_are_those_of_plain_loops_as_far_as_all_slices_go() {
        for len in [0, 1, 15, 16, 17, 100] {
            check::<f64>([len; 3]);
            check::<f32>([len; 3]);
        }
        for lens in [[36, 36, 20], [20, 36, 36], [32, 32, 20], [40, 20, 36]] {
            check::<f64>(lens);
            check::<f32>(lens);
        }
    }
}
