//! Box-constrained nearest points: the plans of this project against Clarabel, an interior-point solver, one problem each.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop at the first error")]

use std::hint::black_box;

use clarabel::algebra::CscMatrix;
use clarabel::solver::{DefaultSettings, DefaultSolver, IPSolver, SupportedConeT};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, MatRef};
use fbp_benches::random::{normal_mat, rng};
use fbp_benches::{pars, settings};
use fbp_linalg::conv2d::{Conv2d, Conv2dParams};
use fbp_linalg::{BoxedPass, BoxedPlan, FeatureShape, Real};

/// Problems that share a matrix: rows must rise to a value (every third), or stay below one.
struct Problems<T> {
    start: Mat<T>,
    image: Mat<T>,
    lower: Mat<T>,
    upper: Mat<T>,
}

/// The systems of a classifier's head and of the second convolutions of the small and the larger network.
///
/// With each the number of problems that are solved.
fn systems() -> Vec<(&'static str, Mat<f64>, usize)> {
    let mut rng = rng(3);
    let conv = |channels: usize, out: usize, rng: &mut _| {
        let geometry = Conv2dParams::new(FeatureShape::image(channels, 12, 12), out, [5, 5]).check().unwrap();
        let kernel = normal_mat::<f64>(geometry.weight_len(), 1, rng);
        let scale = 1.0 / ((25 * channels) as f64).sqrt();
        let kernel: Vec<f64> = kernel.col_as_slice(0).iter().map(|v| v * scale).collect();
        Conv2d::new(geometry).dense(&kernel).unwrap()
    };
    vec![
        ("linear-48-10", normal_mat::<f64>(10, 48, &mut rng), 64),
        ("conv-3-3-k5-12x12", conv(3, 3, &mut rng), 16),
        ("conv-10-20-k5-12x12", conv(10, 20, &mut rng), 4),
    ]
}

impl<T: Real> Problems<T> {
    fn new(a: &Mat<f64>, batch: usize) -> Self {
        let mut rng = rng(4);
        let (rows, cols) = a.shape();
        let start = normal_mat::<f64>(cols, batch, &mut rng);
        let start = Mat::from_fn(cols, batch, |i, j| start[(i, j)].max(0.0));
        let goal = normal_mat::<f64>(cols, batch, &mut rng);
        let goal = Mat::from_fn(cols, batch, |i, j| (start[(i, j)] + 0.3 * goal[(i, j)]).max(0.0));
        let (image, reached) = (a * &start, a * &goal);
        let cast = |value: f64| T::from_f64(value);
        Self {
            start: Mat::from_fn(cols, batch, |i, j| cast(start[(i, j)])),
            image: Mat::from_fn(rows, batch, |i, j| cast(image[(i, j)])),
            lower: Mat::from_fn(
                rows,
                batch,
                |i, j| if i.is_multiple_of(3) { cast(reached[(i, j)]) } else { T::NEG_INFINITY },
            ),
            upper: Mat::from_fn(rows, batch, |i, j| {
                if i.is_multiple_of(3) { T::INFINITY } else { cast(reached[(i, j)].max(image[(i, j)]) + 0.1) }
            }),
        }
    }
}

fn ours<T: Real>(criterion: &mut Criterion, dtype: &str) {
    let mut group = criterion.benchmark_group(format!("boxed/{dtype}"));
    for (name, a, batch) in systems() {
        let problems = Problems::<T>::new(&a, batch);
        let plan = BoxedPlan::<T>::new(a.as_ref()).unwrap();
        let mut solution = Mat::zeros(a.ncols(), batch);
        group.throughput(Throughput::Elements(batch as u64));
        for (threads, par) in pars() {
            let mut memory = MemBuffer::new(plan.solve_scratch(batch, par));
            group.bench_function(BenchmarkId::new(name, threads), |bencher| {
                bencher.iter(|| {
                    let pass = BoxedPass {
                        observed_in: problems.start.as_ref(),
                        observed_out: problems.image.as_ref(),
                        lower: problems.lower.as_ref(),
                        upper: problems.upper.as_ref(),
                        bounds: (T::ZERO, T::INFINITY),
                        solution: solution.as_mut(),
                    };
                    plan.solve(pass, par, MemStack::new(&mut memory)).unwrap()
                });
            });
        }
    }
    group.finish();
}

/// `min ½|v - v0|²` with rows `≥ lower`, `<= upper` and `v >= 0` as cones of Clarabel.
fn rival_problem(a: MatRef<'_, f64>, problems: &Problems<f64>, sample: usize) -> DefaultSolver<f64> {
    let (rows, cols) = a.shape();
    let start = problems.start.col_as_slice(sample);
    let offset: Vec<f64> =
        (0..rows).map(|i| problems.image[(i, sample)] - (0..cols).map(|j| a[(i, j)] * start[j]).sum::<f64>()).collect();
    let hessian = CscMatrix::identity(cols);
    let linear: Vec<f64> = start.iter().map(|v| -v).collect();
    let (mut starts, mut indices, mut values) = (vec![0], Vec::new(), Vec::new());
    for j in 0..cols {
        for i in (0..rows).filter(|&i| a[(i, j)] != 0.0) {
            indices.push(i);
            values.push(if i.is_multiple_of(3) { -a[(i, j)] } else { a[(i, j)] });
        }
        indices.push(rows + j);
        values.push(-1.0);
        starts.push(indices.len());
    }
    let bound = |i: usize| {
        if i.is_multiple_of(3) {
            offset[i] - problems.lower[(i, sample)]
        } else {
            problems.upper[(i, sample)] - offset[i]
        }
    };
    let bounds: Vec<f64> = (0..rows).map(bound).chain(std::iter::repeat_n(0.0, cols)).collect();
    let constraints = CscMatrix::new(rows + cols, cols, starts, indices, values);
    let cones = [SupportedConeT::NonnegativeConeT(rows + cols)];
    let settings = DefaultSettings { verbose: false, ..DefaultSettings::default() };
    DefaultSolver::new(&hessian, &linear, &constraints, &bounds, &cones, settings).unwrap()
}

fn rival(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("boxed/f64");
    group.sample_size(10);
    for (name, a, batch) in systems() {
        let problems = Problems::<f64>::new(&a, batch);
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new(name, "clarabel"), |bencher| {
            bencher.iter(|| {
                for sample in 0..batch {
                    let mut solver = rival_problem(a.as_ref(), &problems, sample);
                    solver.solve();
                    black_box(solver.solution.obj_val);
                }
            });
        });
    }
    group.finish();
}

fn single(criterion: &mut Criterion) {
    ours::<f32>(criterion, "f32");
}

fn double(criterion: &mut Criterion) {
    ours::<f64>(criterion, "f64");
}

criterion_group!(name = benches; config = settings(); targets = single, double, rival);
criterion_main!(benches);
