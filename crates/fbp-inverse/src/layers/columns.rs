use faer::reborrow::ReborrowMut;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::Real;
use pulp::{Arch, NullaryFnOnce};

use crate::{Interval, InverseError, JvpPass, ReverseOperator, ReversePass, ReverseReport, TargetBoxMut, VjpPass};
use crate::{TargetBox, expect_batch};

/// Lanes that a vectorised loop handles together: two AVX2 registers of `f32`, four of `f64`.
pub(crate) const LANES: usize = 16;

/// Entries that one task of a batch should have at least, so that splitting pays.
const GRAIN: usize = 1 << 15;

/// One sample of a reverse pass.
pub(crate) struct Sample<'a, T> {
    pub(crate) observed_in: &'a [T],
    pub(crate) observed_out: &'a [T],
    pub(crate) lower: &'a [T],
    pub(crate) upper: &'a [T],
    pub(crate) in_range: Interval<T>,
}

/// The box of one sample, write-only.
pub(crate) struct SampleBox<'a, T> {
    pub(crate) point: &'a mut [T],
    pub(crate) lower: &'a mut [T],
    pub(crate) upper: &'a mut [T],
}

/// How far one sample is from its target box.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Largest distance of an output to its interval, recomputed from the point written.
    pub(crate) violation: f64,
    /// Whether some output misses its interval, see [`fbp_linalg::attained`].
    pub(crate) missed: bool,
}

impl Outcome {
    pub(crate) const MET: Self = Self { violation: 0.0, missed: false };

    /// Takes in one output; its slack is only computed if it is outside its interval.
    #[inline(always)]
    pub(crate) fn note(&mut self, distance: f64, slack: impl FnOnce() -> f64) {
        if distance > 0.0 {
            self.violation = self.violation.max(distance);
            let held = self.missed || distance <= slack();
            self.missed |= !held;
        }
    }
}

/// The reverse of one sample, for layers whose samples are independent and need no workspace.
///
/// Called inside a `pulp` dispatch: implementations are `#[inline(always)]`, so that their loops use wide registers.
pub(crate) trait SampleReverse<T: Real>: Sync {
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome;
}

/// A function of one sample, `out = f(a)` or `out = f(a, b)`; see [`SampleReverse`] for the inlining.
pub(crate) trait SampleMap<T: Real>: Sync {
    fn map_sample(&self, first: &[T], second: &[T], out: &mut [T]);
}

/// Column `j` as a slice; `expect_batch` has made sure that columns are contiguous.
#[inline(always)]
pub(crate) fn column<T: Real>(view: MatRef<'_, T>, j: usize) -> &[T] {
    match view.col(j).try_as_col_major() {
        Some(dense) => dense.as_slice(),
        None if view.nrows() == 0 => &[],
        // A single row may have any row stride.
        None => std::slice::from_ref(view.get(0, j)),
    }
}

/// Column `j` as a mutable slice.
#[inline(always)]
pub(crate) fn column_mut<'a, T: Real>(view: &'a mut MatMut<'_, T>, j: usize) -> &'a mut [T] {
    let view = view.rb_mut();
    if view.nrows() > 1 || view.row_stride() == 1 {
        let column = view.col_mut(j).try_as_col_major_mut();
        column.expect("contiguous columns: checked by `expect_batch`").as_slice_mut()
    } else if view.nrows() == 0 {
        &mut []
    } else {
        std::slice::from_mut(view.get_mut(0, j))
    }
}

/// Runs `layer` on every sample of the pass, checked before; the caller has called `pass.check`.
pub(crate) fn reverse_columns<T: Real, K: SampleReverse<T>>(
    kernel: &K,
    pass: ReversePass<'_, T>,
    par: Par,
) -> ReverseReport {
    let len = pass.observed_in.nrows().max(pass.observed_out.nrows()).max(1);
    reverse_blocks(&|pass| Arch::new().dispatch(ReverseBlock { kernel, pass }), pass, (GRAIN / len).max(1), par)
}

