//! Between planes of pixels and vectors of channels.

use pulp::Simd;

use crate::Real;
use crate::lanes::MAX_LANES;

/// Rows that are transposed together.
pub(super) const QUAD: usize = 4;

/// `to[j · to_pitch + i] = from[i · from_pitch + j]` for `rows` rows `i` of `cols` values `j`.
///
/// Squares of four are transposed in registers, where there are any.
#[inline(always)]
pub(super) fn transpose<T: Real, S: Simd>(
    simd: S,
    (from, from_pitch): (&[T], usize),
    (to, to_pitch): (&mut [T], usize),
    [rows, cols]: [usize; 2],
) {
    let lanes = T::lanes::<S>();
    let quads = size_of::<T>() == size_of::<f32>() && lanes >= QUAD && cols >= QUAD;
    let whole = if quads { rows / QUAD * QUAD } else { 0 };
    for first in (0..whole).step_by(QUAD) {
        let mut sources = [from; QUAD];
        for (i, source) in sources.iter_mut().enumerate() {
            *source = &from[(first + i) * from_pitch..];
        }
        for start in (0..cols).step_by(lanes) {
            let mut quad = [T::splat(simd, T::ZERO); QUAD];
            let count = lanes.min(cols - start);
            for (row, source) in quad.iter_mut().zip(&sources) {
                // Whole vectors even where fewer columns count: to read on into the next row is cheaper than a partial load, and these
                // lanes are not stored.
                *row = match source[start..].get(..lanes) {
                    Some(vector) => T::load(simd, vector),
                    None => T::load_partial(simd, &source[start..][..count]),
                };
            }
            let quad = T::transpose_quads(simd, quad);
            let mut cells = [[T::ZERO; MAX_LANES]; QUAD];
            for (cells, column) in cells.iter_mut().zip(quad) {
                T::store(simd, cells, column);
            }
            // Constant numbers of columns, of which each then takes a load and a store.
            let squares = cells.each_ref().map(|cells| cells.as_chunks::<QUAD>().0);
            let columns = &mut to[start * to_pitch + first..];
            for (square, four) in columns.chunks_mut(QUAD * to_pitch).take(count / QUAD).enumerate() {
                for (c, squares) in squares.iter().enumerate() {
                    four[c * to_pitch..][..QUAD].copy_from_slice(&squares[square]);
                }
            }
            for j in count / QUAD * QUAD..count {
                columns[j * to_pitch..][..QUAD].copy_from_slice(&squares[j % QUAD][j / QUAD]);
            }
        }
    }
    for row in whole..rows {
        let source = &from[row * from_pitch..][..cols];
        for (to, from) in to[row..].iter_mut().step_by(to_pitch).zip(source) {
            *to = *from;
        }
    }
}
