//! Judged by dense singular value decompositions in `f64` of the operator that the plain-loop oracle defines.

mod contract;
mod exact;
mod modes;
mod optimum;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::operator::grid::End;
use super::{ConvRecipe, ConvSolveConfig, ConvSolvePlan, ConvSystem};
use crate::conv2d::naive::NaiveConv2d;
use crate::conv2d::{Conv2dGeometry, Conv2dParams};
use crate::dense::AffineSolve;
use crate::testkit::{normal_mat, normal_vec};
use crate::{FeatureShape, LinalgError, Real, SolveReport};

/// A convolution with weights, in `f64`.
#[derive(Clone, Debug)]
struct Case {
    geometry: Conv2dGeometry,
    weight: Vec<f64>,
    bias: Vec<f64>,
    transposed: bool,
}

impl Case {
    fn new(params: Conv2dParams, transposed: bool, rng: &mut ChaCha8Rng) -> Self {
        let geometry = params.check().unwrap();
        let weight = normal_vec(geometry.weight_len(), rng);
        let channels = if transposed { geometry.in_shape().channels } else { geometry.out_shape().channels };
        Self { geometry, weight, bias: normal_vec(channels, rng), transposed }
    }

    fn system(&self) -> ConvSystem<'_, f64> {
        let (geometry, weight, transposed) = (self.geometry, &self.weight[..], self.transposed);
        ConvSystem { geometry, weight, bias: Some(&self.bias), transposed }
    }

    fn plan<T: Real>(&self, config: &ConvSolveConfig, recipe: ConvRecipe) -> ConvSolvePlan<T> {
        ConvSolvePlan::with_recipe(&self.system(), config, recipe, Par::Seq).unwrap()
    }

    /// The matrix `A`, column by column from the definition.
    fn dense(&self) -> Mat<f64> {
        let g = &self.geometry;
        let n = g.in_len();
        let unit: Vec<f64> = (0..n * n).map(|at| f64::from(at / n == at % n)).collect();
        let images = NaiveConv2d::new(*g).forward(&unit, &self.weight, None);
        let matrix = Mat::from_fn(g.out_len(), n, |i, j| images[j * g.out_len() + i]);
        if self.transposed { matrix.transpose().to_owned() } else { matrix }
    }

    /// `A v + b`.
    fn image(&self, a: &Mat<f64>, v: &Mat<f64>) -> Mat<f64> {
        let plane = a.nrows() / self.bias.len();
        let y = a * v;
        Mat::from_fn(y.nrows(), y.ncols(), |i, j| y[(i, j)] + self.bias[i / plane])
    }
}

/// Any geometry with an output: stride 1 to 3, padding 0 to 3, dilation 1 to 3, groups, odd sizes, single pixels.
pub(super) fn random_params(rng: &mut ChaCha8Rng) -> Conv2dParams {
    let mut upto = |most: usize| rng.random_range(1..=most);
    loop {
        let groups = upto(3);
        let input = FeatureShape::image(groups * upto(3), upto(8), upto(8));
        let params = Conv2dParams::new(input, groups * upto(4), [upto(4), upto(4)])
            .stride([upto(3), upto(3)])
            .padding([upto(4) - 1, upto(4) - 1])
            .dilation([upto(3), upto(3)])
            .groups(groups);
        if params.check().is_ok() {
            return params;
        }
    }
}

/// `B Bᵀ + shift`, `B` the map to the near field, from the definition of the convolution.
pub(super) fn shifted_gram(g: &Conv2dGeometry, weight: &[f64], near: End, shift: f64) -> Mat<f64> {
    let (n, m) = (g.in_len(), g.out_len());
    let unit: Vec<f64> = (0..n * n).map(|at| f64::from(at / n == at % n)).collect();
    let images = NaiveConv2d::new(*g).forward(&unit, weight, None);
    let a = Mat::from_fn(m, n, |i, j| images[j * m + i]);
    let gram = if near == End::Output { &a * a.transpose() } else { a.transpose() * &a };
    let order = gram.nrows();
    gram + shift * Mat::<f64>::identity(order, order)
}

