use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::pixels::QUAD;
use super::product::{ROWS, Rows};
use super::transform::{input_tile, output_tile, places, weight_tile};
use super::{IN, OUT, PANEL, POINTS, TAPS, Tiling, fits, padded, panels, pixels, point_pitch};
use crate::conv2d::Conv2dGeometry;
use crate::conv2d::kept::Order;
use crate::conv2d::threads::{CorrelateArgs, Exec, Needs, Part, Pass, Shares};
use crate::lanes::MAX_LANES;
use crate::{FeatureShape, Real};

/// Time for a vector of channels of one tile, in products: transposed, transformed, written and read. Measured for 64 channels; layers
/// of 16 would take a sixth longer this way than plainly.
const TILE_COST: f64 = 800.0;

/// A forward pass, or an adjoint: a correlation with the kernel turned by half a turn.
#[derive(Clone, Debug)]
pub(in crate::conv2d) struct Winograd {
    tiling: Tiling,
    /// Whether it is the adjoint.
    turned: bool,
}

impl Winograd {
    /// The forward pass, where the method fits.
    pub(in crate::conv2d) fn forward(g: &Conv2dGeometry) -> Option<Self> {
        let tiling = Tiling { input: g.in_shape(), output: g.out_shape(), padding: g.padding() };
        fits(g).then_some(Self { tiling, turned: false })
    }

    /// The adjoint, where the method fits.
    pub(in crate::conv2d) fn adjoint(g: &Conv2dGeometry) -> Option<Self> {
        let padding = g.padding().map(|padding| (TAPS - 1).saturating_sub(padding));
        let tiling = Tiling { input: g.out_shape(), output: g.in_shape(), padding };
        fits(g).then_some(Self { tiling, turned: true })
    }

    /// Rough time for one sample in the measure of [`Correlation::cost`](crate::conv2d::correlate::Correlation): a quarter
    /// more than the products, and what transposing and transforming a vector of channels of a tile was measured to take.
    pub(in crate::conv2d) fn cost(&self) -> f64 {
        let inputs = self.tiling.input.channels;
        let products = (POINTS * inputs * self.columns() / MAX_LANES) as f64;
        let vectors = ((padded(inputs) + self.columns()) / MAX_LANES) as f64;
        self.tiling.count() as f64 * (1.25 * products + TILE_COST * vectors)
    }

    fn columns(&self) -> usize {
        padded(self.tiling.output.channels)
    }

    /// Columns of the widest panel.
    fn widest(&self) -> usize {
        self.columns().min(PANEL)
    }

    /// Rows of tiles that are transformed before the products, of one or several images.
    fn block_strips(&self) -> usize {
        let [_, across] = self.tiling.grid();
        self.tiling.input.channels.clamp(64, 256).div_ceil(across)
    }

    /// Tiles of a block; as many as a register tile has rows, or more.
    fn block_tiles(&self, samples: usize) -> usize {
        let [down, across] = self.tiling.grid();
        (self.block_strips().min(samples * down) * across).max(ROWS)
    }

    /// Cells of the transformed weights, `[panel][point][channel][column]`.
    fn weights_len(&self) -> usize {
        panels(self.columns()).map(|(_, width)| self.panel_len(width)).sum()
    }

    /// Cells of a panel of so many columns.
    fn panel_len(&self, width: usize) -> usize {
        POINTS * point_pitch(self.tiling.input.channels * width)
    }

    /// Lengths of what one thread needs: strip, transformed tiles, products, outputs of a row of tiles.
    fn thread_lens(&self, samples: usize) -> [usize; 4] {
        let tiles = self.block_tiles(samples);
        let stage = OUT * OUT * self.tiling.grid()[1] * self.widest();
        let [inputs, products] =
            [padded(self.tiling.input.channels), self.widest()].map(|width| POINTS * point_pitch(tiles * width));
        [self.tiling.strip_len(), inputs, products, stage]
    }

    fn needs(&self, samples: usize) -> Needs {
        let block = self.block_strips().div_ceil(self.tiling.grid()[0]);
        Needs { weights: self.weights_len(), thread: self.thread_lens(samples).iter().sum(), block }
    }

