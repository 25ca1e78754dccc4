use faer::Par;
use faer::dyn_stack::{MemBuffer, MemStack};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;

use super::naive::NaiveConv2d;
use super::{Conv2d, Conv2dGeometry, Conv2dParams, ConvAdjoint, ConvForward, ConvWeightGrad, Epilogue};
use crate::testkit::{AdjointPair, Tol, adjoint_test, normal_vec, rng};
use crate::{FeatureShape, LinalgError, Real, assert_close};

/// Geometries small enough for the oracle; some of them have no output. Channels per group reach what is vectorised along
/// channels, widths what needs several vectors per row.
fn params() -> impl Strategy<Value = Conv2dParams> {
    params_of(prop_oneof![4 => 1..=9_usize, 2 => 10..=20_usize, 1 => 33..=37_usize])
}

fn params_of(size: impl Strategy<Value = usize> + Clone) -> impl Strategy<Value = Conv2dParams> {
    let pair = |range: std::ops::RangeInclusive<usize>| [range.clone(), range];
    let channels = (1..=3_usize, 1..=5_usize, prop_oneof![3 => 1..=7_usize, 1 => 13..=19_usize]);
    (channels, [size.clone(), size], pair(1..=5), pair(1..=3), pair(0..=3), pair(1..=3)).prop_map(
        |((groups, ci, co), [h, w], kernel, stride, padding, dilation)| {
            Conv2dParams::new(FeatureShape::image(groups * ci, h, w), groups * co, kernel)
                .stride(stride)
                .padding(padding)
                .dilation(dilation)
                .groups(groups)
        },
    )
}

/// Every instruction set of this machine that the kernel can run on.
pub(super) fn archs() -> Vec<pulp::Arch> {
    let mut archs = vec![pulp::Arch::new()];
    #[cfg(target_arch = "x86_64")]
    {
        archs.push(pulp::Arch::Scalar);
        archs.extend(pulp::x86::V3::try_new().map(pulp::Arch::V3));
    }
    archs
}

/// Calls that start from dirty output and dirty scratch memory.
pub(super) struct Calls<T> {
    conv: Conv2d,
    par: Par,
    dirt: T,
}

impl<T: Real> Calls<T> {
    fn new(geometry: Conv2dGeometry, par: Par) -> Self {
        Self::on(pulp::Arch::new(), geometry, par)
    }

    fn on(arch: pulp::Arch, geometry: Conv2dGeometry, par: Par) -> Self {
        Self::of(Conv2d::new(geometry).on(arch), par)
    }

    pub(super) fn of(conv: Conv2d, par: Par) -> Self {
        Self { conv, par, dirt: T::from_f64(f64::NAN) }
    }

    fn memory(&self, req: faer::dyn_stack::StackReq) -> MemBuffer {
        // Every bit set is NaN in both formats.
        let mut memory = MemBuffer::new(req);
        drop(MemStack::new(&mut memory).make_with(req.size_bytes(), |_| u8::MAX));
        memory
    }

    pub(super) fn forward(&self, input: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
        let g = self.conv.geometry();
        let batch = input.len() / g.in_len();
        let mut output = vec![self.dirt; batch * g.out_len()];
        let mut memory = self.memory(self.conv.forward_scratch::<T>(batch, self.par));
        let args = ConvForward { input, weight, bias, output: &mut output };
        self.conv.forward(args, self.par, MemStack::new(&mut memory)).unwrap();
        output
    }

    fn forward_then(&self, input: &[T], weight: &[T], epilogue: Epilogue<'_, T>) -> Vec<T> {
        let g = self.conv.geometry();
        let batch = input.len() / g.in_len();
        let mut output = vec![self.dirt; batch * g.out_len()];
        let mut memory = self.memory(self.conv.forward_scratch::<T>(batch, self.par));
        let args = ConvForward { input, weight, bias: None, output: &mut output };
        self.conv.forward_then(args, epilogue, self.par, MemStack::new(&mut memory)).unwrap();
        output
    }

