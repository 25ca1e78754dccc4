use std::marker::PhantomData;

use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_linalg::{FeatureShape, Real};

use super::window::{DisjointWindows, PoolWindow};
use crate::layers::columns::{
    MapPass, Outcome, Sample, SampleBox, SampleMap, SampleReverse, check_forward, check_jvp, check_vjp, map_columns,
    reverse_columns,
};
use crate::{
    DifferentiableOperator, InverseError, JvpPass, Range, ReverseOperator, ReversePass, ReverseReport, VjpPass,
};

/// Max-pooling over disjoint windows and its exact reverse.
///
/// With the target interval `[lo, hi]` of a window no site may exceed `hi` and one, the *witness*, must reach `lo`:
/// the site that is largest already (the first one on ties), because raising it costs least. The witness gets the box
/// `[lo, hi]`, every other site `(-∞, hi]`, both within the input range; where `lo` is `-∞` there is no witness.
/// Sites in no window keep their value and may be anything in the range.
///
/// # Shapes
/// `[C, H, W]` to `[C, H/kh, W/kw]`, rounded down.
///
/// # Source
/// Own derivation: `min Σ (x_i - x0_i)²` subject to `max_i x_i ∈ [lo, hi]` separates into the windows and sites.
#[derive(Clone, Debug)]
pub struct MaxPoolReverse<T> {
    name: String,
    windows: DisjointWindows,
    scalar: PhantomData<T>,
}

impl<T: Real> MaxPoolReverse<T> {
    /// Max-pooling of features of shape `in_shape`.
    ///
    /// # Errors
    /// [`InverseError::Layer`], naming the geometry, if the windows overlap, are padded, empty or larger than the input.
    pub fn new(name: impl Into<String>, in_shape: FeatureShape, window: PoolWindow) -> Result<Self, InverseError> {
        let name = name.into();
        let windows = DisjointWindows::new(&name, in_shape, window)?;
        Ok(Self { name, windows, scalar: PhantomData })
    }
}

/// The larger value; the first one on ties.
#[inline(always)]
fn larger<T: Real>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

/// Forward kernel.
struct Forward<'a>(&'a DisjointWindows);

impl<T: Real> SampleMap<T> for Forward<'_> {
    #[inline(always)]
    fn map_sample(&self, input: &[T], _second: &[T], out: &mut [T]) {
        let windows = self.0;
        let (width, cols) = (windows.in_shape.width, windows.out_shape.width);
        for (index, out_row) in out.chunks_exact_mut(cols).enumerate() {
            let corner = windows.corner(index / windows.out_shape.height, index % windows.out_shape.height, 0);
            if windows.kernel == [2, 2] {
                let (upper, lower) = (&input[corner..][..2 * cols], &input[corner + width..][..2 * cols]);
                let pairs = upper.as_chunks::<2>().0.iter().zip(lower.as_chunks::<2>().0);
                for (out, (&[a, b], &[c, d])) in out_row.iter_mut().zip(pairs) {
                    *out = larger(larger(a, b), larger(c, d));
                }
            } else {
                for (col, out) in out_row.iter_mut().enumerate() {
                    *out = input[argmax(windows, input, corner + col * windows.kernel[1])];
                }
            }
        }
    }
}

/// Index of the largest site of a window, the first one on ties.
#[inline(always)]
fn argmax<T: Real>(windows: &DisjointWindows, input: &[T], corner: usize) -> usize {
    let mut best = corner;
    for row in 0..windows.kernel[0] {
        let start = corner + row * windows.in_shape.width;
        for site in start..start + windows.kernel[1] {
            best = if input[site] > input[best] { site } else { best };
        }
    }
    best
}

/// Reverse kernel.
struct Reverse<'a>(&'a DisjointWindows);

