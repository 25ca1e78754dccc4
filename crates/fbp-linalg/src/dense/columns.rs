use faer::{MatMut, MatRef};

use crate::Real;

/// Independent partial results, so that the loops below vectorise.
const LANES: usize = 8;

/// Column `j` of a view with contiguous columns.
#[inline(always)]
pub(super) fn column<T: Real>(view: MatRef<'_, T>, j: usize) -> &[T] {
    match view.col(j).try_as_col_major() {
        Some(dense) => dense.as_slice(),
        None if view.nrows() == 1 => std::slice::from_ref(view.get(0, j)),
        None if view.nrows() == 0 => &[],
        None => panic!("a column is not contiguous: layouts are checked when a pass starts"),
    }
}

/// Column `j` of a view with contiguous columns, to be written.
pub(super) fn column_mut<T: Real>(view: MatMut<'_, T>, j: usize) -> &mut [T] {
    let rows = view.nrows();
    if view.row_stride() == 1 {
        let column = view.col_mut(j).try_as_col_major_mut();
        return column.expect("a row stride of 1 is contiguous").as_slice_mut();
    }
    assert!(rows <= 1, "a column is not contiguous: layouts are checked when a pass starts");
    if rows == 0 { &mut [] } else { std::slice::from_mut(view.get_mut(0, j)) }
}

/// `d <- x - y`.
#[inline(always)]
pub(super) fn subtract<T: Real>(d: &mut [T], x: &[T], y: &[T]) {
    for ((d, &x), &y) in d.iter_mut().zip(x).zip(y) {
        *d = x - y;
    }
}

/// Remembers whether it has seen a value that is not finite.
#[derive(Clone, Copy)]
pub(super) struct Finite<T>([T; LANES]);

impl<T: Real> Finite<T> {
    pub(super) fn new() -> Self {
        Self([T::ZERO; LANES])
    }

    /// Whether every value seen was finite.
    pub(super) fn holds(&self) -> bool {
        self.0.iter().all(|x| x.is_finite())
    }

    /// `v <- v0 + d` and `d <- v - v0`, the step that was really made; `v0` keeps its bits where `d` is zero.
    #[inline(always)]
    pub(super) fn step(&mut self, v: &mut [T], v0: &[T], d: &mut [T]) {
        let len = v.len().min(v0.len()).min(d.len());
        let (v, v_rest) = v[..len].as_chunks_mut::<LANES>();
        let (v0, v0_rest) = v0[..len].as_chunks::<LANES>();
        let (d, d_rest) = d[..len].as_chunks_mut::<LANES>();
        let mut seen = self.0;
        for ((v, v0), d) in v.iter_mut().zip(v0).zip(d) {
            for i in 0..LANES {
                (v[i], d[i]) = stepped(v0[i], d[i]);
                // 0 for finite values and NaN otherwise.
                seen[i] += v[i] * T::ZERO;
            }
        }
        for ((v, &v0), d) in v_rest.iter_mut().zip(v0_rest).zip(d_rest) {
            (*v, *d) = stepped(v0, *d);
            seen[0] += *v * T::ZERO;
        }
        self.0 = seen;
    }
}

#[inline(always)]
fn stepped<T: Real>(v0: T, d: T) -> (T, T) {
    let moved = v0 + d;
    let v = if d == T::ZERO { v0 } else { moved };
    (v, v - v0)
}

/// Size of the entries of one column.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// `Σ x_i²`, summed in `f64`; not finite if a value is not.
    pub(super) squares: f64,
    /// Largest magnitude, 0 for no values; NaN is skipped.
    pub(super) largest: f64,
}

impl Extent {
    #[inline(always)]
    pub(super) fn of<T: Real>(x: &[T]) -> Self {
        let (mut squares, mut largest) = ([0.0; LANES], [T::ZERO; LANES]);
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                let (wide, size) = (chunk[i].to_f64(), chunk[i].abs());
                squares[i] += wide * wide;
                largest[i] = if size > largest[i] { size } else { largest[i] };
            }
        }
        for &x in rest {
            squares[0] += x.to_f64() * x.to_f64();
            largest[0] = if x.abs() > largest[0] { x.abs() } else { largest[0] };
        }
        let larger = |x: T, y: &T| if *y > x { *y } else { x };
        Self { squares: squares.iter().sum(), largest: largest.iter().fold(T::ZERO, larger).to_f64() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_see_every_position() {
        for len in [0, 1, 7, 8, 9, 20] {
            let ones = vec![1.0_f32; len];
            assert_eq!(Extent::of(&ones).squares, len as f64);
            for at in 0..len {
                let mut spoilt = ones.clone();
                spoilt[at] = -3.0;
                assert_eq!(Extent::of(&spoilt).largest, 3.0);
                assert_eq!(Extent::of(&spoilt).squares, len as f64 + 8.0);
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    spoilt[at] = bad;
                    assert!(!Extent::of(&spoilt).squares.is_finite());
                    let mut finite = Finite::new();
                    finite.step(&mut vec![0.0; len], &ones, &mut ones.clone());
                    assert!(finite.holds());
                    finite.step(&mut vec![0.0; len], &ones, &mut spoilt.clone());
                    finite.step(&mut vec![0.0; len], &ones, &mut ones.clone());
                    assert!(!finite.holds());
                }
            }
        }
    }

    #[test]
    fn a_zero_step_keeps_the_bits() {
        let v0 = [-0.0_f32, 1.0, f32::MIN_POSITIVE / 2.0, 1.0];
        let (mut v, mut d) = ([f32::NAN; 4], [0.0, -0.0, 0.0, 1e-9]);
        Finite::new().step(&mut v, &v0, &mut d);
        assert_eq!(v.map(f32::to_bits), v0.map(f32::to_bits));
        assert_eq!(d, [0.0; 4], "a step lost to rounding was not made");
    }
}
