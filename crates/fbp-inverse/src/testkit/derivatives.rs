use std::mem::MaybeUninit;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, MatRef, Par};
use fbp_linalg::Real;
use fbp_linalg::testkit::{normal_mat, rng, uniform_mat};

use super::cases::forward;
use super::outcome::{Conformance, ConformanceError, Ledger};
use super::params::ReverseCheck;
use crate::{DifferentiableOperator, InverseError, JvpPass, ReverseOperator, VjpPass};

/// Property names that are used more than once.
const DIFFERENCES: &str = "jvp agrees with central differences";
const KINKS: &str = "entries on a kink are left out";

/// Checks `jvp` and `vjp` of a layer: `J·v` against central differences of the forward pass (entries whose
/// differences do not settle lie on a kink and are left out), `<Jv, w> = <v, Jᵀw>`, dirty memory, threads, wrong shapes.
///
/// # Errors
/// [`ConformanceError`] with the first property that does not hold; also if the layer offers no derivatives.
pub fn check_derivatives<T: Real>(
    op: &dyn ReverseOperator<T>,
    check: &ReverseCheck,
) -> Result<Conformance, ConformanceError> {
    let mut ledger = Ledger::new(op.name());
    let Some(differentiable) = op.differentiable() else {
        return Err(ledger.failure("offers derivatives", "differentiable() is None".to_owned()));
    };
    for seed in 0..check.seeds {
        let probe = Probe::new(op, check, seed);
        let failed = |error: InverseError| format!("seed {seed}: {error}");
        let found = probe.run(differentiable, Par::Seq, 0.0, 0).map_err(|e| ledger.failure("works", failed(e)))?;
        probe.check_differences(op, check, &found, &mut ledger)?;
        probe.check_adjoint(check, &found, &mut ledger)?;
        for (par, fill, dirt) in [(Par::Seq, f64::NAN, 0xff), (Par::rayon(2), 7.0, 0)] {
            let other = probe.run(differentiable, par, fill, dirt).map_err(|e| ledger.failure("works", failed(e)))?;
            let tolerance = check.tolerance * T::EPSILON.to_f64();
            let agree = close(&found.0, &other.0, tolerance) && close(&found.1, &other.1, tolerance);
            ledger.expect("dirty memory and threads do not matter", agree, || format!("seed {seed}, {par:?}"))?;
        }
        let mut longer = probe;
        longer.at = Mat::zeros(longer.at.nrows() + 1, longer.at.ncols());
        let refused = longer.run(differentiable, Par::Seq, 0.0, 0).is_err();
        ledger.expect("wrong shapes are refused", refused, || "at with a row more".to_owned())?;
    }
    let (used, left_out) = (ledger.count(DIFFERENCES), ledger.count(KINKS));
    ledger
        .expect("most entries are not on a kink", used > left_out, || format!("{left_out} of {}", used + left_out))?;
    Ok(ledger.finish())
}

struct Probe<T> {
    seed: u64,
    at: Mat<T>,
    tangent: Mat<T>,
    cotangent: Mat<T>,
}

fn close<T: Real>(a: &Mat<T>, b: &Mat<T>, tolerance: f64) -> bool {
    let bound = tolerance * a.norm_max().to_f64();
    let near = |i, j| (a[(i, j)] - b[(i, j)]).to_f64().abs() <= bound;
    (0..a.ncols()).all(|j| (0..a.nrows()).all(|i| near(i, j)))
}

fn inner<T: Real>(a: MatRef<'_, T>, b: MatRef<'_, T>) -> f64 {
    (0..a.nrows()).map(|i| a[(i, 0)].to_f64() * b[(i, 0)].to_f64()).sum()
}

impl<T: Real> Probe<T> {
    fn new(op: &dyn ReverseOperator<T>, check: &ReverseCheck, seed: u64) -> Self {
        let (rows, outputs, mut random) = (op.in_shape().len(), op.out_shape().len(), rng(seed));
        let at = uniform_mat::<T>(rows, check.batch, -check.scale, check.scale, &mut random);
        let tangent = normal_mat::<T>(rows, check.batch, &mut random);
        let cotangent = normal_mat::<T>(outputs, check.batch, &mut random);
        Self { seed, at, tangent, cotangent }
    }