    pub(super) fn adjoint(&self, cotangent: &[T], weight: &[T]) -> Vec<T> {
        let g = self.conv.geometry();
        let batch = cotangent.len() / g.out_len();
        let mut input_grad = vec![self.dirt; batch * g.in_len()];
        let mut memory = self.memory(self.conv.adjoint_scratch::<T>(batch, self.par));
        let args = ConvAdjoint { cotangent, weight, input_grad: &mut input_grad };
        self.conv.adjoint(args, self.par, MemStack::new(&mut memory)).unwrap();
        input_grad
    }

    pub(super) fn weight_grad(&self, input: &[T], cotangent: &[T]) -> (Vec<T>, Vec<T>) {
        let g = self.conv.geometry();
        let batch = input.len() / g.in_len();
        let mut weight_grad = vec![self.dirt; g.weight_len()];
        let mut bias_grad = vec![self.dirt; g.out_shape().channels];
        let mut memory = self.memory(self.conv.weight_grad_scratch::<T>(batch, self.par));
        let args = ConvWeightGrad { input, cotangent, weight_grad: &mut weight_grad, bias_grad: Some(&mut bias_grad) };
        self.conv.weight_grad(args, self.par, MemStack::new(&mut memory)).unwrap();
        (weight_grad, bias_grad)
    }
}

pub(super) struct Data<T> {
    pub(super) input: Vec<T>,
    pub(super) cotangent: Vec<T>,
    pub(super) weight: Vec<T>,
    bias: Vec<T>,
}

pub(super) fn data<T: Real>(g: &Conv2dGeometry, batch: usize, rng: &mut ChaCha8Rng) -> Data<T> {
    Data {
        input: normal_vec(batch * g.in_len(), rng),
        cotangent: normal_vec(batch * g.out_len(), rng),
        weight: normal_vec(g.weight_len(), rng),
        bias: normal_vec(g.out_shape().channels, rng),
    }
}

fn magnitudes<T: Real>(values: &[T]) -> Vec<T> {
    values.iter().map(|x| x.abs()).collect()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |m: f64, x| m.max(x.abs()))
}

/// All three results against the oracle, with the rounding bound `terms · eps · Σ |products|`.
fn check_against_oracle<T: Real>(calls: &Calls<T>, batch: usize, rng: &mut ChaCha8Rng) {
    check_with_slack(calls, batch, 1, rng);
}