    pub(in crate::conv2d) fn scratch<T: Real>(&self, batch: usize, par: Par) -> StackReq {
        let shares = Shares::new(batch, par);
        self.needs(shares.share).scratch::<T>(shares, par)
    }

    /// The same of a call whose weights are kept.
    pub(in crate::conv2d) fn scratch_without_weights<T: Real>(&self, batch: usize, par: Par) -> StackReq {
        let shares = Shares::new(batch, par);
        self.needs(shares.share).scratch_without_weights::<T>(shares)
    }

    /// Runs it on every sample; the lengths of the slices have been checked.
    pub(in crate::conv2d) fn run<T: Real>(&self, args: CorrelateArgs<'_, T>, exec: Exec, stack: &mut MemStack) {
        let lens = [self.tiling.input.len(), self.tiling.output.len()];
        let shares = Shares::new(args.input.len() / lens[0], exec.par);
        if shares.share == 0 {
            return;
        }
        let pass = Pass { lens, shares, needs: self.needs(shares.share), order: Order::Pixels };
        let pack =
            |weight: &[T], cells: &mut [T], par| self.transform_weights(weight, cells, Exec { arch: exec.arch, par });
        let compute = |part: Part<'_, T>| exec.arch.dispatch(Samples { plan: self, part });
        pass.run(args, &pack, &compute, exec.par, stack);
    }

    /// `G g Gᵀ` of every pair of channels, panel by panel.
    fn transform_weights<T: Real>(&self, weight: &[T], cells: &mut [T], exec: Exec) {
        let (panel_len, arch) = (self.panel_len(PANEL), exec.arch);
        let work = |(panel, into): (usize, &mut [T])| {
            arch.dispatch(PanelWeights { plan: self, weight, first: panel * PANEL, into });
        };
        match exec.par {
            Par::Seq => cells.chunks_mut(panel_len).enumerate().for_each(work),
            Par::Rayon(_) => cells.par_chunks_mut(panel_len).enumerate().for_each(work),
        }
    }

    /// Weights between an input channel and up to a vector of output channels, tap by tap.
    #[inline(always)]
    fn weights_of<T: Real>(&self, weight: &[T], channel: usize, first: usize) -> [[T; MAX_LANES]; TAPS * TAPS] {
        const KERNEL: usize = TAPS * TAPS;
        let (inputs, outputs) = (self.tiling.input.channels, self.tiling.output.channels);
        let (start, step) = if self.turned { (channel * outputs, 1) } else { (channel, inputs) };
        let mut taps = [[T::ZERO; MAX_LANES]; KERNEL];
        for lane in 0..MAX_LANES.min(outputs.saturating_sub(first)) {
            let kernel = &weight[(start + (first + lane) * step) * KERNEL..][..KERNEL];
            for (tap, value) in kernel.iter().enumerate() {
                taps[if self.turned { KERNEL - 1 - tap } else { tap }][lane] = *value;
            }
        }
        taps
    }
}

/// The transformed weights of one panel.
struct PanelWeights<'a, T> {
    plan: &'a Winograd,
    weight: &'a [T],
    /// First output channel.
    first: usize,
    /// `[point][channel][column]`.
    into: &'a mut [T],
}

impl<T: Real> WithSimd for PanelWeights<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (channels, lanes) = (self.plan.tiling.input.channels, T::lanes::<S>());
        let width = PANEL.min(self.plan.columns() - self.first);
        let reads = places::<TAPS, { TAPS * TAPS }>(TAPS * MAX_LANES, MAX_LANES, lanes);
        let pitch = point_pitch(channels * width);
        let writes = places::<IN, POINTS>(IN * pitch, pitch, lanes);
        let zero = T::splat(simd, T::ZERO);
        let into = T::vectors_mut(simd, self.into);
        for channel in 0..channels {
            for block in (0..width).step_by(MAX_LANES) {
                let taps = self.plan.weights_of(self.weight, channel, self.first + block);
                let taps = T::vectors(simd, taps.as_flattened());
                let to = (channel * width + block) / lanes;
                for vector in 0..MAX_LANES / lanes {
                    weight_tile::<T, S>(simd, (taps, vector, &reads), (&mut *into, to + vector, &writes), zero);
                }
            }
        }
    }
}

