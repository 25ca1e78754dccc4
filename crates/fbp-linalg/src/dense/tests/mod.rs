//! Judged by singular value decompositions in `f64`; the plans themselves use QR, and their own only for low rank.

mod accuracy;
mod contract;
mod scales;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, MatRef, Par};
use rand_chacha::ChaCha8Rng;

use crate::dense::{AffinePlan, AffineSolve};
use crate::testkit::normal_mat;
use crate::{LinalgError, Real, SolveReport};

/// One batch as owned matrices; `None` lets the plan compute the observed output.
struct Batch<T> {
    observed_in: Mat<T>,
    observed_out: Option<Mat<T>>,
    target: Mat<T>,
}

impl<T: Real> Batch<T> {
    /// A batch around the origin, where the solution is the correction.
    fn from_origin(cols: usize, target: Mat<T>) -> Self {
        Self { observed_in: Mat::zeros(cols, target.ncols()), observed_out: None, target }
    }

    /// Solves with workspace and output full of NaN.
    fn solve(&self, plan: &AffinePlan<T>, par: Par) -> Result<(Mat<T>, SolveReport), LinalgError> {
        let mut memory = MemBuffer::new(plan.solve_scratch(self.target.ncols(), par));
        memory.iter_mut().for_each(|byte| {
            byte.write(0xff);
        });
        let mut solution = Mat::from_fn(plan.cols(), self.target.ncols(), |_, _| T::from_f64(f64::NAN));
        let pass = AffineSolve {
            observed_in: self.observed_in.as_ref(),
            observed_out: self.observed_out.as_ref().map(Mat::as_ref),
            target: self.target.as_ref(),
            solution: solution.as_mut(),
        };
        let report = plan.solve(pass, par, MemStack::new(&mut memory))?;
        Ok((solution, report))
    }
}

/// `m × n` matrix with singular values spread evenly on a logarithmic scale from 1 down to `1 / condition`.
fn with_condition(rows: usize, cols: usize, condition: f64, rng: &mut ChaCha8Rng) -> Mat<f64> {
    let rank = rows.min(cols);
    let u = normal_mat::<f64>(rows, rank, rng).qr().compute_thin_Q();
    let v = normal_mat::<f64>(cols, rank, rng).qr().compute_thin_Q();
    let sigma = |k: usize| condition.powf(-(k as f64) / (rank.max(2) - 1) as f64);
    let scaled = Mat::from_fn(rows, rank, |i, k| u[(i, k)] * sigma(k));
    scaled * v.transpose()
}

fn widen<T: Real>(a: MatRef<'_, T>) -> Mat<f64> {
    Mat::from_fn(a.nrows(), a.ncols(), |i, j| a[(i, j)].to_f64())
}

fn narrow<T: Real>(a: &Mat<f64>) -> Mat<T> {
    Mat::from_fn(a.nrows(), a.ncols(), |i, j| T::from_f64(a[(i, j)]))
}

/// `f(σ)` in place of every singular value of `A`, transposed: the pseudo-inverse for `f = 1/σ`.
fn spectral_inverse(a: &Mat<f64>, f: impl Fn(f64) -> f64) -> Mat<f64> {
    let svd = a.thin_svd().unwrap();
    let v = svd.V();
    let scaled = Mat::from_fn(v.nrows(), v.ncols(), |i, k| v[(i, k)] * f(svd.S()[k]));
    scaled * svd.U().transpose()
}

/// `|x| / |y|` over the whole batch.
fn ratio(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    assert_eq!(x.ncols(), y.ncols());
    x.norm_l2() / y.norm_l2()
}

/// Largest ratio of column norms `|x| / |y|`.
fn worst_ratio(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    assert_eq!(x.ncols(), y.ncols());
    (0..x.ncols()).map(|j| x.col(j).norm_l2() / y.col(j).norm_l2()).fold(0.0, |worst: f64, ratio| {
        assert!(!ratio.is_nan());
        worst.max(ratio)
    })
}
