use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{Real, compile_once};

use super::goal::{ChainGoal, TargetMode};
use super::layer_wise::LayerWise;
use super::recorded::Recorded;
use super::report::ChainReport;
use super::rest::Stop;
use super::stages::ReverseChain;
use super::workspace::ChainWorkspace;
use crate::joint::{Among, Effort, FIRST_STARTS, JointGoal, JointMemory, LAST_STARTS, Problem, Start, Targets};
use crate::{InverseError, TargetBox, expect_batch};

/// What one reverse pass is given: a joint problem at every boundary.
struct Given<'a, T> {
    chain: &'a ReverseChain<T>,
    recorded: &'a Recorded<T>,
    goal: JointGoal<'a, T>,
    open: &'a [usize],
    par: Par,
    stop: Option<Stop<'a>>,
}

impl<T: Real> Given<'_, T> {
    /// Runs something on the problem of a boundary.
    fn at<R>(&self, boundary: usize, run: impl FnOnce(&Problem<'_, T>) -> R) -> R {
        let first = self.chain.starts[boundary];
        run(&Problem {
            rest: &self.chain.rest_from(first).stopped_by(self.stop),
            observed: self.recorded.feature(first),
            observed_out: self.recorded.output(),
            goal: self.goal,
            open: self.open,
            par: self.par,
            effort: self.chain.effort,
        })
    }
}

