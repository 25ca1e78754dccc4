//! The transforms of F(4×4, 3×3): polynomial interpolation at 0, ±√½, ±√2 and infinity along each axis, whose rounding is a
//! third of that at 0, ±1, ±2.
//!
//! `y = Aᵀ[(G g Gᵀ) ∘ (Bᵀ d B)]A` gives 4×4 outputs of a 3×3 kernel from 6×6 inputs with 36 products instead of 144.
//! Every function works on registers, one output channel or input channel per lane.

use pulp::Simd;

use crate::Real;

/// Outputs of a tile along one axis.
pub(super) const OUT: usize = 4;
/// Inputs of a tile along one axis.
pub(super) const IN: usize = 6;
/// Products of a tile.
pub(super) const POINTS: usize = IN * IN;
/// Taps of the kernel along one axis.
pub(super) const TAPS: usize = 3;

/// The points next to 0.
const NEAR: f64 = std::f64::consts::FRAC_1_SQRT_2;
/// The points behind these; the product of all four is 1, as that of the two positive ones.
const FAR: f64 = std::f64::consts::SQRT_2;
/// One over the product of the distances from a near point to the other ones.
const NEAR_SHARE: f64 = -2.0 / 3.0;
/// The same of a far point.
const FAR_SHARE: f64 = 1.0 / 6.0;

/// `factor · x + y`.
#[inline(always)]
fn fma<T: Real, S: Simd>(simd: S, factor: f64, x: T::Vector<S>, y: T::Vector<S>) -> T::Vector<S> {
    T::mul_add_lanes(simd, T::splat(simd, T::from_f64(factor)), x, y)
}

/// `factor · x`.
#[inline(always)]
fn times<T: Real, S: Simd>(simd: S, factor: f64, x: T::Vector<S>) -> T::Vector<S> {
    fma::<T, S>(simd, factor, x, T::splat(simd, T::ZERO))
}

/// `Bᵀ d`.
#[inline(always)]
pub(super) fn input<T: Real, S: Simd>(simd: S, d: [T::Vector<S>; IN]) -> [T::Vector<S>; IN] {
    let (even1, odd1) = (fma::<T, S>(simd, -FAR * FAR, d[2], d[4]), fma::<T, S>(simd, -FAR * FAR, d[1], d[3]));
    let (even2, odd2) = (fma::<T, S>(simd, -NEAR * NEAR, d[2], d[4]), fma::<T, S>(simd, -NEAR * NEAR, d[1], d[3]));
    let both = -(NEAR * NEAR + FAR * FAR);
    [
        T::add_lanes(simd, d[0], fma::<T, S>(simd, both, d[2], d[4])),
        fma::<T, S>(simd, NEAR, odd1, even1),
        fma::<T, S>(simd, -NEAR, odd1, even1),
        fma::<T, S>(simd, FAR, odd2, even2),
        fma::<T, S>(simd, -FAR, odd2, even2),
        T::add_lanes(simd, d[1], fma::<T, S>(simd, both, d[3], d[5])),
    ]
}

/// `Aᵀ m`.
#[inline(always)]
pub(super) fn output<T: Real, S: Simd>(simd: S, m: [T::Vector<S>; IN]) -> [T::Vector<S>; OUT] {
    let (sum1, step1) = (T::add_lanes(simd, m[1], m[2]), fma::<T, S>(simd, -1.0, m[2], m[1]));
    let (sum2, step2) = (T::add_lanes(simd, m[3], m[4]), fma::<T, S>(simd, -1.0, m[4], m[3]));
    [
        T::add_lanes(simd, T::add_lanes(simd, m[0], sum1), sum2),
        fma::<T, S>(simd, FAR, step2, times::<T, S>(simd, NEAR, step1)),
        fma::<T, S>(simd, FAR * FAR, sum2, times::<T, S>(simd, NEAR * NEAR, sum1)),
        fma::<T, S>(simd, FAR * FAR * FAR, step2, fma::<T, S>(simd, NEAR * NEAR * NEAR, step1, m[5])),
    ]
}

/// `A y`, the transpose of [`output`].
#[inline(always)]
pub(super) fn cotangent<T: Real, S: Simd>(simd: S, y: [T::Vector<S>; OUT]) -> [T::Vector<S>; IN] {
    let (even1, odd1) = (fma::<T, S>(simd, NEAR * NEAR, y[2], y[0]), fma::<T, S>(simd, NEAR * NEAR, y[3], y[1]));
    let (even2, odd2) = (fma::<T, S>(simd, FAR * FAR, y[2], y[0]), fma::<T, S>(simd, FAR * FAR, y[3], y[1]));
    [
        y[0],
        fma::<T, S>(simd, NEAR, odd1, even1),
        fma::<T, S>(simd, -NEAR, odd1, even1),
        fma::<T, S>(simd, FAR, odd2, even2),
        fma::<T, S>(simd, -FAR, odd2, even2),
        y[3],
    ]
}