    /// `(J·tangent, Jᵀ·cotangent)`.
    fn run(
        &self,
        op: &dyn DifferentiableOperator<T>,
        par: Par,
        fill: f64,
        dirt: u8,
    ) -> Result<(Mat<T>, Mat<T>), InverseError> {
        let mut memory = MemBuffer::new(op.derivative_scratch(self.at.ncols(), par));
        memory.fill(MaybeUninit::new(dirt));
        let fill = T::from_f64(fill);
        let mut out = Mat::full(self.cotangent.nrows(), self.cotangent.ncols(), fill);
        let (at, tangent_in, tangent_out) = (self.at.as_ref(), self.tangent.as_ref(), out.as_mut());
        op.jvp(JvpPass { at, tangent_in, tangent_out }, par, MemStack::new(&mut memory))?;
        let mut back = Mat::full(self.tangent.nrows(), self.tangent.ncols(), fill);
        let (cotangent_out, cotangent_in) = (self.cotangent.as_ref(), back.as_mut());
        op.vjp(VjpPass { at, cotangent_out, cotangent_in }, par, MemStack::new(&mut memory))?;
        Ok((out, back))
    }

    fn check_differences(
        &self,
        op: &dyn ReverseOperator<T>,
        check: &ReverseCheck,
        found: &(Mat<T>, Mat<T>),
        ledger: &mut Ledger,
    ) -> Result<(), ConformanceError> {
        let eps = T::EPSILON.to_f64();
        let largest = self.tangent.norm_max().to_f64();
        let h = eps.cbrt() * check.scale / largest;
        let shifted = |t: f64| {
            let at = |i, j| T::from_f64(self.at[(i, j)].to_f64() + t * self.tangent[(i, j)].to_f64());
            forward(op, Mat::from_fn(self.at.nrows(), self.at.ncols(), at).as_ref())
        };
        let mut outputs = Vec::new();
        for t in [-1.0, -0.5, 0.0, 0.5, 1.0] {
            outputs.push(shifted(t * h).map_err(|error| ledger.failure("forward works", error.to_string()))?);
        }
        let size = found.0.norm_max().to_f64().max(outputs[2].norm_max().to_f64());
        // Central differences are off by the third derivative times h² and by rounding / h, both about eps^(2/3).
        let tolerance = 64.0 * eps.powf(2.0 / 3.0) * size * largest.max(1.0);
        for j in 0..self.at.ncols() {
            for i in 0..found.0.nrows() {
                let y: Vec<f64> = outputs.iter().map(|output| output[(i, j)].to_f64()).collect();
                let (wide, narrow) = ((y[4] - y[0]) / (2.0 * h), (y[3] - y[1]) / h);
                let bend = |low: f64, high: f64, h: f64| ((high - y[2]) - (y[2] - low)).abs() / h;
                let (wide_bend, narrow_bend) = (bend(y[0], y[4], h), bend(y[1], y[3], 0.5 * h));
                // Without a kink nearby, both agree and the one-sided differences approach each other like h.
                if (wide - narrow).abs() > tolerance || narrow_bend > tolerance + 0.75 * wide_bend {
                    ledger.expect(KINKS, true, String::new)?;
                    continue;
                }
                let actual = found.0[(i, j)].to_f64();
                ledger.expect(DIFFERENCES, (narrow - actual).abs() <= tolerance, || {
                    format!("seed {}, output {i}, sample {j}: jvp {actual:e}, differences {narrow:e}", self.seed)
                })?;
            }
        }
        Ok(())
    }

    fn check_adjoint(
        &self,
        check: &ReverseCheck,
        found: &(Mat<T>, Mat<T>),
        ledger: &mut Ledger,
    ) -> Result<(), ConformanceError> {
        for j in 0..self.at.ncols() {
            let column = |m: &Mat<T>| m.subcols(j, 1).to_owned();
            let (jv, jtw) = (column(&found.0), column(&found.1));
            let (v, w) = (column(&self.tangent), column(&self.cotangent));
            let (left, right) = (inner(jv.as_ref(), w.as_ref()), inner(v.as_ref(), jtw.as_ref()));
            let size = jv.norm_l2().to_f64() * w.norm_l2().to_f64() + v.norm_l2().to_f64() * jtw.norm_l2().to_f64();
            let tolerance = check.tolerance * T::EPSILON.to_f64() * size;
            ledger.expect("vjp is the adjoint of jvp", (left - right).abs() <= tolerance, || {
                format!("seed {}, sample {j}: <Jv, w> = {left:e}, <v, J'w> = {right:e}", self.seed)
            })?;
        }
        Ok(())
    }
}
