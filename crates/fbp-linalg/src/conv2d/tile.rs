//! Register tiles of a correlation.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::Real;

/// Most output channels of one register tile.
pub(super) const MAX_CHANNELS: usize = 6;
/// Most vectors of one register tile, per channel.
pub(super) const MAX_VECTORS: usize = 8;

/// Cuts `len` into runs of 1, 2, 3, 4, 6 or 8, at most `most` of these: the sizes that register tiles are compiled for.
#[inline(always)]
pub(super) fn tile_ranges(len: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let even = len.div_ceil(len.div_ceil(most).max(1));
    let size = even.next_multiple_of(if even > 4 { 2 } else { 1 });
    let mut start = 0;
    std::iter::from_fn(move || {
        let step = match (len - start).min(size) {
            rest @ (5 | 7) => rest.div_ceil(2),
            rest => rest,
        };
        let range = start..start + step;
        start = range.end;
        (step > 0).then_some(range)
    })
}

/// Most vectors per channel in a tile of `channels`: 24 accumulators of 32 registers, or 12 of 16, so that the loaded
/// vectors and a broadcast weight fit beside them.
pub(super) const fn max_vectors<S: Simd>(channels: usize) -> usize {
    match (S::REGISTER_COUNT >= 32, channels) {
        (true, ..=3) => 8,
        (true, 4) => 6,
        (true, _) => 4,
        (false, 1) => 8,
        (false, ..=3) => 4,
        (false, 4) => 3,
        (false, _) => 2,
    }
}

/// One register tile of a correlation: `out[c][v] = init[c] + Σ_k weights[k][c] · src[offsets[k] + reads[v] ..]`.
pub(super) struct Tile<'a, T> {
    pub(super) src: &'a [T],
    /// Offset of every tap.
    pub(super) offsets: &'a [usize],
    /// `[tap][channel]`.
    pub(super) weights: &'a [T],
    /// Per channel; empty means zero.
    pub(super) init: &'a [T],
    /// Where the vectors start in the source.
    pub(super) reads: &'a [usize],
    /// Where they start in the output plane of a channel.
    pub(super) writes: &'a [usize],
    pub(super) out: &'a mut [T],
    /// Distance between the output planes of two channels.
    pub(super) plane: usize,
}

impl<T: Real> Tile<'_, T> {
    /// Computes the tile for `channels` in `1..=MAX_CHANNELS`.
    #[inline(always)]
    pub(super) fn run<S: Simd>(self, simd: S, channels: usize) {
        match channels {
            1 => self.run_channels::<S, 1>(simd),
            2 => self.run_channels::<S, 2>(simd),
            3 => self.run_channels::<S, 3>(simd),
            4 => self.run_channels::<S, 4>(simd),
            6 => self.run_channels::<S, 6>(simd),
            _ => debug_assert!(false, "no tile of {channels} channels"),
        }
    }

    #[inline(always)]
    fn run_channels<S: Simd, const C: usize>(self, simd: S) {
        let vectors = self.reads.len();
        // The condition is constant, so that no tile is compiled for too few registers.
        macro_rules! tile {
            ($($v:literal)*) => {
                match vectors {
                    $($v if const { $v <= max_vectors::<S>(C) } => simd.vectorize(Sized::<T, C, $v>(self)),)*
                    _ => debug_assert!(false, "no tile of {C} channels and {vectors} vectors"),
                }
            };
        }
        tile!(1 2 3 4 6 8)
    }
}

/// A tile whose accumulators are an array of constant size, so that they live in registers.
struct Sized<'a, T, const C: usize, const V: usize>(Tile<'a, T>);

impl<T: Real, const C: usize, const V: usize> WithSimd for Sized<'_, T, C, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Tile { src, offsets, weights, init, reads, writes, out, plane } = self.0;
        let (Some(reads), Some(writes)) = (reads.first_chunk::<V>(), writes.first_chunk::<V>()) else { return };
        let mut acc = [[T::splat(simd, T::ZERO); V]; C];
        if let Some(init) = init.first_chunk::<C>() {
            for c in 0..C {
                acc[c] = [T::splat(simd, init[c]); V];
            }
        }
        let lanes = T::lanes::<S>();
        // Equally long, so that one comparison checks the reads of a tap.
        let span = src.len() - reads.iter().fold(0, |most, read| most.max(*read));
        let mut sources = [src; V];
        for (source, read) in sources.iter_mut().zip(reads) {
            *source = &src[*read..][..span];
        }
        for (&offset, weights) in offsets.iter().zip(weights.as_chunks::<C>().0) {
            let mut x = [T::splat(simd, T::ZERO); V];
            for v in 0..V {
                x[v] = T::load(simd, &sources[v][offset..][..lanes]);
            }
            for c in 0..C {
                let weight = T::splat(simd, weights[c]);
                for v in 0..V {
                    acc[c][v] = T::mul_add_lanes(simd, weight, x[v], acc[c][v]);
                }
            }
        }
        macro_rules! store {
            ($($c:literal)*) => {
                $(if $c < C {
                    for v in 0..V {
                        T::store(simd, &mut out[$c * plane + writes[v]..][..lanes], acc[$c][v]);
                    }
                })*
            };
        }
        // A loop over channels would be too long to be unrolled, and the accumulators would live in memory.
        store!(0 1 2 3 4 5);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_everything_in_sizes_that_are_compiled() {
        for most in [1, 2, 3, 4, 6, 8] {
            for len in 0..100 {
                let ranges: Vec<_> = tile_ranges(len, most).collect();
                let sizes: Vec<usize> = ranges.iter().map(ExactSizeIterator::len).collect();
                assert!(sizes.iter().all(|size| [1, 2, 3, 4, 6, 8].contains(size) && *size <= most), "{len} {sizes:?}");
                assert!(ranges.iter().map(|range| range.start).eq(sizes.iter().scan(0, |end, size| {
                    *end += size;
                    Some(*end - size)
                })));
                assert_eq!(sizes.iter().sum::<usize>(), len);
                assert!(sizes.len() <= len.div_ceil(most) + 1, "{len} {sizes:?}");
            }
        }
    }
}
