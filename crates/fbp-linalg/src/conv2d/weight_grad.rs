use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::ConvWeightGrad;
use super::gram_tile::{DotTile, OuterTile, dot_shape, outer_shape};
use super::source::{Packed, Source};
use super::threads::Exec;
use super::tile::tile_ranges;
use crate::lanes::MAX_LANES;
use crate::parallel::{CACHE_LINE, zeroed_scratch};
use crate::{FeatureShape, Real};

/// Cached bytes that the images of one block may take: half of the second-level cache of a small core.
const BLOCK_BYTES: usize = 256 << 10;
/// Channels that are transposed together.
const TRANSPOSED: usize = 8;
/// Most images of one block; more would no longer make the sums at its end any cheaper.
const BLOCK_IMAGES: usize = 32;
/// Fewest images of one group, if the batch has two such groups.
const GROUP_IMAGES: usize = 8;
/// Fewest output pixels of one group: adding its sums to those of the others takes as long as the products of about 50 pixels.
const GROUP_PIXELS: usize = 192;
/// Fewest products of a group that is smaller than usual: some tenths of a millisecond, beside which a second thread costs little.
const GROUP_PRODUCTS: usize = 1 << 24;
/// Most groups of a batch, and threads that share in it.
const MOST_GROUPS: usize = 16;

/// Which way the products `g[o, i] · x[t, i]` (output channel, tap, pixel) are vectorised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vectors {
    /// Along the pixels; every weight ends with a sum over lanes.
    Pixels,
    /// Along the output channels, after a transposition of the cotangent.
    Channels,
}

/// Sums of products of the cotangent with shifted inputs.
#[derive(Clone, Debug)]
pub(super) struct WeightGrad {
    pub(super) vectors: Vectors,
    pub(super) source: Source,
    /// Layout of the cotangent along pixels: with the pitch of the source, and zeros where the source has garbage.
    pub(super) cotangent: Source,
    /// Cells of the taps of one output channel, in the order of its weights.
    pub(super) offsets: Vec<usize>,
    pub(super) input: FeatureShape,
    pub(super) output: FeatureShape,
    pub(super) groups: usize,
}

impl WeightGrad {
    fn out_per_group(&self) -> usize {
        self.output.channels / self.groups
    }

    /// Output channels of one group, rounded up to whole vectors.
    fn padded_channels(&self) -> usize {
        self.out_per_group().next_multiple_of(MAX_LANES)
    }

    /// Cells from the first to the last pixel of a cotangent, the zeros between rows included.
    fn span(&self) -> usize {
        (self.output.height - 1) * self.source.pitch() + self.output.width
    }

    /// Rough time for one sample, in cycles, to compare layouts.
    ///
    /// The constants were measured on a core with 512-bit vectors: along pixels, an eighth more than the products, and
    /// two products per weight to start a tile on an image and to sum over lanes.
    pub(super) fn cost(&self) -> f64 {
        let (channels, taps) = (self.output.channels as f64, self.offsets.len() as f64);
        let products = match self.vectors {
            Vectors::Pixels => {
                let vectors = self.span().div_ceil(MAX_LANES) as f64;
                self.cotangent.pack_cost() + channels * taps * (1.125 * vectors + 2.0)
            }
            Vectors::Channels => {
                let vectors = (self.groups * self.padded_channels() / MAX_LANES) as f64;
                self.output.plane() as f64 * (vectors * taps + 2.0 * channels)
            }
        };
        self.source.pack_cost() + products
    }

    /// Cells of one packed or transposed cotangent, `[group][pixel][channel]` where transposed.
    fn cotangent_len(&self) -> usize {
        match self.vectors {
            Vectors::Pixels => self.cotangent.packed_len(),
            Vectors::Channels => self.groups * self.output.plane() * self.padded_channels(),
        }
    }

    /// Cells of one partial sum: `[channel][tap]` along pixels, `[group][tap][channel]` along channels.
    fn partial_len(&self) -> usize {
        match self.vectors {
            Vectors::Pixels => self.output.channels * self.offsets.len(),
            Vectors::Channels => self.groups * self.offsets.len() * self.padded_channels(),
        }
    }

