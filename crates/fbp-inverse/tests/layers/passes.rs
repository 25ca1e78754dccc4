//! Runs one reverse pass with memory of its own.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, MatRef, Par};
use fbp_inverse::{Interval, InverseError, ReverseOperator, ReversePass, ReverseReport, TargetBox, TargetBoxMut};
use fbp_linalg::Real;

/// A reversed batch.
pub(crate) struct Reversed<T> {
    pub(crate) point: Mat<T>,
    pub(crate) lower: Mat<T>,
    pub(crate) upper: Mat<T>,
    pub(crate) report: ReverseReport,
}

/// `f(input)`.
pub(crate) fn forward<T: Real>(layer: &dyn ReverseOperator<T>, input: MatRef<'_, T>) -> Mat<T> {
    let mut output = Mat::full(layer.out_shape().len(), input.ncols(), T::from_f64(f64::NAN));
    let mut memory = MemBuffer::new(layer.forward_scratch(input.ncols(), Par::Seq));
    layer.forward(input, output.as_mut(), Par::Seq, MemStack::new(&mut memory)).unwrap();
    output
}

/// Reverses `(lower, upper)` at `input`.
pub(crate) fn reverse<T: Real>(
    layer: &dyn ReverseOperator<T>,
    input: MatRef<'_, T>,
    target: (&Mat<T>, &Mat<T>),
    in_range: Interval<T>,
) -> Result<Reversed<T>, InverseError> {
    let output = forward(layer, input);
    let point =
        Mat::from_fn(output.nrows(), output.ncols(), |i, j| output[(i, j)].clip(target.0[(i, j)], target.1[(i, j)]));
    let nan = || Mat::full(input.nrows(), input.ncols(), T::from_f64(f64::NAN));
    let (mut point_in, mut lower_in, mut upper_in) = (nan(), nan(), nan());
    let mut memory = MemBuffer::new(layer.reverse_scratch(input.ncols(), Par::Seq));
    let pass = ReversePass {
        observed_in: input,
        observed_out: output.as_ref(),
        target_out: TargetBox { point: point.as_ref(), lower: target.0.as_ref(), upper: target.1.as_ref() },
        in_range,
        target_in: TargetBoxMut { point: point_in.as_mut(), lower: lower_in.as_mut(), upper: upper_in.as_mut() },
    };
    let report = layer.reverse(pass, Par::Seq, MemStack::new(&mut memory))?;
    Ok(Reversed { point: point_in, lower: lower_in, upper: upper_in, report })
}