/// A run of samples.
struct Samples<'a, T: Real> {
    plan: &'a Winograd,
    part: Part<'a, T>,
}

impl<T: Real> WithSimd for Samples<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { plan, part: Part { input, mut output, weights, bias, epilogue, scratch } } = self;
        let tiling = &plan.tiling;
        let [down, across] = tiling.grid();
        let samples = input.len() / tiling.input.len();
        let [strip, tiles, products, _] = plan.thread_lens(samples);
        let (strip, rest) = scratch.split_at_mut(strip);
        let (tiles, rest) = rest.split_at_mut(tiles);
        let (products, stage) = rest.split_at_mut(products);
        let (strips, pitch) = (samples * down, padded(tiling.input.channels));
        let rows = plan.block_tiles(samples);
        let [tiles_apart, products_apart] = [pitch, plan.widest()].map(|width| point_pitch(rows * width));
        for first in (0..strips).step_by(plan.block_strips()) {
            let block = first..strips.min(first + plan.block_strips());
            // Images that are complete, or only begun.
            let output = output.first(block.end.div_ceil(down) * tiling.output.len());
            for (i, at) in block.clone().enumerate() {
                // The strip above has the first rows already.
                let kept = if i > 0 && at % down > 0 { TAPS - 1 } else { 0 };
                tiling.load_strip(simd, at, kept, input, strip);
                simd.vectorize(Tiles { tiling, strip, first: i * across, apart: tiles_apart, tiles });
            }
            let used = (block.len() * across).max(ROWS);
            for ((column, width), weights) in panels(plan.columns()).zip(weights.chunks(plan.panel_len(PANEL))) {
                let point_len = tiling.input.channels * width;
                for (point, weights) in weights.chunks_exact(point_pitch(point_len)).enumerate() {
                    Rows {
                        a: &tiles[point * tiles_apart..],
                        pitch,
                        depth: tiling.input.channels,
                        b: &weights[..point_len],
                        width,
                        out: &mut products[point * products_apart..][..rows * width],
                        rows: used,
                    }
                    .run(simd);
                }
                let bias = bias.map_or(&[][..], |bias| &bias[column..]);
                for (i, at) in block.clone().enumerate() {
                    let (apart, first) = (products_apart, i * across);
                    simd.vectorize(Outputs { tiling, products, apart, first, width, bias, stage });
                    tiling.store_strip(simd, (at, column), width, stage, output);
                }
            }
            // Images that are complete.
            let len = tiling.output.len();
            for sample in first / down..block.end / down {
                if let Some(epilogue) = epilogue {
                    epilogue.from(sample * len).apply(simd, &mut output[sample * len..][..len]);
                }
            }
        }
    }
}

impl Tiling {
    /// Transposes the rows of the input that strip `at` of a batch needs; `kept` rows of the one above are moved.
    ///
    /// What lies left and right of the image is never written.
    #[inline(always)]
    pub(super) fn load_strip<T: Real, S: Simd>(&self, simd: S, at: usize, kept: usize, input: &[T], strip: &mut [T]) {
        let FeatureShape { channels, height, width } = self.input;
        let down = self.grid()[0];
        let (sample, top) = (at / down, at % down * OUT);
        let (pitch, image) = (padded(channels), &input[sample * self.input.len()..][..self.input.len()]);
        let row_len = self.strip_width() * pitch;
        strip.copy_within(OUT * row_len..(OUT + kept) * row_len, 0);
        let pixel = |row: usize| (top + row).checked_sub(self.padding[0]).filter(|y| *y < height);
        for row in (kept..IN).filter(|row| pixel(*row).is_none()) {
            strip[row * row_len..][..row_len].fill(T::ZERO);
        }
        // All rows of some planes and then of the next: what is read lies next to each other.
        for first in (0..channels).step_by(QUAD) {
            for row in kept..IN {
                let Some(y) = pixel(row) else { continue };
                let from = (&image[first * height * width + y * width..], height * width);
                let to = (&mut strip[row * row_len + self.padding[1] * pitch + first..], pitch);
                pixels::transpose(simd, from, to, [QUAD.min(channels - first), width]);
            }
        }
    }

