//! From labels to target features of every transitional stage, written to a target store.

mod chosen;
mod examples;
mod goal;
mod maker;
mod memory;
mod metric;
mod record;
mod shard;
mod shared;
mod stages;
mod stats;
#[cfg(test)]
mod tests;
mod tile;

pub(crate) use chosen::{Reversed, reverse_samples};
pub use examples::wrong_examples;
pub use goal::OutputGoal;
pub(crate) use goal::WantedOutputs;
pub(crate) use memory::MemoryTargets;
pub use record::{Example, ExampleFeature, OutputExample, StageReport, TargetsReport};
pub use shared::{compute_share, merge_targets};
pub use stages::{cut_as, cut_at_every, transitional_names, transitional_stage};

use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::time::Instant;

use fbp_models::Network;
use serde::Serialize;

use self::maker::TargetMaker;
use self::shard::ShardBuffers;
use self::stats::TargetStats;
use crate::TrainError;
use crate::data::{Dataset, Normalization};
use crate::evaluate::check_tolerance;
use crate::progress::Progress;
use crate::settings::{Effort, Embedding, Metric, TargetMode, check};
use crate::store::{Manifest, ManifestParams, ShardContent, ShardEntry, StageEntry, StageRows, StoreWriter};

/// Most samples of a shard, and most bytes of features.
const SHARD_SAMPLES: usize = 5120;
const SHARD_BYTES: usize = 128 << 20;
/// Largest margin: far beyond the outputs of a trained network, and small enough for single precision.
const MAX_MARGIN: f64 = 1e6;

/// How to compute targets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TargetsOptions {
    /// Which preimages to look for.
    pub mode: TargetMode,
    /// From label to target output.
    pub embedding: Embedding,
    /// Lead of the label over every other class, `[0, 1e6]`; for the margin embedding. With 0 the label ties.
    pub margin: f64,
    /// How far an output may be from the wanted one, in its units, `(0, ∞)`; for data with outputs, which need it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// In which metric they are nearest; Mahalanobis for attainable targets with the margin embedding only.
    #[serde(skip_serializing_if = "Metric::is_euclidean")]
    pub metric: Metric,
    /// How much is spent on nearer targets, for attainable ones.
    #[serde(skip_serializing_if = "Effort::is_thorough")]
    pub effort: Effort,
    /// Samples per shard; as many as fit into 128 MiB, at most 5,120, if not given.
    pub shard_samples: Option<usize>,
}

impl Default for TargetsOptions {
    fn default() -> Self {
        Self {
            mode: TargetMode::Attainable,
            embedding: Embedding::Margin,
            margin: 1.0,
            tolerance: None,
            metric: Metric::Euclidean,
            effort: Effort::Thorough,
            shard_samples: None,
        }
    }
}

impl TargetsOptions {
    /// These options for some data: outputs are wanted within the tolerance, whatever the embedding, and labels have none.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), [`TrainError::Missing`] for data with outputs and no tolerance,
    /// [`TrainError::Setting`] for a tolerance and data with labels.
    pub fn for_data(&self, data: &Dataset) -> Result<Self, TrainError> {
        check_tolerance(self.tolerance, data)?;
        let options = match data.outputs() {
            Some(_) => Self { embedding: Embedding::Tolerance, margin: 0.0, ..*self },
            None if self.embedding == Embedding::Tolerance => {
                let reason = format!("is for data with outputs, and {} have labels: choose another one", data.name());
                return Err(TrainError::Setting { name: "embedding", value: self.embedding.to_string(), reason });
            }
            None => *self,
        };
        options.check()?;
        Ok(options)
    }

    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] for a margin or a tolerance out of range, [`TrainError::Setting`] for a metric for targets that have none of their own.
    pub fn check(&self) -> Result<(), TrainError> {
        check("margin", self.margin, 0.0..=MAX_MARGIN, "[0, 1e6]")?;
        check("tolerance", self.tolerance.unwrap_or(1.0), f64::MIN_POSITIVE..f64::INFINITY, "(0, ∞)")?;
        let has_metric = self.mode == TargetMode::Attainable && self.embedding == Embedding::Margin;
        if !self.metric.is_euclidean() && !has_metric {
            let reason = "needs targets that are attainable and the embedding margin: leave it out, or choose these";
            let value = self.metric.to_string();
            return Err(TrainError::Setting { name: "metric", value, reason: reason.into() });
        }
        Ok(())
    }

    /// The manifest of a store with these targets.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] for a margin out of range, [`TrainError::UnknownStage`] for a network of one stage.
    pub fn manifest(
        &self,
        network: &Network,
        checkpoint_sha256: String,
        data: crate::DataIdentity,
    ) -> Result<Manifest, TrainError> {
        self.check()?;
        let stages = network.transitional_stages();
        if stages.is_empty() {
            return Err(TrainError::UnknownStage { stage: String::new(), known: "none, as it has one stage".into() });
        }
        let entry = |stage: &fbp_models::Stage| {
            let (shape, dims) = (stage.output().shape, stage.output().tensor_dims(1)[1..].to_vec());
            let shape = [shape.channels, shape.height, shape.width];
            StageEntry { name: stage.name().to_owned(), shape, dims }
        };
        let stages: Vec<_> = stages.iter().map(entry).collect();
        let bytes: usize = stages.iter().map(|stage| 4 * stage.feature_len()).sum();
        let fitting = SHARD_SAMPLES.min((SHARD_BYTES / bytes.max(1)).max(1));
        Manifest::new(ManifestParams {
            checkpoint_sha256,
            model: network.spec().name.clone(),
            data,
            mode: self.mode,
            embedding: self.embedding,
            margin: if self.embedding == Embedding::Margin { self.margin } else { 0.0 },
            tolerance: self.tolerance.filter(|_| self.embedding == Embedding::Tolerance),
            metric: self.metric,
            effort: self.effort,
            shard_samples: self.shard_samples.unwrap_or(fitting),
            stages,
        })
    }
}

