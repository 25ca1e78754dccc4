use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{MatRef, Par};
use fbp_linalg::Real;

use super::ReverseChain;
use crate::joint::{Batch, JointMemory};
use crate::{InverseError, TargetBox, TargetBoxMut, expect_batch};

/// A target box with changing numbers of rows.
#[derive(Debug)]
pub(crate) struct BoxBatch<T> {
    pub(crate) point: Batch<T>,
    pub(crate) lower: Batch<T>,
    pub(crate) upper: Batch<T>,
}

impl<T: Real> BoxBatch<T> {
    fn new(len: usize) -> Self {
        Self { point: Batch::new(len), lower: Batch::new(len), upper: Batch::new(len) }
    }

    pub(crate) fn view(&self, rows: usize, cols: usize) -> TargetBox<'_, T> {
        TargetBox {
            point: self.point.view(rows, cols),
            lower: self.lower.view(rows, cols),
            upper: self.upper.view(rows, cols),
        }
    }

    pub(crate) fn view_mut(&mut self, rows: usize, cols: usize) -> TargetBoxMut<'_, T> {
        TargetBoxMut {
            point: self.point.view_mut(rows, cols),
            lower: self.lower.view_mut(rows, cols),
            upper: self.upper.view_mut(rows, cols),
        }
    }
}

/// All memory of a [`ReverseChain`] for batches of up to a fixed size: nothing is allocated per batch, but by layers too
/// large for a matrix.
///
/// Made by [`ReverseChain::workspace`]; one per thread.
pub struct ChainWorkspace<T> {
    pub(crate) capacity: usize,
    pub(crate) batch: usize,
    pub(crate) par: Par,
    /// Observed feature before every operator, and the output.
    pub(crate) features: Vec<Batch<T>>,
    /// Lengths of those features.
    pub(crate) lens: Vec<usize>,
    /// Target at every boundary.
    pub(crate) targets: Vec<Batch<T>>,
    /// Output of the frozen rest on the target of every boundary, by place in `open`.
    pub(crate) pushed: Vec<Batch<T>>,
    /// Samples that do not meet the goal yet.
    pub(crate) open: Vec<usize>,
    /// Those of them that are reversed layer by layer.
    pub(crate) chosen: Vec<usize>,
    /// Per boundary and open sample: whether its target misses the goal.
    pub(crate) missed: Vec<bool>,
    pub(crate) boxes: [BoxBatch<T>; 2],
    pub(crate) gathered: [Batch<T>; 2],
    pub(crate) joint: JointMemory<T>,
    pub(crate) memory: MemBuffer,
}

impl<T: Real> ReverseChain<T> {
    /// Allocates the memory for batches of up to `capacity` samples run with `par`.
    pub fn workspace(&self, capacity: usize, par: Par) -> ChainWorkspace<T> {
        let lens: Vec<usize> = (0..=self.operators.len()).map(|k| self.feature_len(k)).collect();
        let largest = lens.iter().copied().max().unwrap_or(0) * capacity;
        let boundary = self.starts.iter().map(|&k| lens[k]).max().unwrap_or(0);
        let scratch = self.operators.iter().fold(self.joint_scratch(capacity, par), |req, operator| {
            req.or(operator.forward_scratch(capacity, par)).or(operator.reverse_scratch(capacity, par))
        });
        ChainWorkspace {
            capacity,
            batch: 0,
            par,
            features: lens.iter().map(|len| Batch::new(len * capacity)).collect(),
            targets: self.starts.iter().map(|&k| Batch::new(lens[k] * capacity)).collect(),
            pushed: self.starts.iter().map(|_| Batch::new(self.out_len() * capacity)).collect(),
            open: Vec::with_capacity(capacity),
            chosen: Vec::with_capacity(capacity),
            missed: vec![false; self.starts.len() * capacity],
            boxes: [BoxBatch::new(largest), BoxBatch::new(largest)],
            gathered: [Batch::new(largest), Batch::new(largest)],
            joint: JointMemory::new(&lens, [boundary, self.longest_metric()], capacity),
            memory: MemBuffer::new(scratch),
            lens,
        }
    }

    /// Runs the chain forwards and records every feature in the workspace; returns the output.
    ///
    /// # Errors
    /// [`InverseError::Shape`] if `input` does not fit the chain or exceeds the capacity of the workspace.
    pub fn forward<'w>(
        &self,
        input: MatRef<'_, T>,
        work: &'w mut ChainWorkspace<T>,
    ) -> Result<MatRef<'w, T>, InverseError> {
        let batch = input.ncols();
        expect_batch("chain", "input", input, (work.lens[0], batch.min(work.capacity)))?;
        work.batch = batch;
        work.features[0].view_mut(work.lens[0], batch).copy_from(input);
        for (k, operator) in self.operators.iter().enumerate() {
            let (below, above) = work.features.split_at_mut(k + 1);
            let input = below[k].view(work.lens[k], batch);
            let output = above[0].view_mut(work.lens[k + 1], batch);
            operator.forward(input, output, work.par, MemStack::new(&mut work.memory))?;
        }
        Ok(work.features[self.operators.len()].view(self.out_len(), batch))
    }

    /// The observed feature at a boundary, recorded by [`forward`](Self::forward).
    ///
    /// # Panics
    /// If there is no such boundary, or `work` belongs to another chain.
    pub fn observed<'w>(&self, boundary: usize, work: &'w ChainWorkspace<T>) -> MatRef<'w, T> {
        let k = self.starts[boundary];
        work.features[k].view(work.lens[k], work.batch)
    }

    /// The reconstructed feature at a boundary, written by [`reverse`](Self::reverse).
    ///
    /// # Panics
    /// If there is no such boundary, or `work` belongs to another chain.
    pub fn target<'w>(&self, boundary: usize, work: &'w ChainWorkspace<T>) -> MatRef<'w, T> {
        let k = self.starts[boundary];
        work.targets[boundary].view(work.lens[k], work.batch)
    }
}

impl<T: Real> ChainWorkspace<T> {
    /// Makes all open samples active in the joint iteration.
    pub(crate) fn activate_open(&mut self) {
        self.joint.active.clear();
        self.joint.active.extend(0..self.open.len());
    }

    /// Makes those active whose targets at a boundary miss the goal.
    pub(crate) fn activate_missed(&mut self, boundary: usize) {
        let missed = &self.missed[boundary * self.capacity..];
        self.joint.active.clear();
        self.joint.active.extend((0..self.open.len()).filter(|&slot| missed[self.open[slot]]));
    }

    /// Notes which samples the joint iteration has brought to the goal; returns the number of those that still miss it.
    pub(crate) fn note_missed(&mut self, boundary: usize) -> usize {
        let missed = &mut self.missed[boundary * self.capacity..];
        for (slot, &sample) in self.open.iter().enumerate() {
            missed[sample] &= !self.joint.has_reached(slot);
        }
        self.open.iter().filter(|&&sample| missed[sample]).count()
    }

    /// Chooses all open samples for the layer-wise reversal.
    pub(crate) fn choose_open(&mut self) {
        self.chosen.clear();
        self.chosen.extend_from_slice(&self.open);
    }

    /// Chooses the samples that miss the goal at any of the boundaries.
    pub(crate) fn choose_missed(&mut self, boundaries: usize) {
        let (missed, capacity) = (&self.missed, self.capacity);
        let misses = |sample: usize| (0..boundaries).any(|boundary| missed[boundary * capacity + sample]);
        self.chosen.clear();
        self.chosen.extend(self.open.iter().copied().filter(|&sample| misses(sample)));
    }
}