compile_once! {
    fn reverse<'a, T>(
        chain: &'a ReverseChain<T>, goal: ChainGoal<'a, T>, how: (TargetMode, Option<Stop<'a>>), work: &'a mut ChainWorkspace<T>,
    ) -> Result<ChainReport, InverseError> = ReverseChain::<T>::reverse_batch;
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
        reverse(self, goal, (mode, None), work)
    }

    /// The same, unless `stop` says that the work shall end: it is asked before every pass through the frozen rest and before every
    /// layer, so that the call returns within the time of one of them.
    ///
    /// # Errors
    /// As [`reverse`](Self::reverse), and [`InverseError::Stopped`]; what the workspace holds then is of no use.
    pub fn reverse_unless(
        &self,
        goal: ChainGoal<'_, T>,
        mode: TargetMode,
        work: &mut ChainWorkspace<T>,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<ChainReport, InverseError> {
        reverse(self, goal, (mode, Some(stop)), work)
    }

    /// The samples of the batch that [`forward`](Self::forward) has recorded whose output misses the target box, in order: those that
    /// [`reverse`](Self::reverse) searches for. The targets of the others are their observed features.
    ///
    /// # Errors
    /// [`InverseError::Shape`] or [`InverseError::Label`] for a goal of another size, [`InverseError::Solve`] for NaN.
    pub fn open_samples<'w>(
        &self,
        goal: ChainGoal<'_, T>,
        work: &'w mut ChainWorkspace<T>,
    ) -> Result<&'w [usize], InverseError> {
        self.check_goal(&goal, work)?;
        let ChainWorkspace { recorded, open, .. } = work;
        list_open(&goal, recorded.output(), open);
        Ok(open)
    }

    fn reverse_batch(
        &self,
        goal: ChainGoal<'_, T>,
        (mode, stop): (TargetMode, Option<Stop<'_>>),
        work: &mut ChainWorkspace<T>,
    ) -> Result<ChainReport, InverseError> {
        self.check_goal(&goal, work)?;
        let ChainWorkspace { par, recorded, open, targets, layers, joint, memory, .. } = work;
        let stack = MemStack::new(memory);
        list_open(&goal, recorded.output(), open);
        let mut report = ChainReport::empty(self.boundaries(), self.list.operators.len());
        report.samples = recorded.batch();
        report.satisfied = recorded.batch() - open.len();
        let given = Given { chain: self, recorded, goal: goal.joint(), open, par: *par, stop };
        for (boundary, targets) in targets.iter_mut().enumerate() {
            given.at(boundary, |problem| targets.restart(problem));
        }
        write_wanted(&goal, open, &mut targets[self.boundaries() - 1]);
        let layer_wise = LayerWise { goal, mode, recorded, par: *par, stop };
        if mode == TargetMode::Attainable && (goal.margins.is_some() || given.goal.is_wide()) {
            if self.proposes(given.goal.margin()) {
                layers.choose(open.iter().copied());
                let layer_wise = LayerWise { mode: TargetMode::LayerWise, ..layer_wise };
                self.reverse_layers(layer_wise, layers, targets, &mut report, stack)?;
                // Those are proposals; what is refused as a target is counted below.
                report.refused = 0;
            }
            for boundary in (0..self.boundaries()).rev() {
                let (targets, above) = with_above(targets, boundary);
                report.boundaries[boundary].missed =
                    given.at(boundary, |problem| self.search(boundary, problem, joint, (targets, above), stack))?;
            }
            let misses = |sample: usize| targets.iter().any(|targets| targets.is_missed(sample));
            layers.choose(open.iter().copied().filter(|&sample| misses(sample)));
            self.reverse_layers(layer_wise, layers, targets, &mut report, stack)?;
        } else {
            layers.choose(open.iter().copied());
            self.reverse_layers(layer_wise, layers, targets, &mut report, stack)?;
            for (boundary, (targets, entry)) in targets.iter_mut().zip(&mut report.boundaries).enumerate() {
                entry.missed = given.at(boundary, |problem| problem.check(Among::Open, joint, targets, stack))?;
            }
        }
        for boundary in (0..self.boundaries()).rev() {
            let (entry, (targets, above)) = (&mut report.boundaries[boundary], with_above(targets, boundary));
            entry.unattained = entry.missed;
            if mode != TargetMode::Point && entry.missed > 0 {
                entry.unattained =
                    given.at(boundary, |problem| self.correct(boundary, problem, joint, (targets, above), stack))?;
            }
        }
        if mode == TargetMode::Attainable && self.proposes(given.goal.margin()) {
            self.hand_up(&given, joint, targets, &mut report, stack)?;
        }
        for (boundary, (targets, entry)) in targets.iter().zip(&mut report.boundaries).enumerate() {
            entry.corrected = entry.missed - entry.unattained;
            given.at(boundary, |problem| entry.measure(problem, targets));
        }
        Ok(report)
    }

    /// Proposes what the targets of every boundary become behind the next stage as targets there, from the input on.
    fn hand_up(
        &self,
        given: &Given<'_, T>,
        joint: &mut JointMemory<T>,
        targets: &mut [Targets<T>],
        report: &mut ChainReport,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        for boundary in (1..self.boundaries()).filter(|&boundary| !self.is_output(boundary)) {
            let (below, own) = targets.split_at_mut(boundary);
            let (below, own) = (&below[boundary - 1], &mut own[0]);
            let stage = self.list.range(self.starts[boundary - 1], self.starts[boundary]);
            let points = below.points(given.recorded.batch());
            let mut image =
                |to: MatMut<'_, T>, stack: &mut MemStack| stage.forward("chain", points, to, given.par, stack);
            report.boundaries[boundary].unattained =
                given.at(boundary, |problem| problem.reconsider((below, &mut image), joint, own, stack))?;
        }
        Ok(())
    }

    /// Whether a boundary is the output: its targets are the caller's, and there is no rest to search through.
    fn is_output(&self, boundary: usize) -> bool {
        self.starts[boundary] == self.list.operators.len()
    }

    /// Whether targets found layer by layer are proposed to the searches.
    fn proposes(&self, margin: Option<f64>) -> bool {
        self.effort == Effort::Exhaustive && margin.is_some()
    }

    /// The first search at a boundary, from the observed features; returns the number of samples that miss the goal.
    fn search(
        &self,
        boundary: usize,
        problem: &Problem<'_, T>,
        joint: &mut JointMemory<T>,
        (targets, above): (&mut Targets<T>, Option<&Targets<T>>),
        stack: &mut MemStack,
    ) -> Result<usize, InverseError> {
        let mut missed = if self.is_output(boundary) {
            problem.check(Among::Open, joint, targets, stack)?
        } else {
            if self.proposes(problem.goal.margin()) {
                if problem.check(Among::Open, joint, targets, stack)? > 0 {
                    // As a reversal layer by layer ends.
                    let problem = Problem { effort: Effort::Thorough, ..*problem };
                    self.correct(boundary, &problem, joint, (targets, above), stack)?;
                }
                joint.propose(problem, targets);
            }
            problem.join((Among::Open, Start::Observed), joint, targets, stack)?
        };
        if missed > 0 {
            missed = problem.rescue((FIRST_STARTS, above), joint, targets, stack)?;
        }
        match &self.metrics[boundary] {
            Some(metric) => problem.improve(metric, joint, targets, stack),
            None => Ok(missed),
        }
    }

    /// The last search at a boundary, for what still misses the goal, from what the layers gave.
    fn correct(
        &self,
        boundary: usize,
        problem: &Problem<'_, T>,
        joint: &mut JointMemory<T>,
        (targets, above): (&mut Targets<T>, Option<&Targets<T>>),
        stack: &mut MemStack,
    ) -> Result<usize, InverseError> {
        if self.is_output(boundary) {
            return problem.check(Among::Missed, joint, targets, stack);
        }
        match problem.join((Among::Missed, Start::Targets), joint, targets, stack)? {
            0 => Ok(0),
            _ => problem.rescue((LAST_STARTS, above), joint, targets, stack),
        }
    }

    fn check_goal(&self, goal: &ChainGoal<'_, T>, work: &ChainWorkspace<T>) -> Result<(), InverseError> {
        let expected = (self.out_len(), work.recorded.batch());
        expect_batch("chain", "target_out.point", goal.target_out.point, expected)?;
        expect_batch("chain", "target_out.lower", goal.target_out.lower, expected)?;
        expect_batch("chain", "target_out.upper", goal.target_out.upper, expected)?;
        goal.target_out.check().map_err(InverseError::in_layer("chain"))?;
        goal.joint().check("chain", expected)
    }
}

/// The targets of a boundary, and those of the one above it if there is one.
fn with_above<T>(targets: &mut [Targets<T>], boundary: usize) -> (&mut Targets<T>, Option<&Targets<T>>) {
    let (below, above) = targets.split_at_mut(boundary + 1);
    (&mut below[boundary], above.first())
}

/// Lists the open samples: those whose output is outside the target box.
fn list_open<T: Real>(goal: &ChainGoal<'_, T>, output: MatRef<'_, T>, open: &mut Vec<usize>) {
    let TargetBox { lower, upper, .. } = goal.target_out;
    let is_inside = |row: usize, sample: usize| {
        lower[(row, sample)] <= output[(row, sample)] && output[(row, sample)] <= upper[(row, sample)]
    };
    open.clear();
    open.extend((0..output.ncols()).filter(|&sample| !(0..output.nrows()).all(|row| is_inside(row, sample))));
}

/// Makes the goal the target of the output for the open samples.
fn write_wanted<T: Real>(goal: &ChainGoal<'_, T>, open: &[usize], targets: &mut Targets<T>) {
    for &sample in open {
        let wanted = goal.target_out.point.col(sample).iter();
        targets.point_mut(sample).iter_mut().zip(wanted).for_each(|(to, from)| *to = *from);
    }
}
