use std::sync::Mutex;

use fbp_inverse::{ChainWorkspace, ChannelRanges, ReverseChain};
use rayon::prelude::*;

use super::goal::WantedOutputs;
use super::maker::features_of;
use super::tile::{TargetKind, TileEngine};
use super::{TargetsOptions, TargetsSource};
use crate::TrainError;
use crate::progress::Silent;

/// A few samples that were reversed: features, targets and outputs at every boundary of the chain.
///
/// Boundary `b` is the input of stage `first + b`.
pub(crate) struct Reversed<'a> {
    /// The chain.
    pub(crate) chain: &'a ReverseChain<f32>,
    /// What it found; sample `k` of the workspace is `samples[k]`.
    pub(crate) work: &'a ChainWorkspace<f32>,
    /// The samples.
    pub(crate) samples: &'a [usize],
}

/// Reverses samples down to the input of stage `first` and takes from every part of them what `take` gives, in order.
///
/// Targets are within what the stages below `first` can produce from inputs in `input`. Parts are cut at fixed places, of at
/// most `most` samples, so the number of threads does not change the result; alone, a sample gives what it gives beside any
/// others.
///
/// # Errors
/// [`TrainError::Parameter`], [`TrainError::Model`] or [`TrainError::Inverse`] if a layer cannot be reversed.
pub(crate) fn reverse_samples<R: Send>(
    source: &TargetsSource<'_>,
    options: &TargetsOptions,
    (first, input): (usize, &ChannelRanges<f32>),
    (samples, most): (&[usize], usize),
    take: impl Fn(Reversed<'_>) -> R + Sync,
) -> Result<Vec<R>, TrainError> {
    let options = options.for_data(source.data)?;
    let chain = source.network.reverse_chain(first, input.clone())?;
    let engine = TileEngine::new(chain, TargetKind::of_options(&options), source, first)?;
    let tile = engine.tile_samples().min(most.max(1));
    let (mut features, mut part) = (Vec::new(), Vec::new());
    for samples in samples.chunks(most.max(1)) {
        features_of(source, 0..first, samples, &mut part)?;
        features.append(&mut part);
    }
    let labels: Vec<u32> = samples.iter().map(|&sample| u32::from(source.data.labels()[sample])).collect();
    let outputs = source.data.outputs().map(|outputs| outputs.picked(samples));
    let wanted = |start: usize, count: usize| {
        outputs
            .as_ref()
            .map_or(&[][..], |outputs| &outputs.values()[start * outputs.entries()..][..count * outputs.entries()])
    };
    let len = engine.boundary_len(0);
    // Workers are made when a thread needs one: a few samples do not need memory for all threads.
    let workers = Mutex::new(Vec::new());
    let parts: Vec<_> = samples.chunks(tile).zip(labels.chunks(tile)).zip(features.chunks(tile * len)).collect();
    parts
        .into_par_iter()
        .enumerate()
        .map(|(part, ((samples, labels), features))| {
            let pooled = workers.lock().ok().and_then(|mut free| free.pop());
            let mut worker = pooled.unwrap_or_else(|| engine.worker());
            let outputs = wanted(part * tile, labels.len());
            engine.reverse(&mut worker, features, WantedOutputs { labels, outputs }, &Silent)?;
            let result = take(Reversed { chain: &engine.chain, work: &worker.work, samples });
            if let Ok(mut free) = workers.lock() {
                free.push(worker);
            }
            Ok(result)
        })
        .collect()
}
