use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{MatRef, Par};
use fbp_linalg::{Real, compile_once};

use super::layer_wise::LayerMemory;
use super::recorded::Recorded;
use super::stages::ReverseChain;
use crate::joint::{FrozenRest, JointMemory, Sizes, Targets, joint_scratch};
use crate::{InverseError, expect_batch};

/// All memory of a [`ReverseChain`] for batches of up to a fixed size: nothing is allocated per batch, but by layers too
/// large for a matrix.
///
/// Made by [`ReverseChain::workspace`]; one per thread.
pub struct ChainWorkspace<T> {
    pub(super) capacity: usize,
    pub(super) par: Par,
    pub(super) recorded: Recorded<T>,
    /// The samples whose output misses the target box.
    pub(super) open: Vec<usize>,
    /// At every boundary.
    pub(super) targets: Vec<Targets<T>>,
    pub(super) layers: LayerMemory<T>,
    pub(super) joint: JointMemory<T>,
    pub(super) memory: MemBuffer,
}

compile_once! {
    fn workspace<'a, T>(chain: &'a ReverseChain<T>, capacity: usize, par: Par) -> ChainWorkspace<T> =
        ReverseChain::<T>::make_workspace;
    fn forward<'a, T>(chain: &'a ReverseChain<T>, input: MatRef<'a, T>, work: &'a mut ChainWorkspace<T>)
        -> Result<(), InverseError> = ReverseChain::<T>::record;
}

impl<T: Real> ReverseChain<T> {
    /// Allocates the memory for batches of up to `capacity` samples run with `par`.
    pub fn workspace(&self, capacity: usize, par: Par) -> ChainWorkspace<T> {
        workspace(self, capacity, par)
    }

    fn make_workspace(&self, capacity: usize, par: Par) -> ChainWorkspace<T> {
        let mut scratch =
            self.list.operators.iter().fold(self.rest_from(0).forward_scratch(capacity, par), |req, operator| {
                req.or(operator.reverse_scratch(capacity, par))
            });
        let mut sizes = Sizes::empty(self.conditions);
        for (&first, metric) in self.starts.iter().zip(&self.metrics) {
            let rest = self.rest_from(first);
            sizes = sizes.or(Sizes::of(&rest, metric.is_some(), self.conditions));
            scratch = scratch.or(joint_scratch(&rest, (metric.is_some(), self.conditions), capacity, par));
        }
        for ends in self.starts.windows(2) {
            scratch = scratch.or(self.list.range(ends[0], ends[1]).forward_scratch(capacity, par));
        }
        ChainWorkspace {
            capacity,
            par,
            recorded: Recorded::new(&self.list.lens, capacity),
            open: Vec::with_capacity(capacity),
            targets: self.starts.iter().map(|&k| Targets::new([self.list.lens[k], self.out_len()], capacity)).collect(),
            layers: LayerMemory::new(self.list.lens.iter().copied().max().unwrap_or(0), capacity),
            joint: JointMemory::new(sizes, capacity),
            memory: MemBuffer::new(scratch),
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
        forward(self, input, work)?;
        Ok(work.recorded.output())
    }

    fn record(&self, input: MatRef<'_, T>, work: &mut ChainWorkspace<T>) -> Result<(), InverseError> {
        let ChainWorkspace { capacity, recorded, par, memory, .. } = work;
        let batch = input.ncols();
        expect_batch("chain", "input", input, (self.list.lens[0], batch.min(*capacity)))?;
        recorded.restart(input);
        for (k, operator) in self.list.operators.iter().enumerate() {
            let (input, output) = recorded.around(k);
            operator.forward(input, output, *par, MemStack::new(memory))?;
        }
        Ok(())
    }

    /// The observed feature at a boundary, recorded by [`forward`](Self::forward).
    ///
    /// # Panics
    /// If there is no such boundary, or `work` belongs to another chain.
    pub fn observed<'w>(&self, boundary: usize, work: &'w ChainWorkspace<T>) -> MatRef<'w, T> {
        work.recorded.feature(self.starts[boundary])
    }

    /// The reconstructed feature at a boundary, written by [`reverse`](Self::reverse).
    ///
    /// # Panics
    /// If there is no such boundary, or `work` belongs to another chain.
    pub fn target<'w>(&self, boundary: usize, work: &'w ChainWorkspace<T>) -> MatRef<'w, T> {
        work.targets[boundary].points(work.recorded.batch())
    }

    /// Output of the frozen rest on the target of a sample at a boundary; the observed output for satisfied samples.
    ///
    /// # Panics
    /// If there is no such boundary or sample, or `work` belongs to another chain.
    pub fn pushed<'w>(&self, boundary: usize, sample: usize, work: &'w ChainWorkspace<T>) -> &'w [T] {
        work.targets[boundary].output(sample)
    }

    /// Whether the target of a sample at a boundary reaches the goal, as [`BoundaryReport`] defines it.
    ///
    /// # Panics
    /// If there is no such boundary or sample, or `work` belongs to another chain.
    ///
    /// [`BoundaryReport`]: super::BoundaryReport
    pub fn attained(&self, boundary: usize, sample: usize, work: &ChainWorkspace<T>) -> bool {
        !work.targets[boundary].is_missed(sample)
    }
}
