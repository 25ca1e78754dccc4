//! Descents by gradients: towards the goal, and back to the observed feature.
//!
//! Where the rest has many kinks, cuts describe it only near by. A descent on `½|v - z|² + μ · violation` with the step
//! rule of Adam averages over the kinks that it crosses, and finds other pieces of the rest; without the distance, it
//! climbs to the goal from wherever it starts. It needs one gradient per step and no solver.
//!
//! # Source
//! Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015; exact penalty: Nocedal & Wright, *Numerical
//! Optimization*, 2nd ed., §17.2. Scales of the steps and of the penalty: own choice, measured on random chains.

use faer::dyn_stack::MemStack;
use fbp_linalg::{Real, dispatch, norm_sq};

use super::iterates::Iterates;
use super::linearise::Gradients;
use super::memory::{Descents, Group, JointMemory, Pace};
use super::problem::Problem;
use super::starts::Origin;
use super::targets::Targets;
use crate::InverseError;

/// Decay of the mean gradient.
const MEAN_DECAY: f64 = 0.9;
/// Decay of the mean squared gradient.
const SQUARE_DECAY: f64 = 0.99;
/// Smallest share of the first step length that is left at the end.
const LEAST_STEP: f64 = 0.02;
/// Steps in which a climb has to come closer to the goal, or else its steps are shortened.
const PATIENCE: usize = 12;
/// Share of the violation by which it has to come closer.
const NOTABLE: f64 = 0.02;
/// By what they are shortened.
const SHORTENED: f64 = 0.3;
/// Share of the first length below which a climb ends.
const SHORTEST: f64 = 0.02;

/// What a descent looks for, and how long.
#[derive(Clone, Copy)]
pub(super) struct Descent {
    pub(super) origin: Origin,
    /// Most steps.
    steps: usize,
    /// Length of the first step as a share of the distance of the target, or of the scale of the start.
    length: f64,
    /// Weight of the distance against a violation: this share of what balances both at the target.
    pull: f64,
    /// Whether it ends at the goal instead of looking for the nearest point of it.
    is_climb: bool,
}

impl Descent {
    /// Climbs to the goal from the iterates as they are.
    pub(super) const CLIMB: Self =
        Self { origin: Origin::Observed, steps: 150, length: 0.05, pull: 0.0, is_climb: true };

    /// A descent that looks for nearer targets.
    pub(super) const fn new(origin: Origin, steps: usize, [length, pull]: [f64; 2]) -> Self {
        Self { origin, steps, length, pull, is_climb: false }
    }
}

