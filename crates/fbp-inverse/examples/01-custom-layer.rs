//! A layer of one's own: symlog, `y = sign(x) ln(1 + |x|)`, and proof that its inverse keeps the contract.
use faer::dyn_stack::MemStack;
use faer::{MatMut, MatRef, Par};
use fbp_inverse::testkit::{ReverseCheck, check_reverse_operator};
use fbp_inverse::{Interval, InverseError, ReverseOperator, ReversePass, ReverseReport, expect_batch};
use fbp_linalg::FeatureShape;

struct Symlog(FeatureShape);

#[rustfmt::skip]
fn symlog(x: f64) -> f64 { x.signum() * x.abs().ln_1p() }
#[rustfmt::skip]
fn symexp(y: f64) -> f64 { y.signum() * y.abs().exp_m1() } // infinite for |y| > 710

#[rustfmt::skip]
impl ReverseOperator<f64> for Symlog {
    fn name(&self) -> &str { "symlog" }
    fn in_shape(&self) -> FeatureShape { self.0 }
    fn out_shape(&self) -> FeatureShape { self.0 }
    fn out_range(&self, range: Interval<f64>) -> Interval<f64> { Interval::new(symlog(range.lower), symlog(range.upper)) }

    fn forward(&self, x: MatRef<'_, f64>, mut y: MatMut<'_, f64>, _: Par, _: &mut MemStack) -> Result<(), InverseError> {
        expect_batch("symlog", "input", x, (self.0.len(), x.ncols()))?;
        expect_batch("symlog", "output", y.as_ref(), (self.0.len(), x.ncols()))?;
        (0..x.ncols()).for_each(|j| (0..x.nrows()).for_each(|i| y[(i, j)] = symlog(x[(i, j)])));
        Ok(())
    }

    fn reverse(&self, pass: ReversePass<'_, f64>, _: Par, _: &mut MemStack) -> Result<ReverseReport, InverseError> {
        pass.check(self)?;
        let ReversePass { observed_in, observed_out, target_out: wanted, in_range, mut target_in } = pass;
        let mut report = ReverseReport::of_samples(observed_in.ncols());
        for j in 0..observed_in.ncols() {
            let (mut satisfied, mut violation) = (true, 0.0_f64);
            for i in 0..observed_in.nrows() {
                let (x0, y0, lo, hi) = (observed_in[(i, j)], observed_out[(i, j)], wanted.lower[(i, j)], wanted.upper[(i, j)]);
                // Every point is finite, also where the target would need more.
                let (lower, upper) = (in_range.clip(symexp(lo)).min(f64::MAX), in_range.clip(symexp(hi)).max(f64::MIN));
                let inside = lo <= y0 && y0 <= hi;
                let x = if inside { x0 } else { x0.max(lower).min(upper) };
                target_in.point[(i, j)] = x;
                (target_in.lower[(i, j)], target_in.upper[(i, j)]) = (lower.min(x), upper.max(x));
                (satisfied, violation) = (satisfied && inside, violation.max(lo - symlog(x)).max(symlog(x) - hi));
                (report.distance_sq, report.observed_sq) = (report.distance_sq + (x - x0).powi(2), report.observed_sq + x0 * x0);
            }
            (report.satisfied_before, report.unattained) =
                (report.satisfied_before + usize::from(satisfied), report.unattained + usize::from(violation > 1e-12));
            (report.violation_max, report.violation_sum) = (report.violation_max.max(violation), report.violation_sum + violation);
        }
        Ok(report)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let passed = check_reverse_operator(&Symlog(FeatureShape::image(2, 3, 3)), &ReverseCheck::new())?;
    Ok(std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{passed}\n"))?)
}
