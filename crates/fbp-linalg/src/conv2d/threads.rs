//! A pass over a batch, with a run of samples for every thread: the memory of each, and who packs the weights.
//!
//! What [`for_each_part`](crate::for_each_part) does for others knows neither shared weights nor outputs in fresh memory.

use std::mem::MaybeUninit;

use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use rayon::prelude::*;

use super::epilogue::Epilogue;
use super::kept::{Order, Weights};
use super::output::Output;
use crate::Real;
use crate::lanes::MAX_LANES;
use crate::parallel::{CACHE_LINE, zeroed, zeroed_scratch};

/// Most bytes of packed weights that every thread packs for itself: to fetch what another core has just written takes longer. Measured
/// on two threads for 3×3 kernels of 64 and 128 channels, whose 0.6 and 2.4 MB one of them packs in 0.06 and 0.7 ms: a call took 0.5 and
/// 1.4 ms more than one that had no weights to pack.
const OWN_WEIGHTS: usize = 3 << 20;
/// Most bytes of what all threads pack for themselves, as it is scratch memory of the caller.
const ALL_OWN_WEIGHTS: usize = 32 << 20;

/// Slices of one call.
pub(super) struct CorrelateArgs<'a, T: Real> {
    pub(super) input: &'a [T],
    pub(super) weight: Weights<'a, T>,
    pub(super) bias: Option<&'a [T]>,
    pub(super) output: Output<'a, T>,
    pub(super) epilogue: Option<Epilogue<'a, T>>,
}

/// On what a call runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exec {
    pub(super) arch: pulp::Arch,
    pub(super) par: Par,
}

/// A batch cut into runs of samples, one per thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunks {
    pub(super) count: usize,
    pub(super) size: usize,
    /// Number of runs of this batch or a smaller one, so that scratch for a batch is enough for smaller ones.
    pub(super) most: usize,
}

/// Cuts a batch into as many runs as there are threads, as equal as possible.
pub(super) fn chunks(batch: usize, par: Par) -> Chunks {
    let threads = par.degree().max(1);
    let size = batch.div_ceil(threads).max(1);
    Chunks { count: batch.div_ceil(size), size, most: batch.min(threads) }
}

/// Cells that a way of computing needs: packed weights, and scratch of a thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    pub(super) weights: usize,
    pub(super) thread: usize,
}

impl Needs {
    /// Workspace of [`Pass::run`] for batches that are cut as `cut` or into fewer runs.
    pub(super) fn scratch<T: Real>(self, cut: Chunks, par: Par) -> StackReq {
        let copies = if self.every_thread_packs::<T>(par) { cut.most } else { 1 };
        let weights = StackReq::new_aligned::<T>(copies * in_lines(self.weights), CACHE_LINE);
        weights.and(self.scratch_without_weights::<T>(cut))
    }

    /// The same where weights are kept.
    pub(super) fn scratch_without_weights<T: Real>(self, cut: Chunks) -> StackReq {
        StackReq::new_aligned::<T>(cut.most * in_lines(self.thread), CACHE_LINE)
    }

    /// Whether they do. It must not depend on the batch, as one in the memory of a larger one has to do the same.
    fn every_thread_packs<T>(self, par: Par) -> bool {
        let bytes = self.weights * size_of::<T>();
        bytes <= OWN_WEIGHTS && bytes * par.degree() <= ALL_OWN_WEIGHTS
    }
}

/// Cells, rounded up to whole cache lines.
fn in_lines(cells: usize) -> usize {
    cells.next_multiple_of(MAX_LANES)
}

/// What every thread gets.
pub(super) struct Part<'a, T: Real> {
    pub(super) input: &'a [T],
    pub(super) output: Output<'a, T>,
    /// Packed.
    pub(super) weights: &'a [T],
    pub(super) bias: Option<&'a [T]>,
    pub(super) epilogue: Option<Epilogue<'a, T>>,
    /// All zeros.
    pub(super) scratch: &'a mut [T],
}

/// One pass.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    /// Lengths of one sample before and after it.
    pub(super) lens: [usize; 2],
    pub(super) cut: Chunks,
    pub(super) needs: Needs,
    /// Order in which the weights are packed.
    pub(super) order: Order,
}

impl Pass {
    /// Has the weights packed and the runs of samples computed. `pack` is given weights, zeros to pack them into, and the threads that
    /// may take part.
    pub(super) fn run<T: Real>(
        self,
        args: CorrelateArgs<'_, T>,
        pack: &(impl Fn(&[T], &mut [T], Par) + Sync),
        compute: &(impl Fn(Part<'_, T>) + Sync),
        par: Par,
        stack: &mut MemStack,
    ) {
        let Self { lens: [in_len, out_len], cut, needs, order } = self;
        let Weights { values, kept } = args.weight;
        let packs_own = kept.is_none() && needs.every_thread_packs::<T>(par);
        let own_len = if packs_own { needs.weights } else { 0 };
        let shared_len = if packs_own || kept.is_some() { 0 } else { needs.weights };
        let (fresh, stack) = zeroed_scratch(shared_len, par, stack);
        let shared = match kept {
            Some(kept) => kept.get(order, needs.weights, par, |cells| pack(values, cells, par)),
            None if packs_own => &[],
            None => {
                pack(values, fresh, par);
                &*fresh
            }
        };
        let thread_len = in_lines(own_len) + in_lines(needs.thread);
        let (scratch, _) = stack.make_aligned_uninit::<T>(cut.count * thread_len, CACHE_LINE);
        let (input, output) = (cut.size * in_len, cut.size * out_len);
        let work = |(i, ((input, to), scratch)): (usize, ((_, _), &mut [MaybeUninit<T>]))| {
            let (own, scratch) = zeroed(scratch).split_at_mut(in_lines(own_len));
            let weights = if packs_own {
                let own = &mut own[..own_len];
                pack(values, own, if cut.count == 1 { par } else { Par::Seq });
                &*own
            } else {
                shared
            };
            let (output, bias, epilogue) = (to, args.bias, args.epilogue.map(|epilogue| epilogue.from(i * output)));
            compute(Part { input, output, weights, bias, epilogue, scratch });
        };
        if cut.count == 1 {
            work((0, ((args.input, args.output), scratch)));
        } else {
            let images = args.input.par_chunks(input).zip(args.output.par_chunks(output));
            images.zip(scratch.par_chunks_mut(thread_len)).enumerate().for_each(work);
        }
    }
}
