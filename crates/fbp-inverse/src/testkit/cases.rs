//! Random batches and their targets.

use std::mem::MaybeUninit;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, MatRef, Par};
use fbp_linalg::Real;
use fbp_linalg::testkit::{normal_mat, rng, uniform_mat};

use super::params::ReverseCheck;
use crate::{Interval, InverseError, ReverseOperator, ReversePass, ReverseReport, TargetBox, TargetBoxMut};

/// A reverse problem; `witness` is an input whose output lies in the target box, if there is one by construction.
pub(super) struct Case<T> {
    pub(super) input: Mat<T>,
    pub(super) output: Mat<T>,
    pub(super) point: Mat<T>,
    pub(super) lower: Mat<T>,
    pub(super) upper: Mat<T>,
    pub(super) range: Interval<T>,
    pub(super) witness: Option<Mat<T>>,
    /// Largest output of the input nearest to zero: shifts, which outputs may cancel but round by.
    shift: f64,
    /// How the case was made, for messages.
    pub(super) origin: String,
}

/// What a layer answered.
pub(super) struct Answer<T> {
    pub(super) point: Mat<T>,
    pub(super) lower: Mat<T>,
    pub(super) upper: Mat<T>,
    pub(super) report: ReverseReport,
}

/// Circumstances that must not matter.
#[derive(Clone, Copy)]
pub(super) struct Conditions {
    pub(super) par: Par,
    /// Value that the outputs hold before.
    pub(super) fill: f64,
    /// Byte that the workspace holds before.
    pub(super) dirt: u8,
}

impl Conditions {
    pub(super) const PLAIN: Self = Self { par: Par::Seq, fill: 0.0, dirt: 0 };
}

/// The kinds of targets that [`Case::new`] cycles through.
const KINDS: [&str; 6] =
    ["a point", "a box", "half-open boxes", "boxes, half of them met already", "any boxes", "end points"];

impl<T: Real> Case<T> {
    /// The case of one seed.
    pub(super) fn new(
        op: &dyn ReverseOperator<T>,
        check: &ReverseCheck,
        range: (f64, f64),
        seed: u64,
    ) -> Result<Self, InverseError> {
        let kind = seed as usize % KINDS.len();
        let origin = format!("range [{}, {}], seed {seed} (targets: {})", range.0, range.1, KINDS[kind]);
        let range = Interval::new(T::from_f64(range.0), T::from_f64(range.1));
        let mut random = rng(seed);
        // In the second round on a grid, so that entries tie and lie on kinks.
        let grid = (seed as usize / KINDS.len() == 1).then_some(check.scale / 4.0);
        let size = (op.in_shape().len(), check.batch);
        let mut draw = || {
            let unit = uniform_mat::<f64>(size.0, size.1, 0.0, 1.0, &mut random);
            place(&unit, check.scale, range, grid)
        };
        let (input, witness) = (draw(), draw());
        let (output, attained) = (forward(op, input.as_ref())?, forward(op, witness.as_ref())?);
        let (rows, cols) = output.shape();
        let mut random = rng(!seed);
        let largest = output.norm_max().max(attained.norm_max());
        let size = largest * T::from_f64(0.5);
        let widths = uniform_mat::<T>(rows, cols, 0.0, 0.5 * largest.to_f64(), &mut random);
        let noise = normal_mat::<T>(rows, cols, &mut random);
        let coin = uniform_mat::<T>(rows, cols, 0.0, 1.0, &mut random);
        let half = T::from_f64(0.5);
        let ends = |i: usize, j: usize| -> (T, T) {
            let (y, wanted, width) = (output[(i, j)], attained[(i, j)], widths[(i, j)]);
            let heads = coin[(i, j)] < half;
            match kind {
                0 => (wanted, wanted),
                1 => (wanted - if heads { width } else { T::ZERO }, wanted + width * width),
                2 if heads => (T::NEG_INFINITY, wanted + width * half),
                2 => (wanted - width * half, T::INFINITY),
                3 if j.is_multiple_of(2) => (y.min(wanted), y + width),
                3 => (wanted, wanted + width),
                4 => {
                    let middle = wanted + noise[(i, j)] * size;
                    (middle - width, middle + width)
                }
                _ => {
                    let end = if heads { y.max(wanted) } else { y.min(wanted) };
                    (end, end)
                }
            }
        };
        let lower = Mat::from_fn(rows, cols, |i, j| ends(i, j).0);
        let upper = Mat::from_fn(rows, cols, |i, j| ends(i, j).1);
        let point = Mat::from_fn(rows, cols, |i, j| output[(i, j)].clip(lower[(i, j)], upper[(i, j)]));
        let witness = (kind < 3).then_some(witness);
        let zero = forward(op, Mat::full(input.nrows(), 1, range.clip(T::ZERO)).as_ref())?;
        let shift = zero.norm_max().to_f64();
        Ok(Self { input, output, point, lower, upper, range, witness, shift, origin })
    }

    pub(super) fn batch(&self) -> usize {
        self.input.ncols()
    }

