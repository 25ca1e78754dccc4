//! Dense affine plans: building, and solving one batch, against a QR solve of faer's high-level interface per batch.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::solvers::SolveLstsq;
use faer::{Mat, Par};
use fbp_benches::random::{normal_mat, rng};
use fbp_linalg::SolveConfig;
use fbp_linalg::dense::{AffinePlan, AffineSolve};

/// Rows and columns: the heads of the small and the larger convolutional network, a convolution as a dense matrix, a
/// wide linear layer.
const SHAPES: [(usize, usize); 4] = [(10, 64), (64, 320), (192, 432), (512, 1024)];
const BATCH: usize = 256;

fn pars() -> [(&'static str, Par); 2] {
    [("seq", Par::Seq), ("rayon", Par::rayon(0))]
}

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dense/build");
    group.sample_size(10);
    let mut rng = rng(1);
    for (rows, cols) in SHAPES {
        let weight = normal_mat::<f32>(rows, cols, &mut rng);
        for (name, par) in pars() {
            group.bench_function(BenchmarkId::new(format!("{rows}x{cols}"), name), |bencher| {
                bencher.iter(|| AffinePlan::<f32>::new(weight.as_ref(), None, &SolveConfig::default(), par));
            });
        }
    }
    group.finish();
}

fn solve(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dense/solve");
    let mut rng = rng(2);
    for (rows, cols) in SHAPES {
        let weight = normal_mat::<f32>(rows, cols, &mut rng);
        let plan = AffinePlan::<f32>::new(weight.as_ref(), None, &SolveConfig::default(), Par::Seq);
        let plan = plan.expect("random weights are finite");
        let observed_in = normal_mat::<f32>(cols, BATCH, &mut rng);
        let observed_out = &weight * &observed_in;
        let target = normal_mat::<f32>(rows, BATCH, &mut rng);
        let mut solution = Mat::zeros(cols, BATCH);
        // Three products with A or a matrix of its size, twice R⁻ᵀ, and the residual of the report.
        let flop = 2 * BATCH * (4 * rows * cols + 2 * rows * rows);
        group.throughput(Throughput::Elements(flop as u64));
        for (name, par) in pars() {
            let mut memory = MemBuffer::new(plan.solve_scratch(BATCH, par));
            group.bench_function(BenchmarkId::new(format!("{rows}x{cols}"), name), |bencher| {
                bencher.iter(|| {
                    let pass = AffineSolve {
                        observed_in: observed_in.as_ref(),
                        observed_out: Some(observed_out.as_ref()),
                        target: target.as_ref(),
                        solution: solution.as_mut(),
                    };
                    plan.solve(pass, par, MemStack::new(&mut memory))
                });
            });
        }
    }
    group.finish();
}

/// What a caller without a plan would write: factorise `Aᵀ` for every batch and apply `Q R⁻ᵀ`.
fn rival(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dense/solve");
    let mut rng = rng(2);
    for (rows, cols) in SHAPES {
        let weight = normal_mat::<f32>(rows, cols, &mut rng);
        let observed_in = normal_mat::<f32>(cols, BATCH, &mut rng);
        let target = normal_mat::<f32>(rows, BATCH, &mut rng);
        group.bench_function(BenchmarkId::new(format!("{rows}x{cols}"), "faer-qr-per-batch"), |bencher| {
            bencher.iter(|| {
                let wanted = &target - &weight * &observed_in;
                let qr = weight.transpose().qr();
                let mut coords = wanted;
                qr.thin_R().transpose().solve_lower_triangular_in_place(coords.as_mut());
                black_box(&observed_in + qr.compute_thin_Q() * coords)
            });
        });
        // The over-determined direction, through the solver trait: one call, also one factorisation per batch.
        let tall = weight.transpose().to_owned();
        let outputs = normal_mat::<f32>(cols, BATCH, &mut rng);
        group.bench_function(BenchmarkId::new(format!("{cols}x{rows}"), "faer-qr-lstsq-per-batch"), |bencher| {
            bencher.iter(|| black_box(tall.qr().solve_lstsq(&outputs)));
        });
    }
    group.finish();
}

criterion_group!(benches, build, solve, rival);
criterion_main!(benches);
