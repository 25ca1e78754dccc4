//! Sample by sample like [`columns`](super::columns), for reverses that need workspace.

use faer::Par;
use faer::dyn_stack::{MemStack, StackReq};
use fbp_linalg::{LinalgError, Real, SplitBatch, for_each_part, parts_scratch};

use super::columns::{Outcome, Sample, SampleBox, account, sample_of, split_pass};
use crate::{ReversePass, ReverseReport};

/// The reverse of one sample with workspace.
pub(crate) trait ScratchReverse<T: Real>: Sync {
    /// Workspace of one sample.
    fn sample_scratch(&self) -> StackReq;

    /// Writes the box of one sample; gives what is left and the number of iterations.
    fn reverse_sample(
        &self,
        sample: &Sample<'_, T>,
        target: &mut SampleBox<'_, T>,
        stack: &mut MemStack,
    ) -> Result<(Outcome, usize), LinalgError>;
}

impl<T: Real> SplitBatch for ReversePass<'_, T> {
    fn batch(&self) -> usize {
        self.observed_in.ncols()
    }

    fn split_at(self, count: usize) -> (Self, Self) {
        split_pass(self, count)
    }
}

/// Workspace of [`reverse_parts`].
pub(crate) fn reverse_parts_scratch<T: Real>(kernel: &impl ScratchReverse<T>, batch: usize, par: Par) -> StackReq {
    parts_scratch(kernel.sample_scratch(), batch, par)
}

/// Runs `kernel` on every sample of the pass; the caller has called `pass.check`.
///
/// # Errors
/// The first error of a sample.
pub(crate) fn reverse_parts<T: Real>(
    kernel: &impl ScratchReverse<T>,
    pass: ReversePass<'_, T>,
    par: Par,
    stack: &mut MemStack,
) -> Result<ReverseReport, LinalgError> {
    let run = |mut pass: ReversePass<'_, T>, stack: &mut MemStack| {
        let mut report = ReverseReport { samples: pass.batch(), ..ReverseReport::default() };
        for index in 0..pass.batch() {
            let (sample, mut target) = sample_of(&mut pass, index);
            let (outcome, iters) = kernel.reverse_sample(&sample, &mut target, stack)?;
            report.iters = report.iters.max(iters);
            account(&mut report, &sample, &mut target, outcome);
        }
        Ok(report)
    };
    let merge = |left: Result<ReverseReport, LinalgError>, right| Ok(left?.merge(right?));
    for_each_part(pass, kernel.sample_scratch(), par, stack, &run, &merge)
}
