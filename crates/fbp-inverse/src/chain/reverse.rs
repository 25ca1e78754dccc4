use faer::dyn_stack::MemStack;
use fbp_linalg::{LinalgError, Real};

use super::workspace::ChainWorkspace;
use super::{ChainReport, ReverseChain};
use crate::joint::Batch;
use crate::joint::Start;
use crate::joint::{FIRST_STARTS, LAST_STARTS};
use crate::{InverseError, OutputEmbedding, Range, ReversePass, TargetBox, expect_batch};

/// Which targets a reverse pass makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetMode {
    /// At every boundary the nearest feature within the range of the layers below that the whole rest of the network
    /// turns into the goal, with exactly the margin; samples for which that iteration fails start again from other points,
    /// are reversed layer by layer and tried again from there, and climb from 60 more points as a last resort. The rest of
    /// a network is not convex: nearer points may exist, above all where it is far from linear, and there the one that is
    /// found depends on rounding. Goals without margins go layer by layer first: equations at the output are mostly too far
    /// for the iteration.
    #[default]
    Attainable,
    /// Layer by layer, with boxes and within the ranges of the layers below; misses are corrected jointly.
    ///
    /// Needs no derivatives. Every step is a nearest point, but not their composition: on the small Fashion-MNIST
    /// network the first feature moves by 6.1 % of its norm, against 2.4 % for [`Attainable`](Self::Attainable).
    LayerWise,
    /// Layer by layer with points and without ranges: the published method. Verified, but not corrected.
    Point,
}

/// What the output of the chain should be.
#[derive(Clone, Copy, Debug)]
pub struct ChainGoal<'a, T> {
    /// The wanted output: `out × N`.
    pub target_out: TargetBox<'a, T>,
    /// For classifiers: what counts as reached. Without it, the box itself does.
    ///
    /// In mode [`LayerWise`](TargetMode::LayerWise) the target is then widened to all outputs that do as well: the
    /// label's logit may be larger than its target, and the others anything that keeps the margin to that target.
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

impl Margins<'_> {
    /// Widens the box of one sample to all outputs that keep the margin to the lower end of the label's interval.
    fn widen<T: Real>(&self, sample: usize, lower: &mut [T], upper: &mut [T]) {
        let label = self.labels[sample];
        let cap = lower[label] - T::from_f64(self.margin);
        for class in 0..lower.len() {
            if class == label {
                upper[class] = T::INFINITY;
            } else {
                lower[class] = T::NEG_INFINITY;
                upper[class] = upper[class].max(cap);
            }
        }
    }
}

