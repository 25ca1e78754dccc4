use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{MatMut, MatRef, Par};
use fbp_linalg::Real;

use super::ReverseChain;
use super::joint::JointMemory;
use crate::{InverseError, TargetBox, TargetBoxMut, expect_batch};

/// A batch buffer of fixed capacity whose number of rows may change from use to use.
#[derive(Debug)]
pub(super) struct Batch<T> {
    values: Vec<T>,
}

impl<T: Real> Batch<T> {
    pub(super) fn new(len: usize) -> Self {
        Self { values: vec![T::ZERO; len] }
    }

    pub(super) fn view(&self, rows: usize, cols: usize) -> MatRef<'_, T> {
        MatRef::from_column_major_slice(&self.values[..rows * cols], rows, cols)
    }

    pub(super) fn view_mut(&mut self, rows: usize, cols: usize) -> MatMut<'_, T> {
        MatMut::from_column_major_slice_mut(&mut self.values[..rows * cols], rows, cols)
    }

    pub(super) fn column(&self, rows: usize, index: usize) -> &[T] {
        &self.values[rows * index..rows * (index + 1)]
    }

    /// Columns `start..start + count`.
    pub(super) fn columns(&self, rows: usize, start: usize, count: usize) -> MatRef<'_, T> {
        MatRef::from_column_major_slice(&self.values[rows * start..rows * (start + count)], rows, count)
    }

    /// Copies one column over another.
    pub(super) fn move_column(&mut self, rows: usize, from: usize, to: usize) {
        if from != to {
            self.values.copy_within(rows * from..rows * (from + 1), rows * to);
        }
    }

    pub(super) fn column_mut(&mut self, rows: usize, index: usize) -> &mut [T] {
        &mut self.values[rows * index..rows * (index + 1)]
    }
}

/// A target box with changing numbers of rows.
#[derive(Debug)]
pub(super) struct BoxBatch<T> {
    pub(super) point: Batch<T>,
    pub(super) lower: Batch<T>,
    pub(super) upper: Batch<T>,
}

impl<T: Real> BoxBatch<T> {
    fn new(len: usize) -> Self {
        Self { point: Batch::new(len), lower: Batch::new(len), upper: Batch::new(len) }
    }

    pub(super) fn view(&self, rows: usize, cols: usize) -> TargetBox<'_, T> {
        TargetBox {
            point: self.point.view(rows, cols),
            lower: self.lower.view(rows, cols),
            upper: self.upper.view(rows, cols),
        }
    }

    pub(super) fn view_mut(&mut self, rows: usize, cols: usize) -> TargetBoxMut<'_, T> {
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
    pub(super) capacity: usize,
    pub(super) batch: usize,
    pub(super) par: Par,
    /// Observed feature before every operator, and the output.
    pub(super) features: Vec<Batch<T>>,
    /// Lengths of those features.
    pub(super) lens: Vec<usize>,
    /// Target at every boundary.
    pub(super) targets: Vec<Batch<T>>,
    /// Output of the frozen rest on the target of every boundary, by place in `open`.
    pub(super) pushed: Vec<Batch<T>>,
    /// Samples that do not meet the goal yet.
    pub(super) open: Vec<usize>,
    /// Those of them that are reversed layer by layer.
    pub(super) chosen: Vec<usize>,
    /// Per boundary and open sample: whether its target misses the goal.
    pub(super) missed: Vec<bool>,
    pub(super) boxes: [BoxBatch<T>; 2],
    pub(super) gathered: [Batch<T>; 2],
    pub(super) joint: JointMemory<T>,
    pub(super) memory: MemBuffer,
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
    pub(super) fn activate_open(&mut self) {
        self.joint.active.clear();
        self.joint.active.extend(0..self.open.len());
    }

    /// Makes those active whose targets at a boundary miss the goal.
    pub(super) fn activate_missed(&mut self, boundary: usize) {
        let missed = &self.missed[boundary * self.capacity..];
        self.joint.active.clear();
        self.joint.active.extend((0..self.open.len()).filter(|&slot| missed[self.open[slot]]));
    }

    /// Notes which samples the joint iteration has brought to the goal; returns the number of those that still miss it.
    pub(super) fn note_missed(&mut self, boundary: usize) -> usize {
        let missed = &mut self.missed[boundary * self.capacity..];
        for (slot, &sample) in self.open.iter().enumerate() {
            missed[sample] &= !self.joint.has_reached(slot);
        }
        self.open.iter().filter(|&&sample| missed[sample]).count()
    }

    /// Chooses all open samples for the layer-wise reversal.
    pub(super) fn choose_open(&mut self) {
        self.chosen.clear();
        self.chosen.extend_from_slice(&self.open);
    }

    /// Chooses the samples that miss the goal at any of the boundaries.
    pub(super) fn choose_missed(&mut self, boundaries: usize) {
        let (missed, capacity) = (&self.missed, self.capacity);
        let misses = |sample: usize| (0..boundaries).any(|boundary| missed[boundary * capacity + sample]);
        self.chosen.clear();
        self.chosen.extend(self.open.iter().copied().filter(|&sample| misses(sample)));
    }
}
