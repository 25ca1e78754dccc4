use faer::{Mat, Par};
use fbp_linalg::{Real, compile_once};

use super::cases::{Answer, Case, Conditions, forward, widened};
use super::inputs::{check_far_targets, check_forward_pass, check_refusals};
use super::nearest::{check_nearest, check_progress};
use super::outcome::{Conformance, ConformanceError, Ledger};
use super::params::ReverseCheck;
use crate::{InverseError, ReverseOperator};

/// Checks a layer against the contract of [`ReverseOperator`] on seeded random batches.
///
/// Checked are, for every input range of `check`: the reported shapes; that outputs lie in the reported range; that
/// samples which are met already come back bit for bit; that an attained target is hit, by the point and by points all
/// over the returned box; that the point and the report agree with what is recomputed here; that the range is kept;
/// that no nearer input is found (random ones, ones on the way back to the observed input, and moves along the
/// constraint surface); that a target which is not attained is missed by as little as possible; that dirty memory,
/// threads and the make-up of the batch do not matter; that targets near the largest numbers give finite points; that NaN,
/// boxes and ranges without a finite number, and wrong shapes are refused; and that an empty batch is not.
///
/// The cost grows with the square of the number of inputs: use a layer of at most a few hundred.
///
/// # Errors
/// [`ConformanceError`] with the first property that does not hold and where it fails.
pub fn check_reverse_operator<T: Real>(
    op: &dyn ReverseOperator<T>,
    check: &ReverseCheck,
) -> Result<Conformance, ConformanceError> {
    checked(op, check)
}

compile_once! {
    fn checked<'a, T>(op: &'a dyn ReverseOperator<T>, check: &'a ReverseCheck) -> Result<Conformance, ConformanceError> =
        run_checks::<T>;
}

fn run_checks<T: Real>(op: &dyn ReverseOperator<T>, check: &ReverseCheck) -> Result<Conformance, ConformanceError> {
    let mut ledger = Ledger::new(op.name());
    let sizes = (op.in_shape().len(), op.out_shape().len());
    ledger.expect("shapes are not empty", sizes.0 > 0 && sizes.1 > 0, || {
        format!("{} -> {}", op.in_shape(), op.out_shape())
    })?;
    for &range in &check.ranges {
        for seed in 0..check.seeds {
            let made = Case::new(op, check, range, seed);
            let case = made.map_err(|error| ledger.failure("forward works", error.to_string()))?;
            if seed == 0 {
                check_forward_pass(op, check, &case, &mut ledger)?;
                check_refusals(op, &case, &mut ledger)?;
            }
            check_case(op, check, &case, &mut ledger)?;
            if seed + 1 == check.seeds {
                check_far_targets(op, check, &case, &mut ledger)?;
            }
        }
    }
    Ok(ledger.finish())
}

fn check_case<T: Real>(
    op: &dyn ReverseOperator<T>,
    check: &ReverseCheck,
    case: &Case<T>,
    ledger: &mut Ledger,
) -> Result<(), ConformanceError> {
    let failed = |error: InverseError| format!("{}: {error}", case.origin);
    let answer = case.reverse(op, Conditions::PLAIN).map_err(|e| ledger.failure("reverse works", failed(e)))?;
    check_conditions(op, check, case, &answer, ledger)?;
    let report = answer.report;
    ledger.expect("report counts samples", report.samples == case.batch(), || {
        format!("{}: {} samples, {} reported", case.origin, case.batch(), report.samples)
    })?;
    let mut totals = Totals::default();
    for j in 0..case.batch() {
        let sample = case.sample(j);
        let alone = sample.reverse(op, Conditions::PLAIN);
        let alone = alone.map_err(|e| ledger.failure("reverse works", format!("{}: {e}", sample.origin)))?;
        let together = [&answer.point, &answer.lower, &answer.upper].map(|m| m.subcols(j, 1).to_owned());
        let separate = [&alone.point, &alone.lower, &alone.upper].map(Mat::clone);
        let tolerance = check.agreement::<T>();
        let difference = worst_difference(&together, &separate);
        ledger.expect("batch = one by one", difference.is_none_or(|d| d.1 <= tolerance), || {
            describe(&sample.origin, difference)
        })?;
        check_sample(op, check, &sample, &alone, ledger)?;
        totals.add(&sample, &alone);
    }
    totals.compare(check, case, &answer, ledger)
}

