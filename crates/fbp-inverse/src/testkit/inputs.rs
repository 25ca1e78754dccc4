//! The forward pass, and input that must be refused.

use std::mem::MaybeUninit;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, MatMut, MatRef, Par};
use fbp_linalg::Real;

use super::cases::{Case, Conditions, forward, widened};
use super::outcome::{ConformanceError, Ledger};
use super::params::ReverseCheck;
use crate::{Interval, InverseError, ReverseOperator, ReversePass, TargetBox, TargetBoxMut};

/// Forward writes everything, does not depend on memory or threads, and stays in the reported range.
pub(super) fn check_forward_pass<T: Real>(
    op: &dyn ReverseOperator<T>,
    check: &ReverseCheck,
    case: &Case<T>,
    ledger: &mut Ledger,
) -> Result<(), ConformanceError> {
    let run = |input: MatRef<'_, T>, fill: f64, dirt: u8, par: Par, rows: usize| {
        let mut output = Mat::full(rows, input.ncols(), T::from_f64(fill));
        let mut memory = MemBuffer::new(op.forward_scratch(input.ncols(), par));
        memory.fill(MaybeUninit::new(dirt));
        op.forward(input, output.as_mut(), par, MemStack::new(&mut memory)).map(|()| output)
    };
    let rows = op.out_shape().len();
    let reported = op.out_range(case.range);
    let (of_channels, plane) = (op.out_ranges(&case.range.into()), op.out_shape().plane());
    let tolerance = check.tolerance * T::EPSILON.to_f64();
    for (fill, dirt, par) in [(f64::NAN, 0, Par::Seq), (7.0, 0xff, Par::Seq), (7.0, 0, Par::rayon(2))] {
        let output = run(case.input.as_ref(), fill, dirt, par, rows);
        let output = output.map_err(|e| ledger.failure("forward works", format!("{}: {e}", case.origin)))?;
        for j in 0..output.ncols() {
            let tolerance = tolerance * case.output_size(j);
            for i in 0..rows {
                let (y, expected) = (output[(i, j)].to_f64(), case.output[(i, j)].to_f64());
                ledger.expect("forward writes every entry the same way", (y - expected).abs() <= tolerance, || {
                    format!("{}, entry {i}, sample {j}: {y:e} and {expected:e}", case.origin)
                })?;
                for reported in [reported, of_channels.of(i / plane.max(1))] {
                    let inside = reported.lower.to_f64() - tolerance <= y && y <= reported.upper.to_f64() + tolerance;
                    ledger.expect("outputs lie in the reported range", inside, || {
                        format!("{}, entry {i}, sample {j}: {y:e} is outside {reported:?}", case.origin)
                    })?;
                }
            }
        }
    }
    let empty = run(case.input.subcols(0, 0), 0.0, 0, Par::Seq, rows);
    ledger.expect("an empty batch is fine", empty.is_ok(), || format!("forward: {empty:?}"))?;
    let long = Mat::<T>::zeros(case.input.nrows() + 1, case.batch());
    let refused = run(long.as_ref(), 0.0, 0, Par::Seq, rows);
    ledger
        .expect("wrong shapes are refused", refused.is_err(), || "forward took an input that is too long".to_owned())?;
    let refused = run(case.input.as_ref(), 0.0, 0, Par::Seq, rows + 1);
    ledger.expect("wrong shapes are refused", refused.is_err(), || "forward took an output that is too long".to_owned())
}

/// The views of a pass, to be spoiled one at a time.
struct Views<T> {
    read: [Mat<T>; 5],
    written: [Mat<T>; 3],
    range: Interval<T>,
}

const READ: [&str; 5] = ["observed_in", "observed_out", "target_out.point", "target_out.lower", "target_out.upper"];
const WRITTEN: [&str; 3] = ["target_in.point", "target_in.lower", "target_in.upper"];

impl<T: Real> Views<T> {
    fn new(case: &Case<T>) -> Self {
        let read = [&case.input, &case.output, &case.point, &case.lower, &case.upper].map(Mat::clone);
        let blank = || Mat::zeros(case.input.nrows(), case.batch());
        Self { read, written: [blank(), blank(), blank()], range: case.range }
    }

    fn samples(mut self, count: usize) -> Self {
        self.read = self.read.map(|m| m.subcols(0, count).to_owned());
        self.written = self.written.map(|m| m.subcols(0, count).to_owned());
        self
    }

