use faer::dyn_stack::MemStack;
use fbp_linalg::Real;

use super::workspace::{Batch, ChainWorkspace};
use super::{ChainReport, ReverseChain};
use crate::{InverseError, Range, ReversePass, TargetBox, expect_batch};

/// Which targets a reverse pass makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetMode {
    /// Boxes, reversed within the range of what the layers below can produce; misses are corrected.
    #[default]
    Attainable,
    /// Points without ranges: the published method. Verified, but not corrected.
    Point,
}

/// What the output of the chain should be.
#[derive(Clone, Copy, Debug)]
pub struct ChainGoal<'a, T> {
    /// The wanted output: `out × N`.
    pub target_out: TargetBox<'a, T>,
    /// For classifiers: what counts as reached. Without it, the box itself does.
    pub margins: Option<Margins<'a>>,
}

/// Reached, for a classifier: the label's logit exceeds every other one by the margin.
#[derive(Clone, Copy, Debug)]
pub struct Margins<'a> {
    /// Class of every sample.
    pub labels: &'a [usize],
    /// The wanted margin, at least 0.
    pub margin: f64,
}

impl<T: Real> ReverseChain<T> {
    /// Writes at every boundary the nearest feature that the frozen rest turns into the goal.
    ///
    /// [`forward`](Self::forward) must have recorded the same batch. Samples whose output is in the target box keep
    /// their observed features bit for bit. Every reconstructed feature is pushed through the frozen rest; in mode
    /// [`Attainable`](TargetMode::Attainable) those that miss get a joint Gauss-Newton correction.
    ///
    /// # Errors
    /// [`InverseError::Shape`] or [`InverseError::Label`] for a goal of another size, [`InverseError::Solve`] for NaN
    /// or a failed solve.
    pub fn reverse(
        &self,
        goal: ChainGoal<'_, T>,
        mode: TargetMode,
        work: &mut ChainWorkspace<T>,
    ) -> Result<ChainReport, InverseError> {
        self.check_goal(&goal, work)?;
        let mut report = ChainReport::empty(self.boundaries(), self.operators.len());
        report.samples = work.batch;
        self.open_samples(&goal, work);
        report.satisfied = work.batch - work.open.len();
        self.start_targets(&goal, work);
        let last = self.operators.len();
        for k in (0..last).rev() {
            // Operators alternate between the two box buffers; operator `last - 1` reads the first.
            let (from, to) = ((last - 1 - k) % 2, (last - k) % 2);
            report.operators[k] = self.reverse_operator(k, [from, to], mode, work)?;
            if let Ok(boundary) = self.starts.binary_search(&k) {
                scatter(&work.open, &work.boxes[to].point, &mut work.targets[boundary], work.lens[k]);
            }
        }
        self.verify(&goal, mode, work, &mut report)?;
        Ok(report)
    }

    fn check_goal(&self, goal: &ChainGoal<'_, T>, work: &ChainWorkspace<T>) -> Result<(), InverseError> {
        let expected = (self.out_len(), work.batch);
        expect_batch("chain", "target_out.point", goal.target_out.point, expected)?;
        expect_batch("chain", "target_out.lower", goal.target_out.lower, expected)?;
        expect_batch("chain", "target_out.upper", goal.target_out.upper, expected)?;
        goal.target_out.check().map_err(InverseError::in_layer("chain"))?;
        if let Some(margins) = goal.margins {
            if margins.labels.len() != work.batch {
                let found = (margins.labels.len(), 1);
                return Err(InverseError::Shape {
                    layer: "chain".into(),
                    what: "labels",
                    expected: (work.batch, 1),
                    found,
                });
            }
            let classes = self.out_len();
            if let Some(sample) = margins.labels.iter().position(|&label| label >= classes) {
                let label = margins.labels[sample];
                return Err(InverseError::Label { sample, label, classes });
            }
        }
        Ok(())
    }

    /// Lists the samples whose output is outside the target box.
    fn open_samples(&self, goal: &ChainGoal<'_, T>, work: &mut ChainWorkspace<T>) {
        let rows = self.out_len();
        let output = &work.features[self.operators.len()];
        work.open.clear();
        for sample in 0..work.batch {
            let (lower, upper) = (goal.target_out.lower.col(sample), goal.target_out.upper.col(sample));
            let logits = output.column(rows, sample);
            if !(0..rows).all(|row| lower[row] <= logits[row] && logits[row] <= upper[row]) {
                work.open.push(sample);
            }
        }
    }

    /// Starts every target from the observed feature and gathers the goal of the open samples.
    fn start_targets(&self, goal: &ChainGoal<'_, T>, work: &mut ChainWorkspace<T>) {
        for (boundary, &k) in self.starts.iter().enumerate() {
            let observed = work.features[k].view(work.lens[k], work.batch);
            work.targets[boundary].view_mut(work.lens[k], work.batch).copy_from(observed);
        }
        let rows = self.out_len();
        for (slot, &sample) in work.open.iter().enumerate() {
            let boxes = &mut work.boxes[0];
            for row in 0..rows {
                boxes.point.column_mut(rows, slot)[row] = goal.target_out.point[(row, sample)];
                boxes.lower.column_mut(rows, slot)[row] = goal.target_out.lower[(row, sample)];
                boxes.upper.column_mut(rows, slot)[row] = goal.target_out.upper[(row, sample)];
            }
        }
        scatter(&work.open, &work.boxes[0].point, &mut work.targets[self.boundaries() - 1], rows);
        gather(&work.open, &work.features[self.operators.len()], &mut work.gathered[0], rows);
    }

    /// Reverses operator `k` for the open samples, from one box buffer into the other.
    fn reverse_operator(
        &self,
        k: usize,
        [from, to]: [usize; 2],
        mode: TargetMode,
        work: &mut ChainWorkspace<T>,
    ) -> Result<crate::ReverseReport, InverseError> {
        let open = work.open.len();
        let (rows_in, rows_out) = (work.lens[k], work.lens[k + 1]);
        gather(&work.open, &work.features[k], &mut work.gathered[to], rows_in);
        let [first, second] = &mut work.boxes;
        let (above, below) = if from == 0 { (first, second) } else { (second, first) };
        let above = above.view(rows_out, open);
        let target_out = if mode == TargetMode::Point { TargetBox::point(above.point) } else { above };
        let pass = ReversePass {
            observed_in: work.gathered[to].view(rows_in, open),
            observed_out: work.gathered[from].view(rows_out, open),
            target_out,
            in_range: if mode == TargetMode::Point { Range::EVERYTHING } else { self.ranges[k] },
            target_in: below.view_mut(rows_in, open),
        };
        self.operators[k].reverse(pass, work.par, MemStack::new(&mut work.memory))
    }
}

/// Copies the open samples of a full batch to the front of a compact one.
fn gather<T: Real>(open: &[usize], full: &Batch<T>, compact: &mut Batch<T>, rows: usize) {
    for (slot, &sample) in open.iter().enumerate() {
        compact.column_mut(rows, slot).copy_from_slice(full.column(rows, sample));
    }
}

/// Copies a compact batch back to the places of the open samples.
fn scatter<T: Real>(open: &[usize], compact: &Batch<T>, full: &mut Batch<T>, rows: usize) {
    for (slot, &sample) in open.iter().enumerate() {
        full.column_mut(rows, sample).copy_from_slice(compact.column(rows, slot));
    }
}
