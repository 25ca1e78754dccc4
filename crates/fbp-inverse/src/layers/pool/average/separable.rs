//! Any windows: the average is `Y = A₁ X A₂ᵀ` with one small matrix per axis.

use faer::dyn_stack::{MemStack, StackReq};
use faer::{Accum, Mat, MatMut, MatRef, Par};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::matmul;
use fbp_linalg::{BOXED_LIMIT, BoxedPass, BoxedPlan, FeatureShape, LinalgError, Real};

use super::axis::MeanAxis;
use crate::layers::columns::{Outcome, Sample, SampleBox, SampleMap, distance_to, judge, largest_magnitude};
use crate::layers::parts::ScratchReverse;

/// Steps that take what the solver for boxes left over off the outputs.
const POLISH_STEPS: usize = 100;

/// Average pooling as a pair of small matrices, with the plan for boxes where the planes are small enough.
#[derive(Clone, Debug)]
pub(super) struct Separable<T> {
    channels: usize,
    pub(super) rows: MeanAxis,
    pub(super) cols: MeanAxis,
    boxed: Option<BoxedPlan<T>>,
}

impl<T: Real> Separable<T> {
    pub(super) fn new(channels: usize, rows: MeanAxis, cols: MeanAxis) -> Result<Self, LinalgError> {
        let (outputs, sites) = (rows.count() * cols.count(), rows.size * cols.size);
        let boxed = if outputs.max(sites) <= BOXED_LIMIT {
            let entry = |window: usize, site: usize| {
                rows.entry(window / cols.count(), site / cols.size)
                    * cols.entry(window % cols.count(), site % cols.size)
            };
            Some(BoxedPlan::new(Mat::from_fn(outputs, sites, entry).as_ref())?)
        } else {
            None
        };
        Ok(Self { channels, rows, cols, boxed })
    }

    pub(super) fn in_shape(&self) -> FeatureShape {
        FeatureShape::image(self.channels, self.rows.size, self.cols.size)
    }

    pub(super) fn out_shape(&self) -> FeatureShape {
        FeatureShape::image(self.channels, self.rows.count(), self.cols.count())
    }

    /// Calls `visit` with the index, the rows, the columns and the weight of every window of a plane.
    #[inline(always)]
    fn for_each_window(&self, mut visit: impl FnMut(usize, [usize; 2], [usize; 2], T)) {
        let mut index = 0;
        for (rows, row_weight) in self.rows.windows.iter().zip(&self.rows.weights) {
            for (cols, col_weight) in self.cols.windows.iter().zip(&self.cols.weights) {
                visit(index, *rows, *cols, T::from_f64(row_weight * col_weight));
                index += 1;
            }
        }
    }
}

/// Forward kernel, also the Jacobian.
pub(super) struct Forward<'a, T>(pub(super) &'a Separable<T>);

impl<T: Real> SampleMap<T> for Forward<'_, T> {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        let (shapes, width) = ((self.0.in_shape(), self.0.out_shape()), self.0.cols.size);
        let planes = input.chunks_exact(shapes.0.plane()).zip(out.chunks_exact_mut(shapes.1.plane()));
        for (input, out) in planes {
            self.0.for_each_window(|index, rows, cols, weight| {
                let row_sum = |row: usize| {
                    input[row * width + cols[0]..row * width + cols[1]].iter().fold(T::ZERO, |sum, &x| sum + x)
                };
                out[index] = (rows[0]..rows[1]).fold(T::ZERO, |sum, row| sum + row_sum(row)) * weight;
            });
        }
    }
}

/// The adjoint of [`Forward`].
pub(super) struct Spread<'a, T>(pub(super) &'a Separable<T>);

impl<T: Real> SampleMap<T> for Spread<'_, T> {
    #[inline(always)]
    fn map_sample(&self, cotangent: &[T], _second: &[T], out: &mut [T]) {
        let (shapes, width) = ((self.0.in_shape(), self.0.out_shape()), self.0.cols.size);
        let planes = cotangent.chunks_exact(shapes.1.plane()).zip(out.chunks_exact_mut(shapes.0.plane()));
        for (cotangent, out) in planes {
            out.fill(T::ZERO);
            self.0.for_each_window(|index, rows, cols, weight| {
                let share = cotangent[index] * weight;
                for row in rows[0]..rows[1] {
                    out[row * width + cols[0]..row * width + cols[1]].iter_mut().for_each(|x| *x += share);
                }
            });
        }
    }
}

/// Reverse kernel.
pub(super) struct Reverse<'a, T>(pub(super) &'a Separable<T>);

