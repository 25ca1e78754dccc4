//! The door: targets of any frozen rest in one call.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, MatRef, Par};
use fbp_linalg::{Real, compile_once, expect_finite};

use super::batch::Batch;
use super::cuts::{MOST_CUTS, conditions_of_boxes};
use super::goal::JointGoal;
use super::iterates::Sizes;
use super::memory::JointMemory;
use super::problem::{Effort, Problem};
use super::rescue::{FIRST_STARTS, LAST_STARTS};
use super::rest::FrozenRest;
use super::search::joint_scratch;
use super::targets::Targets;
use crate::{InverseError, expect_batch};

/// What the joint iteration did for a batch.
///
/// A target is *attained* if the frozen rest, run on it, gives an output at the goal; what that means up to rounding says
/// [`BoundaryReport`](crate::BoundaryReport). *Unattained* means that nothing was found, not that nothing exists.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct JointReport {
    /// Samples in the batch.
    pub samples: usize,
    /// Samples whose observed output is at the goal: the target is the observed feature.
    pub satisfied: usize,
    /// Samples whose target is not attained.
    pub unattained: usize,
    /// `Σ |target - observed|²` over all samples.
    pub distance_sq: f64,
    /// `Σ |observed|²` over all samples.
    pub observed_sq: f64,
    /// Largest remaining violation of the goal.
    pub violation_max: f64,
}

/// The targets of a batch, made by [`nearest`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Nearest<T> {
    /// The targets: `in × N`.
    pub targets: Mat<T>,
    /// What the rest makes of them: `out × N`.
    pub outputs: Mat<T>,
    /// Which of them are attained.
    pub attained: Vec<bool>,
    /// Figures over the batch.
    pub report: JointReport,
}

/// For every observed feature the nearest one within the interval that the frozen rest turns into the goal.
///
/// Allocates its memory; [`JointWorkspace`] keeps it for many batches.
///
/// # Errors
/// [`InverseError::Shape`] or [`InverseError::Label`] for a goal or features of another size, [`InverseError::Parameter`] for a
/// margin outside its range, [`InverseError::Solve`] for NaN or an interval that holds no finite number, and the errors of the
/// rest.
///
/// # Example
/// A residual block, `x + B tanh(A x)`, is no chain of layers; products with its Jacobian are all that is needed.
/// ```
/// use faer::dyn_stack::MemStack;
/// use faer::linalg::matmul::matmul;
/// use faer::{Accum, Mat, Par, mat};
/// use fbp_inverse::joint::{FrozenRest, JointGoal, RestForward, RestVjp, nearest};
/// use fbp_inverse::{InverseError, Margins};
///
/// struct Residual {
///     a: Mat<f64>,
///     b: Mat<f64>,
///     /// On the tape: tanh(A x).
///     tape: [usize; 1],
/// }
///
/// impl FrozenRest<f64> for Residual {
///     fn in_len(&self) -> usize {
///         self.a.ncols()
///     }
///
///     fn out_len(&self) -> usize {
///         self.a.ncols()
///     }
///
///     fn tape_lens(&self) -> &[usize] {
///         &self.tape
///     }
///
///     fn forward(&self, pass: RestForward<'_, f64>, par: Par, _: &mut MemStack) -> Result<(), InverseError> {
///         let RestForward { at, mut output, mut tape } = pass;
///         let mut hidden = tape.feature_mut(0);
///         matmul(hidden.as_mut(), Accum::Replace, &self.a, at, 1.0, par);
///         for column in hidden.as_mut().col_iter_mut() {
///             column.iter_mut().for_each(|h| *h = h.tanh());
///         }
///         output.copy_from(at);
///         matmul(output, Accum::Add, &self.b, hidden.as_ref(), 1.0, par);
///         Ok(())
///     }
///
///     fn vjp(&self, mut pass: RestVjp<'_, f64>, par: Par, _: &mut MemStack) -> Result<(), InverseError> {
///         let hidden = pass.tape.feature(0);
///         for index in 0..pass.count() {
///             let (given, mut product) = pass.cotangent(index);
///             let pulled = self.b.transpose() * given;
///             let pulled = Mat::from_fn(hidden.nrows(), hidden.ncols(), |i, j| {
///                 (1.0 - hidden[(i, j)] * hidden[(i, j)]) * pulled[(i, j)]
///             });
///             product.copy_from(given);
///             matmul(product, Accum::Add, self.a.transpose(), &pulled, 1.0, par);
///         }
///         Ok(())
///     }
/// }
///
/// let block = Residual { a: mat![[1.0, -0.5], [0.3, 0.8]], b: mat![[0.4, 0.2], [-0.6, 0.5]], tape: [2] };
/// let observed = mat![[0.5], [-0.2]];
/// // The second output shall exceed the first one by 1.
/// let goal = JointGoal::Margins(Margins { labels: &[1], margin: 1.0 });
/// let found = nearest(&block, observed.as_ref(), goal, Par::Seq)?;
/// assert!(found.attained[0]);
/// let lead = found.outputs[(1, 0)] - found.outputs[(0, 0)];
/// // Never less than the margin but for rounding, and hardly more.
/// assert!(lead > 1.0 - 1e-12 && lead < 1.0 + 1e-4, "{lead}");
/// # Ok::<(), InverseError>(())
/// ```
pub fn nearest<T: Real>(
    rest: &dyn FrozenRest<T>,
    observed: MatRef<'_, T>,
    goal: JointGoal<'_, T>,
    par: Par,
) -> Result<Nearest<T>, InverseError> {
    let mut work = match goal {
        JointGoal::Margins(_) => JointWorkspace::new(rest, observed.ncols(), par),
        JointGoal::Box { .. } => JointWorkspace::for_boxes(rest, observed.ncols(), par),
    };
    let report = work.nearest(observed, goal)?;
    Ok(Nearest {
        targets: work.targets().to_owned(),
        outputs: work.outputs().to_owned(),
        attained: (0..observed.ncols()).map(|sample| work.attained(sample)).collect(),
        report,
    })
}

