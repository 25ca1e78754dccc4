//! One AdamW step of `simple-cnn-mnist-v2` on a batch of 256: this project's kernels against candle's own.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop at the first error")]

use std::hint::black_box;
use std::time::Duration;

use candle_core::{Device, Tensor, Var};
use candle_nn::optim::{Optimizer, ParamsAdamW};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fbp_models::ops::cross_entropy;
use fbp_models::{AdamW, AdamWParams, Network, zoo};

const BATCH: usize = 256;

/// Smooth pictures, different for every sample, and balanced labels.
fn data() -> (Tensor, Vec<u32>) {
    let pixel = |i: usize| ((i % 784) as f32 * 0.37 + (i / 784) as f32 * 1.3).sin();
    let images = (0..BATCH * 784).map(pixel).collect::<Vec<_>>();
    let labels = (0..BATCH as u32).map(|i| i % 10).collect();
    (Tensor::from_vec(images, (BATCH, 1, 28, 28), &Device::Cpu).unwrap(), labels)
}

/// The same network and weights on candle's operations alone.
struct Rival {
    vars: Vec<Var>,
}

impl Rival {
    fn new(network: &Network) -> Self {
        let stages = 0..network.stages().len();
        let copy = |var: Var| Var::from_tensor(&var.as_detached_tensor().copy().unwrap()).unwrap();
        Self { vars: network.vars_of(stages).unwrap().into_iter().map(copy).collect() }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let conv = |x: &Tensor, weight: &Var, bias: &Var| {
            let y = x.conv2d(weight, 0, 1, 1, 1).unwrap();
            let y = y.broadcast_add(&bias.reshape((1, (), 1, 1)).unwrap()).unwrap();
            y.relu().unwrap().max_pool2d(2).unwrap()
        };
        let x = conv(x, &self.vars[0], &self.vars[1]);
        let x = conv(&x, &self.vars[2], &self.vars[3]).flatten_from(1).unwrap();
        x.matmul(&self.vars[4].t().unwrap()).unwrap().broadcast_add(&self.vars[5]).unwrap()
    }
}

fn train_step(c: &mut Criterion) {
    let network = Network::new(&zoo::spec("simple-cnn-mnist-v2").unwrap(), 0).unwrap();
    let rival = Rival::new(&network);
    let (images, labels) = data();
    let target = Tensor::from_slice(&labels, BATCH, &Device::Cpu).unwrap();
    let vars = network.vars_of(0..network.stages().len()).unwrap();

    let mut group = c.benchmark_group("train_step/simple-cnn-mnist-v2/256");
    group.throughput(Throughput::Elements(BATCH as u64)).measurement_time(Duration::from_secs(5)).sample_size(20);
    group.bench_function("ours", |b| {
        let mut optimiser = AdamW::new(vars.clone(), AdamWParams::default()).unwrap();
        b.iter(|| {
            let loss = cross_entropy(&network.forward(black_box(&images)).unwrap(), &labels).unwrap();
            optimiser.backward_step(&loss).unwrap();
        });
    });
    group.bench_function("candle", |b| {
        let mut optimiser = candle_nn::AdamW::new(rival.vars.clone(), ParamsAdamW::default()).unwrap();
        b.iter(|| {
            let loss = candle_nn::loss::cross_entropy(&rival.forward(black_box(&images)), &target).unwrap();
            optimiser.backward_step(&loss).unwrap();
        });
    });
    group.finish();
}

fn inference(c: &mut Criterion) {
    let network = Network::new(&zoo::spec("simple-cnn-mnist-v2").unwrap(), 0).unwrap();
    let rival = Rival::new(&network);
    let (images, _) = data();
    let mut group = c.benchmark_group("inference/simple-cnn-mnist-v2/256");
    group.throughput(Throughput::Elements(BATCH as u64)).measurement_time(Duration::from_secs(5)).sample_size(20);
    group.bench_function("ours", |b| b.iter(|| network.infer(black_box(&images)).unwrap()));
    group.bench_function("candle", |b| b.iter(|| rival.forward(black_box(&images))));
    group.finish();
}

criterion_group!(benches, train_step, inference);
criterion_main!(benches);
