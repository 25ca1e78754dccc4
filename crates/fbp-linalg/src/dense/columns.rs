use faer::{MatMut, MatRef};

use crate::Real;

/// Independent partial sums per column, so that the loops below vectorise.
const LANES: usize = 16;

/// Column `j` of a view with contiguous columns.
pub(super) fn column<T: Real>(view: MatRef<'_, T>, j: usize) -> &[T] {
    match view.col(j).try_as_col_major() {
        Some(dense) => dense.as_slice(),
        None if view.nrows() == 1 => std::slice::from_ref(view.get(0, j)),
        None => {
            debug_assert_eq!(view.nrows(), 0, "layout is checked when a pass starts");
            &[]
        }
    }
}

/// Column `j` of a view with contiguous columns, to be written.
pub(super) fn column_mut<T: Real>(view: MatMut<'_, T>, j: usize) -> &mut [T] {
    let rows = view.nrows();
    if view.row_stride() == 1 {
        return view.col_mut(j).try_as_col_major_mut().map_or(&mut [], |dense| dense.as_slice_mut());
    }
    debug_assert!(rows <= 1, "layout is checked when a pass starts");
    if rows == 0 { &mut [] } else { std::slice::from_mut(view.get_mut(0, j)) }
}

/// `d <- x - y`.
pub(super) fn subtract<T: Real>(d: &mut [T], x: &[T], y: &[T]) {
    for ((d, &x), &y) in d.iter_mut().zip(x).zip(y) {
        *d = x - y;
    }
}

/// `v <- v0 + d` and `d <- v - v0`, the step that was really made; `v0` keeps its bits where `d` is zero.
pub(super) fn step<T: Real>(v: &mut [T], v0: &[T], d: &mut [T]) {
    for ((v, &v0), d) in v.iter_mut().zip(v0).zip(d) {
        *v = if *d == T::ZERO { v0 } else { v0 + *d };
        *d = *v - v0;
    }
}

/// Whether no value is infinite or NaN.
pub(super) fn all_finite<T: Real>(x: &[T]) -> bool {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [T::ZERO; LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            // 0 for finite x and NaN otherwise.
            *lane += x * T::ZERO;
        }
    }
    lanes.iter().chain(rest).all(|x| x.is_finite())
}

/// `Σ x_i²`, summed in `f64`.
pub(super) fn sum_of_squares<T: Real>(x: &[T]) -> f64 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += x.to_f64() * x.to_f64();
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>()
}

/// Largest magnitude; 0 for no values. NaN is skipped: it shows in [`sum_of_squares`].
pub(super) fn max_abs<T: Real>(x: &[T]) -> T {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [T::ZERO; LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x.abs() > *lane { x.abs() } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(T::ZERO, |largest, x| largest.max(x.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_see_every_position() {
        for len in [0, 1, 15, 16, 17, 40] {
            let ones = vec![1.0_f32; len];
            assert!(all_finite(&ones));
            assert_eq!(sum_of_squares(&ones), len as f64);
            for at in 0..len {
                let mut spoilt = ones.clone();
                spoilt[at] = -3.0;
                assert_eq!(max_abs(&spoilt), 3.0);
                assert_eq!(sum_of_squares(&spoilt), len as f64 + 8.0);
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    spoilt[at] = bad;
                    assert!(!all_finite(&spoilt));
                    assert!(!sum_of_squares(&spoilt).is_finite());
                }
            }
        }
    }

    #[test]
    fn a_zero_step_keeps_the_bits() {
        let v0 = [-0.0_f32, 1.0, f32::MIN_POSITIVE / 2.0, 1.0];
        let (mut v, mut d) = ([f32::NAN; 4], [0.0, -0.0, 0.0, 1e-9]);
        step(&mut v, &v0, &mut d);
        assert_eq!(v.map(f32::to_bits), v0.map(f32::to_bits));
        assert_eq!(d, [0.0; 4], "a step lost to rounding was not made");
    }
}
