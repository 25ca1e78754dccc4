use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use pulp::{Simd, WithSimd};

use super::kept::Order;
use super::sample_wise::{Blocks, SampleWise};
use super::source::{Packed, Source, copy_short};
use super::threads::{CorrelateArgs, Exec, Needs, Part, Pass, Shares};
use super::tile::{MAX_CHANNELS, MAX_VECTORS, Tile, max_vectors, tile_ranges};
use crate::lanes::MAX_LANES;
use crate::{FeatureShape, Real};

/// Bytes of packed images that go through the register tiles together: half of the second-level cache of a small core.
const BLOCK_BYTES: usize = 256 << 10;
/// Vectors of pixels that amortise what a register tile costs beside its products.
const TILE_VECTORS: usize = 24;

/// One product of a correlation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tap {
    /// Offset of its cells in the source of a group.
    pub(super) offset: usize,
    /// Its weight for the first output channel of the first group.
    pub(super) weight: usize,
}

/// Output pixels that share their taps: all of them in a forward pass, those of one phase of the stride in an adjoint.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Offsets of the taps in the source of a group.
    offsets: Vec<usize>,
    /// Index of their weights for the first output channel of the first group.
    weights: Vec<usize>,
    /// Rows and columns of output pixels.
    grid: [usize; 2],
    /// First pixel in a plane of the output.
    origin: usize,
    /// Distance of rows and columns in a plane of the output.
    step: [usize; 2],
}

impl Job {
    pub(super) fn new(taps: impl Iterator<Item = Tap>, grid: [usize; 2], origin: usize, step: [usize; 2]) -> Self {
        let (offsets, weights) = taps.map(|tap| (tap.offset, tap.weight)).unzip();
        Self { offsets, weights, grid, origin, step }
    }

    /// Cells from the first to the last output pixel, garbage between the rows included.
    fn span(&self, pitch: usize) -> usize {
        (self.grid[0] - 1) * pitch + self.grid[1]
    }

    /// How to cut the pixels into vectors of `lanes`.
    fn sweep(&self, pitch: usize, lanes: usize) -> Sweep {
        let [rows, cols] = self.grid;
        let flat = self.span(pitch);
        let row_wise = Sweep { rows, cols, pitch, target: Target::Stage };
        let all = Sweep { rows: 1, cols: flat, pitch: flat, target: Target::Stage };
        if cols == self.step[0] && cols == pitch && self.step[1] == 1 && flat >= lanes {
            return Sweep { target: Target::Output { pitch: flat }, ..all };
        }
        let direct = Sweep { target: Target::Output { pitch: self.step[0] }, ..row_wise };
        let possible = cols >= lanes && self.step[1] == 1;
        if possible && self.sweep_cost(direct, lanes) <= self.sweep_cost(all, lanes) { direct } else { all }
    }

    /// Rough time of one output plane, in cycles: one product per tap and one store for every vector, and the copies
    /// from scratch.
    fn sweep_cost(&self, sweep: Sweep, lanes: usize) -> f64 {
        let copies = match sweep.target {
            Target::Output { .. } => 0,
            Target::Stage => self.grid[0] * (4 + 2 * self.grid[1].div_ceil(lanes)),
        };
        let vectors = sweep.rows * sweep.cols.div_ceil(lanes);
        vectors as f64 * (self.offsets.len() + 1) as f64 + copies as f64
    }
}

/// A way through the pixels of a job: `rows` runs of `cols` cells.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    rows: usize,
    cols: usize,
    pitch: usize,
    target: Target,
}

/// Where register tiles are written.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// To the output, with this distance between runs.
    Output { pitch: usize },
    /// To scratch, in the layout of the source; the pixels are copied from there.
    Stage,
}

/// Weighted sums of shifted images: what forward and adjoint have in common.
///
/// Every group of `out_channels / groups` output planes is a sum over the taps of its jobs, read from the group's
/// channels of the [`Source`].
#[derive(Clone, Debug)]
pub(super) struct Correlation {
    pub(super) source: Source,
    pub(super) jobs: Vec<Job>,
    pub(super) input: FeatureShape,
    pub(super) output: FeatureShape,
    pub(super) groups: usize,
    /// Distance between the weights of two output channels of a group.
    pub(super) channel_stride: usize,
    /// Distance between the weights of two groups.
    pub(super) group_stride: usize,
    /// The same with vectors of samples, where that is faster for batches.
    pub(super) sample_wise: Option<SampleWise>,
}

impl Correlation {
    fn out_per_group(&self) -> usize {
        self.output.channels / self.groups
    }

    pub(super) fn weight_len(&self) -> usize {
        self.output.channels * self.jobs.iter().map(|job| job.offsets.len()).sum::<usize>()
    }

    /// Cells of one staged output plane.
    fn stage_plane(&self) -> usize {
        self.jobs.iter().map(|job| job.span(self.source.pitch())).max().unwrap_or(0).next_multiple_of(MAX_LANES)
    }