/// Everything that one sample, reversed alone, must satisfy.
fn check_sample<T: Real>(
    op: &dyn ReverseOperator<T>,
    check: &ReverseCheck,
    sample: &Case<T>,
    answer: &Answer<T>,
    ledger: &mut Ledger,
) -> Result<(), ConformanceError> {
    let at = |i: usize| format!("{}, entry {i}", sample.origin);
    for i in 0..answer.point.nrows() {
        let (x, lo, hi) = (answer.point[(i, 0)], answer.lower[(i, 0)], answer.upper[(i, 0)]);
        ledger.expect("point lies in its box", x.is_finite() && lo <= x && x <= hi, || {
            format!("{}: {x:e} is not a number in [{lo:e}, {hi:e}]", at(i))
        })?;
    }
    let satisfied = sample.violation(0, &widened(sample.output.as_ref(), 0)) == 0.0;
    ledger.expect(
        "report counts satisfied samples",
        answer.report.satisfied_before == usize::from(satisfied),
        || format!("{}: satisfied is {satisfied}, {} reported", sample.origin, answer.report.satisfied_before),
    )?;
    if satisfied {
        let moved = (0..sample.input.nrows()).find(|&i| answer.point[(i, 0)] != sample.input[(i, 0)]);
        return ledger.expect("a target that is met is a fixed point", moved.is_none(), || {
            let i = moved.unwrap_or(0);
            format!("{}: observed {:e}, returned {:e}", at(i), sample.input[(i, 0)], answer.point[(i, 0)])
        });
    }
    for i in 0..answer.point.nrows() {
        ledger.expect("the range is kept", sample.range.contains(answer.point[(i, 0)]), || {
            format!("{}: {:e} is outside", at(i), answer.point[(i, 0)])
        })?;
    }
    let output = forward(op, answer.point.as_ref());
    let output = output.map_err(|e| ledger.failure("forward works", format!("{}: {e}", sample.origin)))?;
    let violation = sample.violation(0, &widened(output.as_ref(), 0));
    let tolerance = check.tolerance * T::EPSILON.to_f64() * sample.output_size(0);
    let claimed = answer.report.violation_max;
    ledger.expect("the reported violation is true", (claimed - violation).abs() <= tolerance, || {
        format!("{}: {violation:e} found, {claimed:e} reported, tolerance {tolerance:e}", sample.origin)
    })?;
    let tolerance = sample.allowed(check, 0);
    ledger.expect(
        "a target that is missed is reported",
        violation <= tolerance || answer.report.unattained == 1,
        || format!("{}: violation {violation:e}, tolerance {tolerance:e}", sample.origin),
    )?;
    if sample.witness.is_some() && check.attains {
        let attained = answer.report.unattained == 0;
        ledger.expect("a target with a preimage is attained", attained && violation <= tolerance, || {
            let says = if attained { "attained" } else { "not attained" };
            format!("{}: violation {violation:e}, tolerance {tolerance:e}, reported as {says}", sample.origin)
        })?;
    }
    match check.iterative {
        Some(_) => check_progress(op, check, sample, answer, ledger),
        None => check_nearest(op, check, sample, answer, ledger),
    }
}

/// Dirty memory and threads must not matter.
fn check_conditions<T: Real>(
    op: &dyn ReverseOperator<T>,
    check: &ReverseCheck,
    case: &Case<T>,
    answer: &Answer<T>,
    ledger: &mut Ledger,
) -> Result<(), ConformanceError> {
    let tolerance = check.agreement::<T>();
    let variants = [
        ("every entry is written", Conditions { fill: f64::NAN, ..Conditions::PLAIN }, 0.0),
        ("dirty output does not matter", Conditions { fill: 7.0, ..Conditions::PLAIN }, 0.0),
        ("dirty scratch does not matter", Conditions { dirt: 0xff, ..Conditions::PLAIN }, 0.0),
        ("threads do not matter", Conditions { par: Par::rayon(2), ..Conditions::PLAIN }, tolerance),
    ];
    for (property, conditions, tolerance) in variants {
        let other = case.reverse(op, conditions);
        let other = other.map_err(|e| ledger.failure(property, format!("{}: {e}", case.origin)))?;
        let first = [&answer.point, &answer.lower, &answer.upper].map(Mat::clone);
        let second = [other.point, other.lower, other.upper];
        let difference = worst_difference(&first, &second);
        ledger.expect(property, difference.is_none_or(|d| d.1 <= tolerance), || describe(&case.origin, difference))?;
    }
    Ok(())
}