    /// Images that are packed before the tiles run over them.
    fn block_images<T>(&self, chunk: usize) -> usize {
        let source = self.source.packed_len().max(self.input.len());
        let bytes = size_of::<T>() * (source + self.cotangent_len().max(self.output.len()));
        (BLOCK_BYTES / bytes).clamp(1, BLOCK_IMAGES).min(chunk)
    }

    /// Length of the partial sums of one group, weights and then biases.
    fn sums_len(&self) -> usize {
        (self.partial_len() + self.output.channels).next_multiple_of(MAX_LANES)
    }

    /// Length of the packed images and cotangents of one thread; never 0, also where both are read in place.
    fn packing_len<T>(&self, group: usize) -> usize {
        (self.block_images::<T>(group) * (self.source.packed_len() + self.cotangent_len())).max(1)
    }

    /// Cells for the sums of every group, and then for what each thread packs.
    fn cells<T>(&self, Groups { count, size }: Groups, par: Par) -> usize {
        let packing = if par == Par::Seq { 1 } else { count };
        count * self.sums_len() + packing * self.packing_len::<T>(size)
    }

    pub(super) fn scratch<T: Real>(&self, batch: usize, par: Par) -> StackReq {
        StackReq::new_aligned::<T>(self.cells::<T>(Groups::most(batch, self.output.plane()), par), CACHE_LINE)
    }

    /// Sums over the whole batch; the lengths of the slices have been checked.
    pub(super) fn run<T: Real>(&self, args: ConvWeightGrad<'_, T>, exec: Exec, stack: &mut MemStack) {
        let (in_len, out_len) = (self.input.len(), self.output.len());
        let batch = args.input.len() / in_len;
        let groups = Groups::of(batch, self.output.plane(), self.output.channels * self.offsets.len());
        let Groups { count, size } = groups;
        let (sums_len, packing_len) = (self.sums_len(), self.packing_len::<T>(size));
        let (scratch, _) = zeroed_scratch(self.cells::<T>(groups, exec.par), exec.par, stack);
        let (sums, packing) = scratch.split_at_mut(count * sums_len);
        // The same for every group, the last and smallest too: the zeros between packed images stay where they are.
        let images = self.block_images::<T>(size);
        let bias = args.bias_grad.is_some();
        if exec.par == Par::Seq || count < 2 {
            let groups = args.input.chunks(size * in_len).zip(args.cotangent.chunks(size * out_len));
            for ((input, cotangent), sums) in groups.zip(sums.chunks_exact_mut(sums_len)) {
                let packing = &mut packing[..packing_len];
                exec.arch.dispatch(Samples { plan: self, images, input, cotangent, sums, packing, bias });
            }
        } else {
            let groups = args.input.par_chunks(size * in_len).zip(args.cotangent.par_chunks(size * out_len));
            let memory = sums.par_chunks_exact_mut(sums_len).zip(packing.par_chunks_exact_mut(packing_len));
            groups.zip(memory).for_each(|((input, cotangent), (sums, packing))| {
                exec.arch.dispatch(Samples { plan: self, images, input, cotangent, sums, packing, bias });
            });
        }
        let (first, others) = sums.split_at_mut(sums_len.min(count * sums_len));
        exec.arch.dispatch(AddPartials { sum: first, partials: others });
        match first.split_at_checked(self.partial_len()) {
            Some((weights, biases)) => {
                self.unpack(weights, args.weight_grad);
                if let Some(bias_grad) = args.bias_grad {
                    bias_grad.copy_from_slice(&biases[..self.output.channels]);
                }
            }
            // An empty batch.
            None => {
                args.weight_grad.fill(T::ZERO);
                args.bias_grad.into_iter().for_each(|bias_grad| bias_grad.fill(T::ZERO));
            }
        }
    }

    /// Sums in the order of the weights.
    fn unpack<T: Real>(&self, sums: &[T], weight_grad: &mut [T]) {
        if self.vectors == Vectors::Pixels {
            weight_grad.copy_from_slice(sums);
            return;
        }
        let (taps, padded) = (self.offsets.len(), self.padded_channels());
        let groups = weight_grad.chunks_exact_mut(self.out_per_group() * taps).zip(sums.chunks_exact(taps * padded));
        for (weights, sums) in groups {
            // Some channels at a time: a cache line of the sums is read once, and few lines of the weights are open.
            for (block, weights) in weights.chunks_mut(MAX_LANES * taps).enumerate() {
                for (tap, sums) in sums.chunks_exact(padded).enumerate() {
                    let column = weights[tap..].iter_mut().step_by(taps);
                    column.zip(&sums[block * MAX_LANES..]).for_each(|(weight, &sum)| *weight = sum);
                }
            }
        }
    }
}

