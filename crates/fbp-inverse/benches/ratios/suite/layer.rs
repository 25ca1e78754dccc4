//! One sample through a reverse operator.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_inverse::{Interval, InverseError, ReverseOperator, ReversePass, ReverseReport, TargetBox, TargetBoxMut};
use fbp_linalg::Real;

/// What is asked of the output.
pub(crate) struct Wanted<'a> {
    pub(crate) lower: &'a [f64],
    pub(crate) upper: &'a [f64],
    pub(crate) range: (f64, f64),
}

pub(crate) fn narrow<T: Real>(values: &[f64]) -> Mat<T> {
    Mat::from_fn(values.len(), 1, |i, _| T::from_f64(values[i]))
}

pub(crate) fn widened<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| x.to_f64()).collect()
}

/// The output of one sample.
pub(crate) fn forward<T: Real>(op: &dyn ReverseOperator<T>, start: &[f64]) -> Result<Mat<T>, InverseError> {
    let mut output = Mat::zeros(op.out_shape().len(), 1);
    let mut memory = MemBuffer::new(op.forward_scratch(1, Par::Seq));
    op.forward(narrow::<T>(start).as_ref(), output.as_mut(), Par::Seq, MemStack::new(&mut memory))?;
    Ok(output)
}

/// The point and the report for one sample.
pub(crate) fn reverse<T: Real>(
    op: &dyn ReverseOperator<T>,
    start: &[f64],
    wanted: &Wanted<'_>,
) -> Result<(Vec<f64>, ReverseReport), InverseError> {
    let (n, m) = (op.in_shape().len(), op.out_shape().len());
    let (input, output) = (narrow::<T>(start), forward(op, start)?);
    let (lower, upper) = (narrow::<T>(wanted.lower), narrow::<T>(wanted.upper));
    let preferred = Mat::from_fn(m, 1, |i, _| output[(i, 0)].clip(lower[(i, 0)], upper[(i, 0)]));
    let nowhere = || Mat::from_fn(n, 1, |_, _| T::from_f64(f64::NAN));
    let (mut point, mut below, mut above) = (nowhere(), nowhere(), nowhere());
    let mut memory = MemBuffer::new(op.reverse_scratch(1, Par::Seq));
    let pass = ReversePass {
        observed_in: input.as_ref(),
        observed_out: output.as_ref(),
        target_out: TargetBox { point: preferred.as_ref(), lower: lower.as_ref(), upper: upper.as_ref() },
        in_range: Interval::new(T::from_f64(wanted.range.0), T::from_f64(wanted.range.1)),
        target_in: TargetBoxMut { point: point.as_mut(), lower: below.as_mut(), upper: above.as_mut() },
    };
    let report = op.reverse(pass, Par::Seq, MemStack::new(&mut memory))?;
    Ok((widened(point.col_as_slice(0)), report))
}

/// What is wrong with a point as such.
pub(crate) fn fault(point: &[f64], (lower, upper): (f64, f64)) -> Option<String> {
    let bad = point.iter().position(|x| !(x.is_finite() && lower <= *x && *x <= upper))?;
    Some(format!("entry {bad} of the point is {:e}, allowed is [{lower:e}, {upper:e}]", point[bad]))
}
