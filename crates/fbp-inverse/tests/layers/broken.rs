//! The conformance kit must find faults: each of these layers breaks one property.

use faer::dyn_stack::MemStack;
use faer::reborrow::ReborrowMut;
use faer::{MatMut, MatRef, Par};
use fbp_inverse::testkit::{ReverseCheck, check_derivatives, check_reverse_operator};
use fbp_inverse::{
    Activation, ActivationReverse, DifferentiableOperator, Interval, InverseError, JvpPass, ReverseOperator,
    ReversePass, ReverseReport, VjpPass, expect_batch,
};
use fbp_linalg::FeatureShape;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Nothing,
    MovesTooFar,
    MovesOneEntryTooFar,
    IgnoresTheBox,
    BoxSlightlyTooWide,
    LeavesTheRange,
    DriftsFromTheFixedPoint,
    WritesOnlyPart,
    DependsOnThreads,
    DependsOnTheBatch,
    AcceptsNan,
    AcceptsInfinity,
    ReturnsInfinity,
    ClaimsNoViolation,
    ClaimsAttained,
    GivesUp,
    MiscountsSatisfied,
    MiscountsDistance,
    ReportsTooSmallARange,
    WrongSlope,
    WrongAdjoint,
}

/// A leaky ReLU with a fault.
struct Faulty {
    inner: ActivationReverse<f64>,
    fault: Fault,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        let leaky = Activation::LeakyRelu { slope: 0.5 };
        let inner = ActivationReverse::new("leaky", leaky, FeatureShape::image(1, 2, 3)).unwrap();
        Self { inner, fault }
    }

    fn spoil(&self, pass: &mut ReversePass<'_, f64>, report: &mut ReverseReport, par: Par, stack: &mut MemStack) {
        let (rows, batch) = (pass.observed_in.nrows(), pass.batch());
        if batch == 0 {
            return;
        }
        let everywhere = (0..batch).flat_map(|j| (0..rows).map(move |i| (i, j)));
        let target = &mut pass.target_in;
        match self.fault {
            Fault::MovesTooFar => {
                for at in everywhere {
                    if target.point[at] < pass.observed_in[at] {
                        target.point[at] = target.lower[at].max(-9.0).max(pass.in_range.lower);
                    }
                }
            }
            Fault::MovesOneEntryTooFar => {
                for at in (0..batch).map(|j| (rows - 1, j)) {
                    if target.point[at] != pass.observed_in[at] {
                        target.point[at] = target.upper[at].min(9.0).min(pass.in_range.upper);
                    }
                }
            }
            Fault::IgnoresTheBox => {
                target.lower.fill(pass.in_range.lower);
                target.upper.fill(pass.in_range.upper);
            }
            Fault::BoxSlightlyTooWide => everywhere.for_each(|at| target.upper[at] += 1e-6),
            Fault::LeavesTheRange => {
                let free = ReversePass {
                    target_in: target.rb_mut(),
                    target_out: pass.target_out,
                    in_range: Interval::EVERYTHING,
                    ..*pass
                };
                *report = self.inner.reverse(free, par, stack).unwrap();
            }
            Fault::DriftsFromTheFixedPoint => {
                for at in everywhere {
                    if target.point[at] == pass.observed_in[at] {
                        target.point[at] *= 1.0 + 1e-15;
                        target.upper[at] = target.upper[at].max(target.point[at]);
                        target.lower[at] = target.lower[at].min(target.point[at]);
                    }
                }
            }
            Fault::DependsOnThreads if par != Par::Seq => target.upper[(0, 0)] = target.point[(0, 0)],
            Fault::DependsOnTheBatch if batch > 1 => target.upper[(0, 1)] = target.point[(0, 1)],
            Fault::ReturnsInfinity => {
                for at in everywhere {
                    if target.point[at] < -1e300 {
                        target.point[at] = f64::NEG_INFINITY;
                    }
                }
            }
            Fault::ClaimsNoViolation => report.violation_max = 0.0,
            Fault::ClaimsAttained => report.unattained = 0,
            Fault::GivesUp => {
                target.point.copy_from(pass.observed_in);
                target.lower.copy_from(pass.observed_in);
                target.upper.copy_from(pass.observed_in);
                report.unattained = batch - report.satisfied_before;
                report.distance_sq = 0.0;
                let miss = |(i, j): (usize, usize)| {
                    let at = (i, j);
                    let y = pass.observed_out[at];
                    (pass.target_out.lower[at] - y).max(y - pass.target_out.upper[at]).max(0.0)
                };
                report.violation_max = everywhere.map(miss).fold(0.0, f64::max);
            }
            Fault::MiscountsSatisfied => report.satisfied_before = 0,
            Fault::MiscountsDistance => report.distance_sq *= 1.01,
            _ => {}
        }
    }
}

