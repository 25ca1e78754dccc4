//! Splits the samples of a batch over threads, each with its own part of the caller's scratch memory; and fresh memory that the
//! threads write where they use it.

use std::mem::MaybeUninit;

use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use rayon::prelude::*;

use crate::Real;

/// Alignment of scratch memory in bytes: loads that cross cache lines take twice as long.
pub const CACHE_LINE: usize = 64;

/// Entries that a thread takes at a time when it writes fresh memory: as many as its cache holds for the next look at them.
const RUN: usize = 1 << 15;

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
    let align = part.align_bytes().max(CACHE_LINE);
    part.size_bytes().next_multiple_of(align)
}

/// Workspace of [`for_each_part`] when every part needs `part`.
pub fn parts_scratch(part: StackReq, batch: usize, par: Par) -> StackReq {
    StackReq::new_aligned::<u8>(part_bytes(part) * parts(batch, par), part.align_bytes().max(CACHE_LINE))
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
    let (memory, _) = stack.make_aligned_uninit::<u8>(bytes * count, part.align_bytes().max(CACHE_LINE));
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

/// Fresh memory, filled with zeros by the thread that uses it, just before.
pub(crate) fn zeroed<T: Real>(cells: &mut [MaybeUninit<T>]) -> &mut [T] {
    cells.fill(MaybeUninit::new(T::ZERO));
    #[expect(unsafe_code, reason = "filling in a safe way is not stable")]
    // SAFETY: every cell has a value, just written.
    unsafe {
        cells.assume_init_mut()
    }
}

/// Chunks of fresh memory, filled with zeros by all threads of `par`.
pub(crate) fn zeroed_chunks<T: Real>(cells: &mut [MaybeUninit<T>], len: usize, par: Par) -> Vec<&mut [T]> {
    match par {
        Par::Seq => cells.chunks_mut(len).map(zeroed).collect(),
        Par::Rayon(_) => cells.par_chunks_mut(len).map(zeroed).collect(),
    }
}

/// Fresh memory, filled with zeros by all threads of `par`.
pub(crate) fn zeroed_by<T: Real>(cells: &mut [MaybeUninit<T>], par: Par) -> &mut [T] {
    if par == Par::Seq || cells.len() <= RUN {
        return zeroed(cells);
    }
    cells.par_chunks_mut(RUN).for_each(|run| {
        zeroed(run);
    });
    #[expect(unsafe_code, reason = "filling in a safe way is not stable")]
    // SAFETY: the runs cover all cells, and each has been filled with zeros.
    unsafe {
        cells.assume_init_mut()
    }
}

/// `len` zeros from the front of `stack`, on a boundary of cache lines and written by all threads of `par`; and the rest of it.
pub fn zeroed_scratch<T: Real>(len: usize, par: Par, stack: &mut MemStack) -> (&mut [T], &mut MemStack) {
    let (cells, rest) = stack.make_aligned_uninit::<T>(len, CACHE_LINE);
    (zeroed_by(cells, par), rest)
}

/// A vector of `len` entries made of pieces of `piece` entries, by all threads of `par`.
///
/// `fill(i, run)` gets one or more whole pieces from number `i` on, all zeros; how many depends on `piece` alone. `vec![0.0; len]`
/// would have one thread write all of it first, and the others wait for memory that has left the caches by the time they need it.
///
/// ```
/// use faer::Par;
///
/// let squares = fbp_linalg::filled(4, 1, Par::Seq, |first, run: &mut [f64]| {
///     run.iter_mut().enumerate().for_each(|(i, v)| *v = ((first + i) * (first + i)) as f64);
/// });
/// assert_eq!(squares, [0.0, 1.0, 4.0, 9.0]);
/// ```
pub fn filled<T: Real>(len: usize, piece: usize, par: Par, fill: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let piece = piece.max(1);
    let pieces = (RUN / piece).max(1);
    filled_runs(len, pieces * piece, par, |i, run| fill(i * pieces, run))
}

/// A vector of `len` entries made of runs of `run` entries, of which the last may be shorter, as [`filled`] makes one: `fill(i, run)` gets
/// run number `i`, all zeros.
pub fn filled_runs<T: Real>(len: usize, run: usize, par: Par, fill: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let run = run.max(1);
    let mut values = Vec::with_capacity(len);
    let cells = &mut values.spare_capacity_mut()[..len];
    let work = |(i, run): (usize, &mut [MaybeUninit<T>])| fill(i, zeroed(run));
    match par {
        Par::Seq => cells.chunks_mut(run).enumerate().for_each(work),
        Par::Rayon(_) => cells.par_chunks_mut(run).enumerate().for_each(work),
    }
    #[expect(
        unsafe_code,
        reason = "there is no safe way to write a vector on several threads without writing it twice"
    )]
    // SAFETY: the runs cover all `len` cells, and each has been filled with zeros.
    unsafe {
        values.set_len(len);
    }
    values
}

/// `row` written `count` times one after the other, by all threads of `par`.
pub fn repeated<T: Real>(row: &[T], count: usize, par: Par) -> Vec<T> {
    let rows = (RUN / row.len().max(1)).max(1);
    let mut values = Vec::with_capacity(row.len() * count);
    let cells = &mut values.spare_capacity_mut()[..row.len() * count];
    let work = |cells: &mut [MaybeUninit<T>]| {
        cells.chunks_exact_mut(row.len().max(1)).for_each(|cells| {
            cells.write_copy_of_slice(row);
        });
    };
    match par {
        Par::Seq => work(cells),
        Par::Rayon(_) => cells.par_chunks_mut(rows * row.len().max(1)).for_each(work),
    }
    #[expect(
        unsafe_code,
        reason = "there is no safe way to write a vector on several threads without writing it twice"
    )]
    // SAFETY: the runs cover all cells, of which there are whole rows, and each has got a value.
    unsafe {
        values.set_len(row.len() * count);
    }
    values
}

/// A vector of zeros, written by all threads of `par`.
pub fn zeros<T: Real>(len: usize, par: Par) -> Vec<T> {
    filled(len, 1, par, |_, _| {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_filled_once() {
        for (len, piece) in [(0, 3), (1, 5), (7, 0), (100_003, 7), (3 * RUN, RUN + 1), (2 * RUN, RUN)] {
            for par in [Par::Seq, Par::rayon(2)] {
                let values = filled(len, piece, par, |first, run: &mut [f32]| {
                    assert!(run.iter().all(|v| *v == 0.0));
                    for (i, part) in run.chunks_mut(piece.max(1)).enumerate() {
                        part.fill((first + i) as f32);
                    }
                });
                assert!((0..len).all(|i| values[i] == (i / piece.max(1)) as f32), "{len} {piece}");
            }
        }
        assert_eq!(zeros::<f64>(70_000, Par::rayon(2)), vec![0.0; 70_000]);
        for (len, count) in [(0, 4), (3, 0), (3, 50_000), (RUN + 1, 3)] {
            let row: Vec<f32> = (0..len).map(|i| i as f32).collect();
            for par in [Par::Seq, Par::rayon(2)] {
                assert_eq!(repeated(&row, count, par), row.repeat(count), "{len} {count}");
            }
        }
    }
}
