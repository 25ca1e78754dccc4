use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use faer::{MatMut, MatRef, Par};
use fbp_inverse::{
    ChainGoal, ChainReport, ChainWorkspace, EmbeddingPass, Margins, OutputEmbedding, ReverseChain, TargetBox,
};

use super::goal::{OutputGoal, WantedOutputs};
use super::metric::set_metrics;
use super::stats::TargetStats;
use super::{TargetsOptions, TargetsSource};
use crate::TrainError;
use crate::evaluate::largest_error;
use crate::metrics::{all_finite, argmax};
use crate::progress::Progress;
use crate::settings::{Effort, Metric, TargetMode};
use crate::store::ManifestParams;

/// Most samples that one thread takes at a time: their features fit into its cache, and products of matrices pay.
const TILE: usize = 256;
/// Most numbers in the largest feature of a tile; the workspace takes about a hundred bytes for each.
const TILE_NUMBERS: usize = 1 << 19;

/// Which targets to make.
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetKind {
    mode: TargetMode,
    goal: OutputGoal,
    metric: Metric,
    effort: Effort,
}

impl TargetKind {
    /// Those of a store.
    pub(super) fn of_params(params: &ManifestParams) -> Self {
        Self { mode: params.mode, goal: OutputGoal::of(params), metric: params.metric, effort: params.effort }
    }

    /// Those that are asked for.
    pub(super) fn of_options(options: &TargetsOptions) -> Self {
        let TargetsOptions { mode, metric, effort, .. } = *options;
        Self { mode, goal: OutputGoal::of_options(options), metric, effort }
    }
}

/// Targets of some samples at every transitional stage.
///
/// The chain begins above the first stage: its boundary `b` is the output of stage `b`, its last one the logits.
pub(super) struct TileEngine {
    pub(super) chain: ReverseChain<f32>,
    goal: OutputGoal,
    mode: fbp_inverse::TargetMode,
}

/// Results for the samples of one shard, allocated once and used again.
#[derive(Debug)]
pub(super) struct ShardBuffers {
    /// Labels.
    pub(super) labels: Vec<u32>,
    /// Outputs wanted of the samples, one after the other; none where there are labels.
    pub(super) wanted: Vec<f32>,
    /// Where the samples are in the files of the data set.
    pub(super) indices: Vec<usize>,
    /// Target features of each stage.
    pub(super) targets: Vec<Vec<f32>>,
    /// For each stage whether the target reaches the goal.
    pub(super) attained: Vec<Vec<u8>>,
    /// Statistics.
    pub(super) stats: TargetStats,
}

/// Memory of one thread.
pub(super) struct Worker {
    pub(super) work: ChainWorkspace<f32>,
    labels: Vec<usize>,
    was_right: Vec<bool>,
    embedded: Vec<f32>,
    /// Ends of the boxes of outputs; empty where there are labels.
    ends: [Vec<f32>; 2],
    satisfied: Vec<bool>,
}

/// Where the results of one tile go.
struct Tile<'a> {
    input: &'a [f32],
    labels: &'a [u32],
    wanted: &'a [f32],
    targets: Vec<&'a mut [f32]>,
    attained: Vec<&'a mut [u8]>,
    stats: TargetStats,
    error: Option<TrainError>,
}

impl ShardBuffers {
    /// Memory for up to `samples` samples with features of the given lengths.
    pub(super) fn new(samples: usize, feature_lens: &[usize]) -> Self {
        Self {
            labels: vec![0; samples],
            wanted: Vec::new(),
            indices: vec![0; samples],
            targets: feature_lens.iter().map(|len| vec![0.0; samples * len]).collect(),
            attained: feature_lens.iter().map(|_| vec![0; samples]).collect(),
            stats: TargetStats::empty(feature_lens.len()),
        }
    }