    /// One sample as a case of its own.
    pub(super) fn sample(&self, j: usize) -> Self {
        let column = |m: &Mat<T>| m.subcols(j, 1).to_owned();
        Self {
            input: column(&self.input),
            output: column(&self.output),
            point: column(&self.point),
            lower: column(&self.lower),
            upper: column(&self.upper),
            range: self.range,
            witness: self.witness.as_ref().map(column),
            shift: self.shift,
            origin: format!("{}, sample {j}", self.origin),
        }
    }

    /// Asks every output for the same interval.
    pub(super) fn set_target(&mut self, lower: T, upper: T) {
        self.lower.fill(lower);
        self.upper.fill(upper);
        self.witness = None;
        let point = |i, j| self.output[(i, j)].clip(lower, upper);
        self.point = Mat::from_fn(self.output.nrows(), self.output.ncols(), point);
    }

    /// Runs the layer.
    pub(super) fn reverse(
        &self,
        op: &dyn ReverseOperator<T>,
        conditions: Conditions,
    ) -> Result<Answer<T>, InverseError> {
        let filled = || Mat::full(self.input.nrows(), self.input.ncols(), T::from_f64(conditions.fill));
        let (mut point, mut lower, mut upper) = (filled(), filled(), filled());
        let pass = ReversePass {
            observed_in: self.input.as_ref(),
            observed_out: self.output.as_ref(),
            target_out: TargetBox {
                point: self.point.as_ref(),
                lower: self.lower.as_ref(),
                upper: self.upper.as_ref(),
            },
            in_range: self.range,
            target_in: TargetBoxMut { point: point.as_mut(), lower: lower.as_mut(), upper: upper.as_mut() },
        };
        let mut memory = MemBuffer::new(op.reverse_scratch(self.batch(), conditions.par));
        memory.fill(MaybeUninit::new(conditions.dirt));
        let report = op.reverse(pass, conditions.par, MemStack::new(&mut memory))?;
        Ok(Answer { point, lower, upper, report })
    }

    /// Size of the outputs, of the shifts within them, and of the finite target ends of a sample.
    pub(super) fn output_size(&self, j: usize) -> f64 {
        let column = |m: &Mat<T>| (0..m.nrows()).map(|i| m[(i, j)].to_f64().abs()).collect::<Vec<_>>();
        let values = [&self.output, &self.lower, &self.upper].into_iter().flat_map(column);
        values.chain([self.shift]).filter(|v| v.is_finite()).fold(f64::MIN_POSITIVE, f64::max)
    }

    /// Violation of a sample that is allowed.
    pub(super) fn allowed(&self, check: &ReverseCheck, j: usize) -> f64 {
        let rounding = check.tolerance * T::EPSILON.to_f64() * self.output_size(j);
        let observed = self.distance(j, &widened(self.output.as_ref(), j));
        rounding + check.iterative.map_or(0.0, |tolerance| tolerance * observed)
    }

    /// Largest distance of an entry of `output` (one sample) to its interval.
    pub(super) fn violation(&self, j: usize, output: &[f64]) -> f64 {
        self.distances(j, output).fold(0.0, f64::max)
    }

    /// Euclidean distance of `output` (one sample) to the box.
    pub(super) fn distance(&self, j: usize, output: &[f64]) -> f64 {
        self.distances(j, output).map(|d| d * d).sum::<f64>().sqrt()
    }

    /// Sum over the entries of how much more `output` violates the box of a sample than `reference` does.
    pub(super) fn excess(&self, output: &[f64], reference: &[f64]) -> f64 {
        self.distances(0, output).zip(self.distances(0, reference)).map(|(d, r)| (d - r).max(0.0)).sum()
    }

    fn distances<'a>(&'a self, j: usize, output: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        output.iter().enumerate().map(move |(i, &y)| {
            let (lo, hi) = (self.lower[(i, j)].to_f64(), self.upper[(i, j)].to_f64());
            if y.is_nan() { f64::INFINITY } else { (lo - y).max(y - hi).max(0.0) }
        })
    }
}

/// Spreads numbers in `[0, 1)` over the part of `[-scale, scale]` that lies in the range.
fn place<T: Real>(unit: &Mat<f64>, scale: f64, range: Interval<T>, grid: Option<f64>) -> Mat<T> {
    let low = range.lower.to_f64().max(-scale);
    let high = range.upper.to_f64().min(scale).max(low);
    Mat::from_fn(unit.nrows(), unit.ncols(), |i, j| {
        let value = low + (high - low) * unit[(i, j)];
        range.clip(T::from_f64(grid.map_or(value, |step| (value / step).round() * step)))
    })
}

/// `f(input)` in fresh memory.
pub(super) fn forward<T: Real>(op: &dyn ReverseOperator<T>, input: MatRef<'_, T>) -> Result<Mat<T>, InverseError> {
    let mut output = Mat::full(op.out_shape().len(), input.ncols(), T::from_f64(f64::NAN));
    let mut memory = MemBuffer::new(op.forward_scratch(input.ncols(), Par::Seq));
    op.forward(input, output.as_mut(), Par::Seq, MemStack::new(&mut memory))?;
    Ok(output)
}

/// Column `j`, widened.
pub(super) fn widened<T: Real>(view: MatRef<'_, T>, j: usize) -> Vec<f64> {
    (0..view.nrows()).map(|i| view[(i, j)].to_f64()).collect()
}
