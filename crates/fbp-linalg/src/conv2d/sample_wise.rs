//! Correlations of small images, with vectors of samples instead of pixels.
//!
//! An image of a few pixels fills no vector, and most taps of its edge pixels are padding. So a block of samples is
//! transposed, every output pixel of all of them is one vector, and padding is left out. Products are summed in the order
//! in which vectors of pixels sum them, so that both ways give the same numbers.

use pulp::{Simd, WithSimd};

use super::threads::{Needs, Part};
use super::tile::{MAX_CHANNELS, MAX_VECTORS, Tile, max_vectors, tile_ranges};
use crate::lanes::MAX_LANES;
use crate::{FeatureShape, Real};

/// Samples of a block.
const SAMPLES: usize = 64;
/// Distance between two cells of a block: whole cache lines, but no power of two, which would crowd few sets of the cache.
const PITCH: usize = SAMPLES + MAX_LANES;
/// Most taps of all output pixels together, which are written down one by one.
const MOST_TAPS: usize = 1 << 16;
/// Longest input and output together: a block of them fits into the second-level cache.
const MOST_CELLS: usize = 1 << 12;
/// Rough times to transpose one value and to pack one weight, in cycles.
const TRANSPOSE_CYCLES: usize = 2;
const PACK_CYCLES: usize = 2;
/// Share of the estimated time of vectors of pixels below which vectors of samples are taken.
const WORTHWHILE: f64 = 0.8;
/// Values of a sample that are transposed together.
const RUN: usize = 16;

/// The taps of one output pixel that are no padding.
#[derive(Clone, Debug)]
pub(super) struct PixelTaps {
    /// Place in a plane of the output.
    pub(super) pixel: usize,
    /// Place of the cells in the input of a group.
    pub(super) cells: Vec<usize>,
    /// Index of their weights for the first output channel of the first group.
    pub(super) weights: Vec<usize>,
}

/// Output pixels that share their weights.
#[derive(Clone, Debug)]
struct Shared {
    weights: Vec<usize>,
    /// Place of each pixel, and offsets of its taps in the transposed input of a group.
    pixels: Vec<(usize, Vec<usize>)>,
}

/// A correlation along samples.
#[derive(Clone, Debug)]
pub(super) struct SampleWise {
    shared: Vec<Shared>,
    input: FeatureShape,
    output: FeatureShape,
    groups: usize,
    channel_stride: usize,
    group_stride: usize,
    /// Fewest samples for which it is faster than vectors of pixels.
    least: usize,
}

/// Sizes of a correlation.
#[derive(Clone, Copy, Debug)]
pub(super) struct SampleWiseSizes {
    pub(super) input: FeatureShape,
    pub(super) output: FeatureShape,
    pub(super) groups: usize,
    /// Distance between the weights of two output channels of a group.
    pub(super) channel_stride: usize,
    /// Distance between the weights of two groups.
    pub(super) group_stride: usize,
}

impl SampleWiseSizes {
    /// Whether this way is open to so many taps of all pixels together.
    pub(super) fn allows(&self, taps: usize) -> bool {
        taps <= MOST_TAPS && self.input.len() + self.output.len() <= MOST_CELLS
    }
}

impl SampleWise {
    pub(super) fn new(sizes: SampleWiseSizes, pixels: impl Iterator<Item = PixelTaps>) -> Self {
        let SampleWiseSizes { input, output, groups, channel_stride, group_stride } = sizes;
        let mut shared: Vec<Shared> = Vec::new();
        for PixelTaps { pixel, cells, weights } in pixels {
            let offsets = cells.into_iter().map(|cell| cell * PITCH).collect();
            match shared.iter_mut().find(|shared| shared.weights == weights) {
                Some(shared) => shared.pixels.push((pixel, offsets)),
                None => shared.push(Shared { weights, pixels: vec![(pixel, offsets)] }),
            }
        }
        Self { shared, input, output, groups, channel_stride, group_stride, least: 1 }
    }

    /// The same for as many samples as make it faster than vectors of pixels, which take `cost` for a sample and pack
    /// `weight_len` weights before the first one; none if it never is.
    pub(super) fn faster_than(self, cost: f64, weight_len: usize) -> Option<Self> {
        let other = |samples: usize| samples as f64 * cost + (PACK_CYCLES * weight_len) as f64;
        let least = (1..=SAMPLES).find(|&samples| (self.cost(samples) as f64) < WORTHWHILE * other(samples))?;
        Some(Self { least, ..self })
    }

    /// Whether it is to be taken for so many samples.
    pub(super) fn is_for(&self, samples: usize) -> bool {
        samples >= self.least
    }

    fn out_per_group(&self) -> usize {
        self.output.channels / self.groups
    }

    /// Rough time for one block of samples, in the cycles in which vectors of pixels are told.
    fn cost(&self, samples: usize) -> usize {
        let products = |shared: &Shared| shared.pixels.len() * (shared.weights.len() + 1);
        let products = self.output.channels * self.shared.iter().map(products).sum::<usize>();
        let cells = self.input.len() + self.output.len();
        let clearing = cells * PITCH / MAX_LANES;
        let packing = PACK_CYCLES * self.weight_len();
        products * samples.div_ceil(MAX_LANES) + TRANSPOSE_CYCLES * cells * samples + clearing + packing
    }

