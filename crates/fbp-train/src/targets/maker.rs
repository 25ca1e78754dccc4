use std::ops::Range as StageRange;
use std::sync::Mutex;

use candle_core::{Device, Tensor};
use fbp_inverse::{ChainStage, Interval, ReverseChain};
use fbp_models::bridge;

use super::TargetsSource;
use super::shard::{ShardBuffers, ShardWorker};
use super::tile::{TargetKind, TileEngine};
use crate::TrainError;
use crate::evaluate::pool_par;
use crate::progress::Progress;
use crate::store::ManifestParams;

/// Samples that go through the stages below at a time.
const STEM_BATCH: usize = 512;

/// Computes the targets of any samples with the network as it is, for stores and in memory alike.
pub(super) struct TargetMaker<'a> {
    source: TargetsSource<'a>,
    /// Stages whose output is the input of the chain.
    below: StageRange<usize>,
    engine: TileEngine,
    /// Length of the feature of each stage that gets targets.
    pub(super) feature_lens: Vec<usize>,
    workers: Vec<Mutex<ShardWorker>>,
}

impl<'a> TargetMaker<'a> {
    /// For every transitional stage.
    ///
    /// # Errors
    /// [`TrainError::Model`] or [`TrainError::Inverse`] if a layer cannot be reversed.
    pub(super) fn of_every_stage(source: TargetsSource<'a>, params: &ManifestParams) -> Result<Self, TrainError> {
        Self::new(source, 1, source.network.reverse_chain(1, Interval::EVERYTHING)?, params)
    }

    /// For one transitional stage: the stages above it are one, so that they get no targets of their own.
    ///
    /// # Errors
    /// As [`of_every_stage`](Self::of_every_stage).
    pub(super) fn of_stage(
        source: TargetsSource<'a>,
        stage: usize,
        params: &ManifestParams,
    ) -> Result<Self, TrainError> {
        let first = stage + 1;
        let above = source.network.operators(first..source.network.stages().len())?;
        let operators = above.into_iter().flat_map(|stage| stage.operators).collect();
        let rest = vec![ChainStage { name: "frozen rest".into(), operators }];
        let chain = ReverseChain::new(rest, source.network.ranges_below(first, Interval::EVERYTHING)?)?;
        Self::new(source, first, chain, params)
    }

    fn new(
        source: TargetsSource<'a>,
        first: usize,
        chain: ReverseChain<f32>,
        params: &ManifestParams,
    ) -> Result<Self, TrainError> {
        let engine = TileEngine::new(chain, TargetKind::of_params(params), &source, first)?;
        let feature_lens = (0..engine.stages()).map(|boundary| engine.boundary_len(boundary)).collect();
        let workers = engine.shard_workers();
        Ok(Self { source, below: 0..first, engine, feature_lens, workers })
    }

    /// Computes the targets of up to as many samples as `buffers` was made for; `input` is memory for their features.
    ///
    /// # Errors
    /// [`TrainError::Data`] for a sample that is not there, [`TrainError::Model`] or [`TrainError::Inverse`].
    pub(super) fn make(
        &self,
        samples: &[usize],
        input: &mut Vec<f32>,
        buffers: &mut ShardBuffers,
        progress: &dyn Progress,
    ) -> Result<(), TrainError> {
        buffers.resize(samples.len(), &self.feature_lens);
        features_of(&self.source, self.below.clone(), samples, input)?;
        for ((label, index), &sample) in buffers.labels.iter_mut().zip(&mut buffers.indices).zip(samples) {
            *label = u32::from(self.source.data.labels()[sample]);
            *index = self.source.data.position(sample);
        }
        buffers.wanted.clear();
        if let Some(outputs) = self.source.data.outputs() {
            samples.iter().for_each(|&sample| buffers.wanted.extend_from_slice(outputs.of(sample)));
        }
        self.engine.run(input, buffers, &self.workers, progress)
    }
}

/// Outputs of the given stages, the first one among them, for some samples, one after the other, into `features`; without
/// stages the images.
pub(super) fn features_of(
    source: &TargetsSource<'_>,
    stages: StageRange<usize>,
    samples: &[usize],
    features: &mut Vec<f32>,
) -> Result<(), TrainError> {
    features.clear();
    let pixels = source.data.shape().len();
    for batch in samples.chunks(STEM_BATCH) {
        let mut images = vec![0.0; batch.len() * pixels];
        source.data.normalise_into(batch, source.normalization, &mut images, pool_par())?;
        let images = Tensor::from_vec(images, (batch.len(), pixels), &Device::Cpu)?;
        let output = source.network.infer_stages(stages.clone(), &images)?;
        bridge::with_matrix(&output, |matrix| {
            for column in matrix.col_iter() {
                features.extend(column.iter());
            }
        })?;
    }
    Ok(())
}