/// Largest difference of two boxes, relative to their size, with its place; NaN and differing infinities are infinite.
fn worst_difference<T: Real>(first: &[Mat<T>; 3], second: &[Mat<T>; 3]) -> Option<((usize, usize, usize), f64)> {
    let size = first.iter().flat_map(|m| (0..m.ncols()).flat_map(move |j| widened(m.as_ref(), j)));
    let size = size.filter(|v| v.is_finite()).fold(f64::MIN_POSITIVE, |s, v| s.max(v.abs()));
    let mut worst = None;
    for (view, (a, b)) in first.iter().zip(second).enumerate() {
        for j in 0..a.ncols() {
            for i in 0..a.nrows() {
                let (x, y) = (a[(i, j)], b[(i, j)]);
                let difference = if x == y { continue } else { (x - y).to_f64().abs() / size };
                let difference = if difference.is_nan() { f64::INFINITY } else { difference };
                if worst.is_none_or(|(_, d)| difference > d) {
                    worst = Some(((view, i, j), difference));
                }
            }
        }
    }
    worst
}

fn describe(origin: &str, difference: Option<((usize, usize, usize), f64)>) -> String {
    let ((view, row, column), size) = difference.unwrap_or(((0, 0, 0), 0.0));
    let view = ["point", "lower end", "upper end"][view];
    format!("{origin}: {view} of entry {row}, sample {column} differs by {size:e} of the largest entry")
}

/// Sums over the samples of a batch, from runs sample by sample.
#[derive(Default)]
struct Totals {
    satisfied: usize,
    unattained: usize,
    distance_sq: f64,
    observed_sq: f64,
    violation_max: f64,
    violation_sum: f64,
}

impl Totals {
    fn add<T: Real>(&mut self, sample: &Case<T>, alone: &Answer<T>) {
        let (x, x0) = (widened(alone.point.as_ref(), 0), widened(sample.input.as_ref(), 0));
        self.satisfied += alone.report.satisfied_before;
        self.unattained += alone.report.unattained;
        self.distance_sq += x.iter().zip(&x0).map(|(x, x0)| (x - x0) * (x - x0)).sum::<f64>();
        self.observed_sq += x0.iter().map(|x0| x0 * x0).sum::<f64>();
        self.violation_max = self.violation_max.max(alone.report.violation_max);
        self.violation_sum += alone.report.violation_max;
    }

    fn compare<T: Real>(
        &self,
        check: &ReverseCheck,
        case: &Case<T>,
        answer: &Answer<T>,
        ledger: &mut Ledger,
    ) -> Result<(), ConformanceError> {
        let (report, tolerance) = (answer.report, check.agreement::<T>());
        let counts = (report.satisfied_before, report.unattained);
        ledger.expect("report adds up over the samples", counts == (self.satisfied, self.unattained), || {
            format!(
                "{}: satisfied and unattained are {counts:?}, one by one {:?}",
                case.origin,
                (self.satisfied, self.unattained)
            )
        })?;
        let size = (0..case.batch()).map(|j| case.output_size(j)).fold(0.0, f64::max);
        let scale = self.observed_sq.max(self.distance_sq);
        let pairs = [
            ("distance_sq", report.distance_sq, self.distance_sq, scale),
            ("observed_sq", report.observed_sq, self.observed_sq, scale),
            ("violation_max", report.violation_max, self.violation_max, size),
            ("violation_sum", report.violation_sum, self.violation_sum, size * case.batch() as f64),
        ];
        for (field, reported, expected, scale) in pairs {
            ledger.expect(
                "report adds up over the samples",
                (reported - expected).abs() <= tolerance * scale,
                || format!("{}: {field} is {reported:e}, expected {expected:e}", case.origin),
            )?;
        }
        Ok(())
    }
}
