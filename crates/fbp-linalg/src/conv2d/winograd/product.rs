//! Register tiles of the products at every point.

use pulp::{Simd, WithSimd};

use crate::Real;

/// Rows of a register tile of [`Rows`].
pub(super) const ROWS: usize = 6;
/// Rows of a register tile of [`Outer`]; they divide every padded number of channels.
pub(super) const OUTER_ROWS: usize = 4;

/// Vectors of a register tile for panels of `width` columns, a multiple of two vectors.
#[inline(always)]
fn vectors<T: Real, S: Simd>(width: usize) -> usize {
    if S::REGISTER_COUNT >= 32 && width.is_multiple_of(4 * T::lanes::<S>()) { 4 } else { 2 }
}

/// `out[r, j] = Σ_k a[r, k] b[k, j]`.
pub(super) struct Rows<'a, T> {
    /// Rows of `pitch` values, of which `depth` count; at least [`ROWS`] of them.
    pub(super) a: &'a [T],
    pub(super) pitch: usize,
    pub(super) depth: usize,
    /// `[depth][width]`.
    pub(super) b: &'a [T],
    pub(super) width: usize,
    /// `[rows][width]`.
    pub(super) out: &'a mut [T],
    pub(super) rows: usize,
}

impl<T: Real> Rows<'_, T> {
    #[inline(always)]
    pub(super) fn run<S: Simd>(self, simd: S) {
        let lanes = T::lanes::<S>();
        let count = vectors::<T, S>(self.width);
        for at in (0..self.width).step_by(count * lanes) {
            for row in (0..self.rows).step_by(ROWS) {
                // The last rows overlap their neighbours, with the same results.
                let row = row.min(self.rows.saturating_sub(ROWS));
                let (a, out) = (&self.a[row * self.pitch..], &mut self.out[row * self.width..]);
                let tile = RowTile { a, pitch: self.pitch, depth: self.depth, b: self.b, width: self.width, at, out };
                match count {
                    4 if const { S::REGISTER_COUNT >= 32 } => simd.vectorize(Sized::<_, 4>(tile)),
                    _ => simd.vectorize(Sized::<_, 2>(tile)),
                }
            }
        }
    }
}

struct RowTile<'a, T> {
    a: &'a [T],
    pitch: usize,
    depth: usize,
    b: &'a [T],
    width: usize,
    at: usize,
    out: &'a mut [T],
}

/// A tile with a constant number of vectors.
struct Sized<X, const V: usize>(X);

impl<T: Real, const V: usize> WithSimd for Sized<RowTile<'_, T>, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let RowTile { a, pitch, depth, b, width, at, out } = self.0;
        let lanes = T::lanes::<S>();
        let zero = T::splat(simd, T::ZERO);
        let mut rows = [a; ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = &a[r * pitch..][..depth];
        }
        let mut acc = [[zero; V]; ROWS];
        for (k, b) in b.chunks_exact(width).enumerate().take(depth) {
            let b = &b[at..][..V * lanes];
            let mut x = [zero; V];
            for v in 0..V {
                x[v] = T::load(simd, &b[v * lanes..][..lanes]);
            }
            for r in 0..ROWS {
                let factor = T::splat(simd, rows[r][k]);
                for v in 0..V {
                    acc[r][v] = T::mul_add_lanes(simd, factor, x[v], acc[r][v]);
                }
            }
        }
        macro_rules! store {
            ($($r:literal)*) => {
                $(for v in 0..V {
                    T::store(simd, &mut out[$r * width + at + v * lanes..][..lanes], acc[$r][v]);
                })*
            };
        }
        // A loop would not be unrolled, and the accumulators would live in memory.
        store!(0 1 2 3 4 5);
    }
}

/// `out[i, j] += Σ_p a[p, i] b[p, j]`.
pub(super) struct Outer<'a, T> {
    /// `[p][rows]`.
    pub(super) a: &'a [T],
    /// A multiple of [`OUTER_ROWS`].
    pub(super) rows: usize,
    /// `[p][width]`.
    pub(super) b: &'a [T],
    pub(super) width: usize,
    /// `[rows][width]`.
    pub(super) out: &'a mut [T],
}

impl<T: Real> Outer<'_, T> {
    #[inline(always)]
    pub(super) fn run<S: Simd>(self, simd: S) {
        let lanes = T::lanes::<S>();
        let count = vectors::<T, S>(self.width);
        for at in (0..self.width).step_by(count * lanes) {
            for row in (0..self.rows).step_by(OUTER_ROWS) {
                let out = &mut self.out[row * self.width..];
                let Outer { a, rows, b, width, .. } = self;
                let tile = OuterTile { a, rows, row, b, width, at, out };
                match count {
                    4 if const { S::REGISTER_COUNT >= 32 } => simd.vectorize(Sized::<_, 4>(tile)),
                    _ => simd.vectorize(Sized::<_, 2>(tile)),
                }
            }
        }
    }
}

struct OuterTile<'a, T> {
    a: &'a [T],
    rows: usize,
    row: usize,
    b: &'a [T],
    width: usize,
    at: usize,
    out: &'a mut [T],
}

impl<T: Real, const V: usize> WithSimd for Sized<OuterTile<'_, T>, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let OuterTile { a, rows, row, b, width, at, out } = self.0;
        let lanes = T::lanes::<S>();
        let zero = T::splat(simd, T::ZERO);
        let mut acc = [[zero; V]; OUTER_ROWS];
        for (a, b) in a.chunks_exact(rows).zip(b.chunks_exact(width)) {
            let (Some(a), b) = (a[row..].first_chunk::<OUTER_ROWS>(), &b[at..][..V * lanes]) else { return };
            let mut x = [zero; V];
            for v in 0..V {
                x[v] = T::load(simd, &b[v * lanes..][..lanes]);
            }
            for r in 0..OUTER_ROWS {
                let factor = T::splat(simd, a[r]);
                for v in 0..V {
                    acc[r][v] = T::mul_add_lanes(simd, factor, x[v], acc[r][v]);
                }
            }
        }
        macro_rules! store {
            ($($r:literal)*) => {
                $(for v in 0..V {
                    let out = &mut out[$r * width + at + v * lanes..][..lanes];
                    let sum = T::add_lanes(simd, T::load(simd, out), acc[$r][v]);
                    T::store(simd, out, sum);
                })*
            };
        }
        store!(0 1 2 3);
    }
}
