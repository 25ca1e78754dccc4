//! What the searches for targets need of a rest besides its outputs: gradients of conditions on them, and distances.

use faer::Accum;
use faer::dyn_stack::MemStack;
use fbp_linalg::{Real, distance_sq, matmul, slope_along};

use super::batch::Batch;
use super::cuts::Cuts;
use super::goal::Condition;
use super::iterates::{Iterates, Sizes};
use super::metric::FeatureMetric;
use super::problem::Problem;
use crate::InverseError;

/// Most cotangents of one sample that are pulled back at once; enough for every step towards a margin.
pub(super) const TOGETHER: usize = 4;

/// Where conditions are linearised, and how many.
#[derive(Clone, Copy)]
pub(super) struct Linearisation<'a, T> {
    /// Whose covariance maps the gradients; none for the Euclidean one.
    pub(super) metric: Option<&'a FeatureMetric<T>>,
    /// Most conditions per sample, the tightest ones.
    pub(super) room: usize,
}

/// Conditions of the active samples, and their gradients.
#[derive(Debug)]
pub(crate) struct Gradients<T> {
    /// As many for every active sample as there are cuts.
    conditions: Vec<Condition<T>>,
    /// How many that is.
    most: usize,
    /// How many of them are meant.
    counts: Vec<usize>,
    /// Of the outputs, up to [`TOGETHER`] for every active sample.
    pub(super) cotangents: Batch<T>,
    /// Of the points, in the same order.
    pub(super) gradients: Batch<T>,
    /// Vectors before and after a matrix of a metric; empty without metrics.
    moved: Batch<T>,
    mapped: Batch<T>,
}

impl<T: Real> Gradients<T> {
    pub(super) fn new(sizes: Sizes, capacity: usize) -> Self {
        Self {
            conditions: vec![Condition::NONE; sizes.conditions * capacity],
            most: sizes.conditions,
            counts: vec![0; capacity],
            cotangents: Batch::new(sizes.out_len * TOGETHER * capacity),
            gradients: Batch::new(sizes.in_len * TOGETHER * capacity),
            moved: Batch::new(sizes.metric_len * capacity),
            mapped: Batch::new(sizes.metric_len * capacity),
        }
    }
}

impl<T: Real> Problem<'_, T> {
    /// Pulls one cotangent of every active sample back to its iterate.
    pub(super) fn pull(
        &self,
        iterates: &Iterates<T>,
        gradients: &mut Gradients<T>,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        iterates.pull((self.rest, self.par), (1, &gradients.cotangents, &mut gradients.gradients), stack)
    }

    /// Adds a cut for each of the tightest conditions of every active sample.
    pub(super) fn cut(
        &self,
        how: Linearisation<'_, T>,
        (iterates, gradients, cuts): (&Iterates<T>, &mut Gradients<T>, &mut Cuts<T>),
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let (out, active) = (self.rest.out_len(), iterates.active.len());
        let rounds = self.choose_conditions(how.room, iterates, gradients, cuts);
        for start in (0..rounds).step_by(TOGETHER) {
            let count = TOGETHER.min(rounds - start);
            let Gradients { conditions, most, counts, cotangents, gradients: products, .. } = gradients;
            for round in 0..count {
                for at in 0..active {
                    let cotangent = cotangents.column_mut(out, round * active + at);
                    if start + round < counts[at] {
                        conditions[at * *most + start + round].write_gradient(cotangent);
                    } else {
                        cotangent.fill(T::ZERO);
                    }
                }
            }
            iterates.pull((self.rest, self.par), (count, cotangents, products), stack)?;
            for round in 0..count {
                self.add_cuts(how.metric, (start + round, round), iterates, gradients, cuts);
            }
        }
        Ok(())
    }

    /// Adds the cuts of condition number `number` of every active sample, whose gradients were pulled back as number
    /// `round`.
    fn add_cuts(
        &self,
        metric: Option<&FeatureMetric<T>>,
        (number, round): (usize, usize),
        iterates: &Iterates<T>,
        gradients: &mut Gradients<T>,
        cuts: &mut Cuts<T>,
    ) {
        let (len, active) = (self.len(), iterates.active.len());
        let Gradients { conditions, most, counts, gradients, mapped, .. } = gradients;
        if let Some(metric) = metric {
            let (gradients, to) = (gradients.columns(len, round * active, active), mapped.view_mut(len, active));
            matmul(to, Accum::Replace, metric.covariance(), gradients, T::ONE, self.par); // (n×n)(n×N)
        }
        for (at, &sample) in iterates.active.iter().enumerate() {
            if number >= counts[at] {
                continue;
            }
            let gradient = gradients.column(len, round * active + at);
            let condition = &conditions[at * *most + number];
            let value = condition.value(iterates.output(at));
            let back = slope_along(gradient, self.observed(sample), iterates.point(at));
            cuts.add(sample, gradient, value + T::from_f64(back), condition);
            if metric.is_some() {
                cuts.set_mapped(sample, mapped.column(len, at));
            }
        }
    }

    /// Chooses up to `room` conditions for every active sample; returns the largest number chosen.
    fn choose_conditions(
        &self,
        room: usize,
        iterates: &Iterates<T>,
        gradients: &mut Gradients<T>,
        cuts: &mut Cuts<T>,
    ) -> usize {
        let mut rounds = 0;
        for (at, &sample) in iterates.active.iter().enumerate() {
            if self.goal.margin().is_none() {
                // Boxes may be points, and equations from two linearisations contradict each other.
                cuts.forget(sample);
            }
            let chosen = &mut gradients.conditions[at * gradients.most..][..room];
            let count = self.goal_of(sample).tightest(iterates.output(at), chosen);
            gradients.counts[at] = count;
            rounds = rounds.max(count);
        }
        rounds
    }

    /// Squared distances of the iterates from the observed features.
    pub(super) fn measure_iterates(&self, iterates: &mut Iterates<T>) {
        for at in 0..iterates.active.len() {
            let distance = distance_sq(iterates.point(at), self.observed(iterates.active[at]));
            // 0 for a step that has overflowed: its output tells.
            iterates.distances[at] = distance.max(0.0);
        }
    }

    /// The same in a metric.
    pub(super) fn measure_iterates_in(
        &self,
        metric: &FeatureMetric<T>,
        iterates: &mut Iterates<T>,
        gradients: &mut Gradients<T>,
    ) {
        let (len, active) = (self.len(), iterates.active.len());
        let Gradients { moved, mapped, .. } = gradients;
        for (at, &sample) in iterates.active.iter().enumerate() {
            let entries = iterates.point(at).iter().zip(self.observed(sample));
            moved.column_mut(len, at).iter_mut().zip(entries).for_each(|(to, (v, v0))| *to = *v - *v0);
        }
        let to = mapped.view_mut(len, active);
        matmul(to, Accum::Replace, metric.precision(), moved.view(len, active), T::ONE, self.par); // (n×n)(n×N)
        for (at, distance) in iterates.distances[..active].iter_mut().enumerate() {
            let products = moved.column(len, at).iter().zip(mapped.column(len, at));
            // Rounding may leave less than nothing.
            *distance = products.map(|(a, b)| a.to_f64() * b.to_f64()).sum::<f64>().max(0.0);
        }
    }
}
