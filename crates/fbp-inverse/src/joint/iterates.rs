use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::Real;

use super::batch::Batch;
use super::rest::{FrozenRest, RestForward, RestVjp};
use crate::InverseError;
use crate::tape::TapeMemory;

/// The largest sizes that memory is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) in_len: usize,
    pub(crate) out_len: usize,
    /// Length of the longest feature with a metric.
    pub(crate) metric_len: usize,
    tape_len: usize,
    tape_features: usize,
    /// Most conditions that a step looks at.
    pub(crate) conditions: usize,
}

impl Sizes {
    /// Those of nothing but so many conditions.
    pub(crate) fn empty(conditions: usize) -> Self {
        Self { in_len: 0, out_len: 0, metric_len: 0, tape_len: 0, tape_features: 0, conditions }
    }

    /// Those of one rest, with a metric of its own or not.
    pub(crate) fn of<T: Real>(rest: &dyn FrozenRest<T>, has_metric: bool, conditions: usize) -> Self {
        let (in_len, lens) = (rest.in_len(), rest.tape_lens());
        Self {
            conditions,
            in_len,
            out_len: rest.out_len(),
            metric_len: if has_metric { in_len } else { 0 },
            tape_len: lens.iter().sum(),
            tape_features: lens.len(),
        }
    }

    /// The larger one of each size.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            in_len: self.in_len.max(other.in_len),
            out_len: self.out_len.max(other.out_len),
            metric_len: self.metric_len.max(other.metric_len),
            tape_len: self.tape_len.max(other.tape_len),
            tape_features: self.tape_features.max(other.tape_features),
            conditions: self.conditions.max(other.conditions),
        }
    }
}

/// Where the search for every sample is: points, what the rest makes of them, and the tape of that pass.
///
/// Samples that end leave, and those that stay move up: the *place* of a sample is its column here.
#[derive(Debug)]
pub(crate) struct Iterates<T> {
    /// The samples in the search, by place.
    pub(super) active: Vec<usize>,
    /// Squared distances from the observed features, by place.
    pub(super) distances: Vec<f64>,
    lens: [usize; 2],
    tape_lens: Vec<usize>,
    points: Batch<T>,
    outputs: Batch<T>,
    tape: TapeMemory<T>,
}

impl<T: Real> Iterates<T> {
    pub(super) fn new(sizes: Sizes, capacity: usize) -> Self {
        Self {
            active: Vec::with_capacity(capacity),
            distances: vec![0.0; capacity],
            lens: [0; 2],
            tape_lens: Vec::with_capacity(sizes.tape_features),
            points: Batch::new(sizes.in_len * capacity),
            outputs: Batch::new(sizes.out_len * capacity),
            tape: TapeMemory::new(sizes.tape_len, capacity),
        }
    }

    /// Lays the memory out for a rest and starts with these samples, whose points are to be written.
    pub(super) fn restart(&mut self, rest: &dyn FrozenRest<T>, samples: impl Iterator<Item = usize>) {
        self.lens = [rest.in_len(), rest.out_len()];
        self.tape_lens.clear();
        self.tape_lens.extend_from_slice(rest.tape_lens());
        self.activate(samples);
    }

    /// Makes these samples active; their points are to be written.
    pub(super) fn activate(&mut self, samples: impl Iterator<Item = usize>) {
        self.active.clear();
        self.active.extend(samples);
    }

    pub(super) fn point(&self, at: usize) -> &[T] {
        self.points.column(self.lens[0], at)
    }

    pub(super) fn point_mut(&mut self, at: usize) -> &mut [T] {
        self.points.column_mut(self.lens[0], at)
    }

    /// The points of all active samples.
    pub(super) fn points(&self) -> MatRef<'_, T> {
        self.points.view(self.lens[0], self.active.len())
    }

    /// The active samples and their points, to be moved.
    pub(super) fn points_mut(&mut self) -> (&[usize], MatMut<'_, T>) {
        (&self.active, self.points.view_mut(self.lens[0], self.active.len()))
    }

    /// What the rest made of the point of a place.
    pub(super) fn output(&self, at: usize) -> &[T] {
        self.outputs.column(self.lens[1], at)
    }

    /// Runs the rest on the points: the one forward pass for everything that is asked about them.
    pub(super) fn evaluate(
        &mut self,
        (rest, par): (&dyn FrozenRest<T>, Par),
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let batch = self.active.len();
        if batch == 0 {
            return Ok(());
        }
        let _span = tracing::trace_span!("forward").entered();
        let pass = RestForward {
            at: self.points.view(self.lens[0], batch),
            output: self.outputs.view_mut(self.lens[1], batch),
            tape: self.tape.view_mut(&self.tape_lens, batch),
        };
        rest.forward(pass, par, stack)
    }

    /// Products with the Jacobian at the points of the last [`evaluate`](Self::evaluate): `count` for every sample.
    pub(super) fn pull(
        &self,
        (rest, par): (&dyn FrozenRest<T>, Par),
        (count, cotangents, gradients): (usize, &Batch<T>, &mut Batch<T>),
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        let _span = tracing::trace_span!("products").entered();
        let batch = self.active.len();
        let pass = RestVjp {
            at: self.points(),
            tape: self.tape.view(&self.tape_lens, batch),
            cotangents_out: cotangents.view(self.lens[1], count * batch),
            cotangents_in: gradients.view_mut(self.lens[0], count * batch),
        };
        rest.vjp(pass, par, stack)
    }

    /// Keeps the sample at place `at`, with all that is known of its point, as number `kept`.
    pub(super) fn keep(&mut self, at: usize, kept: usize) {
        self.keep_point(at, kept);
        self.outputs.move_column(self.lens[1], at, kept);
        if at != kept {
            self.tape.move_sample(&self.tape_lens, at, kept);
        }
    }

    /// The same before the rest has run on the points.
    pub(super) fn keep_point(&mut self, at: usize, kept: usize) {
        self.points.move_column(self.lens[0], at, kept);
        self.keep_place(at, kept);
    }

    /// The same where the next point is written from anew.
    pub(super) fn keep_place(&mut self, at: usize, kept: usize) {
        self.active[kept] = self.active[at];
        self.distances[kept] = self.distances[at];
    }
}