/// The same with `slack` times the bound.
pub(super) fn check_with_slack<T: Real>(calls: &Calls<T>, batch: usize, slack: usize, rng: &mut ChaCha8Rng) {
    let g = *calls.conv.geometry();
    let (oracle, d) = (NaiveConv2d::new(g), data::<T>(&g, batch, rng));
    let (x, y, w) = (magnitudes(&d.input), magnitudes(&d.cotangent), magnitudes(&d.weight));
    let b = magnitudes(&d.bias);
    let [co, ci, kh, kw] = g.weight_shape();

    let tol = Tol::eps::<T>().times(slack * (ci * kh * kw + 1)).scale(largest(&oracle.forward(&x, &w, Some(&b))));
    let bias = Some(&d.bias[..]);
    assert_close!(calls.forward(&d.input, &d.weight, bias), oracle.forward(&d.input, &d.weight, bias), tol);
    assert_close!(calls.forward(&d.input, &d.weight, None), oracle.forward(&d.input, &d.weight, None), tol);

    let tol = Tol::eps::<T>().times(slack * (co / g.groups() * kh * kw)).scale(largest(&oracle.adjoint(&y, &w)));
    assert_close!(calls.adjoint(&d.cotangent, &d.weight), oracle.adjoint(&d.cotangent, &d.weight), tol);

    let (scale_w, scale_b) = oracle.weight_grad(&x, &y);
    let tol = Tol::eps::<T>().times(slack * batch * g.out_shape().plane());
    let (weight_grad, bias_grad) = calls.weight_grad(&d.input, &d.cotangent);
    let (expected_w, expected_b) = oracle.weight_grad(&d.input, &d.cotangent);
    assert_close!(weight_grad, expected_w, tol.scale(largest(&scale_w)));
    assert_close!(bias_grad, expected_b, tol.scale(largest(&scale_b)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_geometries_agree_with_the_oracle(
        params in params(), batch in prop_oneof![3 => 0..6_usize, 1 => 8..12_usize], seed: u64,
    ) {
        let Ok(g) = params.check() else { return Ok(()) };
        for arch in archs() {
            check_against_oracle(&Calls::<f64>::on(arch, g, Par::Seq), batch, &mut rng(seed));
            check_against_oracle(&Calls::<f32>::on(arch, g, Par::Seq), batch, &mut rng(seed));
        }
        check_against_oracle(&Calls::<f32>::new(g, Par::rayon(3)), batch, &mut rng(seed));
    }

    #[test]
    fn results_are_the_same_bits_on_any_number_of_threads(params in params(), batch in 1..40_usize, seed: u64) {
        let Ok(g) = params.check() else { return Ok(()) };
        let d = data::<f32>(&g, batch, &mut rng(seed));
        let seq = Calls::<f32>::new(g, Par::Seq);
        for threads in 2..=5 {
            let par = Calls::<f32>::new(g, Par::rayon(threads));
            prop_assert_eq!(seq.forward(&d.input, &d.weight, None), par.forward(&d.input, &d.weight, None));
            prop_assert_eq!(seq.adjoint(&d.cotangent, &d.weight), par.adjoint(&d.cotangent, &d.weight));
            prop_assert_eq!(seq.weight_grad(&d.input, &d.cotangent), par.weight_grad(&d.input, &d.cotangent));
        }
    }

    #[test]
    fn adjoint_and_dense_matrix_are_those_of_the_kernel(params in params_of(1..=9_usize), seed: u64) {
        let Ok(g) = params.check() else { return Ok(()) };
        let (calls, rng) = (Calls::<f64>::new(g, Par::Seq), &mut rng(seed));
        let weight = normal_vec::<f64>(g.weight_len(), rng);
        let [co, ci, kh, kw] = g.weight_shape();
        let pair = AdjointPair {
            in_len: g.in_len(),
            out_len: g.out_len(),
            apply: |x: &[f64], y: &mut [f64]| y.copy_from_slice(&calls.forward(x, &weight, None)),
            adjoint: |y: &[f64], x: &mut [f64]| x.copy_from_slice(&calls.adjoint(y, &weight)),
        };
        adjoint_test(pair, Tol::eps::<f64>().times(co.max(ci) * kh * kw), rng);

        let matrix = calls.conv.dense(&weight).unwrap();
        let units: Vec<f64> = (0..g.in_len() * g.in_len()).map(|i| f64::from(i % (g.in_len() + 1) == 0)).collect();
        let columns = calls.forward(&units, &weight, None);
        for (j, column) in columns.chunks_exact(g.out_len()).enumerate() {
            prop_assert_eq!(column, matrix.col_as_slice(j));
        }
    }
}

#[test]
fn layers_of_real_networks_agree_with_the_oracle() {
    let image = FeatureShape::image;
    for (params, batch) in [
        (Conv2dParams::new(image(1, 28, 28), 3, [5, 5]), 40),
        (Conv2dParams::new(image(3, 12, 12), 3, [5, 5]), 40),
        (Conv2dParams::new(image(10, 12, 12), 20, [5, 5]), 3),
        (Conv2dParams::new(image(3, 32, 32), 15, [5, 5]), 2),
        (Conv2dParams::new(image(15, 14, 14), 10, [3, 3]), 5),
        (Conv2dParams::new(image(64, 16, 16), 64, [3, 3]).padding([1, 1]), 2),
        (Conv2dParams::new(image(3, 64, 64), 32, [7, 7]).stride([2, 2]).padding([3, 3]), 1),
        (Conv2dParams::new(image(32, 17, 17), 48, [3, 3]).stride([2, 2]).padding([1, 1]), 3),
        (Conv2dParams::new(image(40, 20, 20), 40, [3, 3]).padding([1, 1]).groups(40), 3),
        (Conv2dParams::new(image(96, 5, 5), 80, [1, 1]), 9),
        (Conv2dParams::new(image(40, 4, 4), 40, [3, 3]).padding([1, 1]).stride([2, 2]).groups(40), 70),
        (Conv2dParams::new(image(60, 1, 1), 60, [3, 3]).padding([1, 1]).groups(60), 33),
        (Conv2dParams::new(image(48, 1, 1), 192, [3, 3]).padding([1, 1]), 20),
        (Conv2dParams::new(image(150, 4, 4), 200, [3, 3]).padding([1, 1]), 7),
        (Conv2dParams::new(image(48, 4, 4), 10, [4, 4]), 20),
    ] {
        let g = params.check().unwrap();
        for par in [Par::Seq, Par::rayon(2)] {
            check_against_oracle(&Calls::<f32>::new(g, par), batch, &mut rng(0));
        }
        check_against_oracle(&Calls::<f64>::new(g, Par::Seq), batch, &mut rng(1));
    }
}

#[test]
fn an_epilogue_is_one_more_pass_over_the_outputs() {
    let image = FeatureShape::image;
    for (params, batch) in [
        (Conv2dParams::new(image(3, 12, 12), 8, [5, 5]), 40),
        (Conv2dParams::new(image(64, 9, 9), 64, [3, 3]).padding([1, 1]), 5),
        (Conv2dParams::new(image(64, 17, 9), 40, [3, 3]).padding([1, 1]), 7),
        (Conv2dParams::new(image(60, 1, 1), 60, [3, 3]).padding([1, 1]).groups(60), 33),
        (Conv2dParams::new(image(48, 1, 1), 192, [3, 3]).padding([1, 1]), 20),
        (Conv2dParams::new(image(16, 20, 20), 40, [3, 3]).padding([1, 1]).stride([2, 2]), 3),
    ] {
        let g = params.check().unwrap();
        let fast =
            (g.stride() == [1, 1] && g.groups() == 1 && g.kernel() == [3, 3]).then(|| Conv2d::with_few_products(g));
        for conv in [Conv2d::new(g)].into_iter().chain(fast) {
            for par in [Par::Seq, Par::rayon(3)] {
                let (calls, d) = (Calls::<f32>::of(conv.clone(), par), data::<f32>(&g, batch, &mut rng(2)));
                let plain = calls.forward(&d.input, &d.weight, None);
                let (lower, upper) = (-0.5, f32::INFINITY);
                for addend in [None, Some(&d.cotangent[..])] {
                    let expected: Vec<f32> = plain
                        .iter()
                        .enumerate()
                        .map(|(i, y)| (y + addend.map_or(0.0, |addend| addend[i])).clamp(lower, upper))
                        .collect();
                    assert_eq!(calls.forward_then(&d.input, &d.weight, Epilogue { addend, lower, upper }), expected);
                }
            }
        }
    }
    let conv = Conv2d::new(Conv2dParams::new(image(1, 2, 2), 1, [1, 1]).check().unwrap());
    let args = ConvForward { input: &[0.0; 4], weight: &[1.0], bias: None, output: &mut [0.0; 4] };
    let epilogue = Epilogue { addend: Some(&[0.0; 3]), lower: 0.0, upper: 1.0 };
    let mut memory = MemBuffer::new(conv.forward_scratch::<f64>(1, Par::Seq));
    assert!(conv.forward_then(args, epilogue, Par::Seq, MemStack::new(&mut memory)).is_err());
}

#[test]
fn wrong_lengths_are_typed_errors() {
    let g = Conv2dParams::new(FeatureShape::image(2, 4, 5), 3, [2, 2]).check().unwrap();
    let conv = Conv2d::new(g);
    let zeros = |len: usize| vec![0.0_f32; len];
    let (x, y, w) = (zeros(2 * g.in_len()), zeros(2 * g.out_len()), zeros(g.weight_len()));
    let mut memory = MemBuffer::new(conv.weight_grad_scratch::<f32>(2, Par::Seq));
    let stack = MemStack::new(&mut memory);
    let length = |result: Result<(), LinalgError>| match result {
        Err(LinalgError::Length { what, expected, found }) => (what, expected, found),
        other => panic!("{other:?}"),
    };

    let mut forward = |input: &[f32], weight: &[f32], bias: &[f32], out: usize| {
        let args = ConvForward { input, weight, bias: Some(bias), output: &mut zeros(out) };
        length(conv.forward(args, Par::Seq, stack))
    };
    assert_eq!(forward(&x[1..], &w, &[0.0; 3], y.len()), ("conv2d: input", 80, 79));
    assert_eq!(forward(&x, &w[1..], &[0.0; 3], y.len()), ("conv2d: weight", 24, 23));
    assert_eq!(forward(&x, &w, &[0.0; 2], y.len()), ("conv2d: bias", 3, 2));
    assert_eq!(forward(&x, &w, &[0.0; 3], y.len() - 1), ("conv2d: output", 72, 71));

    let mut adjoint = |cotangent: &[f32], weight: &[f32], grad: usize| {
        length(conv.adjoint(ConvAdjoint { cotangent, weight, input_grad: &mut zeros(grad) }, Par::Seq, stack))
    };
    assert_eq!(adjoint(&y[1..], &w, x.len()), ("conv2d: cotangent", 72, 71));
    assert_eq!(adjoint(&y, &w[1..], x.len()), ("conv2d: weight", 24, 23));
    assert_eq!(adjoint(&y, &w, x.len() + 1), ("conv2d: input gradient", 80, 81));

    let mut weight_grad = |input: &[f32], cotangent: &[f32], weights: usize, biases: usize| {
        let (weight_grad, bias_grad) = (&mut zeros(weights)[..], Some(&mut zeros(biases)[..]));
        let args = ConvWeightGrad { input, cotangent, weight_grad, bias_grad };
        length(conv.weight_grad(args, Par::Seq, stack))
    };
    assert_eq!(weight_grad(&x[1..], &y, 24, 3), ("conv2d: input", 80, 79));
    assert_eq!(weight_grad(&x, &y[1..], 24, 3), ("conv2d: cotangent", 72, 71));
    assert_eq!(weight_grad(&x, &y, 25, 3), ("conv2d: weight gradient", 24, 25));
    assert_eq!(weight_grad(&x, &y, 24, 4), ("conv2d: bias gradient", 3, 4));
}

#[test]
fn degenerate_geometries_are_typed_errors() {
    let image = FeatureShape::image;
    let good = Conv2dParams::new(image(4, 6, 7), 8, [3, 3]);
    assert!(good.check().is_ok());
    let huge = usize::MAX;
    for (params, part) in [
        (Conv2dParams::new(image(0, 6, 7), 8, [3, 3]), "input channels is 0"),
        (Conv2dParams::new(image(4, 0, 7), 8, [3, 3]), "input height is 0"),
        (Conv2dParams::new(image(4, 6, 0), 8, [3, 3]), "input width is 0"),
        (Conv2dParams::new(image(4, 6, 7), 0, [3, 3]), "output channels is 0"),
        (Conv2dParams::new(image(4, 6, 7), 8, [0, 3]), "kernel height is 0"),
        (Conv2dParams::new(image(4, 6, 7), 8, [3, 0]), "kernel width is 0"),
        (Conv2dParams::new(image(4, 6, 7), 8, [7, 3]), "kernel height 7 (with dilation) exceeds padded input height 6"),
        (Conv2dParams::new(image(4, 6, 7), 8, [3, huge]), "exceeds padded input width 7"),
        (Conv2dParams::new(image(4, huge, 7), 8, [3, 3]), "address space"),
        (Conv2dParams::new(image(huge / 8, 6, 7), 8, [3, 3]), "address space"),
        (Conv2dParams::new(image(4, 6, 7), huge / 8, [3, 3]), "address space"),
        (good.stride([0, 1]), "vertical stride is 0"),
        (good.stride([1, 0]), "horizontal stride is 0"),
        (good.stride([1, huge]), "address space"),
        (good.dilation([0, 1]), "vertical dilation is 0"),
        (good.dilation([1, 0]), "horizontal dilation is 0"),
        (good.dilation([1, 4]), "kernel width 9 (with dilation) exceeds padded input width 7"),
        (good.dilation([huge, 1]), "overflows"),
        (good.padding([0, huge]), "overflows"),
        (good.padding([0, huge / 8]), "address space"),
        (good.groups(0), "number of groups is 0"),
        (good.groups(3), "4 input channels do not divide into 3 groups"),
        (Conv2dParams::new(image(6, 6, 7), 8, [3, 3]).groups(3), "8 output channels do not divide into 3 groups"),
    ] {
        match params.check() {
            Err(LinalgError::Geometry { what: "conv2d", reason }) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{params:?}: {other:?}"),
        }
    }
}

#[test]
fn a_kernel_as_large_as_the_padded_image_has_one_output() {
    let params = Conv2dParams::new(FeatureShape::image(2, 3, 4), 2, [5, 4]).padding([1, 0]);
    assert_eq!(params.check().unwrap().out_shape(), FeatureShape::image(2, 1, 1));
}

#[test]
fn scratch_for_a_batch_is_enough_for_smaller_ones() {
    let padded = |channels, size, outputs| {
        let params = Conv2dParams::new(FeatureShape::image(channels, size, size), outputs, [3, 3]);
        params.padding([1, 1]).check().unwrap()
    };
    for conv in [
        Conv2d::new(Conv2dParams::new(FeatureShape::image(1, 28, 28), 3, [5, 5]).check().unwrap()),
        Conv2d::new(padded(8, 9, 16)),
        // Of samples side by side, and with packed weights below and above what every thread packs for itself.
        Conv2d::new(padded(16, 3, 16)),
        Conv2d::with_few_products(padded(64, 9, 64)),
        Conv2d::with_few_products(padded(256, 5, 128)),
    ] {
        for par in (1..=8).map(Par::rayon).chain([Par::Seq]) {
            let sizes = |batch: usize| {
                [conv.forward_scratch::<f32>(batch, par), conv.adjoint_scratch::<f32>(batch, par)]
                    .map(|req| req.size_bytes())
                    .into_iter()
                    .chain([conv.weight_grad_scratch::<f32>(batch, par).size_bytes()])
            };
            for batch in 0..40 {
                assert!(sizes(batch).zip(sizes(batch + 1)).all(|(small, large)| small <= large), "{par:?} {batch}");
            }
        }
    }
}

#[test]
fn strides_and_paddings_beyond_the_image_are_no_burden() {
    let params = Conv2dParams::new(FeatureShape::image(2, 3, 4), 2, [3, 2]);
    for params in [params.stride([1 << 20, 1 << 22]), params.padding([40, 50]).stride([3, 7]).dilation([20, 30])] {
        check_against_oracle(&Calls::<f64>::new(params.check().unwrap(), Par::Seq), 3, &mut rng(0));
    }
}

#[test]
fn kernel_objects_are_shared_between_threads() {
    fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Conv2d>();
    assert_send_sync::<Conv2dGeometry>();
}