    /// What a pass needs.
    pub(super) fn needs(&self) -> Needs {
        Needs { weights: self.weight_len(), thread: (self.input.len() + self.output.len()) * PITCH, block: SAMPLES }
    }

    fn weight_len(&self) -> usize {
        self.output.channels * self.shared.iter().map(|shared| shared.weights.len()).sum::<usize>()
    }

    /// Weights in the order in which the register tiles read them: `[group][block][shared][tap][channel]`.
    pub(super) fn pack_weights<T: Real>(&self, weight: &[T], mut packed: &mut [T]) {
        for group in 0..self.groups {
            for block in tile_ranges(self.out_per_group(), MAX_CHANNELS) {
                let first = group * self.group_stride + block.start * self.channel_stride;
                for shared in &self.shared {
                    let part;
                    (part, packed) = packed.split_at_mut(shared.weights.len() * block.len());
                    // Row by row, so that weights are read in their order.
                    for channel in 0..block.len() {
                        let row = &weight[first + channel * self.channel_stride..];
                        let mut to = channel;
                        for &tap in &shared.weights {
                            part[to] = row[tap];
                            to += block.len();
                        }
                    }
                }
            }
        }
    }
}

/// A run of samples.
pub(super) struct Blocks<'a, T: Real> {
    pub(super) plan: &'a SampleWise,
    pub(super) part: Part<'a, T>,
}

impl<T: Real> WithSimd for Blocks<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { plan, part: Part { input, mut output, weights: all_weights, bias, epilogue, scratch } } = self;
        let (in_len, out_len) = (plan.input.len(), plan.output.len());
        let (cells, results) = scratch[..plan.needs().thread].split_at_mut(in_len * PITCH);
        for (i, input) in input.chunks(SAMPLES * in_len).enumerate() {
            spread(input, cells, in_len);
            let vectors = (input.len() / in_len).div_ceil(T::lanes::<S>());
            let mut weights = all_weights;
            for group in 0..plan.groups {
                let src = &cells[group * (in_len / plan.groups) * PITCH..];
                for block in tile_ranges(plan.out_per_group(), MAX_CHANNELS) {
                    let first = group * plan.out_per_group() + block.start;
                    let out = &mut results[first * plan.output.plane() * PITCH..];
                    let init = bias.map_or(&[][..], |bias| &bias[first..]);
                    for shared in &plan.shared {
                        let part;
                        (part, weights) = weights.split_at(shared.weights.len() * block.len());
                        let tiles = Tiles { plan, src, weights: part, init, channels: block.len(), vectors };
                        tiles.run(simd, shared, out);
                    }
                }
            }
            let first = i * SAMPLES * out_len;
            let output = &mut output.first(first + input.len() / in_len * out_len)[first..];
            collect(results, output, out_len);
            if let Some(epilogue) = epilogue {
                epilogue.from(first).apply(simd, output);
            }
        }
    }
}

/// Some output channels of a block of samples.
struct Tiles<'a, T> {
    plan: &'a SampleWise,
    src: &'a [T],
    weights: &'a [T],
    init: &'a [T],
    channels: usize,
    /// Vectors of samples.
    vectors: usize,
}

impl<T: Real> Tiles<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, shared: &Shared, out: &mut [T]) {
        let lanes = T::lanes::<S>();
        for vectors in tile_ranges(self.vectors, max_vectors::<S>(self.channels)) {
            let (mut reads, count) = ([0; MAX_VECTORS], vectors.len());
            reads.iter_mut().zip(vectors).for_each(|(read, vector)| *read = vector * lanes);
            for (pixel, offsets) in &shared.pixels {
                let tile = Tile {
                    src: self.src,
                    offsets,
                    weights: self.weights,
                    init: self.init,
                    reads: &reads[..count],
                    writes: &reads[..count],
                    out: &mut out[pixel * PITCH..],
                    plane: self.plan.output.plane() * PITCH,
                };
                tile.run(simd, self.channels);
            }
        }
    }
}

/// Writes every value of some samples of `len` values into the row of its place.
#[inline(always)]
fn spread<T: Real>(samples: &[T], cells: &mut [T], len: usize) {
    let count = samples.len() / len;
    let mut start = 0;
    while start < len {
        let width = RUN.min(len - start);
        let rows = &mut cells[start * PITCH..][..width * PITCH];
        let mut sample = 0;
        while sample < count {
            let values = &samples[sample * len + start..][..width];
            let mut k = 0;
            while k < width {
                rows[k * PITCH + sample] = values[k];
                k += 1;
            }
            sample += 1;
        }
        start += width;
    }
}

/// The way back.
#[inline(always)]
fn collect<T: Real>(cells: &[T], samples: &mut [T], len: usize) {
    let count = samples.len() / len;
    let mut start = 0;
    while start < len {
        let width = RUN.min(len - start);
        let rows = &cells[start * PITCH..][..width * PITCH];
        let mut sample = 0;
        while sample < count {
            let values = &mut samples[sample * len + start..][..width];
            let mut k = 0;
            while k < width {
                values[k] = rows[k * PITCH + sample];
                k += 1;
            }
            sample += 1;
        }
        start += width;
    }
}