impl<T: Real> Problem<'_, T> {
    /// Runs a descent from the iterates of the active samples, on which the rest has run; whatever it meets at the goal that
    /// is nearer than the target becomes the target. A climb takes the scale of its steps from the `length` of its paces.
    pub(super) fn descend(
        &self,
        how: Descent,
        memory: &mut JointMemory<T>,
        targets: &mut Targets<T>,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let JointMemory { iterates, gradients, group, descents, .. } = memory;
        self.set_out(how, iterates, group, descents);
        for step in 0..how.steps {
            if step > 0 {
                iterates.evaluate((self.rest, self.par), stack)?;
            }
            self.measure_iterates(iterates);
            self.judge_descent(how, (iterates, gradients), (group, &mut descents.paces), targets);
            if iterates.active.is_empty() || step + 1 == how.steps {
                break;
            }
            self.pull(iterates, gradients, stack)?;
            self.follow(how, step, (iterates, gradients), (group, descents));
        }
        Ok(())
    }

    /// Chooses the paces of a descent and forgets the gradients of the one before.
    fn set_out(&self, how: Descent, iterates: &Iterates<T>, group: &mut Group, descents: &mut Descents<T>) {
        let len = self.len();
        for &sample in &iterates.active {
            let progress = &mut group.progress[sample];
            progress.improved = false;
            let pace = &mut descents.paces[sample];
            let scale = if how.is_climb { pace.length } else { progress.scale_sq().sqrt() / (len as f64).sqrt() };
            let steepness = if how.is_climb { 0.0 } else { progress.steepness };
            let length = how.length * scale;
            let shortest = SHORTEST * length;
            let none = f64::INFINITY;
            *pace = Pace { length, shortest, scale: steepness.recip(), least: none, mark: none, idle: 0 };
            descents.means.column_mut(len, sample).fill(T::ZERO);
            descents.squares.column_mut(len, sample).fill(T::ZERO);
        }
    }

    /// Runs the rest on the targets of the active samples, and notes how steep the tightest condition is there.
    pub(super) fn measure_steepness(
        &self,
        memory: &mut JointMemory<T>,
        targets: &Targets<T>,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let JointMemory { iterates, gradients, group, .. } = memory;
        self.load(Origin::Target, targets, group, iterates);
        iterates.evaluate((self.rest, self.par), stack)?;
        for (at, &sample) in iterates.active.iter().enumerate() {
            let cotangent = gradients.cotangents.column_mut(self.rest.out_len(), at);
            self.goal_of(sample).write_tightest_gradient(iterates.output(at), cotangent);
        }
        self.pull(iterates, gradients, stack)?;
        for (at, &sample) in iterates.active.iter().enumerate() {
            group.progress[sample].steepness = norm_sq(gradients.gradients.column(self.len(), at)).sqrt();
        }
        Ok(())
    }

    /// Keeps what is at the goal and nearer, drops what has ended, and writes the cotangents of the violated conditions.
    fn judge_descent(
        &self,
        how: Descent,
        (iterates, gradients): (&mut Iterates<T>, &mut Gradients<T>),
        (group, paces): (&mut Group, &mut [Pace]),
        targets: &mut Targets<T>,
    ) {
        let mut kept = 0;
        for at in 0..iterates.active.len() {
            let sample = iterates.active[at];
            let goal = self.goal_of(sample);
            let output = iterates.output(at);
            let (violation, reached) = (goal.violation(output), goal.is_reached(output));
            let progress = &mut group.progress[sample];
            if reached && iterates.distances[at] < progress.best {
                progress.best = iterates.distances[at];
                progress.improved = true;
                targets.set(sample, iterates.point(at), output);
            }
            let pace = &mut paces[sample];
            pace.least = pace.least.min(violation);
            if violation < (1.0 - NOTABLE) * pace.mark {
                (pace.mark, pace.idle) = (violation, 0);
            } else {
                pace.idle += 1;
            }
            if how.is_climb && pace.idle > PATIENCE {
                (pace.length, pace.idle) = (SHORTENED * pace.length, 0);
            }
            if violation == f64::INFINITY || how.is_climb && (reached || pace.length < pace.shortest) {
                continue;
            }
            let cotangent = gradients.cotangents.column_mut(self.rest.out_len(), kept);
            if reached {
                cotangent.fill(T::ZERO);
            } else {
                goal.write_tightest_gradient(output, cotangent);
            }
            iterates.keep(at, kept);
            kept += 1;
        }
        iterates.active.truncate(kept);
    }

    /// One step of Adam for every active sample.
    fn follow(
        &self,
        how: Descent,
        step: usize,
        (iterates, gradients): (&mut Iterates<T>, &Gradients<T>),
        (group, descents): (&Group, &mut Descents<T>),
    ) {
        let (len, bounds) = (self.len(), self.bounds());
        let left = if how.is_climb { 1.0 } else { (1.0 - step as f64 / how.steps as f64).max(LEAST_STEP) };
        let power = |decay: f64| 1.0 / (1.0 - decay.powi(step as i32 + 1));
        let square_share = T::from_f64(power(SQUARE_DECAY));
        let [mean_decay, square_decay] = [MEAN_DECAY, SQUARE_DECAY].map(T::from_f64);
        let Descents { means, squares, paces } = descents;
        let mut kept = 0;
        for at in 0..iterates.active.len() {
            let sample = iterates.active[at];
            let gradient = gradients.gradients.column(len, at);
            let pace = &mut paces[sample];
            if how.is_climb && step == 0 {
                let norm = norm_sq(gradient).sqrt();
                pace.scale = if norm > 0.0 && norm.is_finite() { 1.0 / norm } else { 0.0 };
            }
            if pace.scale == 0.0 || !pace.scale.is_finite() {
                // Nothing that changes the output is near.
                continue;
            }
            let observed = self.observed(sample);
            let scale = T::from_f64(pace.scale);
            let far = group.progress[sample].scale_sq();
            let pull = if how.is_climb { 0.0 } else { how.pull / far.sqrt().max(f64::MIN_POSITIVE) };
            let (pull, length) = (T::from_f64(pull), T::from_f64(pace.length * left * power(MEAN_DECAY)));
            iterates.keep_point(at, kept);
            let iterate = iterates.point_mut(kept);
            let (means, squares) = (means.column_mut(len, sample), squares.column_mut(len, sample));
            dispatch(
                #[inline(always)]
                || {
                    let moments = means.iter_mut().zip(&mut *squares);
                    for (((v, &v0), &g), (mean, square)) in iterate.iter_mut().zip(observed).zip(gradient).zip(moments)
                    {
                        let slope = pull * (*v - v0) - scale * g;
                        *mean += (T::ONE - mean_decay) * (slope - *mean);
                        *square += (T::ONE - square_decay) * (slope * slope - *square);
                        let root = (*square * square_share).sqrt() + T::EPSILON;
                        *v -= length * *mean / root;
                    }
                    bounds.clip_all(iterate);
                },
            );
            kept += 1;
        }
        iterates.active.truncate(kept);
    }
}