/// A frozen rest and the memory of the joint iteration on it, for batches of up to a fixed size: nothing is allocated per batch.
pub struct JointWorkspace<'r, T> {
    rest: &'r dyn FrozenRest<T>,
    memory: Memory<T>,
}

/// What a [`JointWorkspace`] holds beside its rest.
struct Memory<T> {
    capacity: usize,
    batch: usize,
    par: Par,
    effort: Effort,
    observed_out: Batch<T>,
    open: Vec<usize>,
    targets: Targets<T>,
    joint: JointMemory<T>,
    scratch: MemBuffer,
}

compile_once! {
    fn memory<'a, T>(rest: &'a dyn FrozenRest<T>, conditions: usize, capacity: usize, par: Par) -> Memory<T>
        = Memory::<T>::new;
    fn solve<'a, T>(
        memory: &'a mut Memory<T>, rest: &'a dyn FrozenRest<T>, observed: MatRef<'a, T>, goal: JointGoal<'a, T>,
    ) -> Result<JointReport, InverseError> = Memory::<T>::nearest;
}

impl<'r, T: Real> JointWorkspace<'r, T> {
    /// Memory for batches of up to `capacity` samples that are run with `par`.
    pub fn new(rest: &'r dyn FrozenRest<T>, capacity: usize, par: Par) -> Self {
        Self { rest, memory: memory(rest, MOST_CUTS, capacity, par) }
    }

    /// The same with room for goals that are boxes of many outputs: a step then looks at up to 256 of them at once, and not at 16.
    pub fn for_boxes(rest: &'r dyn FrozenRest<T>, capacity: usize, par: Par) -> Self {
        Self { rest, memory: memory(rest, conditions_of_boxes(rest.out_len()), capacity, par) }
    }

    /// How much is spent on nearer targets, and on samples that miss the goal.
    pub fn set_effort(&mut self, effort: Effort) {
        self.memory.effort = effort;
    }