    /// Cells of the staged output planes of one image.
    fn stage_image(&self) -> usize {
        MAX_CHANNELS.min(self.out_per_group()) * self.stage_plane()
    }

    /// Images that go through the register tiles together: enough to fill the tiles where images are small, and to use
    /// weights that do not fit the cache for several images at a time.
    fn block_images<T>(&self, chunk: usize) -> usize {
        let bytes = size_of::<T>() * (self.source.packed_len() + self.stage_image()).max(self.input.len());
        let vectors = (self.output.plane() / self.jobs.len()).div_ceil(MAX_LANES);
        let wanted =
            if self.weight_len() * size_of::<T>() > BLOCK_BYTES { usize::MAX } else { TILE_VECTORS.div_ceil(vectors) };
        (BLOCK_BYTES / bytes).min(wanted).max(1).min(chunk)
    }

    /// Scratch of one thread.
    fn thread_len<T>(&self, chunk: usize) -> usize {
        self.block_images::<T>(chunk) * (self.source.packed_len() + self.stage_image())
    }

    pub(super) fn scratch<T: Real>(&self, batch: usize, par: Par) -> StackReq {
        let shares = Shares::new(batch, par);
        let each = |needs: Needs| needs.scratch::<T>(shares, par);
        self.ways::<T>(shares.share).map(each).fold(StackReq::EMPTY, StackReq::or)
    }

    /// The same of a call whose weights are kept.
    pub(super) fn scratch_without_weights<T: Real>(&self, batch: usize, par: Par) -> StackReq {
        let shares = Shares::new(batch, par);
        let each = |needs: Needs| needs.scratch_without_weights::<T>(shares);
        self.ways::<T>(shares.share).map(each).fold(StackReq::EMPTY, StackReq::or)
    }

    /// What every way needs that a batch may take with up to `samples` samples per thread.
    fn ways<T>(&self, samples: usize) -> impl Iterator<Item = Needs> {
        std::iter::once(self.needs::<T>(samples)).chain(self.sample_wise(samples).map(SampleWise::needs))
    }

    /// What vectors of pixels need.
    fn needs<T>(&self, samples: usize) -> Needs {
        let (thread, block) = (self.thread_len::<T>(samples), self.block_images::<T>(samples));
        Needs { weights: self.weight_len(), thread, block }
    }

    /// The way along samples, if that is the better one for so many samples of a thread.
    fn sample_wise(&self, samples: usize) -> Option<&SampleWise> {
        self.sample_wise.as_ref().filter(|plan| plan.is_for(samples))
    }

    /// Runs every job on every sample; the lengths of the slices have been checked.
    pub(super) fn run<T: Real>(&self, args: CorrelateArgs<'_, T>, exec: Exec, stack: &mut MemStack) {
        let lens = [self.input.len(), self.output.len()];
        let shares = Shares::new(args.input.len() / lens[0], exec.par);
        if shares.share == 0 {
            return;
        }
        match self.sample_wise(shares.share) {
            Some(plan) => {
                let pass = Pass { lens, shares, needs: plan.needs(), order: Order::Samples };
                let pack = |weight: &[T], packed: &mut [T], _| plan.pack_weights(weight, packed);
                let compute = |part: Part<'_, T>| exec.arch.dispatch(Blocks { plan, part });
                pass.run(args, &pack, &compute, exec.par, stack);
            }
            None => {
                let pass = Pass { lens, shares, needs: self.needs::<T>(shares.share), order: Order::Pixels };
                let pack = |weight: &[T], packed: &mut [T], _| self.pack_weights(weight, packed);
                let compute = |part: Part<'_, T>| exec.arch.dispatch(Samples { plan: self, part });
                pass.run(args, &pack, &compute, exec.par, stack);
            }
        }
    }

    /// Weights in the order in which the register tiles read them: `[group][job][block][tap][channel]`.
    fn pack_weights<T: Real>(&self, weight: &[T], mut packed: &mut [T]) {
        for group in 0..self.groups {
            for job in &self.jobs {
                for block in tile_ranges(self.out_per_group(), MAX_CHANNELS) {
                    let first = group * self.group_stride + block.start * self.channel_stride;
                    let part;
                    (part, packed) = packed.split_at_mut(job.weights.len() * block.len());
                    // Row by row, so that weights are read in their order.
                    for channel in 0..block.len() {
                        let row = &weight[first + channel * self.channel_stride..];
                        let column = part.iter_mut().skip(channel).step_by(block.len());
                        column.zip(&job.weights).for_each(|(to, tap)| *to = row[*tap]);
                    }
                }
            }
        }
    }

    /// Rough time for one sample, in cycles, to compare layouts.
    pub(super) fn cost(&self) -> f64 {
        let pitch = self.source.pitch();
        let job = |job: &Job| job.sweep_cost(job.sweep(pitch, MAX_LANES), MAX_LANES);
        self.source.pack_cost() + self.output.channels as f64 * self.jobs.iter().map(job).sum::<f64>()
    }
}

