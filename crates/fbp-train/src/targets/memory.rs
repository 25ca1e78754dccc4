use super::TargetsSource;
use super::maker::TargetMaker;
use super::shard::ShardBuffers;
use crate::TrainError;
use crate::metrics::all_finite;
use crate::progress::{Progress, Quiet};
use crate::store::ManifestParams;

/// Samples whose targets are computed at a time.
const PART: usize = 4096;

/// Targets of one stage for some samples, in memory.
#[derive(Clone, Debug)]
pub(crate) struct MemoryTargets {
    /// Ascending.
    samples: Vec<usize>,
    values: Vec<f32>,
    attained: Vec<u8>,
    feature_len: usize,
}

impl MemoryTargets {
    /// Computes the targets of `samples`, which ascend, at a transitional stage of the network as it is; the kind of
    /// targets is that of a store.
    ///
    /// # Errors
    /// [`TrainError::Data`] for a sample that is not there, [`TrainError::NonFiniteOutput`] if a target is no number,
    /// [`TrainError::Model`] or [`TrainError::Inverse`] if a layer cannot be reversed, [`TrainError::Stopped`] if `progress` asks
    /// for it.
    pub(crate) fn compute(
        source: TargetsSource<'_>,
        stage: usize,
        params: &ManifestParams,
        samples: &[usize],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        let maker = TargetMaker::of_stage(source, stage, params)?;
        let feature_len = maker.feature_lens[0];
        let mut buffers = ShardBuffers::new(PART.min(samples.len()), &maker.feature_lens);
        let mut input = Vec::new();
        let mut targets = Self {
            samples: samples.to_vec(),
            values: Vec::with_capacity(samples.len() * feature_len),
            attained: Vec::with_capacity(samples.len()),
            feature_len,
        };
        for part in samples.chunks(PART) {
            maker.make(part, &mut input, &mut buffers, &Quiet(progress))?;
            targets.values.extend_from_slice(&buffers.targets[0]);
            targets.attained.extend_from_slice(&buffers.attained[0]);
        }
        if all_finite(&targets.values) { Ok(targets) } else { Err(TrainError::NonFiniteOutput) }
    }

    /// Target of one sample, and whether it reaches the goal; none for a sample that was not asked for.
    pub(crate) fn of(&self, sample: usize) -> Option<(&[f32], bool)> {
        let place = self.samples.binary_search(&sample).ok()?;
        Some((&self.values[place * self.feature_len..][..self.feature_len], self.attained[place] != 0))
    }
}