    /// Makes sure that what was found are numbers.
    ///
    /// # Errors
    /// [`TrainError::NonFiniteOutput`].
    pub(super) fn check_finite(&self) -> Result<(), TrainError> {
        match self.stats.is_finite() && self.targets.iter().all(|targets| all_finite(targets)) {
            true => Ok(()),
            false => Err(TrainError::NonFiniteOutput),
        }
    }

    /// Sets the number of samples, at most that of the creation.
    pub(super) fn resize(&mut self, samples: usize, feature_lens: &[usize]) {
        self.labels.resize(samples, 0);
        self.indices.resize(samples, 0);
        for ((targets, attained), len) in self.targets.iter_mut().zip(&mut self.attained).zip(feature_lens) {
            targets.resize(samples * len, 0.0);
            attained.resize(samples, 0);
        }
    }
}

impl TileEngine {
    /// Targets for the boundaries of `chain`, whose boundary 0 is the input of stage `first`.
    ///
    /// # Errors
    /// Those of the metric, which is computed from the data.
    pub(super) fn new(
        mut chain: ReverseChain<f32>,
        kind: TargetKind,
        source: &TargetsSource<'_>,
        first: usize,
    ) -> Result<Self, TrainError> {
        kind.goal.check_fits(source.data)?;
        if kind.goal.embedding().is_none() {
            chain.expect_boxes();
        }
        set_metrics(&mut chain, kind.metric, source, first)?;
        chain.set_effort(match kind.effort {
            Effort::Quick => fbp_inverse::Effort::Quick,
            Effort::Refined => fbp_inverse::Effort::Refined,
            Effort::Thorough => fbp_inverse::Effort::Thorough,
            Effort::Exhaustive => fbp_inverse::Effort::Exhaustive,
        });
        let mode = match kind.mode {
            TargetMode::Attainable => fbp_inverse::TargetMode::Attainable,
            TargetMode::LayerWise => fbp_inverse::TargetMode::LayerWise,
            TargetMode::Point => fbp_inverse::TargetMode::Point,
        };
        Ok(Self { chain, goal: kind.goal, mode })
    }

    /// Memory for one thread.
    pub(super) fn worker(&self) -> Worker {
        let classes = self.boundary_len(self.chain.boundaries() - 1);
        let tile = self.tile_samples();
        Worker {
            work: self.chain.workspace(tile, Par::Seq),
            labels: Vec::with_capacity(tile),
            was_right: Vec::with_capacity(tile),
            embedded: vec![0.0; tile * classes],
            ends: [0, 1].map(|_| vec![0.0; if self.goal.embedding().is_none() { tile * classes } else { 0 }]),
            satisfied: vec![false; tile],
        }
    }

    /// One worker for each thread of the current pool.
    pub(super) fn workers(&self) -> Vec<Mutex<Worker>> {
        (0..rayon::current_num_threads()).map(|_| Mutex::new(self.worker())).collect()
    }

    /// Samples of a tile; it depends on the network alone.
    pub(super) fn tile_samples(&self) -> usize {
        let longest = (0..self.chain.boundaries()).map(|boundary| self.boundary_len(boundary)).max().unwrap_or(1);
        (TILE_NUMBERS / longest.max(1)).clamp(1, TILE)
    }

    /// Number of transitional stages.
    pub(super) fn stages(&self) -> usize {
        self.chain.boundaries() - 1
    }

    pub(super) fn boundary_len(&self, boundary: usize) -> usize {
        self.chain.boundary_shape(boundary).map_or(0, |shape| shape.len())
    }