/// Halves the batch down to blocks of `grain` samples. The tree does not depend on `par`, so neither do the sums. Knows the
/// kernel as a function only, so that the tree is compiled once and not for every kernel.
fn reverse_blocks<T: Real>(
    run: &(dyn Fn(ReversePass<'_, T>) -> ReverseReport + Sync),
    pass: ReversePass<'_, T>,
    grain: usize,
    par: Par,
) -> ReverseReport {
    if pass.batch() <= grain {
        return run(pass);
    }
    let middle = pass.batch() / 2;
    let (left, right) = split_pass(pass, middle);
    let (left, right) = match par {
        Par::Seq => (reverse_blocks(run, left, grain, par), reverse_blocks(run, right, grain, par)),
        Par::Rayon(_) => {
            rayon::join(|| reverse_blocks(run, left, grain, par), || reverse_blocks(run, right, grain, par))
        }
    };
    left.merge(right)
}

/// The first `middle` samples and the rest.
pub(crate) fn split_pass<T: Real>(pass: ReversePass<'_, T>, middle: usize) -> (ReversePass<'_, T>, ReversePass<'_, T>) {
    let batch = pass.batch();
    let (point, point_right) = pass.target_in.point.split_at_col_mut(middle);
    let (lower, lower_right) = pass.target_in.lower.split_at_col_mut(middle);
    let (upper, upper_right) = pass.target_in.upper.split_at_col_mut(middle);
    let left = ReversePass {
        observed_in: pass.observed_in.subcols(0, middle),
        observed_out: pass.observed_out.subcols(0, middle),
        target_out: pass.target_out.columns(0, middle),
        in_range: pass.in_range,
        target_in: TargetBoxMut { point, lower, upper },
    };
    let right = ReversePass {
        observed_in: pass.observed_in.subcols(middle, batch - middle),
        observed_out: pass.observed_out.subcols(middle, batch - middle),
        target_out: pass.target_out.columns(middle, batch - middle),
        in_range: pass.in_range,
        target_in: TargetBoxMut { point: point_right, lower: lower_right, upper: upper_right },
    };
    (left, right)
}

struct ReverseBlock<'k, 'a, T, K> {
    kernel: &'k K,
    pass: ReversePass<'a, T>,
}

impl<T: Real, K: SampleReverse<T>> NullaryFnOnce for ReverseBlock<'_, '_, T, K> {
    type Output = ReverseReport;

    #[inline(always)]
    fn call(self) -> ReverseReport {
        let mut pass = self.pass;
        let mut report = ReverseReport { samples: pass.batch(), ..ReverseReport::default() };
        for j in 0..pass.batch() {
            let (sample, mut target) = sample_of(&mut pass, j);
            let outcome = self.kernel.reverse_sample(&sample, &mut target);
            account(&mut report, &sample, &mut target, outcome);
        }
        report
    }
}

/// The views of sample `j`.
#[inline(always)]
pub(crate) fn sample_of<'s, T: Real>(pass: &'s mut ReversePass<'_, T>, j: usize) -> (Sample<'s, T>, SampleBox<'s, T>) {
    let TargetBox { lower, upper, .. } = pass.target_out;
    let sample = Sample {
        observed_in: column(pass.observed_in, j),
        observed_out: column(pass.observed_out, j),
        lower: column(lower, j),
        upper: column(upper, j),
        in_range: pass.in_range,
    };
    let target = SampleBox {
        point: column_mut(&mut pass.target_in.point, j),
        lower: column_mut(&mut pass.target_in.lower, j),
        upper: column_mut(&mut pass.target_in.upper, j),
    };
    (sample, target)
}

/// Keeps a sample that is met already as it is, and adds what was done to the report.
#[inline(always)]
pub(crate) fn account<T: Real>(
    report: &mut ReverseReport,
    sample: &Sample<'_, T>,
    target: &mut SampleBox<'_, T>,
    mut outcome: Outcome,
) {
    if is_within(sample.observed_out, sample.lower, sample.upper) {
        report.satisfied_before += 1;
        keep_observed(sample.observed_in, target);
        outcome = Outcome::MET;
    }
    report.unattained += usize::from(outcome.missed);
    report.violation_max = report.violation_max.max(outcome.violation);
    report.violation_sum += outcome.violation;
    let (distance, observed) = squared_norms(target.point, sample.observed_in);
    report.distance_sq += distance;
    report.observed_sq += observed;
}

/// Returns the observed input bit for bit and makes sure that it lies in its box.
#[inline(always)]
fn keep_observed<T: Real>(observed: &[T], target: &mut SampleBox<'_, T>) {
    target.point.copy_from_slice(observed);
    for ((lower, upper), &x) in target.lower.iter_mut().zip(target.upper.iter_mut()).zip(observed) {
        *lower = if x < *lower { x } else { *lower };
        *upper = if x > *upper { x } else { *upper };
    }
}

/// Whether `lower <= values <= upper` everywhere.
#[inline(always)]
pub(crate) fn is_within<T: Real>(values: &[T], lower: &[T], upper: &[T]) -> bool {
    values.iter().zip(lower).zip(upper).fold(true, |inside, ((&y, &lo), &hi)| inside & (lo <= y) & (y <= hi))
}

/// Distance of a value to its interval; infinite if it is NaN.
#[inline(always)]
pub(crate) fn distance_to<T: Real>(y: T, lower: T, upper: T) -> f64 {
    let (short, over) = (lower.to_f64() - y.to_f64(), y.to_f64() - upper.to_f64());
    let outside = if short > over { short } else { over };
    let inside = (lower <= y) & (y <= upper);
    if inside {
        0.0
    } else if y.is_nan() {
        f64::INFINITY
    } else {
        outside
    }
}

/// Compares outputs with their intervals; `slack(i)` is by how much entry `i` may miss its own.
#[inline(always)]
pub(crate) fn judge<T: Real>(values: &[T], lower: &[T], upper: &[T], slack: impl Fn(usize) -> f64) -> Outcome {
    let mut outcome = Outcome::MET;
    if is_within(values, lower, upper) {
        return outcome;
    }
    for (i, ((&y, &lo), &hi)) in values.iter().zip(lower).zip(upper).enumerate() {
        outcome.note(distance_to(y, lo, hi), || slack(i));
    }
    outcome
}

/// Largest absolute value, 0 for an empty slice.
#[inline(always)]
pub(crate) fn largest_magnitude<T: Real>(values: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x.abs() > *lane { x.abs() } else { *lane };
        }
    }
    let largest = |worst: T, &x: &T| if x.abs() > worst { x.abs() } else { worst };
    rest.iter().fold(lanes.iter().fold(T::ZERO, largest), largest)
}