impl<T: Real> SampleReverse<T> for Reverse<'_> {
    #[inline(always)]
    fn reverse_sample(&self, sample: &Sample<'_, T>, target: &mut SampleBox<'_, T>) -> Outcome<T> {
        let windows = self.0;
        windows.for_each_leftover(|sites| {
            target.lower[sites.clone()].fill(sample.in_range.lower);
            target.upper[sites.clone()].fill(sample.in_range.upper);
            for site in sites {
                target.point[site] = sample.in_range.clip(sample.observed_in[site]);
            }
        });
        let cols = windows.out_shape.width;
        let mut attained = true;
        for index in 0..windows.out_shape.channels * windows.out_shape.height {
            let corner = windows.corner(index / windows.out_shape.height, index % windows.out_shape.height, 0);
            let row = index * cols..(index + 1) * cols;
            let ends = (&sample.lower[row.clone()], &sample.upper[row]);
            attained &= if windows.kernel == [2, 2] {
                reverse_row_2x2(windows.in_shape.width, corner, ends, sample, target)
            } else {
                reverse_row(windows, corner, ends, sample, target)
            };
        }
        let violation = if attained { T::ZERO } else { violation(windows, sample, target.point) };
        Outcome { violation, tolerance: T::ZERO }
    }
}

/// One row of 2 × 2 windows, without branches. Tells whether all their intervals are attained.
#[inline(always)]
fn reverse_row_2x2<T: Real>(
    width: usize,
    corner: usize,
    ends: (&[T], &[T]),
    sample: &Sample<'_, T>,
    target: &mut SampleBox<'_, T>,
) -> bool {
    let (count, range) = (ends.0.len(), sample.in_range);
    let split = 2 * count;
    let observed_above = sample.observed_in[corner..][..split].as_chunks::<2>().0;
    let observed_below = sample.observed_in[corner + width..][..split].as_chunks::<2>().0;
    let mut attained = true;
    let (point_above, point_below) = target.point[corner..].split_at_mut(width);
    let (lower_above, lower_below) = target.lower[corner..].split_at_mut(width);
    let (upper_above, upper_below) = target.upper[corner..].split_at_mut(width);
    let point_above = point_above[..split].as_chunks_mut::<2>().0;
    let point_below = point_below[..split].as_chunks_mut::<2>().0;
    let lower_above = lower_above[..split].as_chunks_mut::<2>().0;
    let lower_below = lower_below[..split].as_chunks_mut::<2>().0;
    let upper_above = upper_above[..split].as_chunks_mut::<2>().0;
    let upper_below = upper_below[..split].as_chunks_mut::<2>().0;
    for j in 0..count {
        let (lo, hi) = (ends.0[j], ends.1[j]);
        let (floor, ceiling) = (range.clip(lo), range.clip(hi));
        let ([a, b], [c, d]) = (observed_above[j], observed_below[j]);
        let largest = larger(larger(a, b), larger(c, d));
        let first = a == largest;
        let second = !first & (b == largest);
        let third = !first & !second & (c == largest);
        let fourth = !first & !second & !third;
        let low = |witness: bool| if witness { floor } else { range.lower };
        let lows = [low(first), low(second), low(third), low(fourth)];
        point_above[j] = [a.clip(lows[0], ceiling), b.clip(lows[1], ceiling)];
        point_below[j] = [c.clip(lows[2], ceiling), d.clip(lows[3], ceiling)];
        lower_above[j] = [lows[0], lows[1]];
        lower_below[j] = [lows[2], lows[3]];
        upper_above[j] = [ceiling, ceiling];
        upper_below[j] = [ceiling, ceiling];
        attained &= (lo <= ceiling) & (floor <= hi);
    }
    attained
}

