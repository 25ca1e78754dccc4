use std::ops::Range;

use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::pixels::QUAD;
use super::product::Outer;
use super::transform::{cotangent_tile, input_tile, places, weight_gradient_tile};
use super::{IN, OUT, PANEL, POINTS, TAPS, Tiling, fits, padded, panels, pixels, point_pitch};
use crate::Real;
use crate::conv2d::threads::Exec;
use crate::conv2d::{Conv2dGeometry, ConvWeightGrad};
use crate::lanes::MAX_LANES;
use crate::parallel::{CACHE_LINE, zeroed_chunks};

/// Time for a vector of channels of one tile, in products: transposed, transformed, written and read once for each panel.
const TILE_COST: f64 = 2600.0;
/// Tiles of a part: enough to pay for loading and storing the sums.
const PART_TILES: usize = 48;
/// Parts that are transformed before their products, at most; as many threads share in that.
const PARTS: usize = 8;

/// The weight gradient: the transpose of the forward pass in its weights, `Gᵀ[Σ (Bᵀ d B) ∘ (A y Aᵀ)]G`.
///
/// Every sum runs over the tiles in their order, so that it is the same bits on any number of threads.
#[derive(Clone, Debug)]
pub(in crate::conv2d) struct WinogradGrad {
    tiling: Tiling,
}

impl WinogradGrad {
    /// The weight gradient, where the method fits.
    pub(in crate::conv2d) fn new(g: &Conv2dGeometry) -> Option<Self> {
        fits(g).then_some(Self { tiling: Tiling { input: g.in_shape(), output: g.out_shape(), padding: g.padding() } })
    }

    /// Rough time for one sample in the measure of [`WeightGrad::cost`](crate::conv2d::weight_grad::WeightGrad).
    pub(in crate::conv2d) fn cost(&self) -> f64 {
        let [inputs, outputs] = self.channels();
        let (products, vectors) = (POINTS * inputs * outputs / MAX_LANES, (inputs + outputs) / MAX_LANES);
        self.tiling.count() as f64 * (1.25 * products as f64 + TILE_COST * vectors as f64)
    }

    /// Padded numbers of input and output channels.
    fn channels(&self) -> [usize; 2] {
        [padded(self.tiling.input.channels), padded(self.tiling.output.channels)]
    }

    /// Strips of one part.
    fn part_strips(&self) -> usize {
        PART_TILES.div_ceil(self.tiling.grid()[1])
    }

    /// Lengths of what a part needs: the strips of input and cotangent, and their transformed tiles.
    fn part_lens(&self) -> [usize; 4] {
        let [inputs, outputs] = self.channels();
        let across = self.tiling.grid()[1];
        let tiles = |channels: usize| POINTS * point_pitch(self.part_strips() * across * channels);
        [self.tiling.strip_len(), OUT * OUT * across * outputs, tiles(inputs), tiles(outputs)]
    }

    fn part_len(&self) -> usize {
        self.part_lens().iter().sum::<usize>().next_multiple_of(MAX_LANES)
    }

    /// Parts of a batch that are transformed at a time.
    fn parts(&self, batch: usize) -> usize {
        (batch * self.tiling.grid()[0]).div_ceil(self.part_strips()).min(PARTS)
    }

    /// Cells of the sums, `[point][input panel][output panel][input channel][output channel]`.
    fn sums_len(&self) -> usize {
        let [inputs, outputs] = self.channels();
        POINTS * point_pitch(inputs * outputs)
    }

    pub(in crate::conv2d) fn scratch<T: Real>(&self, batch: usize) -> StackReq {
        let sums = StackReq::new_aligned::<T>(self.sums_len(), CACHE_LINE);
        sums.and(StackReq::new_aligned::<T>(self.parts(batch) * self.part_len(), CACHE_LINE))
    }

