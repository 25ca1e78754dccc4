//! Reversal of a chain layer by layer: from the goal at the output down to the input, a box and a point at a time.

use faer::Par;
use faer::dyn_stack::MemStack;
use fbp_linalg::{LinalgError, Real, column};

use super::goal::{ChainGoal, TargetMode};
use super::recorded::Recorded;
use super::report::ChainReport;
use super::rest::{Stop, check};
use super::stages::ReverseChain;
use crate::joint::{Batch, Margins, Targets};
use crate::{Interval, InverseError, ReversePass, ReverseReport, TargetBox, TargetBoxMut};

/// Inputs times outputs from which on a layer is large.
const LARGE: usize = 1 << 16;

/// Memory of the reversal: the samples that are reversed, and what is handed from layer to layer.
pub(super) struct LayerMemory<T> {
    chosen: Vec<usize>,
    /// Target boxes at the output and at the input of the layer that is reversed.
    wanted: [BoxBatch<T>; 2],
    /// Observed features of the chosen samples at these places.
    observed: [Batch<T>; 2],
}

/// A target box with changing numbers of rows.
#[derive(Debug)]
struct BoxBatch<T> {
    point: Batch<T>,
    lower: Batch<T>,
    upper: Batch<T>,
}

impl<T: Real> BoxBatch<T> {
    fn new(len: usize) -> Self {
        Self { point: Batch::new(len), lower: Batch::new(len), upper: Batch::new(len) }
    }

    fn view(&self, rows: usize, cols: usize) -> TargetBox<'_, T> {
        TargetBox {
            point: self.point.view(rows, cols),
            lower: self.lower.view(rows, cols),
            upper: self.upper.view(rows, cols),
        }
    }

    fn view_mut(&mut self, rows: usize, cols: usize) -> TargetBoxMut<'_, T> {
        TargetBoxMut {
            point: self.point.view_mut(rows, cols),
            lower: self.lower.view_mut(rows, cols),
            upper: self.upper.view_mut(rows, cols),
        }
    }
}

impl<T: Real> LayerMemory<T> {
    /// Memory for `capacity` samples with features of up to `largest` entries.
    pub(super) fn new(largest: usize, capacity: usize) -> Self {
        let len = largest * capacity;
        Self {
            chosen: Vec::with_capacity(capacity),
            wanted: [BoxBatch::new(len), BoxBatch::new(len)],
            observed: [Batch::new(len), Batch::new(len)],
        }
    }

    /// Chooses the samples that are reversed next.
    pub(super) fn choose(&mut self, samples: impl Iterator<Item = usize>) {
        self.chosen.clear();
        self.chosen.extend(samples);
    }
}

/// What is reversed layer by layer, and how.
#[derive(Clone, Copy)]
pub(super) struct LayerWise<'a, T> {
    pub(super) goal: ChainGoal<'a, T>,
    pub(super) mode: TargetMode,
    pub(super) recorded: &'a Recorded<T>,
    pub(super) par: Par,
    pub(super) stop: Option<Stop<'a>>,
}