impl<T: Real> ReverseChain<T> {
    /// Writes at every boundary the nearest feature that the frozen rest turns into the goal, as `mode` says.
    ///
    /// [`forward`](Self::forward) must have recorded the same batch. Samples whose output is in the target box keep
    /// their observed features bit for bit. Every reconstructed feature is pushed through the frozen rest, and what
    /// misses the goal is reported. Where a layer cannot be reversed (its box is too large for its solver), the samples
    /// keep the targets that they have below it, which is reported as well; only [`TargetMode::Point`] gives an error.
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
        work.missed.fill(true);
        if mode == TargetMode::Attainable && goal.margins.is_some() {
            for boundary in 0..self.boundaries() {
                work.activate_open();
                self.join(boundary, &goal, self.direct_start(boundary), work)?;
                if work.note_missed(boundary) > 0 {
                    work.activate_missed(boundary);
                    self.rescue(boundary, &goal, FIRST_STARTS, work)?;
                }
                report.boundaries[boundary].missed = work.note_missed(boundary);
                if let Some(metric) = &self.metrics[boundary] {
                    work.activate_open();
                    self.improve(boundary, &goal, metric, work)?;
                    report.boundaries[boundary].missed = work.note_missed(boundary);
                }
            }
            work.choose_missed(self.boundaries());
            self.reverse_layers(&goal, mode, work, &mut report)?;
        } else {
            work.choose_open();
            self.reverse_layers(&goal, mode, work, &mut report)?;
            for boundary in 0..self.boundaries() {
                work.activate_open();
                self.check(boundary, &goal, work)?;
                report.boundaries[boundary].missed = work.note_missed(boundary);
            }
        }
        for boundary in 0..self.boundaries() {
            let entry = &mut report.boundaries[boundary];
            entry.unattained = entry.missed;
            if mode != TargetMode::Point && entry.missed > 0 {
                work.activate_missed(boundary);
                self.join(boundary, &goal, Start::Targets, work)?;
                if work.note_missed(boundary) > 0 {
                    work.activate_missed(boundary);
                    self.rescue(boundary, &goal, LAST_STARTS, work)?;
                }
                entry.unattained = work.note_missed(boundary);
            }
            entry.corrected = entry.missed - entry.unattained;
            self.measure(boundary, &goal, work, entry);
        }
        Ok(report)
    }

    /// Where the joint iteration starts; the output has its target already.
    fn direct_start(&self, boundary: usize) -> Start {
        if self.starts[boundary] == self.operators.len() { Start::Targets } else { Start::Observed }
    }

    /// Reverses the chosen samples layer by layer and writes the targets that miss the goal so far.
    fn reverse_layers(
        &self,
        goal: &ChainGoal<'_, T>,
        mode: TargetMode,
        work: &mut ChainWorkspace<T>,
        report: &mut ChainReport,
    ) -> Result<(), InverseError> {
        if work.chosen.is_empty() {
            return Ok(());
        }
        self.gather_goal(goal, mode, work);
        let last = self.operators.len();
        for k in (0..last).rev() {
            // Operators alternate between the two box buffers; operator `last - 1` reads the first.
            let (from, to) = ((last - 1 - k) % 2, (last - k) % 2);
            match self.reverse_operator(k, [from, to], mode, work) {
                Ok(reversed) => report.operators[k] = reversed,
                Err(error) if mode != TargetMode::Point && is_refusal(&error) => {
                    // What lies below keeps the target that it has, and the check tells whether that reaches the goal.
                    tracing::warn!(%error, samples = work.chosen.len(), "not reversed layer by layer");
                    report.refused += work.chosen.len();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            if let Ok(boundary) = self.starts.binary_search(&k) {
                for (place, &sample) in work.chosen.iter().enumerate() {
                    if work.missed[boundary * work.capacity + sample] {
                        let target = work.boxes[to].point.column(work.lens[k], place);
                        work.targets[boundary].column_mut(work.lens[k], sample).copy_from_slice(target);
                    }
                }
            }
        }
        Ok(())
    }

    fn check_goal(&self, goal: &ChainGoal<'_, T>, work: &ChainWorkspace<T>) -> Result<(), InverseError> {
        let expected = (self.out_len(), work.batch);
        expect_batch("chain", "target_out.point", goal.target_out.point, expected)?;
        expect_batch("chain", "target_out.lower", goal.target_out.lower, expected)?;
        expect_batch("chain", "target_out.upper", goal.target_out.upper, expected)?;
        goal.target_out.check().map_err(InverseError::in_layer("chain"))?;
        if let Some(margins) = goal.margins {
            OutputEmbedding::Margin(margins.margin).check()?;
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

    /// Starts every target from the observed feature, that of the output from the goal.
    fn start_targets(&self, goal: &ChainGoal<'_, T>, work: &mut ChainWorkspace<T>) {
        for (boundary, &k) in self.starts.iter().enumerate() {
            let observed = work.features[k].view(work.lens[k], work.batch);
            work.targets[boundary].view_mut(work.lens[k], work.batch).copy_from(observed);
        }
        let outputs = self.boundaries() - 1;
        for &sample in &work.open {
            let target = work.targets[outputs].column_mut(self.out_len(), sample);
            target.iter_mut().zip(goal.target_out.point.col(sample).iter()).for_each(|(to, from)| *to = *from);
        }
    }

    /// Gathers the goal of the chosen samples in the first box buffer.
    fn gather_goal(&self, goal: &ChainGoal<'_, T>, mode: TargetMode, work: &mut ChainWorkspace<T>) {
        let rows = self.out_len();
        let boxes = &mut work.boxes[0];
        for (place, &sample) in work.chosen.iter().enumerate() {
            let ends = [&mut boxes.point, &mut boxes.lower, &mut boxes.upper];
            let given = [goal.target_out.point, goal.target_out.lower, goal.target_out.upper];
            for (to, from) in ends.into_iter().zip(given) {
                let to = to.column_mut(rows, place);
                to.iter_mut().zip(from.col(sample).iter()).for_each(|(to, from)| *to = *from);
            }
            if let (Some(margins), true) = (goal.margins, mode != TargetMode::Point) {
                margins.widen(sample, boxes.lower.column_mut(rows, place), boxes.upper.column_mut(rows, place));
            }
        }
        gather(&work.chosen, &work.features[self.operators.len()], &mut work.gathered[0], rows);
    }

    /// Reverses operator `k` for the chosen samples, from one box buffer into the other.
    fn reverse_operator(
        &self,
        k: usize,
        [from, to]: [usize; 2],
        mode: TargetMode,
        work: &mut ChainWorkspace<T>,
    ) -> Result<crate::ReverseReport, InverseError> {
        let chosen = work.chosen.len();
        let (rows_in, rows_out) = (work.lens[k], work.lens[k + 1]);
        gather(&work.chosen, &work.features[k], &mut work.gathered[to], rows_in);
        let [first, second] = &mut work.boxes;
        let (above, below) = if from == 0 { (first, second) } else { (second, first) };
        let above = above.view(rows_out, chosen);
        let target_out = if mode == TargetMode::Point { TargetBox::point(above.point) } else { above };
        let pass = ReversePass {
            observed_in: work.gathered[to].view(rows_in, chosen),
            observed_out: work.gathered[from].view(rows_out, chosen),
            target_out,
            in_range: if mode == TargetMode::Point { Range::EVERYTHING } else { self.ranges[k] },
            target_in: below.view_mut(rows_in, chosen),
        };
        self.operators[k].reverse(pass, work.par, MemStack::new(&mut work.memory))
    }
}

/// Whether a layer has no solver for what it was asked, rather than faulty input.
fn is_refusal(error: &InverseError) -> bool {
    let InverseError::Solve { source, .. } = error else { return false };
    matches!(source, LinalgError::TooLarge { .. } | LinalgError::Decomposition { .. })
}

/// Copies the chosen samples of a full batch to the front of a compact one.
fn gather<T: Real>(chosen: &[usize], full: &Batch<T>, compact: &mut Batch<T>, rows: usize) {
    for (place, &sample) in chosen.iter().enumerate() {
        compact.column_mut(rows, place).copy_from_slice(full.column(rows, sample));
    }
}