/// One row of windows of any size. Tells whether all their intervals are attained.
#[inline(always)]
fn reverse_row<T: Real>(
    windows: &DisjointWindows,
    corner: usize,
    ends: (&[T], &[T]),
    sample: &Sample<'_, T>,
    target: &mut SampleBox<'_, T>,
) -> bool {
    let ([kh, kw], width, range) = (windows.kernel, windows.in_shape.width, sample.in_range);
    let mut attained = true;
    for (col, (&lo, &hi)) in ends.0.iter().zip(ends.1).enumerate() {
        let corner = corner + col * kw;
        let (floor, ceiling) = (range.clip(lo), range.clip(hi));
        for row in 0..kh {
            let sites = corner + row * width..corner + row * width + kw;
            target.lower[sites.clone()].fill(range.lower);
            target.upper[sites.clone()].fill(ceiling);
            for (point, &x) in target.point[sites.clone()].iter_mut().zip(&sample.observed_in[sites]) {
                *point = x.clip(range.lower, ceiling);
            }
        }
        let witness = argmax(windows, sample.observed_in, corner);
        target.lower[witness] = floor;
        target.point[witness] = sample.observed_in[witness].clip(floor, ceiling);
        attained &= (lo <= ceiling) & (floor <= hi);
    }
    attained
}

/// Largest distance of a window's maximum to its interval, recomputed from `point`.
fn violation<T: Real>(windows: &DisjointWindows, sample: &Sample<'_, T>, point: &[T]) -> T {
    let mut worst = T::ZERO;
    windows.for_each_window(|index, corner| {
        let largest = point[argmax(windows, point, corner)];
        worst = worst.max(sample.lower[index] - largest).max(largest - sample.upper[index]);
    });
    worst
}

/// `tangent_out` of a window is the tangent at its largest site.
struct Gather<'a>(&'a DisjointWindows);

impl<T: Real> SampleMap<T> for Gather<'_> {
    #[inline(always)]
    fn map_sample(&self, at: &[T], tangent: &[T], out: &mut [T]) {
        self.0.for_each_window(|index, corner| out[index] = tangent[argmax(self.0, at, corner)]);
    }
}

/// The adjoint of [`Gather`].
struct Scatter<'a>(&'a DisjointWindows);

impl<T: Real> SampleMap<T> for Scatter<'_> {
    #[inline(always)]
    fn map_sample(&self, at: &[T], cotangent: &[T], out: &mut [T]) {
        out.fill(T::ZERO);
        self.0.for_each_window(|index, corner| out[argmax(self.0, at, corner)] = cotangent[index]);
    }
}

impl<T: Real> ReverseOperator<T> for MaxPoolReverse<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn in_shape(&self) -> FeatureShape {
        self.windows.in_shape
    }

    fn out_shape(&self) -> FeatureShape {
        self.windows.out_shape
    }

    fn out_range(&self, in_range: Range<T>) -> Range<T> {
        in_range
    }

    fn forward(
        &self,
        input: MatRef<'_, T>,
        output: MatMut<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        check_forward(self, input, output.as_ref())?;
        map_columns(&Forward(&self.windows), MapPass { first: input, second: input, out: output }, par);
        Ok(())
    }

    fn reverse(
        &self,
        pass: ReversePass<'_, T>,
        par: Par,
        _stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        Ok(reverse_columns(&Reverse(&self.windows), pass, par))
    }

    fn differentiable(&self) -> Option<&dyn DifferentiableOperator<T>> {
        Some(self)
    }
}

impl<T: Real> DifferentiableOperator<T> for MaxPoolReverse<T> {
    fn jvp(&self, pass: JvpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_jvp(self, &pass)?;
        let JvpPass { at, tangent_in, tangent_out } = pass;
        map_columns(&Gather(&self.windows), MapPass { first: at, second: tangent_in, out: tangent_out }, par);
        Ok(())
    }

    fn vjp(&self, pass: VjpPass<'_, T>, par: Par, _stack: &mut MemStack) -> Result<(), InverseError> {
        check_vjp(self, &pass)?;
        let VjpPass { at, cotangent_out, cotangent_in } = pass;
        map_columns(&Scatter(&self.windows), MapPass { first: at, second: cotangent_out, out: cotangent_in }, par);
        Ok(())
    }
}