impl<T: Real> ScratchReverse<T> for Reverse<'_, T> {
    fn sample_scratch(&self) -> StackReq {
        let (rows, cols) = (&self.0.rows, &self.0.cols);
        let boxed = self.0.boxed.as_ref().map_or(StackReq::EMPTY, |plan| plan.solve_scratch(self.0.channels, Par::Seq));
        let gap = StackReq::new::<f64>(rows.count() * cols.count());
        let halfway = StackReq::new::<f64>(rows.size * cols.count());
        let step = StackReq::new::<f64>(rows.size * cols.size);
        let points = StackReq::all_of(&[gap, halfway, step]);
        boxed.or(points.and(StackReq::new::<T>(self.0.out_shape().len())))
    }

    fn reverse_sample(
        &self,
        sample: &Sample<'_, T>,
        target: &mut SampleBox<'_, T>,
        stack: &mut MemStack,
    ) -> Result<(Outcome, usize), LinalgError> {
        let mut iters = 0;
        let is_point = sample.lower == sample.upper;
        if !is_point || !self.solve_point(sample, target.point, stack) {
            iters = self.solve_box(sample, target.point, stack)?;
        }
        // Small weights may ask for inputs beyond all finite numbers.
        let finite = sample.in_range.finite();
        for (point, &x) in target.point.iter_mut().zip(sample.observed_in) {
            *point = finite.clip(if point.is_nan() { x } else { *point });
        }
        self.free_sites(sample, target);
        let mut outcome = self.judged(sample, target.point, stack);
        let noise = T::EPSILON.to_f64().sqrt() * largest_magnitude(target.point).to_f64();
        if outcome.missed && outcome.violation <= noise {
            // What an iteration left over is often within reach of a few more steps.
            target.upper.copy_from_slice(target.point);
            // Sites that are nothing but the rounding of the others: averages of them alone are to be exact.
            let rounding = T::from_f64(16.0) * T::EPSILON * largest_magnitude(target.point);
            for point in target.point.iter_mut() {
                *point = finite.clip(if point.abs() <= rounding { T::ZERO } else { *point });
            }
            for _ in 0..POLISH_STEPS {
                let polished = self.judged(sample, target.point, stack);
                if !polished.missed {
                    outcome = polished;
                    break;
                }
                target.lower.copy_from_slice(target.point);
                // Only what misses: steps for the rounding of large outputs would disturb small ones.
                let start: &[T] = target.lower;
                let gap = |y: T, output: usize| {
                    let (lower, upper) = (sample.lower[output], sample.upper[output]);
                    let held = distance_to(y, lower, upper) <= 0.5 * self.slack(start, output);
                    if held { 0.0 } else { y.clip(lower, upper).to_f64() - y.to_f64() }
                };
                self.add_step(start, target.point, gap, stack);
                target.point.iter_mut().for_each(|point| *point = finite.clip(*point));
            }
            if outcome.missed {
                target.point.copy_from_slice(target.upper);
            }
        }
        target.lower.copy_from_slice(target.point);
        target.upper.copy_from_slice(target.point);
        self.free_sites(sample, target);
        Ok((outcome, iters))
    }
}

