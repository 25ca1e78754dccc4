//! The conv2d kernel, forward and forward with all gradients, against candle's own convolution.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop at the first error")]

use std::hint::black_box;

use candle_core::{Device, Tensor, Var};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use faer::Par;
use faer::dyn_stack::{MemBuffer, MemStack};
use fbp_benches::random::{normal_vec, rng};
use fbp_benches::{ConvLayer, conv_layers, pars, settings};
use fbp_linalg::conv2d::{Conv2d, ConvAdjoint, ConvForward, ConvWeightGrad};

/// Inputs of one layer, and room for every result.
struct Data {
    input: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    cotangent: Vec<f32>,
    output: Vec<f32>,
    input_grad: Vec<f32>,
    weight_grad: Vec<f32>,
    bias_grad: Vec<f32>,
}

impl Data {
    fn new(layer: &ConvLayer) -> Self {
        let (g, batch, rng) = (&layer.geometry, layer.batch, &mut rng(1));
        Self {
            input: normal_vec(batch * g.in_len(), rng),
            weight: normal_vec(g.weight_len(), rng),
            bias: normal_vec(g.out_shape().channels, rng),
            cotangent: normal_vec(batch * g.out_len(), rng),
            output: vec![0.0; batch * g.out_len()],
            input_grad: vec![0.0; batch * g.in_len()],
            weight_grad: vec![0.0; g.weight_len()],
            bias_grad: vec![0.0; g.out_shape().channels],
        }
    }

    fn forward(&mut self, conv: &Conv2d, par: Par, stack: &mut MemStack) {
        let Self { input, weight, bias, output, .. } = self;
        conv.forward(ConvForward { input, weight, bias: Some(bias), output }, par, stack).unwrap();
    }

    fn backward(&mut self, conv: &Conv2d, par: Par, stack: &mut MemStack) {
        let Self { input, weight, cotangent, input_grad, weight_grad, bias_grad, .. } = self;
        conv.adjoint(ConvAdjoint { cotangent, weight, input_grad }, par, stack).unwrap();
        let bias_grad = Some(&mut bias_grad[..]);
        conv.weight_grad(ConvWeightGrad { input, cotangent, weight_grad, bias_grad }, par, stack).unwrap();
    }
}

/// The same layer in candle, which runs on all threads.
struct Rival {
    input: Var,
    weight: Var,
    bias: Var,
    cotangent: Tensor,
    stride: usize,
    padding: usize,
}

impl Rival {
    fn new(layer: &ConvLayer, data: &Data) -> Self {
        let (g, n) = (&layer.geometry, layer.batch);
        let (input, output) = (g.in_shape(), g.out_shape());
        let var = |values: &[f32], shape: &[usize]| Var::from_slice(values, shape, &Device::Cpu).unwrap();
        Self {
            input: var(&data.input, &[n, input.channels, input.height, input.width]),
            weight: var(&data.weight, &g.weight_shape()),
            bias: var(&data.bias, &[1, output.channels, 1, 1]),
            cotangent: var(&data.cotangent, &[n, output.channels, output.height, output.width]).as_detached_tensor(),
            stride: g.stride()[0],
            padding: g.padding()[0],
        }
    }

    fn forward(&self) -> Tensor {
        let y = self.input.conv2d(&self.weight, self.padding, self.stride, 1, 1).unwrap();
        y.broadcast_add(&self.bias).unwrap()
    }
}

fn forward(criterion: &mut Criterion) {
    for layer in conv_layers().unwrap() {
        let (conv, mut data) = (Conv2d::new(layer.geometry), Data::new(&layer));
        let mut group = criterion.benchmark_group(format!("conv2d/forward/{}", layer.name));
        group.throughput(Throughput::Elements(layer.geometry.flops(layer.batch)));
        for (name, par) in pars() {
            let mut memory = MemBuffer::new(conv.forward_scratch::<f32>(layer.batch, par));
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter(|| data.forward(&conv, par, MemStack::new(&mut memory)));
            });
        }
        let rival = Rival::new(&layer, &data);
        group.bench_function(BenchmarkId::from_parameter("candle"), |bencher| {
            bencher.iter(|| black_box(rival.forward()));
        });
        group.finish();
    }
}

fn forward_and_gradients(criterion: &mut Criterion) {
    for layer in conv_layers().unwrap() {
        let (conv, mut data) = (Conv2d::new(layer.geometry), Data::new(&layer));
        let mut group = criterion.benchmark_group(format!("conv2d/forward-and-gradients/{}", layer.name));
        group.throughput(Throughput::Elements(3 * layer.geometry.flops(layer.batch)));
        for (name, par) in pars() {
            let backward = conv.adjoint_scratch::<f32>(layer.batch, par);
            let backward = backward.or(conv.weight_grad_scratch::<f32>(layer.batch, par));
            let mut memory = MemBuffer::new(backward.or(conv.forward_scratch::<f32>(layer.batch, par)));
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter(|| {
                    data.forward(&conv, par, MemStack::new(&mut memory));
                    data.backward(&conv, par, MemStack::new(&mut memory));
                });
            });
        }
        let rival = Rival::new(&layer, &data);
        group.bench_function(BenchmarkId::from_parameter("candle"), |bencher| {
            bencher.iter(|| {
                let loss = (rival.forward() * &rival.cotangent).unwrap().sum_all().unwrap();
                black_box(loss.backward().unwrap())
            });
        });
        group.finish();
    }
}

/// Building the kernel object, which happens once per layer.
fn build(criterion: &mut Criterion) {
    for layer in conv_layers().unwrap() {
        criterion.bench_function(&format!("conv2d/build/{}", layer.name), |bencher| {
            bencher.iter(|| black_box(Conv2d::new(layer.geometry)));
        });
    }
}

criterion_group!(name = benches; config = settings(); targets = forward, forward_and_gradients, build);
criterion_main!(benches);