/// A run of samples.
struct Samples<'a, T: Real> {
    plan: &'a Correlation,
    part: Part<'a, T>,
}

impl<T: Real> WithSimd for Samples<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { plan, part: Part { input, mut output, weights: all_weights, bias, epilogue, scratch } } = self;
        let (in_len, out_len) = (plan.input.len(), plan.output.len());
        let images = plan.block_images::<T>(input.len() / in_len);
        let (packed, stage) = scratch.split_at_mut(images * plan.source.packed_len());
        let group_len = plan.input.channels / plan.groups * plan.source.channel_len();
        for (i, input) in input.chunks(images * in_len).enumerate() {
            let first = i * images * out_len;
            let output = &mut output.first(first + input.len() / in_len * out_len)[first..];
            let src = plan.source.pack(simd, input, packed);
            let mut weights = all_weights;
            for group in 0..plan.groups {
                let src = Packed { cells: &src.cells[group * group_len..], ..src };
                for job in &plan.jobs {
                    let sweep = job.sweep(plan.source.pitch(), T::lanes::<S>());
                    for block in tile_ranges(plan.out_per_group(), MAX_CHANNELS) {
                        let channel = group * plan.out_per_group() + block.start;
                        let part;
                        (part, weights) = weights.split_at(job.offsets.len() * block.len());
                        let init = bias.map_or(&[][..], |bias| &bias[channel..]);
                        let block = Block { plan, job, sweep, src, weights: part, init, channels: block.len() };
                        block.run(simd, &mut output[channel * plan.output.plane()..], stage);
                    }
                }
            }
            if let Some(epilogue) = epilogue {
                epilogue.from(first).apply(simd, output);
            }
        }
    }
}

/// The output channels of one register tile, for a block of images.
struct Block<'a, T> {
    plan: &'a Correlation,
    job: &'a Job,
    sweep: Sweep,
    src: Packed<'a, T>,
    weights: &'a [T],
    init: &'a [T],
    channels: usize,
}

/// Distances in what register tiles write to.
struct Strides {
    image: usize,
    plane: usize,
    row: usize,
}

impl<T: Real> Block<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, out: &mut [T], stage: &mut [T]) {
        let (image, plane) = (self.plan.output.len(), self.plan.output.plane());
        match self.sweep.target {
            Target::Output { pitch } => {
                self.tiles(simd, &mut out[self.job.origin..], &Strides { image, plane, row: pitch });
            }
            Target::Stage => {
                let (from_image, from_plane) = (self.plan.stage_image(), self.plan.stage_plane());
                self.tiles(simd, stage, &Strides { image: from_image, plane: from_plane, row: self.sweep.pitch });
                for (from, to) in stage.chunks_exact(from_image).zip(out.chunks_mut(image)).take(self.src.count) {
                    for (from, to) in from.chunks_exact(from_plane).zip(to.chunks_mut(plane)).take(self.channels) {
                        self.unstage(from, to);
                    }
                }
            }
        }
    }

    /// Runs through the vectors of the sweep, as many at a time as registers allow.
    #[inline(always)]
    fn tiles<S: Simd>(&self, simd: S, out: &mut [T], strides: &Strides) {
        let (sweep, lanes) = (self.sweep, T::lanes::<S>());
        let last = sweep.cols.saturating_sub(lanes);
        let vectors = self.src.count * sweep.rows * sweep.cols.div_ceil(lanes);
        let (mut image, mut row, mut col) = (0, 0, 0);
        for tile in tile_ranges(vectors, max_vectors::<S>(self.channels)) {
            let (mut reads, mut writes) = ([0; MAX_VECTORS], [0; MAX_VECTORS]);
            for (read, write) in reads.iter_mut().zip(&mut writes).take(tile.len()) {
                // The last vector of a run overlaps its neighbour.
                let col_or_last = col.min(last);
                *read = image * self.src.stride + row * sweep.pitch + col_or_last;
                *write = image * strides.image + row * strides.row + col_or_last;
                col += lanes;
                if col >= sweep.cols {
                    (row, col) = (row + 1, 0);
                    if row == sweep.rows {
                        (image, row) = (image + 1, 0);
                    }
                }
            }
            let tile = Tile {
                src: self.src.cells,
                offsets: &self.job.offsets,
                weights: self.weights,
                init: self.init,
                reads: &reads[..tile.len()],
                writes: &writes[..tile.len()],
                out,
                plane: strides.plane,
            };
            tile.run(simd, self.channels);
        }
    }

    /// Copies the pixels of one plane from scratch to where they belong.
    #[inline(always)]
    fn unstage(&self, from: &[T], to: &mut [T]) {
        let ([rows, cols], [row_step, col_step]) = (self.job.grid, self.job.step);
        for row in 0..rows {
            let from = &from[row * self.plan.source.pitch()..][..cols];
            let to = &mut to[self.job.origin + row * row_step..];
            if col_step == 1 {
                copy_short(&mut to[..cols], from);
            } else {
                to.iter_mut().step_by(col_step).zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    }
}
