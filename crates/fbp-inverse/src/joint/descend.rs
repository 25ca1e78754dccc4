//! Descents by gradients: towards the goal, and back to the observed feature.
//!
//! Where the rest has many kinks, cuts describe it only near by. A descent on `½|v - z|² + μ · violation` with the step
//! rule of Adam averages over the kinks that it crosses, and finds other pieces of the rest; without the distance, it
//! climbs to the goal from wherever it starts. It needs one gradient per step and no solver.
//!
//! # Source
//! Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015; exact penalty: Nocedal & Wright, *Numerical
//! Optimization*, 2nd ed., §17.2. Scales of the steps and of the penalty: own choice, measured on random chains.

use fbp_linalg::Real;

use super::cuts::MOST_CUTS;
use super::goal::SampleGoal;
use super::search::JointMemory;
use crate::InverseError;
use crate::chain::ChainGoal;
use crate::chain::ChainWorkspace;
use crate::chain::ReverseChain;

/// Decay of the mean gradient.
const MEAN_DECAY: f64 = 0.9;
/// Decay of the mean squared gradient.
const SQUARE_DECAY: f64 = 0.99;
/// Smallest share of the first step length that is left at the end.
const LEAST_STEP: f64 = 0.02;
/// Steps in which a climb has to come closer to the goal.
const PATIENCE: f64 = 24.0;

/// Where a descent starts.
#[derive(Clone, Copy)]
pub(crate) enum Origin {
    /// At the targets.
    Target,
    /// At the observed features.
    Observed,
    /// Around the observed features, about as far away as the targets; the number seeds the noise.
    Around(usize),
}

/// What a descent looks for, and how long.
#[derive(Clone, Copy)]
pub(crate) struct Descent {
    pub(crate) origin: Origin,
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
    pub(crate) const CLIMB: Self =
        Self { origin: Origin::Observed, steps: 100, length: 0.05, pull: 0.0, is_climb: true };

    /// A descent that looks for nearer targets.
    pub(crate) const fn new(origin: Origin, steps: usize, [length, pull]: [f64; 2]) -> Self {
        Self { origin, steps, length, pull, is_climb: false }
    }
}

impl<T: Real> ReverseChain<T> {
    /// Runs a descent from the iterates of the active samples; whatever it meets at the goal that is nearer than the target
    /// becomes the target. A climb takes the length of its steps from `notes[slot][0]`.
    ///
    /// Notes per sample: length of the first step, reciprocal scale of the gradients (the norm of the first one of a climb),
    /// least violation so far, and steps since then.
    pub(crate) fn descend(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        how: Descent,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        let first = self.starts[boundary];
        let len = work.lens[first];
        let JointMemory { active, progress, notes, moments, .. } = &mut work.joint;
        for &slot in active.iter() {
            progress[slot].improved = false;
            let scale = if how.is_climb { notes[slot][0] } else { progress[slot].best.sqrt() / (len as f64).sqrt() };
            let steepness = if how.is_climb { 0.0 } else { progress[slot].steepness };
            notes[slot] = [how.length * scale, steepness.recip(), f64::INFINITY, 0.0];
            moments.iter_mut().for_each(|moment| moment.column_mut(len, slot).fill(T::ZERO));
        }
        for step in 0..how.steps {
            self.push_iterates(first, work)?;
            self.measure_iterates(first, None, work);
            self.judge_descent(boundary, goal, how, work);
            if work.joint.active.is_empty() {
                break;
            }
            self.pull(first, work)?;
            self.follow(first, how, step, work);
        }
        Ok(())
    }

    /// Notes how steep the tightest condition of every active sample is at its target.
    pub(crate) fn measure_steepness(
        &self,
        boundary: usize,
        goal: &ChainGoal<'_, T>,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        let (first, last) = (self.starts[boundary], self.operators.len());
        let (len, classes) = (work.lens[first], self.out_len());
        self.load(boundary, Origin::Target, work);
        self.push_iterates(first, work)?;
        let joint = &mut work.joint;
        for (at, &slot) in joint.active.iter().enumerate() {
            let goal = SampleGoal::of(goal, work.open[slot]);
            let chosen = &mut joint.conditions[at * MOST_CUTS..][..1];
            let cotangent = joint.cotangents[last % 2].column_mut(classes, at);
            cotangent.fill(T::ZERO);
            if goal.tightest(joint.iterates[last].column(classes, at), chosen) > 0 {
                chosen[0].write_gradient(cotangent);
            }
        }
        self.pull(first, work)?;
        let JointMemory { active, progress, cotangents, .. } = &mut work.joint;
        for (at, &slot) in active.iter().enumerate() {
            let gradient = cotangents[first % 2].column(len, at);
            progress[slot].steepness = gradient.iter().map(|g| g.to_f64() * g.to_f64()).sum::<f64>().sqrt();
        }
        Ok(())
    }