impl ReverseOperator<f64> for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }

    fn in_shape(&self) -> FeatureShape {
        self.inner.in_shape()
    }

    fn out_shape(&self) -> FeatureShape {
        self.inner.out_shape()
    }

    fn out_range(&self, in_range: Interval<f64>) -> Interval<f64> {
        let range = self.inner.out_range(in_range);
        if self.fault == Fault::ReportsTooSmallARange {
            Interval::new(0.5 * range.lower.max(-1.0), range.upper)
        } else {
            range
        }
    }

    fn forward(
        &self,
        input: MatRef<'_, f64>,
        output: MatMut<'_, f64>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        self.inner.forward(input, output, par, stack)
    }

    fn reverse(
        &self,
        pass: ReversePass<'_, f64>,
        par: Par,
        stack: &mut MemStack,
    ) -> Result<ReverseReport, InverseError> {
        let mut pass = pass;
        if self.fault == Fault::AcceptsNan && pass.observed_in.has_nan() {
            return Ok(ReverseReport::default());
        }
        if self.fault == Fault::AcceptsInfinity && pass.in_range.lower == f64::INFINITY {
            return Ok(ReverseReport::default());
        }
        pass.check(self)?;
        let kept = pass.target_in.point.as_ref().to_owned();
        let inner = ReversePass { target_in: pass.target_in.rb_mut(), ..pass };
        let mut report = self.inner.reverse(inner, par, stack)?;
        self.spoil(&mut pass, &mut report, par, stack);
        let rows = kept.nrows();
        if self.fault == Fault::WritesOnlyPart {
            pass.target_in.point.rb_mut().row_mut(rows - 1).copy_from(kept.row(rows - 1));
        }
        Ok(report)
    }

    fn differentiable(&self) -> Option<&dyn DifferentiableOperator<f64>> {
        Some(self)
    }
}

impl DifferentiableOperator<f64> for Faulty {
    fn jvp(&self, mut pass: JvpPass<'_, f64>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        let JvpPass { at, tangent_in, tangent_out } = &mut pass;
        self.inner.jvp(JvpPass { at: *at, tangent_in: *tangent_in, tangent_out: tangent_out.rb_mut() }, par, stack)?;
        if self.fault == Fault::WrongSlope {
            pass.tangent_out *= faer::Scale(1.001);
        }
        Ok(())
    }

    fn vjp(&self, mut pass: VjpPass<'_, f64>, par: Par, stack: &mut MemStack) -> Result<(), InverseError> {
        let VjpPass { at, cotangent_out, cotangent_in } = &mut pass;
        let inner = VjpPass { at: *at, cotangent_out: *cotangent_out, cotangent_in: cotangent_in.rb_mut() };
        self.inner.vjp(inner, par, stack)?;
        if self.fault == Fault::WrongAdjoint {
            pass.cotangent_in *= faer::Scale(1.001);
        }
        Ok(())
    }
}

/// The sum of all entries; `spread` says over how many of them a correction is spread.
struct Sum {
    len: usize,
    spread: usize,
}

impl ReverseOperator<f64> for Sum {
    fn name(&self) -> &str {
        "sum"
    }

    fn in_shape(&self) -> FeatureShape {
        FeatureShape::vector(self.len)
    }

    fn out_shape(&self) -> FeatureShape {
        FeatureShape::vector(1)
    }

    fn out_range(&self, _in_range: Interval<f64>) -> Interval<f64> {
        Interval::EVERYTHING
    }