/// `G g`.
#[inline(always)]
pub(super) fn weight<T: Real, S: Simd>(simd: S, g: [T::Vector<S>; TAPS]) -> [T::Vector<S>; IN] {
    let even1 = times::<T, S>(simd, NEAR_SHARE, fma::<T, S>(simd, NEAR * NEAR, g[2], g[0]));
    let even2 = times::<T, S>(simd, FAR_SHARE, fma::<T, S>(simd, FAR * FAR, g[2], g[0]));
    [
        g[0],
        fma::<T, S>(simd, NEAR * NEAR_SHARE, g[1], even1),
        fma::<T, S>(simd, -NEAR * NEAR_SHARE, g[1], even1),
        fma::<T, S>(simd, FAR * FAR_SHARE, g[1], even2),
        fma::<T, S>(simd, -FAR * FAR_SHARE, g[1], even2),
        g[2],
    ]
}

/// `Gᵀ u`, the transpose of [`weight`].
#[inline(always)]
pub(super) fn weight_gradient<T: Real, S: Simd>(simd: S, u: [T::Vector<S>; IN]) -> [T::Vector<S>; TAPS] {
    let (sum1, step1) = (T::add_lanes(simd, u[1], u[2]), fma::<T, S>(simd, -1.0, u[2], u[1]));
    let (sum2, step2) = (T::add_lanes(simd, u[3], u[4]), fma::<T, S>(simd, -1.0, u[4], u[3]));
    let (even1, even2) = (times::<T, S>(simd, NEAR_SHARE, sum1), times::<T, S>(simd, FAR_SHARE, sum2));
    let odd1 = times::<T, S>(simd, NEAR * NEAR_SHARE, step1);
    [
        T::add_lanes(simd, u[0], T::add_lanes(simd, even1, even2)),
        fma::<T, S>(simd, FAR * FAR_SHARE, step2, odd1),
        fma::<T, S>(simd, FAR * FAR, even2, fma::<T, S>(simd, NEAR * NEAR, even1, u[5])),
    ]
}

/// A transform of one axis along both axes, `f(f(x)ᵀ)ᵀ`: vector number `from + reads[i]` is entry `i` of `x`, row by row, and
/// number `to + writes[i]` becomes entry `i` of the result plus `addend`.
///
/// Tables of places keep multiplications, and checks that they do not overflow, out of the loops.
macro_rules! both_axes {
    ($(#[$meta:meta])* $name:ident = $one:ident: $from:ident -> $to:ident) => {
        $(#[$meta])*
        #[inline(always)]
        pub(super) fn $name<T: Real, S: Simd>(
            simd: S,
            (source, from, reads): (&[T::Vector<S>], usize, &[usize; $from * $from]),
            (target, to, writes): (&mut [T::Vector<S>], usize, &[usize; $to * $to]),
            addend: T::Vector<S>,
        ) {
            let zero = T::splat(simd, T::ZERO);
            let mut half = [[zero; $from]; $to];
            for col in 0..$from {
                let mut column = [zero; $from];
                for row in 0..$from {
                    column[row] = source[from.wrapping_add(reads[row * $from + col])];
                }
                let column = $one::<T, S>(simd, column);
                for row in 0..$to {
                    half[row][col] = column[row];
                }
            }
            for row in 0..$to {
                let values = $one::<T, S>(simd, half[row]);
                for col in 0..$to {
                    target[to.wrapping_add(writes[row * $to + col])] = T::add_lanes(simd, values[col], addend);
                }
            }
        }
    };
}

both_axes! {
    /// `Bᵀ d B`.
    input_tile = input: IN -> IN
}
both_axes! {
    /// `Aᵀ m A`.
    output_tile = output: IN -> OUT
}
both_axes! {
    /// `A y Aᵀ`.
    cotangent_tile = cotangent: OUT -> IN
}
both_axes! {
    /// `G g Gᵀ`.
    weight_tile = weight: TAPS -> IN
}
both_axes! {
    /// `Gᵀ u G`.
    weight_gradient_tile = weight_gradient: IN -> TAPS
}

/// Places of the entries of a square with `row` between its rows and `col` between its columns, in vectors of `lanes`.
#[inline(always)]
pub(super) fn places<const N: usize, const SQUARE: usize>(row: usize, col: usize, lanes: usize) -> [usize; SQUARE] {
    let mut places = [0; SQUARE];
    for (i, place) in places.iter_mut().enumerate() {
        *place = (i / N * row + i % N * col) / lanes;
    }
    places
}
