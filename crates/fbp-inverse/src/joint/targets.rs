use fbp_linalg::{Real, distance_sq};

use super::batch::Batch;
use super::problem::Problem;

/// The targets of one feature: what the searches find, by sample.
#[derive(Debug)]
pub(crate) struct Targets<T> {
    lens: [usize; 2],
    points: Batch<T>,
    outputs: Batch<T>,
    missed: Vec<bool>,
}

/// Which open samples are searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Among {
    /// All.
    Open,
    /// Those whose targets miss the goal.
    Missed,
}

impl<T: Real> Targets<T> {
    /// Memory for `capacity` samples; `lens` are the lengths of a feature and of an output.
    pub(crate) fn new(lens: [usize; 2], capacity: usize) -> Self {
        let [points, outputs] = lens.map(|len| Batch::new(len * capacity));
        Self { lens, points, outputs, missed: vec![true; capacity] }
    }

    /// Lays the memory out for features and outputs of other lengths; what was in it is lost.
    pub(super) fn lay_out(&mut self, lens: [usize; 2]) {
        self.lens = lens;
    }

    /// Starts with the observed features and outputs as the targets; those of open samples count as missed.
    pub(crate) fn restart(&mut self, problem: &Problem<'_, T>) {
        let ([len, out], batch) = (self.lens, problem.observed.ncols());
        self.points.view_mut(len, batch).copy_from(problem.observed);
        self.outputs.view_mut(out, batch).copy_from(problem.observed_out);
        self.missed.fill(false);
        problem.open.iter().for_each(|&sample| self.missed[sample] = true);
    }

    /// All targets: `len × batch`.
    pub(crate) fn points(&self, batch: usize) -> faer::MatRef<'_, T> {
        self.points.view(self.lens[0], batch)
    }

    /// The same, to be changed without what the rest makes of them.
    pub(super) fn points_mut(&mut self, batch: usize) -> faer::MatMut<'_, T> {
        self.points.view_mut(self.lens[0], batch)
    }

    /// What the rest makes of all targets.
    pub(crate) fn outputs(&self, batch: usize) -> faer::MatRef<'_, T> {
        self.outputs.view(self.lens[1], batch)
    }

    /// The target of a sample.
    pub(crate) fn point(&self, sample: usize) -> &[T] {
        self.points.column(self.lens[0], sample)
    }

    /// The same, to be changed without what the rest makes of it.
    pub(crate) fn point_mut(&mut self, sample: usize) -> &mut [T] {
        self.points.column_mut(self.lens[0], sample)
    }

    /// What the rest makes of it.
    pub(crate) fn output(&self, sample: usize) -> &[T] {
        self.outputs.column(self.lens[1], sample)
    }

    /// Whether the target of a sample misses the goal.
    pub(crate) fn is_missed(&self, sample: usize) -> bool {
        self.missed[sample]
    }

    /// Makes a point the target.
    pub(super) fn set(&mut self, sample: usize, point: &[T], output: &[T]) {
        self.points.column_mut(self.lens[0], sample).copy_from_slice(point);
        self.outputs.column_mut(self.lens[1], sample).copy_from_slice(output);
    }

    /// The samples that are meant.
    pub(super) fn among<'a>(&'a self, open: &'a [usize], among: Among) -> impl Iterator<Item = usize> + 'a {
        open.iter().copied().filter(move |&sample| among == Among::Open || self.missed[sample])
    }

    /// Notes which open samples have reached the goal; returns the number of those that still miss it.
    pub(super) fn note(&mut self, open: &[usize], has_reached: impl Fn(usize) -> bool) -> usize {
        open.iter().for_each(|&sample| self.missed[sample] &= !has_reached(sample));
        self.among(open, Among::Missed).count()
    }

    /// Largest and summed violation of the goal over the open samples, and their summed squared distances.
    pub(crate) fn measure(&self, problem: &Problem<'_, T>) -> Measured {
        let mut measured = Measured::default();
        for &sample in problem.open {
            measured.distance_sq += distance_sq(self.point(sample), problem.observed(sample));
            let violation = problem.goal_of(sample).violation(self.output(sample));
            measured.violation_max = measured.violation_max.max(violation);
            measured.violation_sum += violation;
        }
        measured
    }
}

/// What targets cost and leave undone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) distance_sq: f64,
    pub(crate) violation_max: f64,
    pub(crate) violation_sum: f64,
}
