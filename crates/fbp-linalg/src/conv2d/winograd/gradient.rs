use std::mem::{MaybeUninit, take};
use std::ops::Range;

use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::pixels::QUAD;
use super::product::Outer;
use super::transform::{cotangent_tile, input_tile, places, weight_gradient_tile};
use super::{HALF_PANEL, IN, OUT, PANEL, POINTS, TAPS, Tiling, fits, padded, panels, pixels, point_pitch};
use crate::Real;
use crate::conv2d::threads::Exec;
use crate::conv2d::{Conv2dGeometry, ConvWeightGrad};
use crate::lanes::MAX_LANES;
use crate::parallel::{CACHE_LINE, zeroed, zeroed_by, zeroed_chunks};

/// Time for a vector of channels of one tile, in products: transposed, transformed, written and read once for each panel.
const TILE_COST: f64 = 800.0;
/// Tiles of a part: enough to pay for loading and storing the sums.
const PART_TILES: usize = 48;
/// Parts that are transformed before their products, at most, by all threads together.
const PARTS: usize = 8;

/// Banks of sums at most, each over a share of the tiles: threads that have one each do not wait for what others transform.
const BANKS: usize = 4;
/// Most bytes of all banks.
const BANK_BYTES: usize = 5 << 20;

/// The weight gradient: the transpose of the forward pass in its weights, `Gᵀ[Σ (Bᵀ d B) ∘ (A y Aᵀ)]G`.
///
/// Every sum runs over the tiles of a bank in their order and then over the banks, so that it is the same bits on any number of threads.
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

    /// Parts of a batch.
    fn parts(&self, batch: usize) -> usize {
        (batch * self.tiling.grid()[0]).div_ceil(self.part_strips())
    }

    /// Parts that are transformed before their products: as many as hold no more than the sums, which all products go through.
    fn room(&self) -> usize {
        (self.sums_len() / self.part_len()).clamp(1, PARTS)
    }

    /// Banks of sums of a batch, whatever the number of threads.
    fn banks<T>(&self, batch: usize) -> usize {
        (BANK_BYTES / (self.sums_len() * size_of::<T>()))
            .min(BANKS)
            .min(PARTS / self.room())
            .min(self.parts(batch))
            .max(1)
    }

    /// Cells of the sums, `[point][input panel][output panel][input channel][output channel]`.
    fn sums_len(&self) -> usize {
        let [inputs, outputs] = self.channels();
        POINTS * point_pitch(inputs * outputs)
    }

    pub(in crate::conv2d) fn scratch<T: Real>(&self, batch: usize) -> StackReq {
        let sums = StackReq::new_aligned::<T>(self.banks::<T>(batch) * self.sums_len(), CACHE_LINE);
        sums.and(StackReq::new_aligned::<T>(self.parts(batch).min(PARTS) * self.part_len(), CACHE_LINE))
    }

    /// Sums over the whole batch; the lengths of the slices have been checked.
    pub(in crate::conv2d) fn run<T: Real>(&self, args: ConvWeightGrad<'_, T>, exec: Exec, stack: &mut MemStack) {
        let tiling = &self.tiling;
        let batch = args.input.len() / tiling.input.len();
        let strips = batch * tiling.grid()[0];
        if let Some(bias_grad) = args.bias_grad {
            self.bias_sums(args.cotangent, bias_grad, exec.par);
        }
        if strips == 0 {
            args.weight_grad.fill(T::ZERO);
            return;
        }
        let (count, par) = (self.banks::<T>(batch), exec.par);
        let (cells, stack) = stack.make_aligned_uninit::<T>(count * self.sums_len(), CACHE_LINE);
        let share = |bank: usize| strips * bank / count..strips * (bank + 1) / count;
        let bank = |(i, cells)| Bank { cells, sums: &mut [], strips: share(i) };
        let mut banks: Vec<Bank<'_, T>> = cells.chunks_mut(self.sums_len()).enumerate().map(bank).collect();
        let images = (args.input, args.cotangent);
        let threads = par.degree().max(1);
        if !count.is_multiple_of(threads) {
            // All threads share every bank.
            let room = self.room().max(threads).min(PARTS).min(self.parts(batch));
            let (parts, _) = stack.make_aligned_uninit::<T>(room * self.part_len(), CACHE_LINE);
            let mut parts = zeroed_chunks(parts, self.part_len(), par);
            banks.iter_mut().for_each(|bank| self.fill(images, bank, &mut parts, exec));
        } else {
            // Each has as many banks of its own.
            let exec = Exec { par: Par::Seq, ..exec };
            let room = self.room().min(self.parts(batch) / threads);
            let (parts, _) = stack.make_aligned_uninit::<T>(threads * room * self.part_len(), CACHE_LINE);
            let of_thread = |(banks, parts): (&mut [Bank<'_, T>], &mut [MaybeUninit<T>])| {
                let mut parts: Vec<&mut [T]> = parts.chunks_mut(self.part_len()).map(zeroed).collect();
                banks.iter_mut().for_each(|bank| self.fill(images, bank, &mut parts, exec));
            };
            let (each, parts_len) = (count / threads, room * self.part_len());
            match par {
                Par::Seq => banks.chunks_mut(each).zip(parts.chunks_mut(parts_len)).for_each(of_thread),
                _ => banks.par_chunks_mut(each).zip(parts.par_chunks_mut(parts_len)).for_each(of_thread),
            }
        }
        let Some((Bank { sums, .. }, others)) = banks.split_first_mut() else { return };
        self.add_banks(sums, others, exec);
        let sums = &**sums;
        // A panel is best read in one go, unless that leaves threads without work.
        let block = if self.channels()[1] >= threads * PANEL { PANEL } else { HALF_PANEL };
        let block_len = block * tiling.input.channels * TAPS * TAPS;
        let finish = |(i, weight_grad): (usize, &mut [T])| {
            exec.arch.dispatch(Finish { plan: self, first: i * block, sums, weight_grad });
        };
        match par {
            Par::Seq => args.weight_grad.chunks_mut(block_len).enumerate().for_each(finish),
            _ => args.weight_grad.par_chunks_mut(block_len).enumerate().for_each(finish),
        }
    }

    /// Adds all other banks to the first one, in their order.
    fn add_banks<T: Real>(&self, first: &mut [T], others: &[Bank<'_, T>], exec: Exec) {
        let apart = self.sums_len() / POINTS;
        let add = |(point, sums): (usize, &mut [T])| {
            for other in others {
                exec.arch.dispatch(Add { to: &mut *sums, from: &other.sums[point * apart..] });
            }
        };
        match exec.par {
            Par::Seq => first.chunks_mut(apart).enumerate().for_each(add),
            _ => first.par_chunks_mut(apart).enumerate().for_each(add),
        }
    }

    /// Adds up the products of a bank, as many parts at a time as there is scratch for.
    fn fill<T: Real>(
        &self,
        (input, cotangent): (&[T], &[T]),
        bank: &mut Bank<'_, T>,
        parts: &mut [&mut [T]],
        exec: Exec,
    ) {
        let [inputs, outputs] = self.channels();
        let strips = bank.strips.clone();
        bank.sums = zeroed_by(take(&mut bank.cells), exec.par);
        for first in strips.clone().step_by(parts.len() * self.part_strips()) {
            let range = |part: usize| {
                let start = (first + part * self.part_strips()).min(strips.end);
                start..(start + self.part_strips()).min(strips.end)
            };
            let load = |(part, scratch): (usize, &mut &mut [T])| {
                exec.arch.dispatch(Load { plan: self, input, cotangent, strips: range(part), scratch });
            };
            match exec.par {
                Par::Seq => parts.iter_mut().enumerate().for_each(load),
                _ => parts.par_iter_mut().enumerate().for_each(load),
            }
            let add = |(point, sums): (usize, &mut [T])| {
                for (index, part) in parts.iter().enumerate() {
                    let used = range(index).len() * self.tiling.grid()[1];
                    exec.arch.dispatch(Products { plan: self, point, part, used, sums });
                }
            };
            let apart = point_pitch(inputs * outputs);
            match exec.par {
                Par::Seq => bank.sums.chunks_mut(apart).enumerate().for_each(add),
                _ => bank.sums.par_chunks_mut(apart).enumerate().for_each(add),
            }
        }
    }

    /// Sums of the planes of the cotangent.
    fn bias_sums<T: Real>(&self, cotangent: &[T], bias_grad: &mut [T], par: Par) {
        let (plane, image) = (self.tiling.output.plane(), self.tiling.output.len());
        let sum = |(channel, sum): (usize, &mut T)| {
            let of_image = |cotangent: &[T]| {
                let mut lanes = [T::ZERO; MAX_LANES];
                for block in cotangent[channel * plane..][..plane].chunks(MAX_LANES) {
                    lanes.iter_mut().zip(block).for_each(|(lane, value)| *lane += *value);
                }
                lanes.into_iter().sum::<T>()
            };
            *sum = cotangent.chunks_exact(image).map(of_image).sum();
        };
        match par {
            Par::Seq => bias_grad.iter_mut().enumerate().for_each(sum),
            _ => bias_grad.par_iter_mut().enumerate().for_each(sum),
        }
    }
}

/// Sums over some strips, with the thread that adds them up.
struct Bank<'a, T> {
    /// Memory that has no values yet.
    cells: &'a mut [MaybeUninit<T>],
    /// `[point][input panel][output panel][input channel][output channel]`.
    sums: &'a mut [T],
    strips: Range<usize>,
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

/// Adds numbers to others.
struct Add<'a, T> {
    to: &'a mut [T],
    from: &'a [T],
}

impl<T: Real> WithSimd for Add<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (to, from) in T::vectors_mut(simd, self.to).iter_mut().zip(T::vectors(simd, self.from)) {
            *to = T::add_lanes(simd, *to, *from);
        }
    }
}

/// The weight gradients of some output channels of one panel.
struct Finish<'a, T> {
    plan: &'a WinogradGrad,
    /// First output channel.
    first: usize,
    sums: &'a [T],
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
        let count = self.weight_grad.len() / (channels * KERNEL);
        let output = self.first / PANEL * PANEL;
        let width = PANEL.min(outputs - output);
        let (points, apart) = (T::vectors(simd, self.sums), point_pitch(inputs * outputs) / lanes);
        for channel in 0..channels {
            let (panel, rows) = (channel / PANEL * PANEL, PANEL.min(inputs - channel / PANEL * PANEL));
            let start = panel * outputs + rows * output + (channel - panel) * width + self.first - output;
            for lane in (0..count).step_by(lanes) {
                let mut sums = [T::splat(simd, T::ZERO); POINTS];
                let points = points[(start + lane) / lanes..].iter().step_by(apart);
                sums.iter_mut().zip(points).for_each(|(sum, point)| *sum = *point);
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