    /// Keeps what is at the goal and nearer, drops what has ended, and writes the cotangents of the violated conditions.
    fn judge_descent(&self, boundary: usize, goal: &ChainGoal<'_, T>, how: Descent, work: &mut ChainWorkspace<T>) {
        let (first, last) = (self.starts[boundary], self.operators.len());
        let classes = self.out_len();
        let mut kept = 0;
        for at in 0..work.joint.active.len() {
            let slot = work.joint.active[at];
            let goal = SampleGoal::of(goal, work.open[slot]);
            let output = work.joint.iterates[last].column(classes, at);
            let violation = goal.violation(output);
            let reached = goal.is_reached(output);
            if reached && work.joint.distances[at] < work.joint.progress[slot].best {
                work.joint.progress[slot].best = work.joint.distances[at];
                work.joint.progress[slot].improved = true;
                self.accept(boundary, at, work);
            }
            let joint = &mut work.joint;
            let notes = &mut joint.notes[slot];
            if violation < (1.0 - LEAST_STEP) * notes[2] {
                (notes[2], notes[3]) = (violation, 0.0);
            } else {
                notes[3] += 1.0;
            }
            if violation == f64::INFINITY || how.is_climb && (reached || notes[3] > PATIENCE) {
                continue;
            }
            let output = joint.iterates[last].column(classes, at);
            let cotangent = joint.cotangents[last % 2].column_mut(classes, kept);
            cotangent.fill(T::ZERO);
            let chosen = &mut joint.conditions[at * MOST_CUTS..][..1];
            if !reached && goal.tightest(output, chosen) > 0 {
                chosen[0].write_gradient(cotangent);
            }
            joint.keep(at, kept, first, &work.lens);
            kept += 1;
        }
        work.joint.active.truncate(kept);
    }

    /// One step of Adam for every active sample, whose gradients are in `cotangents[first % 2]`.
    fn follow(&self, first: usize, how: Descent, step: usize, work: &mut ChainWorkspace<T>) {
        let (len, range) = (work.lens[first], self.ranges[first]);
        let JointMemory { active, iterates, cotangents, moments: [means, squares], notes, progress, .. } =
            &mut work.joint;
        let left = if how.is_climb { 1.0 } else { (1.0 - step as f64 / how.steps as f64).max(LEAST_STEP) };
        let power = |decay: f64| 1.0 / (1.0 - decay.powi(step as i32 + 1));
        let square_share = T::from_f64(power(SQUARE_DECAY));
        let [mean_decay, square_decay] = [MEAN_DECAY, SQUARE_DECAY].map(T::from_f64);
        let mut kept = 0;
        for at in 0..active.len() {
            let slot = active[at];
            let gradient = cotangents[first % 2].column(len, at);
            if how.is_climb && step == 0 {
                let norm = gradient.iter().map(|g| g.to_f64() * g.to_f64()).sum::<f64>().sqrt();
                notes[slot][1] = if norm > 0.0 && norm.is_finite() { 1.0 / norm } else { 0.0 };
            }
            if notes[slot][1] == 0.0 || !notes[slot][1].is_finite() {
                // Nothing that changes the output is near.
                continue;
            }
            let observed = work.features[first].column(len, work.open[slot]);
            let scale = T::from_f64(notes[slot][1]);
            let pull = if how.is_climb { 0.0 } else { how.pull / progress[slot].best.sqrt().max(f64::MIN_POSITIVE) };
            let (pull, length) = (T::from_f64(pull), T::from_f64(notes[slot][0] * left * power(MEAN_DECAY)));
            iterates[first].move_column(len, at, kept);
            let iterate = iterates[first].column_mut(len, kept);
            let moments = means.column_mut(len, slot).iter_mut().zip(squares.column_mut(len, slot));
            for (((v, &v0), &g), (mean, square)) in iterate.iter_mut().zip(observed).zip(gradient).zip(moments) {
                let slope = pull * (*v - v0) - scale * g;
                *mean += (T::ONE - mean_decay) * (slope - *mean);
                *square += (T::ONE - square_decay) * (slope * slope - *square);
                let root = (*square * square_share).sqrt() + T::EPSILON;
                *v = range.clip(*v - length * *mean / root);
            }
            active[kept] = slot;
            kept += 1;
        }
        active.truncate(kept);
    }
}