    /// Sums over the whole batch; the lengths of the slices have been checked.
    pub(in crate::conv2d) fn run<T: Real>(&self, args: ConvWeightGrad<'_, T>, exec: Exec, stack: &mut MemStack) {
        let tiling = &self.tiling;
        let strips = args.input.len() / tiling.input.len() * tiling.grid()[0];
        if let Some(bias_grad) = args.bias_grad {
            self.bias_sums(args.cotangent, bias_grad);
        }
        if strips == 0 {
            args.weight_grad.fill(T::ZERO);
            return;
        }
        let [inputs, outputs] = self.channels();
        let (sums, stack) = stack.make_aligned_uninit::<T>(self.sums_len(), CACHE_LINE);
        let mut sums = zeroed_chunks(sums, point_pitch(inputs * outputs), exec.par);
        let part_len = self.part_len();
        let count = self.parts(args.input.len() / tiling.input.len());
        let (parts, _) = stack.make_aligned_uninit::<T>(count * part_len, CACHE_LINE);
        let mut parts = zeroed_chunks(parts, part_len, exec.par);
        for first in (0..strips).step_by(count * self.part_strips()) {
            let range = |part: usize| {
                let start = (first + part * self.part_strips()).min(strips);
                start..(start + self.part_strips()).min(strips)
            };
            let load = |(part, scratch): (usize, &mut &mut [T])| {
                let (input, cotangent) = (args.input, args.cotangent);
                exec.arch.dispatch(Load { plan: self, input, cotangent, strips: range(part), scratch });
            };
            match exec.par {
                Par::Seq => parts.iter_mut().enumerate().for_each(load),
                _ => parts.par_iter_mut().enumerate().for_each(load),
            }
            let add = |(point, sums): (usize, &mut &mut [T])| {
                for (index, part) in parts.iter().enumerate() {
                    let used = range(index).len() * tiling.grid()[1];
                    exec.arch.dispatch(Products { plan: self, point, part, used, sums });
                }
            };
            match exec.par {
                Par::Seq => sums.iter_mut().enumerate().for_each(add),
                _ => sums.par_iter_mut().enumerate().for_each(add),
            }
        }
        let sums: Vec<&[T]> = sums.into_iter().map(|sums| &*sums).collect();
        let panel_len = PANEL * tiling.input.channels * TAPS * TAPS;
        let finish = |(panel, weight_grad): (usize, &mut [T])| {
            exec.arch.dispatch(Finish { plan: self, first: panel * PANEL, sums: &sums, weight_grad });
        };
        match exec.par {
            Par::Seq => args.weight_grad.chunks_mut(panel_len).enumerate().for_each(finish),
            _ => args.weight_grad.par_chunks_mut(panel_len).enumerate().for_each(finish),
        }
    }

    /// Sums of the planes of the cotangent.
    fn bias_sums<T: Real>(&self, cotangent: &[T], bias_grad: &mut [T]) {
        bias_grad.fill(T::ZERO);
        let channels = bias_grad.len();
        for (i, plane) in cotangent.chunks_exact(self.tiling.output.plane()).enumerate() {
            let mut lanes = [T::ZERO; MAX_LANES];
            for block in plane.chunks(MAX_LANES) {
                lanes.iter_mut().zip(block).for_each(|(lane, value)| *lane += *value);
            }
            bias_grad[i % channels] += lanes.into_iter().sum::<T>();
        }
    }
}

/// Where a channel of a tile is, in `[point][panel][tile][channel]` with room for `room` tiles of `channels` padded channels.
#[inline(always)]
fn cell(point: usize, (channel, channels): (usize, usize), (tile, room): (usize, usize)) -> usize {
    let first = channel / PANEL * PANEL;
    point * point_pitch(room * channels) + first * room + tile * PANEL.min(channels - first) + channel - first
}

/// The transformed tiles of one part.
struct Load<'a, T> {
    plan: &'a WinogradGrad,
    input: &'a [T],
    cotangent: &'a [T],
    strips: Range<usize>,
    scratch: &'a mut [T],
}

impl<T: Real> WithSimd for Load<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { plan, input, cotangent, strips, scratch } = self;
        let tiling = &plan.tiling;
        let [strip_len, cotangent_len, tiles_len, cotangents_len] = plan.part_lens();
        let (strip, rest) = scratch.split_at_mut(strip_len);
        let (cotangent_strip, rest) = rest.split_at_mut(cotangent_len);
        let (tiles, rest) = rest.split_at_mut(tiles_len);
        let cotangents = &mut rest[..cotangents_len];
        let [down, across] = tiling.grid();
        for (i, at) in strips.enumerate() {
            let kept = if i > 0 && at % down > 0 { TAPS - 1 } else { 0 };
            tiling.load_strip(simd, at, kept, input, strip);
            plan.load_cotangent(simd, at, cotangent, cotangent_strip);
            for tile in 0..across {
                let place = (i * across + tile, plan.part_strips() * across);
                simd.vectorize(Tile { plan, strip, cotangent: cotangent_strip, tile, place, tiles, cotangents });
            }
        }
    }
}

impl WinogradGrad {
    /// Transposes the rows of strip `at` of the cotangent, and zeros below the image.
    ///
    /// What lies right of the image is never written.
    #[inline(always)]
    fn load_cotangent<T: Real, S: Simd>(&self, simd: S, at: usize, cotangent: &[T], strip: &mut [T]) {
        let shape = self.tiling.output;
        let [down, across] = self.tiling.grid();
        let image = &cotangent[at / down * shape.len()..][..shape.len()];
        let pitch = self.channels()[1];
        let (top, row_len) = (at % down * OUT, OUT * across * pitch);
        let rows = OUT.min(shape.height - top);
        strip[rows * row_len..].fill(T::ZERO);
        for first in (0..shape.channels).step_by(QUAD) {
            for row in 0..rows {
                let from = (&image[first * shape.plane() + (top + row) * shape.width..], shape.plane());
                let to = (&mut strip[row * row_len + first..], pitch);
                pixels::transpose(simd, from, to, [QUAD.min(shape.channels - first), shape.width]);
            }
        }
    }
}