/// Adds sums of several groups to those of the first one, in their order.
struct AddPartials<'a, T> {
    sum: &'a mut [T],
    partials: &'a [T],
}

impl<T: Real> WithSimd for AddPartials<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (len, lanes) = (self.sum.len(), T::lanes::<S>());
        for partial in self.partials.chunks_exact(len.max(1)) {
            // The length of the sums is a multiple of every number of lanes.
            for (sum, part) in self.sum.chunks_exact_mut(lanes).zip(partial.chunks_exact(lanes)) {
                let added = T::add_lanes(simd, T::load(simd, sum), T::load(simd, part));
                T::store(simd, sum, added);
            }
        }
    }
}

/// How a batch is cut into groups of samples that are summed on their own, and then in their order.
///
/// By the size of the batch alone: the sums are the same bits on any number of threads.
#[derive(Clone, Copy, Debug)]
struct Groups {
    count: usize,
    size: usize,
}

impl Groups {
    fn of(batch: usize, pixels: usize, weights: usize) -> Self {
        let usual = Self::fewest_images(pixels);
        let half = batch.div_ceil(2);
        // A small batch of large images is still work for two threads.
        let splits = half * pixels >= GROUP_PIXELS && (half * pixels).saturating_mul(weights) >= GROUP_PRODUCTS;
        let fewest = if half < usual && splits { half } else { usual };
        let count = batch.div_ceil(fewest.max(batch.div_ceil(MOST_GROUPS)));
        // As equal as possible.
        let size = batch.div_ceil(count.max(1)).max(1);
        Self { count: batch.div_ceil(size), size }
    }

    /// The most groups, and the most samples in one, of this batch or a smaller one.
    fn most(batch: usize, pixels: usize) -> Self {
        let usual = Self::fewest_images(pixels);
        let count = batch.div_ceil(usual).min(MOST_GROUPS).max(batch.min(2));
        Self { count, size: batch.div_ceil(MOST_GROUPS).max(usual) }
    }

    fn fewest_images(pixels: usize) -> usize {
        GROUP_IMAGES.max(GROUP_PIXELS.div_ceil(pixels.max(1)))
    }
}

/// The samples of one group.
struct Samples<'a, T> {
    plan: &'a WeightGrad,
    /// Images that are packed at a time.
    images: usize,
    input: &'a [T],
    cotangent: &'a [T],
    sums: &'a mut [T],
    packing: &'a mut [T],
    bias: bool,
}

impl<T: Real> WithSimd for Samples<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let plan = self.plan;
        let (in_len, out_len) = (plan.input.len(), plan.output.len());
        let images = self.images;
        let (partial, bias) = self.sums.split_at_mut(plan.partial_len());
        let (packed, packed_cotangent) = self.packing.split_at_mut(images * plan.source.packed_len());
        for (input, cotangent) in self.input.chunks(images * in_len).zip(self.cotangent.chunks(images * out_len)) {
            let source = plan.source.pack(simd, input, packed);
            match plan.vectors {
                Vectors::Pixels => {
                    let cotangent = plan.cotangent.pack(simd, cotangent, packed_cotangent);
                    plan.dots(simd, source, cotangent, partial);
                }
                Vectors::Channels => {
                    plan.transpose(cotangent, packed_cotangent);
                    plan.outer_products(simd, source, packed_cotangent, partial);
                }
            }
            if self.bias {
                for cotangent in cotangent.chunks_exact(out_len) {
                    for (sum, plane) in bias.iter_mut().zip(cotangent.chunks_exact(plan.output.plane())) {
                        *sum += simd.vectorize(Sum(plane));
                    }
                }
            }
        }
    }
}