impl<T: Real> Reverse<'_, T> {
    /// By how much an output may miss its interval: it is a row of an affine map.
    fn slack(&self, point: &[T], output: usize) -> f64 {
        let (rows, cols) = (&self.0.rows, &self.0.cols);
        let (plane, window) = (output / self.0.out_shape().plane(), output % self.0.out_shape().plane());
        let ([top, bottom], [left, right]) = (rows.windows[window / cols.count()], cols.windows[window % cols.count()]);
        let weight = rows.weights[window / cols.count()] * cols.weights[window % cols.count()];
        let row = |row: usize| (plane * rows.size + row) * cols.size;
        let sizes = (top..bottom).flat_map(|at| &point[row(at) + left..row(at) + right]);
        let scale = sizes.map(|x| (x.to_f64() * weight).abs()).sum();
        attained_slack::<T>((bottom - top) * (right - left), scale)
    }

    /// Compares the outputs at `point` with their intervals.
    fn judged(&self, sample: &Sample<'_, T>, point: &[T], stack: &mut MemStack) -> Outcome {
        let (mut reached, _) = stack.make_with(self.0.out_shape().len(), |_| T::ZERO);
        Forward(self.0).map_sample(point, &[], &mut reached);
        judge(&reached, sample.lower, sample.upper, |output| self.slack(point, output))
    }

    /// `x = x0 + A₁⁺ (y - y0) (A₂⁺)ᵀ`, the nearest of the best for a point target. Tells whether it lies in the range,
    /// where it is then the nearest of the best as well.
    fn solve_point(&self, sample: &Sample<'_, T>, point: &mut [T], stack: &mut MemStack) -> bool {
        let gap = |output: usize| sample.lower[output].to_f64() - sample.observed_out[output].to_f64();
        self.add_smallest(sample.observed_in, point, gap, stack);
        point.iter().fold(true, |inside, &x| inside & sample.in_range.contains(x) & x.is_finite())
    }

    /// `point = start + A⁺ gap` with the gaps of the outputs at `start`.
    fn add_step(&self, start: &[T], point: &mut [T], gap: impl Fn(T, usize) -> f64, stack: &mut MemStack) {
        let (mut reached, stack) = stack.make_with(self.0.out_shape().len(), |_| T::ZERO);
        Forward(self.0).map_sample(start, &[], &mut reached);
        self.add_smallest(start, point, |output| gap(reached[output], output), stack);
    }

    /// `point = start + A₁⁺ gap (A₂⁺)ᵀ`, channel by channel: the smallest step that changes the outputs by the gaps.
    fn add_smallest(&self, start: &[T], point: &mut [T], gap_of: impl Fn(usize) -> f64, stack: &mut MemStack) {
        let (rows, cols) = (&self.0.rows, &self.0.cols);
        let (outputs, plane) = (rows.count() * cols.count(), rows.size * cols.size);
        let (mut gap, stack) = stack.make_with(outputs, |_| 0.0_f64);
        let (mut halfway, stack) = stack.make_with(rows.size * cols.count(), |_| 0.0_f64);
        let (mut step, _) = stack.make_with(plane, |_| 0.0_f64);
        for channel in 0..self.0.channels {
            gap.iter_mut().enumerate().for_each(|(output, gap)| *gap = gap_of(channel * outputs + output));
            let gap = MatRef::from_row_major_slice(&gap, rows.count(), cols.count());
            let half = MatMut::from_row_major_slice_mut(&mut halfway, rows.size, cols.count());
            matmul(half, Accum::Replace, rows.inverse.as_ref(), gap, 1.0, Par::Seq); // (h×oh)(oh×ow)
            let half = MatRef::from_row_major_slice(&halfway, rows.size, cols.count());
            let whole = MatMut::from_row_major_slice_mut(&mut step, rows.size, cols.size);
            matmul(whole, Accum::Replace, half, cols.inverse.transpose(), 1.0, Par::Seq); // (h×ow)(ow×w)
            let sites = channel * plane..(channel + 1) * plane;
            let inputs = start[sites.clone()].iter().zip(step.iter());
            for (point, (&x0, &step)) in point[sites].iter_mut().zip(inputs) {
                *point = T::from_f64(x0.to_f64() + step);
            }
        }
    }

    /// The box-constrained problem, every channel a sample of its own.
    fn solve_box(&self, sample: &Sample<'_, T>, point: &mut [T], stack: &mut MemStack) -> Result<usize, LinalgError> {
        let (outputs, plane, channels) = (self.0.out_shape().plane(), self.0.in_shape().plane(), self.0.channels);
        let Some(plan) = &self.0.boxed else {
            let what = "average pooling within boxes or ranges";
            return Err(LinalgError::TooLarge { what, rows: outputs, cols: plane, limit: BOXED_LIMIT });
        };
        let columns = |values, rows| MatRef::from_column_major_slice(values, rows, channels);
        let pass = BoxedPass {
            observed_in: columns(sample.observed_in, plane),
            observed_out: columns(sample.observed_out, outputs),
            lower: columns(sample.lower, outputs),
            upper: columns(sample.upper, outputs),
            bounds: (sample.in_range.lower, sample.in_range.upper),
            solution: MatMut::from_column_major_slice_mut(point, plane, channels),
        };
        plan.solve(pass, Par::Seq, stack).map(|report| report.iters)
    }

    /// Sites that no window holds keep their value and may be anything in the range.
    fn free_sites(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) {
        let (rows, cols, plane) = (&self.0.rows, &self.0.cols, self.0.in_shape().plane());
        for row in 0..rows.size {
            let covered = rows.covers(row);
            for col in (0..cols.size).filter(|&col| !covered || !cols.covers(col)) {
                for site in (0..self.0.channels).map(|channel| channel * plane + row * cols.size + col) {
                    target.point[site] = sample.in_range.clip(sample.observed_in[site]);
                    target.lower[site] = sample.in_range.lower;
                    target.upper[site] = sample.in_range.upper;
                }
            }
        }
    }
}