/// One tile of input and cotangent.
struct Tile<'a, T> {
    plan: &'a WinogradGrad,
    strip: &'a [T],
    cotangent: &'a [T],
    /// Its place in the strip.
    tile: usize,
    /// Its place in the part, and how many there are.
    place: (usize, usize),
    tiles: &'a mut [T],
    cotangents: &'a mut [T],
}

impl<T: Real> WithSimd for Tile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let ([inputs, outputs], lanes) = (self.plan.channels(), T::lanes::<S>());
        let (zero, room) = (T::splat(simd, T::ZERO), self.place.1);
        let reads = places::<IN, POINTS>(self.plan.tiling.strip_width() * inputs, inputs, lanes);
        let apart = point_pitch(room * inputs);
        let writes = places::<IN, POINTS>(IN * apart, apart, lanes);
        let (strip, tiles) = (T::vectors(simd, self.strip), T::vectors_mut(simd, self.tiles));
        for channel in (0..inputs).step_by(lanes) {
            let from = (self.tile * OUT * inputs + channel) / lanes;
            let to = cell(0, (channel, inputs), self.place) / lanes;
            input_tile::<T, S>(simd, (strip, from, &reads), (&mut *tiles, to, &writes), zero);
        }
        let width = OUT * self.plan.tiling.grid()[1];
        let reads = places::<OUT, { OUT * OUT }>(width * outputs, outputs, lanes);
        let apart = point_pitch(room * outputs);
        let writes = places::<IN, POINTS>(IN * apart, apart, lanes);
        let (strip, cotangents) = (T::vectors(simd, self.cotangent), T::vectors_mut(simd, self.cotangents));
        for channel in (0..outputs).step_by(lanes) {
            let from = (self.tile * OUT * outputs + channel) / lanes;
            let to = cell(0, (channel, outputs), self.place) / lanes;
            cotangent_tile::<T, S>(simd, (strip, from, &reads), (&mut *cotangents, to, &writes), zero);
        }
    }
}

/// The products of one part at one point.
struct Products<'a, T> {
    plan: &'a WinogradGrad,
    point: usize,
    /// Scratch of the part.
    part: &'a [T],
    /// Number of its tiles.
    used: usize,
    sums: &'a mut [T],
}

impl<T: Real> WithSimd for Products<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [inputs, outputs] = self.plan.channels();
        let [strip, cotangent_strip, tiles, _] = self.plan.part_lens();
        let (tiles, cotangents) = self.part[strip + cotangent_strip..].split_at(tiles);
        let room = self.plan.part_strips() * self.plan.tiling.grid()[1];
        for (input, rows) in panels(inputs) {
            let a = &tiles[cell(self.point, (input, inputs), (0, room))..][..self.used * rows];
            for (output, width) in panels(outputs) {
                let b = &cotangents[cell(self.point, (output, outputs), (0, room))..][..self.used * width];
                let out = &mut self.sums[input * outputs + rows * output..][..rows * width];
                Outer { a, rows, b, width, out }.run(simd);
            }
        }
    }
}

/// The weight gradients of one panel of output channels.
struct Finish<'a, T> {
    plan: &'a WinogradGrad,
    /// First output channel.
    first: usize,
    /// One slice for each point.
    sums: &'a [&'a [T]],
    /// From the first output channel on.
    weight_grad: &'a mut [T],
}

impl<T: Real> WithSimd for Finish<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        const KERNEL: usize = TAPS * TAPS;
        let ([inputs, outputs], lanes) = (self.plan.channels(), T::lanes::<S>());
        let channels = self.plan.tiling.input.channels;
        let (count, width) = (self.weight_grad.len() / (channels * KERNEL), PANEL.min(outputs - self.first));
        let mut points = [&[][..]; POINTS];
        for (point, sums) in points.iter_mut().zip(self.sums) {
            *point = T::vectors(simd, sums);
        }
        for channel in 0..channels {
            let (panel, rows) = (channel / PANEL * PANEL, PANEL.min(inputs - channel / PANEL * PANEL));
            let start = panel * outputs + rows * self.first + (channel - panel) * width;
            for lane in (0..count).step_by(lanes) {
                let mut sums = [T::splat(simd, T::ZERO); POINTS];
                for (sum, point) in sums.iter_mut().zip(&points) {
                    *sum = point[(start + lane) / lanes];
                }
                let mut taps = [T::splat(simd, T::ZERO); KERNEL];
                let (reads, writes) = (places::<IN, POINTS>(IN, 1, 1), places::<TAPS, KERNEL>(TAPS, 1, 1));
                weight_gradient_tile::<T, S>(
                    simd,
                    (&sums, 0, &reads),
                    (&mut taps, 0, &writes),
                    T::splat(simd, T::ZERO),
                );
                let mut values = [[T::ZERO; MAX_LANES]; KERNEL];
                for (values, tap) in values.iter_mut().zip(taps) {
                    T::store(simd, values, tap);
                }
                for i in 0..lanes.min(count - lane) {
                    let at = ((lane + i) * channels + channel) * KERNEL;
                    for (to, tap) in self.weight_grad[at..][..KERNEL].iter_mut().zip(&values) {
                        *to = tap[i];
                    }
                }
            }
        }
    }
}