    fn forward(
        &self,
        input: MatRef<'_, f64>,
        mut output: MatMut<'_, f64>,
        _par: Par,
        _stack: &mut MemStack,
    ) -> Result<(), InverseError> {
        expect_batch("sum", "input", input, (self.len, input.ncols()))?;
        expect_batch("sum", "output", output.as_ref(), (1, input.ncols()))?;
        (0..input.ncols()).for_each(|j| output[(0, j)] = input.col(j).sum());
        Ok(())
    }

    fn reverse(&self, pass: ReversePass<'_, f64>, _: Par, _: &mut MemStack) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        let ReversePass { observed_in, observed_out, target_out, mut target_in, .. } = pass;
        let mut report = ReverseReport::of_samples(observed_in.ncols());
        for j in 0..observed_in.ncols() {
            let y = observed_out[(0, j)];
            let change = y.clamp(target_out.lower[(0, j)], target_out.upper[(0, j)]) - y;
            report.satisfied_before += usize::from(change == 0.0);
            for i in 0..self.len {
                let step = if i < self.spread { change / self.spread as f64 } else { 0.0 };
                let x = observed_in[(i, j)] + step;
                (target_in.point[(i, j)], target_in.lower[(i, j)], target_in.upper[(i, j)]) = (x, x, x);
                report.distance_sq += step * step;
                report.observed_sq += observed_in[(i, j)] * observed_in[(i, j)];
            }
        }
        Ok(report)
    }
}

#[test]
fn a_point_that_is_not_stationary_is_found() {
    let everything = ReverseCheck::new().ranges(&[(f64::NEG_INFINITY, f64::INFINITY)]);
    check_reverse_operator(&Sum { len: 8, spread: 8 }, &everything).unwrap();
    for spread in [1, 4, 7] {
        let error = check_reverse_operator(&Sum { len: 8, spread }, &everything).unwrap_err();
        assert_eq!(error.property, "no nearer input does as well");
        assert!(error.to_string().starts_with("sum: no nearer input does as well: range [-inf, inf], seed"), "{error}");
    }
}

/// The property that the kit finds broken.
fn finding(fault: Fault) -> String {
    let (layer, check) = (Faulty::new(fault), ReverseCheck::new());
    let reversed = check_reverse_operator(&layer, &check).err();
    let found = reversed.or_else(|| check_derivatives(&layer, &check).err());
    found.map_or_else(|| "nothing".to_owned(), |error| error.property.to_owned())
}

#[test]
fn every_fault_is_found_and_named() {
    for (fault, property) in [
        (Fault::Nothing, "nothing"),
        (Fault::MovesTooFar, "the point is the nearest of its box"),
        (Fault::MovesOneEntryTooFar, "the point is the nearest of its box"),
        (Fault::IgnoresTheBox, "the whole box does as well as the point"),
        (Fault::BoxSlightlyTooWide, "the whole box does as well as the point"),
        (Fault::LeavesTheRange, "the range is kept"),
        (Fault::DriftsFromTheFixedPoint, "a target that is met is a fixed point"),
        (Fault::WritesOnlyPart, "every entry is written"),
        (Fault::DependsOnThreads, "threads do not matter"),
        (Fault::DependsOnTheBatch, "batch = one by one"),
        (Fault::AcceptsNan, "NaN is refused"),
        (Fault::AcceptsInfinity, "an empty range is refused"),
        (Fault::ReturnsInfinity, "every point is finite"),
        (Fault::ClaimsNoViolation, "the reported violation is true"),
        (Fault::ClaimsAttained, "a target that is missed is reported"),
        (Fault::GivesUp, "a target with a preimage is attained"),
        (Fault::MiscountsSatisfied, "report counts satisfied samples"),
        (Fault::MiscountsDistance, "report adds up over the samples"),
        (Fault::ReportsTooSmallARange, "outputs lie in the reported range"),
        (Fault::WrongSlope, "jvp agrees with central differences"),
        (Fault::WrongAdjoint, "vjp is the adjoint of jvp"),
    ] {
        assert_eq!(finding(fault), property, "{fault:?}");
    }
}
