//! Differentiable tensor operations over this project's own kernels.
//!
//! Every operation takes contiguous `f32` tensors on the CPU; the layers see to that.

mod activation;
mod avg_pool2d;
mod batch_norm;
mod call;
mod clip;
mod concat;
mod conv2d;
mod conv_pool;
mod cross_entropy;
mod feature_norm;
mod folded;
mod lane_sums;
mod linear;
mod max_pool2d;
mod operation;
mod repeat;
mod scratch;
mod softmax;
#[cfg(test)]
pub(crate) mod testing;
mod window;

use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Layout, Result, Tensor, bail};
use faer::Par;
use fbp_linalg::{dispatch, filled, filled_runs};
use rayon::prelude::*;

pub use activation::activate;
pub use avg_pool2d::{adaptive_avg_pool2d, avg_pool2d, global_avg_pool2d};
pub use batch_norm::{BatchStatistics, batch_norm_evaluation, batch_norm_training};
pub use clip::{Clip, add_clipped};
pub use concat::concat;
pub use conv2d::{Conv2dKernel, FusedTail};
pub use cross_entropy::cross_entropy;
pub use feature_norm::{NormGroups, feature_norm};
pub use linear::linear;
pub use max_pool2d::max_pool2d;
pub use operation::Operation;
pub use repeat::repeat;
pub use softmax::softmax;
pub use window::Window;

pub(crate) use activation::activation_call;
pub(crate) use avg_pool2d::{adaptive_avg_pool2d_call, avg_pool2d_call};
pub(crate) use batch_norm::{batch_norm_evaluation_call, batch_norm_training_call};
pub(crate) use call::Call;
pub(crate) use clip::add_clipped_call;
pub(crate) use concat::concat_call;
pub(crate) use feature_norm::feature_norm_call;
pub(crate) use linear::linear_call;
pub(crate) use max_pool2d::max_pool2d_call;
pub(crate) use repeat::repeat_call;
pub(crate) use softmax::softmax_call;

/// Below this many elementary operations, starting threads costs more than it saves.
const PARALLEL_WORK: usize = 1 << 16;

/// Threads for a kernel of about `work` multiplications: those of the current pool, or none for little work.
pub(crate) fn par_for(work: usize) -> Par {
    let threads = rayon::current_num_threads();
    if work < PARALLEL_WORK || threads < 2 { Par::Seq } else { Par::rayon(threads) }
}

/// The values of a contiguous `f32` storage.
fn values<'a>(op: &'static str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(all) = storage else { bail!("{op}: expected f32, found {:?}", storage.dtype()) };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => bail!("{op}: the tensor is not contiguous"),
    }
}

/// Runs `f` on the values of a contiguous `f32` CPU tensor.
pub(crate) fn with_values<R>(op: &'static str, tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(storage) => f(values(op, storage, layout)?),
        _ => bail!("{op}: the tensor is not on the CPU"),
    }
}

/// Cuts `out` into pieces of `piece` values and fills them, in parallel if there is enough to do.
///
/// `f(i, chunk)` fills the pieces from number `i` on; a chunk is one or more whole pieces. Which pieces form a chunk
/// depends on the number of threads, so `f` must treat every piece on its own.
fn fill_pieces<T: Send>(out: &mut [T], piece: usize, work: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let pieces = out.len().div_ceil(piece.max(1));
    let threads = rayon::current_num_threads();
    if pieces < 2 || threads < 2 || work < PARALLEL_WORK {
        f(0, out);
        return;
    }
    let per_chunk = pieces.div_ceil(threads * 2);
    out.par_chunks_mut(per_chunk * piece).enumerate().for_each(|(i, chunk)| f(i * per_chunk, chunk));
}

/// Values that a thread computes at a time at most, if a sample has no more.
const RUN: usize = 1 << 15;

/// A vector of `len` values in pieces of `piece`, made as [`fill_pieces`] fills: `f` gets zeros.
fn make_pieces(len: usize, piece: usize, work: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    filled(len, piece, par_for(work), f)
}

/// A vector of `len` values in pieces of `piece`, made as [`fill_each`] fills: `f` gets zeros.
fn make_each(len: usize, piece: usize, work: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    make_pieces(len, piece, work, |first, out| each(piece, first, out, &f))
}

/// The outputs of a batch, `len` values, `piece` per sample: `f` runs a layer on some samples from number `first` on, into zeros that
/// have not left the caches. What fails first ends it.
///
/// Runs are of some ten thousand values, and never so long that a thread has none.
fn by_samples(
    len: usize,
    piece: usize,
    par: Par,
    f: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
) -> Result<Vec<f32>> {
    let failed = OnceLock::new();
    let samples = len.checked_div(piece).unwrap_or(0);
    let run = (RUN / piece.max(1)).min(samples.div_ceil(par.degree().max(1))).max(1);
    let values = filled_runs(len, run * piece, par, |part, out| {
        let first = part * run;
        if failed.get().is_none()
            && let Err(error) = f(first, out)
        {
            // Of several errors one is enough.
            let _ = failed.set(error);
        }
    });
    failed.into_inner().map_or(Ok(values), Err)
}

/// Fills every piece of `piece` values by itself, on the widest registers: `f(i, out)` writes piece number `i`.
///
/// For loops over the values of a piece; `f` is `#[inline(always)]`, see [`dispatch`].
fn fill_each<T: Send>(out: &mut [T], piece: usize, work: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    fill_pieces(out, piece, work, |first, out| each(piece, first, out, &f));
}

/// Runs `f` on every piece, on the widest registers.
#[inline(always)]
fn each<T>(piece: usize, first: usize, out: &mut [T], f: &impl Fn(usize, &mut [T])) {
    dispatch(
        #[inline(always)]
        || {
            for (i, out) in out.chunks_mut(piece.max(1)).enumerate() {
                f(first + i, out);
            }
        },
    );
}
