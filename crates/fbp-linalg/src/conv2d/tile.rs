use pulp::{Simd, WithSimd};

use crate::Real;

/// Most output channels of one register tile.
pub(super) const MAX_CHANNELS: usize = 6;
/// Most vectors of one register tile, per channel.
pub(super) const MAX_VECTORS: usize = 8;

/// Most vectors per channel in a tile of `channels`: 24 accumulators of 32 registers, or 12 of 16, so that the loaded
/// vectors and a broadcast weight fit beside them.
pub(super) const fn max_vectors<S: Simd>(channels: usize) -> usize {
    match (S::REGISTER_COUNT >= 32, channels) {
        (true, ..=3) => 8,
        (true, 4) => 6,
        (true, _) => 4,
        (false, 1) => 8,
        (false, 2) => 6,
        (false, 3) => 4,
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
            5 => self.run_channels::<S, 5>(simd),
            _ => self.run_channels::<S, MAX_CHANNELS>(simd),
        }
    }

    #[inline(always)]
    fn run_channels<S: Simd, const C: usize>(self, simd: S) {
        match self.reads.len() {
            1 => simd.vectorize(Sized::<T, C, 1>(self)),
            2 => simd.vectorize(Sized::<T, C, 2>(self)),
            3 if max_vectors::<S>(C) >= 3 => simd.vectorize(Sized::<T, C, 3>(self)),
            4 if max_vectors::<S>(C) >= 4 => simd.vectorize(Sized::<T, C, 4>(self)),
            5 if max_vectors::<S>(C) >= 5 => simd.vectorize(Sized::<T, C, 5>(self)),
            6 if max_vectors::<S>(C) >= 6 => simd.vectorize(Sized::<T, C, 6>(self)),
            7 if max_vectors::<S>(C) >= 7 => simd.vectorize(Sized::<T, C, 7>(self)),
            8 if max_vectors::<S>(C) >= 8 => simd.vectorize(Sized::<T, C, 8>(self)),
            vectors => debug_assert!(false, "no tile of {C} channels and {vectors} vectors"),
        }
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
        for (&offset, weights) in offsets.iter().zip(weights.as_chunks::<C>().0) {
            let mut x = [T::splat(simd, T::ZERO); V];
            for v in 0..V {
                x[v] = T::load(simd, &src[offset + reads[v]..][..lanes]);
            }
            for c in 0..C {
                let weight = T::splat(simd, weights[c]);
                for v in 0..V {
                    acc[c][v] = T::mul_add_lanes(simd, weight, x[v], acc[c][v]);
                }
            }
        }
        for c in 0..C {
            for v in 0..V {
                T::store(simd, &mut out[c * plane + writes[v]..][..lanes], acc[c][v]);
            }
        }
    }
}