impl WeightGrad {
    /// Adds `Σ_i g[o, i] x[t, i]` to `partial`.
    #[inline(always)]
    fn dots<T: Real, S: Simd>(&self, simd: S, source: Packed<'_, T>, cotangent: Packed<'_, T>, partial: &mut [T]) {
        let (taps, plane) = (self.offsets.len(), self.cotangent.channel_len());
        let group_len = self.input.channels / self.groups * self.source.channel_len();
        for group in 0..self.groups {
            for channels in tile_ranges(self.out_per_group(), dot_shape::<S>(usize::MAX).0) {
                let first = group * self.out_per_group() + channels.start;
                for tile in tile_ranges(taps, dot_shape::<S>(channels.len()).1) {
                    DotTile {
                        a: &cotangent.cells[first * plane..],
                        a_image: cotangent.stride,
                        a_plane: plane,
                        b: &source.cells[group * group_len..],
                        b_image: source.stride,
                        offsets: &self.offsets[tile.clone()],
                        images: source.count,
                        pixels: self.span(),
                        out: &mut partial[first * taps + tile.start..],
                        out_stride: taps,
                    }
                    .run(simd, channels.len());
                }
            }
        }
    }

    /// Transposes every cotangent to `[group][pixel][channel]`.
    #[inline(always)]
    fn transpose<T: Real>(&self, cotangent: &[T], transposed: &mut [T]) {
        let (pixels, channels, padded) = (self.output.plane(), self.out_per_group(), self.padded_channels());
        let groups = cotangent.chunks_exact(channels * pixels).zip(transposed.chunks_exact_mut(pixels * padded));
        for (from, to) in groups {
            for first in (0..channels).step_by(TRANSPOSED) {
                let to = to[first..].chunks_mut(padded);
                if first + TRANSPOSED <= channels {
                    // Eight rows at a time: every cache line of the result is touched once.
                    let rows: [&[T]; TRANSPOSED] = std::array::from_fn(|c| &from[(first + c) * pixels..][..pixels]);
                    for (i, to) in to.enumerate() {
                        if let Some(to) = to.first_chunk_mut::<TRANSPOSED>() {
                            *to = std::array::from_fn(|c| rows[c][i]);
                        }
                    }
                } else {
                    for (i, to) in to.enumerate() {
                        let column = from[first * pixels + i..].iter().step_by(pixels);
                        to.iter_mut().zip(column).for_each(|(to, &from)| *to = from);
                    }
                }
            }
        }
    }

    /// Adds `Σ_i x[t, i] g[i, o]` to `partial`.
    #[inline(always)]
    fn outer_products<T: Real, S: Simd>(&self, simd: S, source: Packed<'_, T>, cotangent: &[T], partial: &mut [T]) {
        let (taps, padded) = (self.offsets.len(), self.padded_channels());
        let group_len = self.input.channels / self.groups * self.source.channel_len();
        let vectors = padded / T::lanes::<S>();
        for group in 0..self.groups {
            let partial = &mut partial[group * taps * padded..][..taps * padded];
            for vectors in tile_ranges(vectors, outer_shape::<S>().1) {
                for tile in tile_ranges(taps, outer_shape::<S>().0) {
                    OuterTile {
                        a: &source.cells[group * group_len..],
                        a_image: source.stride,
                        a_pitch: self.source.pitch(),
                        offsets: &self.offsets[tile.clone()],
                        b: &cotangent[group * self.output.plane() * padded..],
                        b_image: self.cotangent_len(),
                        b_pitch: padded,
                        first: vectors.start * T::lanes::<S>(),
                        images: source.count,
                        grid: [self.output.height, self.output.width],
                        out: &mut partial[tile.start * padded..],
                    }
                    .run(simd, vectors.len());
                }
            }
        }
    }
}

/// Sum of a slice, in four interleaved rows of lanes.
struct Sum<'a, T>(&'a [T]);

impl<T: Real> WithSimd for Sum<'_, T> {
    type Output = T;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> T {
        let lanes = T::lanes::<S>();
        let mut acc = [T::splat(simd, T::ZERO); 4];
        let (blocks, rest) = self.0.split_at(self.0.len() / (4 * lanes) * (4 * lanes));
        for block in blocks.chunks_exact(4 * lanes) {
            for (acc, part) in acc.iter_mut().zip(block.chunks_exact(lanes)) {
                *acc = T::add_lanes(simd, *acc, T::load(simd, part));
            }
        }
        for (acc, part) in acc.iter_mut().zip(rest.chunks(lanes)) {
            *acc = T::add_lanes(simd, *acc, T::load_partial(simd, part));
        }
        T::sum_lanes(simd, T::add_lanes(simd, T::add_lanes(simd, acc[0], acc[1]), T::add_lanes(simd, acc[2], acc[3])))
    }
}