    fn run(&mut self, op: &dyn ReverseOperator<T>) -> Result<usize, InverseError> {
        let batch = self.read[0].ncols();
        let [observed_in, observed_out, point, lower, upper] = self.read.each_ref().map(Mat::as_ref);
        let [target_point, target_lower, target_upper]: [MatMut<'_, T>; 3] = self.written.each_mut().map(Mat::as_mut);
        let pass = ReversePass {
            observed_in,
            observed_out,
            target_out: TargetBox { point, lower, upper },
            in_range: self.range,
            target_in: TargetBoxMut { point: target_point, lower: target_lower, upper: target_upper },
        };
        let mut memory = MemBuffer::new(op.reverse_scratch(batch, Par::Seq));
        op.reverse(pass, Par::Seq, MemStack::new(&mut memory)).map(|report| report.samples)
    }
}

/// Ends of targets near the largest numbers give finite points, and what these miss is reported; an error will do too.
pub(super) fn check_far_targets<T: Real>(
    op: &dyn ReverseOperator<T>,
    check: &ReverseCheck,
    case: &Case<T>,
    ledger: &mut Ledger,
) -> Result<(), ConformanceError> {
    let large = T::MAX * T::from_f64(0.0117);
    let ends = [(T::NEG_INFINITY, -large), (large, T::INFINITY), (-large, -large), (large, large)];
    for (lower, upper) in ends {
        let mut far = case.sample(0);
        far.set_target(lower, upper);
        let Ok(answer) = far.reverse(op, Conditions::PLAIN) else { continue };
        let at = |i: usize| format!("{}, target [{lower:e}, {upper:e}], entry {i}", far.origin);
        for i in 0..answer.point.nrows() {
            let (x, lo, hi) = (answer.point[(i, 0)], answer.lower[(i, 0)], answer.upper[(i, 0)]);
            ledger.expect("every point is finite", x.is_finite() && lo <= x && x <= hi, || {
                format!("{}: {x:e} in [{lo:e}, {hi:e}]", at(i))
            })?;
        }
        let Ok(output) = forward(op, answer.point.as_ref()) else { continue };
        let violation = far.violation(0, &widened(output.as_ref(), 0));
        let tolerance = far.allowed(check, 0);
        let reported = answer.report.unattained == 1;
        ledger.expect("a target that is missed is reported", violation <= tolerance || reported, || {
            format!("{}: violation {violation:e}, tolerance {tolerance:e}", at(0))
        })?;
    }
    Ok(())
}

/// Wrong shapes, NaN, and boxes and ranges without a finite number give an error, an empty batch does not.
pub(super) fn check_refusals<T: Real>(
    op: &dyn ReverseOperator<T>,
    case: &Case<T>,
    ledger: &mut Ledger,
) -> Result<(), ConformanceError> {
    let empty = Views::new(case).samples(0).run(op);
    ledger.expect("an empty batch is fine", empty == Ok(0), || format!("reverse: {empty:?}"))?;
    let last = case.batch() - 1;
    for (index, name) in READ.iter().enumerate() {
        let longer = |m: &Mat<T>, rows: usize, cols: usize| Mat::zeros(m.nrows() + rows, m.ncols() + cols);
        for (rows, cols) in [(1, 0), (0, 1)] {
            let mut views = Views::new(case);
            views.read[index] = longer(&views.read[index], rows, cols);
            let refused = views.run(op).is_err();
            ledger.expect("wrong shapes are refused", refused, || {
                format!("{name} with {rows} rows, {cols} columns more")
            })?;
        }
        let mut views = Views::new(case);
        let row = views.read[index].nrows() - 1;
        views.read[index][(row, last)] = T::from_f64(f64::NAN);
        let refused = views.run(op).is_err();
        ledger.expect("NaN is refused", refused, || format!("NaN in {name}, entry {row}, sample {last}"))?;
    }
    for (index, name) in WRITTEN.iter().enumerate() {
        let mut views = Views::new(case);
        views.written[index] = Mat::zeros(case.input.nrows() + 1, case.batch());
        let refused = views.run(op).is_err();
        ledger.expect("wrong shapes are refused", refused, || format!("{name} with a row more"))?;
    }
    let mut views = Views::new(case);
    views.read[3][(0, 0)] = views.read[4][(0, 0)] + T::ONE;
    let refused = views.run(op).is_err();
    ledger.expect("an empty box is refused", refused, || "lower above upper in entry 0 of sample 0".to_owned())?;
    for far in [T::INFINITY, T::NEG_INFINITY] {
        let mut views = Views::new(case);
        (views.read[3][(0, 0)], views.read[4][(0, 0)]) = (far, far);
        let refused = views.run(op).is_err();
        ledger.expect("an empty box is refused", refused, || format!("from {far} to {far} in entry 0 of sample 0"))?;
    }
    let far = f64::INFINITY;
    for (lower, upper) in [(1.0, 0.0), (f64::NAN, 1.0), (0.0, f64::NAN), (far, far), (-far, -far)] {
        let mut views = Views::new(case);
        views.range = Interval::new(T::from_f64(lower), T::from_f64(upper));
        let refused = views.run(op).is_err();
        ledger.expect("an empty range is refused", refused, || format!("inputs from {lower} to {upper}"))?;
    }
    Ok(())
}