/// One batch.
#[derive(Clone)]
struct Batch<T> {
    observed_in: Mat<T>,
    observed_out: Option<Mat<T>>,
    target: Mat<T>,
}

impl<T: Real> Batch<T> {
    /// A batch whose targets are the images of other points, and so attained.
    fn attainable(case: &Case, a: &Mat<f64>, count: usize, rng: &mut ChaCha8Rng) -> Self {
        let start = widen(&narrow::<T>(&normal_mat(a.ncols(), count, rng)));
        let target = case.image(a, &normal_mat(a.ncols(), count, rng));
        let observed_out = Some(narrow(&case.image(a, &start)));
        Self { observed_in: narrow(&start), observed_out, target: narrow(&target) }
    }

    /// A batch with random targets.
    fn random(case: &Case, a: &Mat<f64>, count: usize, rng: &mut ChaCha8Rng) -> Self {
        Self { target: normal_mat(a.nrows(), count, rng), ..Self::attainable(case, a, count, rng) }
    }

    fn solve(&self, plan: &ConvSolvePlan<T>, par: Par) -> Result<(Mat<T>, SolveReport), LinalgError> {
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

    /// `y - (A v0 + b)` and `v - v0`.
    fn corrections(&self, case: &Case, a: &Mat<f64>, solution: &Mat<T>) -> (Mat<f64>, Mat<f64>) {
        let start = widen(&self.observed_in);
        let image = self.observed_out.as_ref().map_or_else(|| case.image(a, &start), widen);
        (widen(&self.target) - image, widen(solution) - start)
    }
}

fn widen<T: Real>(a: &Mat<T>) -> Mat<f64> {
    Mat::from_fn(a.nrows(), a.ncols(), |i, j| a[(i, j)].to_f64())
}

fn narrow<T: Real>(a: &Mat<f64>) -> Mat<T> {
    Mat::from_fn(a.nrows(), a.ncols(), |i, j| T::from_f64(a[(i, j)]))
}

/// Singular value decomposition of an operator.
struct Oracle {
    u: Mat<f64>,
    sigma: Vec<f64>,
    v: Mat<f64>,
}

impl Oracle {
    fn new(a: &Mat<f64>) -> Self {
        let svd = a.thin_svd().unwrap();
        let sigma = svd.S().column_vector().iter().copied().collect();
        Self { u: svd.U().to_owned(), sigma, v: svd.V().to_owned() }
    }

    fn rank(&self) -> usize {
        self.sigma.iter().take_while(|s| **s > 1e-10 * self.sigma[0]).count()
    }

    fn condition(&self) -> f64 {
        let rank = self.rank();
        if rank == 0 { 1.0 } else { self.sigma[0] / self.sigma[rank - 1] }
    }

    /// `Σ f(σ) v uᵀ r`.
    fn apply(&self, r: &Mat<f64>, f: impl Fn(f64) -> f64) -> Mat<f64> {
        let coords = self.u.transpose() * r;
        let scaled = Mat::from_fn(coords.nrows(), coords.ncols(), |k, j| coords[(k, j)] * f(self.sigma[k]));
        &self.v * scaled
    }

    /// The nearest least-squares correction.
    fn nearest(&self, r: &Mat<f64>) -> Mat<f64> {
        let smallest = 1e-10 * self.sigma.first().copied().unwrap_or(0.0);
        self.apply(r, |s| if s > smallest { 1.0 / s } else { 0.0 })
    }
}

/// Kernel `U diag(logspace(0, -log10 κ)) Vᵀ`.
fn kernel(co: usize, cols: usize, condition: f64, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let rank = co.min(cols);
    let u = normal_mat::<f64>(co, rank, rng).qr().compute_thin_Q();
    let v = normal_mat::<f64>(cols, rank, rng).qr().compute_thin_Q();
    let sigma = |k: usize| condition.powf(-(k as f64) / (rank.max(2) - 1) as f64);
    let w = Mat::from_fn(co, rank, |i, k| u[(i, k)] * sigma(k)) * v.transpose();
    (0..co * cols).map(|at| w[(at / cols, at % cols)]).collect()
}