    /// Makes the targets of a batch; see [`nearest`].
    ///
    /// # Errors
    /// As those of [`nearest`], and [`InverseError::Shape`] for more samples than the capacity.
    pub fn nearest(&mut self, observed: MatRef<'_, T>, goal: JointGoal<'_, T>) -> Result<JointReport, InverseError> {
        solve(&mut self.memory, self.rest, observed, goal)
    }

    /// The targets of the last batch: `in × N`.
    pub fn targets(&self) -> MatRef<'_, T> {
        self.memory.targets.points(self.memory.batch)
    }

    /// What the rest makes of them: `out × N`.
    pub fn outputs(&self) -> MatRef<'_, T> {
        self.memory.targets.outputs(self.memory.batch)
    }

    /// Whether the target of a sample of the last batch is attained.
    ///
    /// # Panics
    /// If there is no such sample.
    pub fn attained(&self, sample: usize) -> bool {
        assert!(sample < self.memory.batch, "sample {sample} of a batch of {}", self.memory.batch);
        !self.memory.targets.is_missed(sample)
    }
}

impl<T: Real> Memory<T> {
    fn new(rest: &dyn FrozenRest<T>, conditions: usize, capacity: usize, par: Par) -> Self {
        Self {
            capacity,
            batch: 0,
            par,
            effort: Effort::default(),
            observed_out: Batch::new(rest.out_len() * capacity),
            open: Vec::with_capacity(capacity),
            targets: Targets::new([rest.in_len(), rest.out_len()], capacity),
            joint: JointMemory::new(Sizes::of(rest, false, conditions), capacity),
            scratch: MemBuffer::new(joint_scratch(rest, (false, conditions), capacity, par)),
        }
    }

    fn nearest(
        &mut self,
        rest: &dyn FrozenRest<T>,
        observed: MatRef<'_, T>,
        goal: JointGoal<'_, T>,
    ) -> Result<JointReport, InverseError> {
        check(rest, self.capacity, observed, &goal)?;
        let (par, batch) = (self.par, observed.ncols());
        self.batch = batch;
        let Self { observed_out, open, targets, joint, scratch, .. } = self;
        let stack = MemStack::new(scratch);
        joint.iterates.restart(rest, 0..batch);
        joint.iterates.points_mut().1.copy_from(observed);
        joint.iterates.evaluate((rest, par), stack)?;
        open.clear();
        for sample in 0..batch {
            let output = joint.iterates.output(sample);
            observed_out.column_mut(rest.out_len(), sample).copy_from_slice(output);
            if !goal.of(sample).is_reached(output) {
                joint.iterates.keep(sample, open.len());
                open.push(sample);
            }
        }
        joint.iterates.active.truncate(open.len());
        let observed_out = observed_out.view(rest.out_len(), batch);
        let effort = self.effort;
        let problem = Problem { rest, observed, observed_out, goal, open, par, effort };
        targets.restart(&problem);
        let mut unattained = problem.join_evaluated(joint, targets, stack)?;
        if unattained > 0 {
            unattained = problem.rescue((FIRST_STARTS.start..LAST_STARTS.end, None), joint, targets, stack)?;
        }
        let measured = targets.measure(&problem);
        Ok(JointReport {
            samples: batch,
            satisfied: batch - open.len(),
            unattained,
            distance_sq: measured.distance_sq,
            observed_sq: problem.observed_sq(),
            violation_max: measured.violation_max,
        })
    }
}

fn check<T: Real>(
    rest: &dyn FrozenRest<T>,
    capacity: usize,
    observed: MatRef<'_, T>,
    goal: &JointGoal<'_, T>,
) -> Result<(), InverseError> {
    let (name, batch) = (rest.name(), observed.ncols());
    expect_batch(name, "observed", observed, (rest.in_len(), batch.min(capacity)))?;
    expect_finite("observed", observed).map_err(InverseError::in_layer(name))?;
    rest.bounds().check("bounds", rest.in_len()).map_err(InverseError::in_layer(name))?;
    goal.check(name, (rest.out_len(), batch))
}
