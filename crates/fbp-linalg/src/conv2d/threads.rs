//! A pass over a batch in runs of samples, which the threads take one after the other: the memory of each, and who packs the weights.
//!
//! What [`for_each_part`](crate::for_each_part) does for others knows neither shared weights nor outputs in fresh memory.

use std::mem::{MaybeUninit, take};
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Runs of every thread, if the batch has enough samples: one that comes late, or that another program holds up, leaves its runs to
/// the others.
const RUNS: usize = 4;

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

/// A batch and the threads that it is shared out to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    batch: usize,
    /// Threads that have something to do.
    threads: usize,
    /// Samples of a thread if all take equally many.
    pub(super) share: usize,
}

impl Shares {
    pub(super) fn new(batch: usize, par: Par) -> Self {
        let threads = batch.clamp(1, par.degree().max(1));
        Self { batch, threads, share: batch.div_ceil(threads) }
    }

    /// Samples of a run, where `block` samples are computed at a time.
    fn run(self, block: usize) -> usize {
        match self.threads {
            1 => self.share,
            threads => self.batch.div_ceil(RUNS * threads).next_multiple_of(block.max(1)).min(self.share),
        }
    }
}

/// What a way of computing needs: cells of packed weights, scratch of a thread for its share, and samples at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    pub(super) weights: usize,
    pub(super) thread: usize,
    pub(super) block: usize,
}

impl Needs {
    /// Workspace of [`Pass::run`] for batches of these shares or smaller ones.
    pub(super) fn scratch<T: Real>(self, shares: Shares, par: Par) -> StackReq {
        let copies = if self.every_thread_packs::<T>(par) { shares.threads } else { 1 };
        let weights = StackReq::new_aligned::<T>(copies * in_lines(self.weights), CACHE_LINE);
        weights.and(self.scratch_without_weights::<T>(shares))
    }

    /// The same where weights are kept.
    pub(super) fn scratch_without_weights<T: Real>(self, shares: Shares) -> StackReq {
        let desks = StackReq::new::<Mutex<Desk<'_, T>>>(shares.threads);
        desks.and(StackReq::new_aligned::<T>(shares.threads * in_lines(self.thread), CACHE_LINE))
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

/// What a thread works with, and goes on with in its next run.
struct Desk<'a, T> {
    /// Memory that has no values yet.
    fresh: &'a mut [MaybeUninit<T>],
    /// The weights, if the thread has packed them itself.
    weights: &'a mut [T],
    scratch: &'a mut [T],
    /// Samples of its last run.
    samples: usize,
}

/// A desk that is free, if possible the one that this thread had before.
fn free_desk<'a, 'b, T>(desks: &'b [Mutex<Desk<'a, T>>]) -> MutexGuard<'b, Desk<'a, T>> {
    let home = rayon::current_thread_index().unwrap_or(0) % desks.len();
    let (before, after) = desks.split_at(home);
    let mut all = after.iter().chain(before);
    // There are as many desks as threads were asked for. A pool with more has some wait here, with a run each that others could take.
    all.find_map(|desk| desk.try_lock().ok())
        .unwrap_or_else(|| desks[home].lock().unwrap_or_else(PoisonError::into_inner))
}

/// A run of samples.
pub(super) struct Part<'a, T: Real> {
    pub(super) input: &'a [T],
    pub(super) output: Output<'a, T>,
    /// Packed.
    pub(super) weights: &'a [T],
    pub(super) bias: Option<&'a [T]>,
    pub(super) epilogue: Option<Epilogue<'a, T>>,
    /// Zeros, or what a run of as many samples has left.
    pub(super) scratch: &'a mut [T],
}

/// One pass.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    /// Lengths of one sample before and after it.
    pub(super) lens: [usize; 2],
    pub(super) shares: Shares,
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
        let Self { lens: [in_len, out_len], shares, needs, order } = self;
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
        let (scratch, stack) = stack.make_aligned_uninit::<T>(shares.threads * thread_len, CACHE_LINE);
        let desk = |fresh| Mutex::new(Desk { fresh, weights: &mut [], scratch: &mut [], samples: 0 });
        let (desks, _) = stack.collect(scratch.chunks_mut(thread_len.max(1)).map(desk));
        let run = shares.run(needs.block);
        let (input, output) = (run * in_len, run * out_len);
        let work = |(i, (input, to)): (usize, (&[T], Output<'_, T>))| {
            let mut desk = free_desk(&desks);
            let (desk, samples) = (&mut *desk, input.len() / in_len);
            if desk.samples == 0 {
                (desk.weights, desk.scratch) = zeroed(take(&mut desk.fresh)).split_at_mut(in_lines(own_len));
                if packs_own {
                    let par = if shares.threads == 1 { par } else { Par::Seq };
                    pack(values, &mut desk.weights[..own_len], par);
                }
            } else if desk.samples != samples {
                desk.scratch.fill(T::ZERO);
            }
            desk.samples = samples;
            let weights = if packs_own { &desk.weights[..own_len] } else { shared };
            let (output, bias, epilogue) = (to, args.bias, args.epilogue.map(|epilogue| epilogue.from(i * output)));
            compute(Part { input, output, weights, bias, epilogue, scratch: desk.scratch });
        };
        if shares.threads == 1 {
            work((0, (args.input, args.output)));
        } else {
            // Runs of one thread can be taken by another only if each is a piece of work of its own.
            let images = args.input.par_chunks(input).zip(args.output.par_chunks(output));
            images.enumerate().with_max_len(1).for_each(work);
        }
    }
}