    /// Computes the targets of a shard from the outputs of the first stage; `out.labels` are given.
    ///
    /// Tiles are cut at fixed places and are sequential inside, so the number of threads does not change the result.
    pub(super) fn run(
        &self,
        input: &[f32],
        out: &mut ShardBuffers,
        workers: &[Mutex<Worker>],
        progress: &dyn Progress,
    ) -> Result<(), TrainError> {
        let tiles = self.cut(input, out);
        let next = AtomicUsize::new(0);
        rayon::scope(|scope| {
            for worker in workers {
                scope.spawn(|_| {
                    // Every task has a worker of its own, so the lock is always free.
                    let Ok(mut worker) = worker.lock() else { return };
                    while let Some(tile) = tiles.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if progress.stop_asked() {
                            return;
                        }
                        let Ok(mut tile) = tile.lock() else { return };
                        if let Err(error) = self.tile(&mut worker, &mut tile, progress) {
                            tile.error = Some(error);
                        }
                    }
                });
            }
        });
        // What has been asked for stays asked for.
        if progress.stop_asked() {
            let left = "the shards that are done are kept; the same command makes the others";
            return Err(TrainError::Stopped { left: left.into() });
        }
        let mut stats = TargetStats::empty(self.stages());
        for tile in tiles {
            // A panic of a worker has ended the scope above with the same panic.
            let Ok(tile) = tile.into_inner() else { continue };
            if let Some(error) = tile.error {
                return Err(error);
            }
            stats.add(&tile.stats);
        }
        out.stats = stats;
        Ok(())
    }

    fn cut<'b>(&self, input: &'b [f32], out: &'b mut ShardBuffers) -> Vec<Mutex<Tile<'b>>> {
        let stages = self.stages();
        let first_len = self.boundary_len(0);
        let tile = self.tile_samples();
        let entries = out.wanted.len() / out.labels.len().max(1);
        let wanted = |index: usize| {
            let (start, end) = (index * tile * entries, (index + 1) * tile * entries);
            &out.wanted[start.min(out.wanted.len())..end.min(out.wanted.len())]
        };
        let mut tiles: Vec<_> = input
            .chunks(tile * first_len)
            .zip(out.labels.chunks(tile))
            .enumerate()
            .map(|(index, (input, labels))| Tile {
                input,
                labels,
                wanted: wanted(index),
                targets: Vec::with_capacity(stages),
                attained: Vec::with_capacity(stages),
                stats: TargetStats::empty(stages),
                error: None,
            })
            .collect();
        for (stage, (targets, attained)) in out.targets.iter_mut().zip(&mut out.attained).enumerate() {
            let pieces = targets.chunks_mut(tile * self.boundary_len(stage)).zip(attained.chunks_mut(tile));
            for (tile, (targets, attained)) in tiles.iter_mut().zip(pieces) {
                tile.targets.push(targets);
                tile.attained.push(attained);
            }
        }
        tiles.into_iter().map(Mutex::new).collect()
    }

    /// Reverses up to [`tile_samples`](Self::tile_samples) samples; features and targets stay in the worker. Searches that take
    /// long end with an error between two of their steps when `progress` asks for it.
    pub(super) fn reverse(
        &self,
        worker: &mut Worker,
        input: &[f32],
        wanted: WantedOutputs<'_>,
        progress: &dyn Progress,
    ) -> Result<ChainReport, TrainError> {
        let samples = wanted.labels.len();
        worker.labels.clear();
        worker.labels.extend(wanted.labels.iter().map(|&label| label as usize));
        let input = MatRef::from_column_major_slice(input, self.boundary_len(0), samples);
        self.chain.forward(input, &mut worker.work)?;
        match self.goal.embedding() {
            Some(embedding) => self.reverse_to_labels(worker, embedding, progress),
            None => self.reverse_to_outputs(worker, wanted.outputs, progress),
        }
    }

    fn reverse_to_labels(
        &self,
        worker: &mut Worker,
        embedding: OutputEmbedding,
        progress: &dyn Progress,
    ) -> Result<ChainReport, TrainError> {
        let Worker { work, labels, was_right, embedded, satisfied, .. } = worker;
        let logits = self.chain.observed(self.stages(), work);
        let (classes, samples) = logits.shape();
        was_right.clear();
        was_right.extend((0..samples).map(|sample| argmax(of_sample(logits, sample)) == labels[sample]));
        let embedded = &mut embedded[..samples * classes];
        embedding.embed(
            EmbeddingPass {
                logits,
                labels,
                target: MatMut::from_column_major_slice_mut(embedded, classes, samples),
                satisfied: &mut satisfied[..samples],
            },
            Par::Seq,
        )?;
        let target = MatRef::from_column_major_slice(embedded, classes, samples);
        let margins = match embedding {
            OutputEmbedding::Margin(margin) => Some(Margins { labels, margin }),
            _ => None,
        };
        let goal = ChainGoal { target_out: TargetBox::point(target), margins };
        Ok(self.chain.reverse_unless(goal, self.mode, work, &|| progress.stop_asked())?)
    }

    fn reverse_to_outputs(
        &self,
        worker: &mut Worker,
        wanted: &[f32],
        progress: &dyn Progress,
    ) -> Result<ChainReport, TrainError> {
        let Worker { work, was_right, embedded, ends: [lower, upper], .. } = worker;
        let found = self.chain.observed(self.stages(), work);
        let (len, samples) = found.shape();
        if wanted.len() != len * samples {
            let reason =
                format!("{} outputs are wanted of each sample, and it gives {len}", wanted.len() / samples.max(1));
            let (left, right) = ("the data".to_owned(), "the network".to_owned());
            return Err(TrainError::Mismatch { left, right, reason });
        }
        let tolerance = self.goal.tolerance as f32;
        was_right.clear();
        for (sample, wanted) in wanted.chunks_exact(len).enumerate() {
            let found = of_sample(found, sample);
            was_right.push(largest_error(found, wanted) <= self.goal.tolerance);
            for (entry, (&found, &wanted)) in found.iter().zip(wanted).enumerate() {
                let at = sample * len + entry;
                (lower[at], upper[at]) = (wanted - tolerance, wanted + tolerance);
                embedded[at] = found.max(lower[at]).min(upper[at]);
            }
        }
        let view = |values| MatRef::from_column_major_slice(values, len, samples);
        let [point, lower, upper] = [&embedded, &lower, &upper].map(|values| view(&values[..samples * len]));
        let goal = ChainGoal { target_out: TargetBox { point, lower, upper }, margins: None };
        Ok(self.chain.reverse_unless(goal, self.mode, work, &|| progress.stop_asked())?)
    }

    fn tile(&self, worker: &mut Worker, tile: &mut Tile<'_>, progress: &dyn Progress) -> Result<(), TrainError> {
        let wanted = WantedOutputs { labels: tile.labels, outputs: tile.wanted };
        let report = self.reverse(worker, tile.input, wanted, progress)?;
        let Worker { work, labels, was_right, .. } = worker;
        tile.stats.set_chain(&report);
        tile.stats.right_before = was_right.iter().filter(|&&right| right).count();
        for stage in 0..self.stages() {
            let found = self.chain.target(stage, work);
            let stats = &mut tile.stats.stages[stage];
            for (sample, target) in tile.targets[stage].chunks_exact_mut(found.nrows()).enumerate() {
                target.copy_from_slice(
                    fbp_linalg::column("targets", found, sample)
                        .map_err(fbp_inverse::InverseError::in_layer("targets"))?,
                );
                let attained = self.chain.attained(stage, sample, work);
                tile.attained[stage][sample] = u8::from(attained);
                let right = match tile.wanted {
                    [] => argmax(self.chain.pushed(stage, sample, work)) == labels[sample],
                    // What is attained misses the tolerance by rounding at most.
                    _ => attained,
                };
                stats.right += usize::from(right);
                stats.right_of_wrong += usize::from(right && !was_right[sample]);
            }
        }
        Ok(())
    }
}

fn of_sample(outputs: MatRef<'_, f32>, sample: usize) -> &[f32] {
    outputs.col(sample).try_as_col_major().map_or(&[][..], |col| col.as_slice())
}
