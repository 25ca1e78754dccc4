//! Vectors of single samples, with sums in double precision.

use faer::{MatMut, MatRef};
use fbp_linalg::{Real, distance_to_box_sq};

/// Sums that run side by side.
const WIDTH: usize = 8;

/// Column `j` of a batch without gaps.
#[inline(always)]
pub(super) fn of<T>(values: &[T], rows: usize, j: usize) -> &[T] {
    &values[rows * j..rows * (j + 1)]
}

#[inline(always)]
pub(super) fn of_mut<T>(values: &mut [T], rows: usize, j: usize) -> &mut [T] {
    &mut values[rows * j..rows * (j + 1)]
}

pub(super) fn view<T: Real>(values: &[T], rows: usize, cols: usize) -> MatRef<'_, T> {
    MatRef::from_column_major_slice(&values[..rows * cols], rows, cols)
}

pub(super) fn view_mut<T: Real>(values: &mut [T], rows: usize, cols: usize) -> MatMut<'_, T> {
    MatMut::from_column_major_slice_mut(&mut values[..rows * cols], rows, cols)
}

/// `Σ a b`.
#[inline(always)]
pub(super) fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    let mut sums = [0.0_f64; WIDTH];
    let (a_whole, a_rest) = a.as_chunks::<WIDTH>();
    let (b_whole, b_rest) = b.as_chunks::<WIDTH>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for k in 0..WIDTH {
            sums[k] += a[k].to_f64() * b[k].to_f64();
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a.to_f64() * b.to_f64()).sum();
    sums.iter().sum::<f64>() + rest
}

/// `√Σ a²`.
pub(super) fn norm<T: Real>(a: &[T]) -> f64 {
    dot(a, a).sqrt()
}

/// `to += factor · from`.
pub(super) fn add_scaled<T: Real>(to: &mut [T], factor: f64, from: &[T]) {
    let factor = T::from_f64(factor);
    to.iter_mut().zip(from).for_each(|(to, &from)| *to += factor * from);
}

/// `to = from + factor · to`.
pub(super) fn scale_and_add<T: Real>(to: &mut [T], factor: f64, from: &[T]) {
    let factor = T::from_f64(factor);
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = from + factor * *to);
}

/// `to *= mask`, entry by entry.
pub(super) fn apply<T: Real>(to: &mut [T], mask: &[T]) {
    to.iter_mut().zip(mask).for_each(|(to, &mask)| *to *= mask);
}

/// Writes what outputs lack to their box.
pub(super) fn write_residual<T: Real>(output: &[T], lower: &[T], upper: &[T], residual: &mut [T]) {
    for ((residual, &y), (&lower, &upper)) in residual.iter_mut().zip(output).zip(lower.iter().zip(upper)) {
        *residual = y.clip(lower, upper) - y;
    }
}

/// Euclidean distance of a point to a box; infinite if an entry is NaN.
pub(super) fn distance<T: Real>(point: &[T], lower: &[T], upper: &[T]) -> f64 {
    distance_to_box_sq(point, lower, upper).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_distances() {
        let a: Vec<f32> = (0..19).map(|i| i as f32).collect();
        assert_eq!(dot(&a, &a), 2109.0);
        let (mut to, ones) = (a.clone(), vec![1.0_f32; 19]);
        add_scaled(&mut to, 2.0, &ones);
        scale_and_add(&mut to, 0.5, &a);
        assert_eq!((to[0], to[18]), (1.0, 28.0));
        let infinite = [f64::NEG_INFINITY, f64::INFINITY];
        assert_eq!(distance(&[3.0, 5.0, -1.0], &[0.0, infinite[0], 2.0], &[1.0, infinite[1], 2.0]), 13.0_f64.sqrt());
        assert_eq!(distance(&[f64::NAN], &[0.0], &[1.0]), f64::INFINITY);
    }
}