/// `(Σ (point - observed)², Σ observed²)`, accumulated in `f64`.
#[inline(always)]
pub(crate) fn squared_norms<T: Real>(point: &[T], observed: &[T]) -> (f64, f64) {
    const WIDTH: usize = 8;
    let (mut distance, mut norm) = ([0.0_f64; WIDTH], [0.0_f64; WIDTH]);
    let (points, points_rest) = point.as_chunks::<WIDTH>();
    let (inputs, inputs_rest) = observed.as_chunks::<WIDTH>();
    for (point, observed) in points.iter().zip(inputs) {
        for k in 0..WIDTH {
            let (x, x0) = (point[k].to_f64(), observed[k].to_f64());
            distance[k] += (x - x0) * (x - x0);
            norm[k] += x0 * x0;
        }
    }
    for (k, (x, x0)) in points_rest.iter().zip(inputs_rest).enumerate() {
        let (x, x0) = (x.to_f64(), x0.to_f64());
        distance[k] += (x - x0) * (x - x0);
        norm[k] += x0 * x0;
    }
    (distance.iter().sum(), norm.iter().sum())
}

/// Views of a map: every sample of `out` is computed from the samples of one or two inputs.
pub(crate) struct MapPass<'a, T> {
    pub(crate) first: MatRef<'a, T>,
    pub(crate) second: MatRef<'a, T>,
    pub(crate) out: MatMut<'a, T>,
}

