//! Reverse passes of elementwise layers and pooling against their forward passes and, for GELU, against bisection.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop at the first error")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_benches::random::{normal_mat, rng};
use fbp_benches::{pars, settings};
use fbp_inverse::{
    Activation, ActivationReverse, AvgPoolReverse, Interval, MaxPoolReverse, PoolWindow, ReverseOperator, ReversePass,
    SoftmaxReverse, TargetBox, TargetBoxMut,
};
use fbp_linalg::FeatureShape;

const BATCH: usize = 256;

fn operators() -> Vec<Box<dyn ReverseOperator<f32>>> {
    let shape = FeatureShape::image(10, 24, 24);
    let activation = |activation: Activation| {
        let name = format!("{activation:?}").to_lowercase();
        Box::new(ActivationReverse::new(name, activation, shape).unwrap()) as Box<dyn ReverseOperator<f32>>
    };
    vec![
        activation(Activation::Relu),
        activation(Activation::Tanh),
        activation(Activation::Gelu),
        activation(Activation::Silu),
        Box::new(MaxPoolReverse::new("max-pool-2", shape, PoolWindow::disjoint(2, 2)).unwrap()),
        Box::new(AvgPoolReverse::new("avg-pool-2", shape, PoolWindow::disjoint(2, 2)).unwrap()),
        Box::new(SoftmaxReverse::new("softmax-10", FeatureShape::vector(10))),
    ]
}

/// A layer with a batch to run it on, forwards and backwards.
struct Case {
    operator: Box<dyn ReverseOperator<f32>>,
    input: Mat<f32>,
    output: Mat<f32>,
    wanted: Mat<f32>,
    /// Point, lower and upper end of the result.
    found: [Mat<f32>; 3],
}

impl Case {
    /// The layer at `input`, with what it makes of `other` as the wanted output.
    fn new(operator: Box<dyn ReverseOperator<f32>>, input: Mat<f32>, other: &Mat<f32>) -> Self {
        let batch = input.ncols();
        let forward = |input: &Mat<f32>| {
            let mut output = Mat::zeros(operator.out_shape().len(), batch);
            let mut memory = MemBuffer::new(operator.forward_scratch(batch, Par::Seq));
            operator.forward(input.as_ref(), output.as_mut(), Par::Seq, MemStack::new(&mut memory)).unwrap();
            output
        };
        let (output, wanted) = (forward(&input), forward(other));
        let found = [input.clone(), input.clone(), input.clone()];
        Self { operator, input, output, wanted, found }
    }

    fn reverse(&mut self, par: Par, memory: &mut MemBuffer) {
        let [point, lower, upper] = &mut self.found;
        let pass = ReversePass {
            observed_in: self.input.as_ref(),
            observed_out: self.output.as_ref(),
            target_out: TargetBox::point(self.wanted.as_ref()),
            in_range: Interval::EVERYTHING,
            target_in: TargetBoxMut { point: point.as_mut(), lower: lower.as_mut(), upper: upper.as_mut() },
        };
        self.operator.reverse(pass, par, MemStack::new(memory)).unwrap();
    }

    fn forward(&mut self, par: Par, memory: &mut MemBuffer) {
        self.operator.forward(self.input.as_ref(), self.output.as_mut(), par, MemStack::new(memory)).unwrap();
    }

    fn memory(&self, par: Par) -> MemBuffer {
        let batch = self.input.ncols();
        MemBuffer::new(self.operator.forward_scratch(batch, par).or(self.operator.reverse_scratch(batch, par)))
    }
}

fn layers(criterion: &mut Criterion) {
    let mut rng = rng(5);
    for operator in operators() {
        let len = operator.in_shape().len();
        let (input, other) = (normal_mat(len, BATCH, &mut rng), normal_mat(len, BATCH, &mut rng));
        let name = operator.name().to_owned();
        let mut case = Case::new(operator, input, &other);
        for (direction, backwards) in [("forward", false), ("reverse", true)] {
            let mut group = criterion.benchmark_group(format!("reverse_layers/{direction}"));
            group.throughput(Throughput::Elements((len * BATCH) as u64));
            for (threads, par) in pars() {
                let mut memory = case.memory(par);
                group.bench_function(BenchmarkId::new(&name, threads), |bencher| {
                    bencher.iter(|| {
                        if backwards { case.reverse(par, &mut memory) } else { case.forward(par, &mut memory) }
                    });
                });
            }
            group.finish();
        }
    }
}

/// The right branch of GELU against halving an interval: what one writes without a good start for Newton's method.
fn bisection(criterion: &mut Criterion) {
    let gelu = |x: f32| 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2));
    let count = 1 << 16;
    let observed = Mat::from_fn(count, 1, |i, _| 2.0 + (i as f32 * 0.11).cos());
    let other = Mat::from_fn(count, 1, |i, _| 3.0 * ((i as f32 * 0.37).sin() + 0.8));
    let operator = ActivationReverse::new("gelu", Activation::Gelu, FeatureShape::vector(count)).unwrap();
    let mut case = Case::new(Box::new(operator), observed, &other);
    let wanted = case.wanted.clone();
    let mut found = vec![0.0_f32; count];
    let mut group = criterion.benchmark_group("reverse_layers/gelu-right-branch");
    group.throughput(Throughput::Elements(count as u64)).sample_size(10);
    let mut memory = case.memory(Par::Seq);
    group.bench_function("seq", |bencher| bencher.iter(|| case.reverse(Par::Seq, &mut memory)));
    group.bench_function("bisection", |bencher| {
        bencher.iter(|| {
            for (found, &wanted) in found.iter_mut().zip(wanted.col_as_slice(0)) {
                let (mut low, mut high) = (-0.751_791_5_f32, 16.0_f32);
                for _ in 0..26 {
                    let middle = 0.5 * (low + high);
                    if gelu(middle) < wanted { low = middle } else { high = middle }
                }
                *found = high;
            }
            black_box(&found);
        });
    });
    group.finish();
}

criterion_group!(name = benches; config = settings(); targets = layers, bisection);
criterion_main!(benches);
