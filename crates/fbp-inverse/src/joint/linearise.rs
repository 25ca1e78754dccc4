//! What the searches for targets need of the rest of the network: its outputs, and gradients of conditions on them.

use faer::Accum;
use faer::dyn_stack::MemStack;
use faer::linalg::matmul::matmul;
use fbp_linalg::Real;

use super::cuts::MOST_CUTS;
use super::goal::SampleGoal;
use super::metric::FeatureMetric;
use super::search::JointMemory;
use crate::chain::ChainGoal;
use crate::chain::ChainWorkspace;
use crate::chain::ReverseChain;
use crate::{InverseError, VjpPass};

/// Where conditions are linearised, and how many.
#[derive(Clone, Copy)]
pub(crate) struct Linearisation<'a, T> {
    /// The first operator of the rest.
    pub(crate) first: usize,
    /// Whose covariance maps the gradients; none for the Euclidean one.
    pub(crate) metric: Option<&'a FeatureMetric<T>>,
    /// Most conditions per sample, the tightest ones.
    pub(crate) room: usize,
}

impl<T: Real> ReverseChain<T> {
    /// Runs the rest of the network on the iterates, recording every feature.
    pub(crate) fn push_iterates(&self, first: usize, work: &mut ChainWorkspace<T>) -> Result<(), InverseError> {
        let active = work.joint.active.len();
        for k in first..self.operators.len() {
            let (below, above) = work.joint.iterates.split_at_mut(k + 1);
            let input = below[k].view(work.lens[k], active);
            let output = above[0].view_mut(work.lens[k + 1], active);
            self.operators[k].forward(input, output, work.par, MemStack::new(&mut work.memory))?;
        }
        Ok(())
    }

    /// Pulls the cotangents of the outputs, in `cotangents[last % 2]`, back to the iterates, in `cotangents[first % 2]`.
    pub(crate) fn pull(&self, first: usize, work: &mut ChainWorkspace<T>) -> Result<(), InverseError> {
        let joint = &mut work.joint;
        let active = joint.active.len();
        for k in (first..self.operators.len()).rev() {
            let Some(operator) = self.operators[k].differentiable() else { continue };
            let [even, odd] = &mut joint.cotangents;
            let (above, below) = if k % 2 == 0 { (odd, even) } else { (even, odd) };
            let pass = VjpPass {
                at: joint.iterates[k].view(work.lens[k], active),
                cotangent_out: above.view(work.lens[k + 1], active),
                cotangent_in: below.view_mut(work.lens[k], active),
            };
            operator.vjp(pass, work.par, MemStack::new(&mut work.memory))?;
        }
        Ok(())
    }

    /// Adds a cut for each of the tightest conditions of every active sample.
    pub(crate) fn cut(
        &self,
        goal: &ChainGoal<'_, T>,
        how: Linearisation<'_, T>,
        work: &mut ChainWorkspace<T>,
    ) -> Result<(), InverseError> {
        let (first, last) = (how.first, self.operators.len());
        let (classes, len) = (self.out_len(), work.lens[first]);
        let rounds = self.choose_conditions(goal, how.room, work);
        for round in 0..rounds {
            let JointMemory { active, conditions, cotangents, .. } = &mut work.joint;
            for at in 0..active.len() {
                // Samples with fewer conditions compute a gradient that nobody reads.
                let condition = &conditions[at * MOST_CUTS + round];
                condition.write_gradient(cotangents[last % 2].column_mut(classes, at));
            }
            self.pull(first, work)?;
            let joint = &mut work.joint;
            let active = joint.active.len();
            let [even, odd] = &mut joint.cotangents;
            let (gradients, mapped) = if first.is_multiple_of(2) { (even, odd) } else { (odd, even) };
            if let Some(metric) = how.metric {
                let (gradients, to) = (gradients.view(len, active), mapped.view_mut(len, active));
                matmul(to, Accum::Replace, metric.covariance(), gradients, T::ONE, work.par); // (n×n)(n×N)
            }
            for at in 0..active {
                if round >= joint.condition_counts[at] {
                    continue;
                }
                let slot = joint.active[at];
                let gradient = gradients.column(len, at);
                let iterate = joint.iterates[first].column(len, at);
                let observed = work.features[first].column(len, work.open[slot]);
                let condition = &joint.conditions[at * MOST_CUTS + round];
                let value = condition.value(joint.iterates[last].column(classes, at));
                let back = gradient.iter().zip(observed).zip(iterate).map(|((g, v0), v)| *g * (*v0 - *v));
                joint.cuts.add(slot, gradient, value + back.sum::<T>(), condition);
                if how.metric.is_some() {
                    joint.cuts.set_mapped(slot, mapped.column(len, at));
                }
            }
        }
        Ok(())
    }

    /// Chooses up to `room` conditions for every active sample; returns the largest number chosen.
    fn choose_conditions(&self, goal: &ChainGoal<'_, T>, room: usize, work: &mut ChainWorkspace<T>) -> usize {
        let (last, classes) = (self.operators.len(), self.out_len());
        let joint = &mut work.joint;
        let mut rounds = 0;
        for (at, &slot) in joint.active.iter().enumerate() {
            let output = joint.iterates[last].column(classes, at);
            if goal.margins.is_none() {
                // Boxes may be points, and equations from two linearisations contradict each other.
                joint.cuts.forget(slot);
            }
            let goal = SampleGoal::of(goal, work.open[slot]);
            let chosen = &mut joint.conditions[at * MOST_CUTS..][..room];
            let count = goal.tightest(output, chosen);
            joint.condition_counts[at] = count;
            rounds = rounds.max(count);
        }
        rounds
    }

    /// Squared distances of the iterates from the observed features.
    pub(crate) fn measure_iterates(
        &self,
        first: usize,
        metric: Option<&FeatureMetric<T>>,
        work: &mut ChainWorkspace<T>,
    ) {
        let len = work.lens[first];
        let JointMemory { active, iterates, cotangents: [moved, weighted], distances, .. } = &mut work.joint;
        for (at, &slot) in active.iter().enumerate() {
            let observed = work.features[first].column(len, work.open[slot]);
            let entries = iterates[first].column(len, at).iter().zip(observed);
            moved.column_mut(len, at).iter_mut().zip(entries).for_each(|(to, (v, v0))| *to = *v - *v0);
        }
        let weighted = match metric {
            None => &*moved,
            Some(metric) => {
                let (moved, to) = (moved.view(len, active.len()), weighted.view_mut(len, active.len()));
                matmul(to, Accum::Replace, metric.precision(), moved, T::ONE, work.par); // (n×n)(n×N)
                &*weighted
            }
        };
        for (at, distance) in distances[..active.len()].iter_mut().enumerate() {
            let products = moved.column(len, at).iter().zip(weighted.column(len, at));
            // Rounding may leave less than nothing.
            *distance = products.map(|(a, b)| a.to_f64() * b.to_f64()).sum::<f64>().max(0.0);
        }
    }
}