/// Runs `kernel` on every sample.
pub(crate) fn map_columns<T: Real, K: SampleMap<T>>(kernel: &K, pass: MapPass<'_, T>, par: Par) {
    let len = pass.first.nrows().max(pass.out.nrows()).max(1);
    map_blocks(&|pass| Arch::new().dispatch(MapBlock { kernel, pass }), pass, (GRAIN / len).max(1), par);
}

fn map_blocks<T: Real>(run: &(dyn Fn(MapPass<'_, T>) + Sync), pass: MapPass<'_, T>, grain: usize, par: Par) {
    let (batch, middle) = (pass.out.ncols(), pass.out.ncols() / 2);
    if batch <= grain || par == Par::Seq {
        return run(pass);
    }
    let (out, out_right) = pass.out.split_at_col_mut(middle);
    let left = MapPass { first: pass.first.subcols(0, middle), second: pass.second.subcols(0, middle), out };
    let right = MapPass {
        first: pass.first.subcols(middle, batch - middle),
        second: pass.second.subcols(middle, batch - middle),
        out: out_right,
    };
    rayon::join(|| map_blocks(run, left, grain, par), || map_blocks(run, right, grain, par));
}

struct MapBlock<'k, 'a, T, K> {
    kernel: &'k K,
    pass: MapPass<'a, T>,
}

impl<T: Real, K: SampleMap<T>> NullaryFnOnce for MapBlock<'_, '_, T, K> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let mut pass = self.pass;
        for j in 0..pass.out.ncols() {
            let out = column_mut(&mut pass.out, j);
            self.kernel.map_sample(column(pass.first, j), column(pass.second, j), out);
        }
    }
}

/// Checks the views of a forward pass.
pub(crate) fn check_forward<T: Real>(
    layer: &dyn ReverseOperator<T>,
    input: MatRef<'_, T>,
    output: MatRef<'_, T>,
) -> Result<(), InverseError> {
    expect_batch(layer.name(), "input", input, (layer.in_shape().len(), input.ncols()))?;
    expect_batch(layer.name(), "output", output, (layer.out_shape().len(), input.ncols()))
}

/// Checks the views of a Jacobian-vector product.
pub(crate) fn check_jvp<T: Real>(layer: &dyn ReverseOperator<T>, pass: &JvpPass<'_, T>) -> Result<(), InverseError> {
    let input = (layer.in_shape().len(), pass.at.ncols());
    let output = (layer.out_shape().len(), pass.at.ncols());
    expect_batch(layer.name(), "at", pass.at, input)?;
    expect_batch(layer.name(), "tangent_in", pass.tangent_in, input)?;
    expect_batch(layer.name(), "tangent_out", pass.tangent_out.as_ref(), output)
}

/// Checks the views of a vector-Jacobian product.
pub(crate) fn check_vjp<T: Real>(layer: &dyn ReverseOperator<T>, pass: &VjpPass<'_, T>) -> Result<(), InverseError> {
    let input = (layer.in_shape().len(), pass.at.ncols());
    let output = (layer.out_shape().len(), pass.at.ncols());
    expect_batch(layer.name(), "at", pass.at, input)?;
    expect_batch(layer.name(), "cotangent_out", pass.cotangent_out, output)?;
    expect_batch(layer.name(), "cotangent_in", pass.cotangent_in.as_ref(), input)
}