    /// Writes the columns `column..column + width` of strip `at` to the planes of the output.
    #[inline(always)]
    fn store_strip<T: Real, S: Simd>(
        &self,
        simd: S,
        (at, column): (usize, usize),
        width: usize,
        stage: &[T],
        output: &mut [T],
    ) {
        let [down, across] = self.grid();
        let (sample, top) = (at / down, at % down * OUT);
        let (plane, channels) = (self.output.plane(), width.min(self.output.channels - column));
        let planes = &mut output[sample * self.output.len() + column * plane..];
        for first in (0..channels).step_by(MAX_LANES) {
            for row in 0..OUT.min(self.output.height - top) {
                let from = (&stage[row * OUT * across * width + first..], width);
                let to = (&mut planes[first * plane + (top + row) * self.output.width..], plane);
                pixels::transpose(simd, from, to, [self.output.width, MAX_LANES.min(channels - first)]);
            }
        }
    }
}

/// Transforms the tiles of a strip, the first of which becomes number `first` of its point.
pub(super) struct Tiles<'a, T> {
    pub(super) tiling: &'a Tiling,
    pub(super) strip: &'a [T],
    pub(super) first: usize,
    /// Distance between two points.
    pub(super) apart: usize,
    /// `[point][tile][channel]`.
    pub(super) tiles: &'a mut [T],
}

impl<T: Real> WithSimd for Tiles<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (pitch, lanes) = (padded(self.tiling.input.channels), T::lanes::<S>());
        let reads = places::<IN, POINTS>(self.tiling.strip_width() * pitch, pitch, lanes);
        let writes = places::<IN, POINTS>(IN * self.apart, self.apart, lanes);
        let (strip, tiles) = (T::vectors(simd, self.strip), T::vectors_mut(simd, self.tiles));
        for tile in 0..self.tiling.grid()[1] {
            let (from, to) = (tile * OUT * pitch / lanes, (self.first + tile) * pitch / lanes);
            for vector in 0..pitch / lanes {
                let (source, target) = ((strip, from + vector, &reads), (&mut *tiles, to + vector, &writes));
                input_tile::<T, S>(simd, source, target, T::splat(simd, T::ZERO));
            }
        }
    }
}

/// The outputs of a strip, from the products of its tiles.
struct Outputs<'a, T> {
    tiling: &'a Tiling,
    /// `[point][tile][column]`.
    products: &'a [T],
    /// Distance between two points.
    apart: usize,
    first: usize,
    width: usize,
    /// Of the columns and those behind; empty for none.
    bias: &'a [T],
    /// `[row][pixel][column]`.
    stage: &'a mut [T],
}

impl<T: Real> WithSimd for Outputs<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (across, lanes) = (self.tiling.grid()[1], T::lanes::<S>());
        let reads = places::<IN, POINTS>(IN * self.apart, self.apart, lanes);
        let writes = places::<OUT, { OUT * OUT }>(OUT * across * self.width, self.width, lanes);
        let (products, stage) = (T::vectors(simd, self.products), T::vectors_mut(simd, self.stage));
        for vector in 0..self.width / lanes {
            let bias = self.bias.get(vector * lanes..).unwrap_or(&[]);
            let bias = T::load_partial(simd, &bias[..lanes.min(bias.len())]);
            for tile in 0..across {
                let (from, to) = ((self.first + tile) * self.width / lanes, tile * OUT * self.width / lanes);
                let (source, target) = ((products, from + vector, &reads), (&mut *stage, to + vector, &writes));
                output_tile::<T, S>(simd, source, target, bias);
            }
        }
    }
}
