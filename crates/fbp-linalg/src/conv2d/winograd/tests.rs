use faer::Par;
use faer::dyn_stack::{MemBuffer, MemStack};
use proptest::prelude::*;

use crate::conv2d::naive::NaiveConv2d;
use crate::conv2d::tests::{Calls, archs, check_with_slack, data};
use crate::conv2d::{Conv2d, Conv2dGeometry, Conv2dParams, ConvForward};
use crate::testkit::{AdjointPair, Tol, adjoint_test, normal_vec, rng};
use crate::{FeatureShape, Real};

/// By what rounding of the transforms can exceed that of plain sums: `|Aᵀ|² |Bᵀ|² |G|²` in the norm of row sums, of the largest
/// entries instead of their sums over a kernel, which normal numbers stay below by a factor of nine at most.
const SLACK: usize = 54 * 26 * 3 * 9;

fn square(channels: [usize; 2], size: usize) -> Conv2dGeometry {
    let input = FeatureShape::image(channels[0], size, size);
    Conv2dParams::new(input, channels[1], [3, 3]).padding([1, 1]).check().unwrap()
}

fn params() -> impl Strategy<Value = Conv2dParams> {
    let channels = || prop_oneof![4 => 1..=20_usize, 1 => 60..=70_usize];
    let size = || prop_oneof![4 => 1..=10_usize, 1 => 17..=22_usize];
    ([channels(), channels()], [size(), size()], [0..=2_usize, 0..=2]).prop_map(|([ci, co], [h, w], padding)| {
        Conv2dParams::new(FeatureShape::image(ci, h, w), co, [3, 3]).padding(padding)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_geometries_agree_with_the_oracle(params in params(), batch in 0..4_usize, seed: u64) {
        let Ok(g) = params.check() else { return Ok(()) };
        for arch in archs() {
            let conv = || Conv2d::with_few_products(g).on(arch);
            check_with_slack(&Calls::<f64>::of(conv(), Par::Seq), batch, SLACK, &mut rng(seed));
            check_with_slack(&Calls::<f32>::of(conv(), Par::rayon(3)), batch, SLACK, &mut rng(seed));
        }
    }

    #[test]
    fn results_are_the_same_bits_on_any_number_of_threads(params in params(), batch in 1..20_usize, seed: u64) {
        let Ok(g) = params.check() else { return Ok(()) };
        let d = data::<f32>(&g, batch, &mut rng(seed));
        let seq = Calls::<f32>::of(Conv2d::with_few_products(g), Par::Seq);
        for threads in [2, 3, 9] {
            let par = Calls::<f32>::of(Conv2d::with_few_products(g), Par::rayon(threads));
            prop_assert_eq!(seq.forward(&d.input, &d.weight, None), par.forward(&d.input, &d.weight, None));
            prop_assert_eq!(seq.adjoint(&d.cotangent, &d.weight), par.adjoint(&d.cotangent, &d.weight));
            prop_assert_eq!(seq.weight_grad(&d.input, &d.cotangent), par.weight_grad(&d.input, &d.cotangent));
        }
        // And those of every sample alone.
        let first = seq.forward(&d.input[..g.in_len()], &d.weight, None);
        prop_assert_eq!(&first, &seq.forward(&d.input, &d.weight, None)[..g.out_len()]);
    }

    #[test]
    fn the_adjoint_is_that_of_the_forward_pass(params in params(), seed: u64) {
        let Ok(g) = params.check() else { return Ok(()) };
        let (calls, rng) = (Calls::<f64>::of(Conv2d::with_few_products(g), Par::Seq), &mut rng(seed));
        let weight = normal_vec::<f64>(g.weight_len(), rng);
        let [co, ci, kh, kw] = g.weight_shape();
        let pair = AdjointPair {
            in_len: g.in_len(),
            out_len: g.out_len(),
            apply: |x: &[f64], y: &mut [f64]| y.copy_from_slice(&calls.forward(x, &weight, None)),
            adjoint: |y: &[f64], x: &mut [f64]| x.copy_from_slice(&calls.adjoint(y, &weight)),
        };
        adjoint_test(pair, Tol::eps::<f64>().times(SLACK * co.max(ci) * kh * kw), rng);
    }
}

/// 4.7 MB of packed weights are shared by the threads, 0.6 MB are packed by each; also in the memory of a larger batch.
#[test]
fn weights_of_every_size_are_packed_for_all_threads() {
    for channels in [[256, 128], [64, 64]] {
        let (g, par) = (square(channels, 5), Par::rayon(3));
        let (d, conv) = (data::<f32>(&g, 5, &mut rng(1)), Conv2d::with_few_products(g));
        let expected = Calls::<f32>::of(conv.clone(), Par::Seq).forward(&d.input, &d.weight, None);
        let mut memory = MemBuffer::new(conv.forward_scratch::<f32>(9, par));
        for batch in [5, 1] {
            let (input, weight) = (&d.input[..batch * g.in_len()], &d.weight[..]);
            let mut output = vec![f32::NAN; batch * g.out_len()];
            let args = ConvForward { input, weight, bias: None, output: &mut output };
            conv.forward(args, par, MemStack::new(&mut memory)).unwrap();
            assert_eq!(output, expected[..output.len()], "{channels:?}, {batch} samples");
        }
    }
}

/// Root of the mean square error of all three results over that of the results.
fn relative_errors(g: Conv2dGeometry, batch: usize) -> [f64; 3] {
    let (calls, oracle) = (Calls::<f32>::of(Conv2d::with_few_products(g), Par::Seq), NaiveConv2d::new(g));
    let d = data::<f32>(&g, batch, &mut rng(3));
    let error = |found: &[f32], exact: &[f64]| {
        let wrong: f64 = found.iter().zip(exact).map(|(a, b)| (a.to_f64() - b) * (a.to_f64() - b)).sum();
        (wrong / exact.iter().map(|b| b * b).sum::<f64>()).sqrt()
    };
    [
        error(&calls.forward(&d.input, &d.weight, None), &oracle.forward(&d.input, &d.weight, None)),
        error(&calls.adjoint(&d.cotangent, &d.weight), &oracle.adjoint(&d.cotangent, &d.weight)),
        error(&calls.weight_grad(&d.input, &d.cotangent).0, &oracle.weight_grad(&d.input, &d.cotangent).0),
    ]
}

#[test]
fn single_precision_rounds_as_documented() {
    for (channels, size, batch) in [([64, 64], 16, 1), ([128, 96], 8, 2), ([256, 256], 4, 2)] {
        for error in relative_errors(square(channels, size), batch) {
            assert!(error < 2e-6, "{channels:?} {size}: {error:.1e}");
        }
    }
}

#[test]
fn few_products_are_taken_where_they_pay() {
    let taken = |g| Conv2d::for_networks(g).takes_few_products();
    // The layers of a ResNet-18 for images of 32 pixels, and of one for small images.
    for (channels, size) in [(64, 32), (128, 16), (256, 8), (512, 4)] {
        assert_eq!(taken(square([channels, channels], size)), [true; 3], "{channels} channels");
    }
    assert_eq!(taken(square([32, 32], 14)), [true; 3]);
    for (channels, size) in [(16, 28), (3, 224)] {
        assert_eq!(taken(square([channels, channels], size)), [false; 3], "{channels} channels");
    }
    let other = |params: Conv2dParams| taken(params.check().unwrap());
    let wide = Conv2dParams::new(FeatureShape::image(128, 16, 16), 128, [3, 3]).padding([1, 1]);
    assert_eq!(other(wide.stride([2, 2])), [false; 3]);
    assert_eq!(other(wide.dilation([2, 2])), [false; 3]);
    assert_eq!(other(wide.groups(2)), [false; 3]);
    assert_eq!(other(wide.padding([3, 1])), [false; 3]);
    assert_eq!(other(Conv2dParams::new(FeatureShape::image(128, 16, 16), 128, [1, 1])), [false; 3]);
}