/// The data and the network that targets are made from.
#[derive(Clone, Copy, Debug)]
pub struct TargetsSource<'a> {
    /// The pretrained network.
    pub network: &'a Network,
    /// The samples.
    pub data: &'a Dataset,
    /// Their normalisation.
    pub normalization: &'a Normalization,
}

/// Computes the missing shards of a store, and its report.
///
/// Shards are computed one after the other, their tiles in parallel, and written while the next one is computed. A
/// store that was finished before gives its old report; one that was not counts the time of all its runs.
///
/// # Errors
/// [`TrainError::Inverse`] or [`TrainError::Model`] if a layer cannot be reversed, [`TrainError::Write`].
pub fn compute_targets(
    source: TargetsSource<'_>,
    writer: &StoreWriter,
    progress: &dyn Progress,
) -> Result<TargetsReport, TrainError> {
    let begun = Instant::now();
    let missing = writer.missing()?;
    let finished: Option<TargetsReport> = match writer.finished() {
        // Without all shards it is written anew.
        Err(TrainError::Json { .. }) if !missing.is_empty() => None,
        finished => finished?,
    };
    let earlier = match finished {
        Some(report) if missing.is_empty() => {
            writer.remove_progress()?;
            return Ok(report);
        }
        Some(report) => report.seconds,
        None => writer.earlier_seconds()?,
    };
    let params = &writer.manifest().params;
    make_missing(source, writer, missing, (begun, earlier), progress)?;
    let mut stats = TargetStats::empty(params.stages.len());
    for shard in writer.shard_stats::<TargetStats>()? {
        stats.add(&shard);
    }
    let report = stats.report(params, earlier + begun.elapsed().as_secs_f64());
    writer.finish(&report)?;
    Ok(report)
}

/// Computes and writes shards.
fn make_missing(
    source: TargetsSource<'_>,
    writer: &StoreWriter,
    missing: Vec<ShardEntry>,
    (begun, earlier): (Instant, f64),
    progress: &dyn Progress,
) -> Result<(), TrainError> {
    let params = &writer.manifest().params;
    let shards = writer.manifest().shards.iter().enumerate();
    let own = shards.filter(|(index, _)| writer.share().is_none_or(|share| share.has(*index)));
    let all: usize = own.map(|(_, shard)| shard.samples).sum();
    let computed: usize = missing.iter().map(|shard| shard.samples).sum();
    progress.begin("targets", all, "images");
    progress.advance(all - computed);
    let made = match missing.is_empty() {
        true => Ok(()),
        false => TargetMaker::of_every_stage(source, params)
            .and_then(|maker| Pipeline { writer, maker, begun, earlier }.run(missing, progress)),
    };
    progress.end();
    made
}

struct Pipeline<'a> {
    writer: &'a StoreWriter,
    maker: TargetMaker<'a>,
    begun: Instant,
    /// Time of earlier runs.
    earlier: f64,
}

impl Pipeline<'_> {
    /// Computes shards on this thread's pool while another thread writes those that are done.
    fn run(&self, missing: Vec<ShardEntry>, progress: &dyn Progress) -> Result<(), TrainError> {
        let largest = missing.iter().map(|shard| shard.samples).max().unwrap_or(0);
        let mut input = Vec::new();
        let (full, to_write) = sync_channel::<(ShardEntry, ShardBuffers)>(1);
        let (written, empty) = channel();
        for _ in 0..2.min(missing.len()) {
            // The other end is in this function.
            let _ = written.send(ShardBuffers::new(largest, &self.maker.feature_lens));
        }
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| self.write(to_write, written));
            let mut computing = Ok(());
            for shard in missing {
                // Without buffers the writing thread has failed, and its error is the one to report.
                let Ok(mut buffers) = empty.recv() else { break };
                let samples: Vec<usize> = (shard.start..shard.start + shard.samples).collect();
                computing = self.maker.make(&samples, &mut input, &mut buffers, progress);
                progress.advance(shard.samples);
                if computing.is_err() || full.send((shard, buffers)).is_err() {
                    break;
                }
            }
            drop(full);
            let writing = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            computing.and(writing)
        })
    }

    fn write(
        &self,
        shards: Receiver<(ShardEntry, ShardBuffers)>,
        written: Sender<ShardBuffers>,
    ) -> Result<(), TrainError> {
        for (shard, buffers) in shards {
            if !buffers.stats.is_finite() {
                return Err(TrainError::NonFiniteOutput);
            }
            let rows = buffers.targets.iter().zip(&buffers.attained);
            let stages: Vec<_> = rows.map(|(target, attained)| StageRows { target, attained }).collect();
            let (labels, indices, stats) = (&buffers.labels, &buffers.indices, &buffers.stats);
            let content = ShardContent { stages: &stages, labels, indices, stats };
            self.writer.write_shard(&shard, content)?;
            self.writer.keep_seconds(self.earlier + self.begun.elapsed().as_secs_f64())?;
            // Nobody waits for the last ones.
            let _ = written.send(buffers);
        }
        Ok(())
    }
}
