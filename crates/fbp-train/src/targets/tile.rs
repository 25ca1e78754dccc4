use faer::{MatMut, MatRef, Par};
use fbp_inverse::{
    ChainGoal, ChainReport, ChainWorkspace, EmbeddingPass, Margins, OutputEmbedding, ReverseChain, TargetBox,
};

use super::goal::{OutputGoal, WantedOutputs};
use super::metric::set_metrics;
use super::{TargetsOptions, TargetsSource};
use crate::TrainError;
use crate::evaluate::largest_error;
use crate::metrics::argmax;
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

/// Memory of one thread.
pub(super) struct Worker {
    pub(super) work: ChainWorkspace<f32>,
    /// Labels of the samples that were observed last, and whether their outputs are right.
    pub(super) labels: Vec<usize>,
    pub(super) was_right: Vec<bool>,
    embedded: Vec<f32>,
    /// Ends of the boxes of outputs; empty where there are labels.
    ends: [Vec<f32>; 2],
    satisfied: Vec<bool>,
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

    /// Reverses up to [`tile_samples`](Self::tile_samples) samples; features and targets stay in the worker. Searches that take
    /// long end with an error between two of their steps when `progress` asks for it.
    pub(super) fn reverse(
        &self,
        worker: &mut Worker,
        input: &[f32],
        wanted: WantedOutputs<'_>,
        progress: &dyn Progress,
    ) -> Result<ChainReport, TrainError> {
        self.observe(worker, input, wanted)?;
        let Worker { work, labels, embedded, ends, .. } = worker;
        let goal = self.chain_goal((labels, embedded, ends));
        Ok(self.chain.reverse_unless(goal, self.mode, work, &|| progress.stop_asked())?)
    }

    /// Runs up to [`tile_samples`](Self::tile_samples) samples forwards; lists those whose output misses what is wanted, whose
    /// targets are to be searched for. The targets of the others are the features that are now in the worker.
    pub(super) fn open_samples<'w>(
        &self,
        worker: &'w mut Worker,
        input: &[f32],
        wanted: WantedOutputs<'_>,
    ) -> Result<&'w [usize], TrainError> {
        self.observe(worker, input, wanted)?;
        let Worker { work, labels, embedded, ends, .. } = worker;
        Ok(self.chain.open_samples(self.chain_goal((labels, embedded, ends)), work)?)
    }

    /// Runs samples forwards, and finds the outputs that are wanted of them.
    fn observe(&self, worker: &mut Worker, input: &[f32], wanted: WantedOutputs<'_>) -> Result<(), TrainError> {
        let samples = wanted.labels.len();
        worker.labels.clear();
        worker.labels.extend(wanted.labels.iter().map(|&label| label as usize));
        let input = MatRef::from_column_major_slice(input, self.boundary_len(0), samples);
        self.chain.forward(input, &mut worker.work)?;
        match self.goal.embedding() {
            Some(embedding) => self.embed_labels(worker, embedding),
            None => self.embed_outputs(worker, wanted.outputs),
        }
    }

    fn embed_labels(&self, worker: &mut Worker, embedding: OutputEmbedding) -> Result<(), TrainError> {
        let Worker { work, labels, was_right, embedded, satisfied, .. } = worker;
        let logits = self.chain.observed(self.stages(), work);
        let (classes, samples) = logits.shape();
        was_right.clear();
        was_right.extend((0..samples).map(|sample| argmax(of_sample(logits, sample)) == labels[sample]));
        let embedded = &mut embedded[..samples * classes];
        let target = MatMut::from_column_major_slice_mut(embedded, classes, samples);
        embedding.embed(EmbeddingPass { logits, labels, target, satisfied: &mut satisfied[..samples] }, Par::Seq)?;
        Ok(())
    }

    fn embed_outputs(&self, worker: &mut Worker, wanted: &[f32]) -> Result<(), TrainError> {
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
        Ok(())
    }

    /// What is wanted of the samples that were observed last.
    fn chain_goal<'g>(
        &self,
        (labels, embedded, [lower, upper]): (&'g [usize], &'g [f32], &'g [Vec<f32>; 2]),
    ) -> ChainGoal<'g, f32> {
        let (classes, samples) = (self.boundary_len(self.stages()), labels.len());
        let view = |values: &'g [f32]| MatRef::from_column_major_slice(&values[..classes * samples], classes, samples);
        let point = view(embedded);
        match self.goal.embedding() {
            None => {
                ChainGoal { target_out: TargetBox { point, lower: view(lower), upper: view(upper) }, margins: None }
            }
            Some(OutputEmbedding::Margin(margin)) => {
                ChainGoal { target_out: TargetBox::point(point), margins: Some(Margins { labels, margin }) }
            }
            Some(_) => ChainGoal { target_out: TargetBox::point(point), margins: None },
        }
    }
}

fn of_sample(outputs: MatRef<'_, f32>, sample: usize) -> &[f32] {
    outputs.col(sample).try_as_col_major().map_or(&[][..], |col| col.as_slice())
}