impl<T: Real> ReverseChain<T> {
    /// Reverses the chosen samples layer by layer and writes the targets that miss the goal so far.
    pub(super) fn reverse_layers(
        &self,
        how: LayerWise<'_, T>,
        memory: &mut LayerMemory<T>,
        targets: &mut [Targets<T>],
        report: &mut ChainReport,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        if memory.chosen.is_empty() {
            return Ok(());
        }
        self.gather_goal(how, memory);
        for k in (0..self.list.operators.len()).rev() {
            check(how.stop)?;
            if let Some(reason) = self.unfit(k, how.mode) {
                tracing::info!(layer = self.list.operators[k].name(), samples = memory.chosen.len(), reason);
                report.refused += memory.chosen.len();
                return Ok(());
            }
            match self.reverse_operator(k, how, memory, stack) {
                Ok(reversed) => report.operators[k] = reversed,
                Err(error) if how.mode != TargetMode::Point && is_refusal(&error) => {
                    // What lies below keeps the target that it has, and the check tells whether that reaches the goal.
                    tracing::warn!(%error, samples = memory.chosen.len(), "not reversed layer by layer");
                    report.refused += memory.chosen.len();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            if let Ok(boundary) = self.starts.binary_search(&k) {
                let targets = &mut targets[boundary];
                for (place, &sample) in memory.chosen.iter().enumerate() {
                    if targets.is_missed(sample) {
                        let point = memory.wanted[1].point.column(self.list.lens[k], place);
                        targets.point_mut(sample).copy_from_slice(point);
                    }
                }
            }
            // What was found at the input is wanted at the output of the layer below.
            let LayerMemory { wanted: [above, below], observed: [observed_out, observed_in], .. } = memory;
            std::mem::swap(above, below);
            std::mem::swap(observed_out, observed_in);
        }
        Ok(())
    }

    /// Why operator `k` is not reversed on its own although it could be: the answer would be dear and of no use.
    ///
    /// Measured on a network of two convolutions (8 and 16 channels) with batch normalisation, 70 % accuracy on Fashion-MNIST:
    /// the boxes that come down through the normalisation are mostly out of reach of the convolution, whose nearest points
    /// take seconds per image and are then corrected through the whole rest, which finds targets of its own at 180 images
    /// per second.
    fn unfit(&self, k: usize, mode: TargetMode) -> Option<&'static str> {
        if mode == TargetMode::Point || self.list.lens[k] * self.list.lens[k + 1] <= LARGE {
            return None;
        }
        let own = self.list.operators[k].structure();
        let below_norm = self.list.operators.get(k + 1).is_some_and(|above| above.structure().normalises);
        if own.affine && !own.separable && below_norm {
            return Some("not reversed layer by layer: boxes below a normalisation are mostly out of its reach");
        }
        if own.iterated && mode == TargetMode::Attainable {
            return Some(
                "not reversed layer by layer: the search through the whole rest has missed, and this would take longer",
            );
        }
        None
    }

    /// Gathers goal and output of the chosen samples as what is wanted and observed above the last layer.
    fn gather_goal(&self, how: LayerWise<'_, T>, memory: &mut LayerMemory<T>) {
        let (rows, goal) = (self.out_len(), how.goal);
        let LayerMemory { chosen, wanted: [boxes, _], observed: [observed, _] } = memory;
        for (place, &sample) in chosen.iter().enumerate() {
            let ends = [&mut boxes.point, &mut boxes.lower, &mut boxes.upper];
            let given = [goal.target_out.point, goal.target_out.lower, goal.target_out.upper];
            for (to, from) in ends.into_iter().zip(given) {
                let from = column("target_out", from, sample).expect("checked by `check_goal`");
                to.column_mut(rows, place).copy_from_slice(from);
            }
            if let (Some(margins), true) = (goal.margins, how.mode != TargetMode::Point) {
                widen(margins, sample, [boxes.lower.column_mut(rows, place), boxes.upper.column_mut(rows, place)]);
            }
        }
        how.recorded.gather(self.list.operators.len(), chosen, observed);
    }

    /// Reverses operator `k` for the chosen samples.
    fn reverse_operator(
        &self,
        k: usize,
        how: LayerWise<'_, T>,
        memory: &mut LayerMemory<T>,
        stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        let LayerMemory { chosen, wanted: [above, below], observed: [observed_out, observed_in] } = memory;
        let (rows_in, rows_out) = (self.list.lens[k], self.list.lens[k + 1]);
        how.recorded.gather(k, chosen, observed_in);
        let above = above.view(rows_out, chosen.len());
        let by_points = how.mode == TargetMode::Point;
        let pass = ReversePass {
            observed_in: observed_in.view(rows_in, chosen.len()),
            observed_out: observed_out.view(rows_out, chosen.len()),
            target_out: if by_points { TargetBox::point(above.point) } else { above },
            in_range: if by_points { Interval::EVERYTHING } else { self.ranges[k].hull() },
            target_in: below.view_mut(rows_in, chosen.len()),
        };
        self.list.operators[k].reverse(pass, how.par, stack)
    }
}

/// Widens the box of one sample to all outputs that keep the margin to the lower end of the label's interval.
fn widen<T: Real>(margins: Margins<'_>, sample: usize, [lower, upper]: [&mut [T]; 2]) {
    let label = margins.labels[sample];
    let cap = lower[label] - T::from_f64(margins.margin);
    for class in 0..lower.len() {
        if class == label {
            upper[class] = T::INFINITY;
        } else {
            lower[class] = T::NEG_INFINITY;
            upper[class] = upper[class].max(cap);
        }
    }
}

/// Whether a layer has no solver for what it was asked, rather than faulty input.
fn is_refusal(error: &InverseError) -> bool {
    let InverseError::Solve { source, .. } = error else { return false };
    matches!(source, LinalgError::TooLarge { .. } | LinalgError::Decomposition { .. })
}
