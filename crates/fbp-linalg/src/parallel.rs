//! Splits the samples of a batch over threads, each with its own part of the caller's scratch memory.

use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use std::mem::MaybeUninit;

/// The views of one batched call, divisible by samples.
pub trait SplitBatch: Sized + Send {
    /// Number of samples.
    fn batch(&self) -> usize;

    /// The first `count` samples and the rest.
    fn split_at(self, count: usize) -> (Self, Self);
}

/// Number of parts that [`for_each_part`] makes of a batch.
fn parts(batch: usize, par: Par) -> usize {
    par.degree().clamp(1, batch.max(1))
}

/// Bytes of one part's scratch memory, rounded so that every part starts equally aligned.
fn part_bytes(part: StackReq) -> usize {
    let align = part.align_bytes().max(64);
    part.size_bytes().next_multiple_of(align)
}

/// Workspace of [`for_each_part`] when every part needs `part`.
pub fn parts_scratch(part: StackReq, batch: usize, par: Par) -> StackReq {
    StackReq::new_aligned::<u8>(part_bytes(part) * parts(batch, par), part.align_bytes().max(64))
}

/// Runs `run` on contiguous parts of the batch, one per thread of `par`, and combines the results in order.
///
/// With [`Par::Seq`] there is one part and no thread pool is touched. Nothing is allocated.
pub fn for_each_part<P: SplitBatch, R: Send>(
    pass: P,
    part: StackReq,
    par: Par,
    stack: &mut MemStack,
    run: &(impl Fn(P, &mut MemStack) -> R + Sync),
    merge: &(impl Fn(R, R) -> R + Sync),
) -> R {
    let count = parts(pass.batch(), par);
    let bytes = part_bytes(part);
    let (memory, _) = stack.make_aligned_uninit::<u8>(bytes * count, part.align_bytes().max(64));
    recurse(pass, count, bytes, memory, run, merge)
}

fn recurse<P: SplitBatch, R: Send>(
    pass: P,
    count: usize,
    bytes: usize,
    memory: &mut [MaybeUninit<u8>],
    run: &(impl Fn(P, &mut MemStack) -> R + Sync),
    merge: &(impl Fn(R, R) -> R + Sync),
) -> R {
    if count == 1 {
        return run(pass, MemStack::new(memory));
    }
    let first = count / 2;
    let (left, right) = {
        let samples = pass.batch() * first / count;
        pass.split_at(samples)
    };
    let (left_memory, right_memory) = memory.split_at_mut(first * bytes);
    let (left, right) = rayon::join(
        || recurse(left, first, bytes, left_memory, run, merge),
        || recurse(right, count - first, bytes, right_memory, run, merge),
    );
    merge(left, right)
}
