use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_linalg::conv2d::Conv2dParams;
use fbp_linalg::testkit::{for_seeds, normal_mat, normal_vec, rng, uniform_mat};
use fbp_linalg::{FeatureShape, Real};

use super::{Conv1dParams, Conv2dReverse, ConvTranspose2dParams};
use crate::testkit::{ReverseCheck, check_derivatives, check_reverse_operator};
use crate::{Interval, ReverseOperator, ReversePass, ReverseReport, TargetBox, TargetBoxMut};

/// Small layers of every kind, with the largest size for which a matrix is formed.
fn layers<T: Real>(limit: usize) -> Vec<Conv2dReverse<T>> {
    let image = FeatureShape::image;
    let conv = Conv2dParams::new;
    let plain = [
        ("expand", conv(image(1, 4, 3), 3, [2, 2])),
        ("shrink", conv(image(3, 3, 4), 2, [3, 3]).padding([1, 1])),
        ("depthwise", conv(image(3, 4, 4), 3, [3, 3]).padding([1, 1]).groups(3)),
        ("strided groups", conv(image(4, 5, 4), 2, [3, 2]).stride([2, 1]).padding([1, 0]).dilation([1, 2]).groups(2)),
    ];
    let line = Conv1dParams { stride: 2, padding: 1, ..Conv1dParams::new(2, 7, 3, 3) };
    let up = |shape, out, kernel| ConvTranspose2dParams::new(shape, out, kernel);
    let transposed = [
        ("up", up(image(2, 2, 3), 2, [3, 3]).stride([2, 2]).padding([1, 1]).output_padding([1, 0]).check()),
        ("up depthwise", up(image(2, 3, 3), 2, [2, 2]).stride([2, 1]).groups(2).check()),
        ("up line", Conv1dParams { stride: 2, ..Conv1dParams::new(2, 5, 1, 3) }.check_transposed()),
    ];
    let mut rng = rng(3);
    let mut layers = Vec::new();
    let plain = plain.map(|(name, params)| (name, params.check(), false));
    let lines = [("line", line.check(), false)];
    for (name, geometry, flipped) in plain.into_iter().chain(lines).chain(transposed.map(|(n, g)| (n, g, true))) {
        let geometry = geometry.unwrap();
        let channels = if flipped { geometry.in_shape().channels } else { geometry.out_shape().channels };
        let weight = normal_vec::<T>(geometry.weight_len(), &mut rng);
        let bias = normal_vec::<T>(channels, &mut rng);
        layers.push(Conv2dReverse::build(name, (geometry, flipped), (&weight, &bias), limit).unwrap());
    }
    layers
}

fn conform<T: Real>(limit: usize) {
    for layer in layers::<T>(limit) {
        // Boxes that hardly any point reaches leave 1e-10 of the outputs.
        let check = ReverseCheck::new().tolerance(if T::NAME == "f64" { 262_144.0 } else { 4096.0 });
        // In double precision what the iterations without a matrix leave may be a few roundings more than counts as
        // attained; the report then says so.
        let check = if T::NAME == "f64" && limit == 0 { check.may_miss() } else { check };
        check_reverse_operator(&layer, &check).unwrap_or_else(|error| panic!("{} {error}", T::NAME));
        check_derivatives(&layer, &check).unwrap_or_else(|error| panic!("{} {error}", T::NAME));
    }
}

#[test]
fn dense_layers_conform_f64() {
    conform::<f64>(fbp_linalg::BOXED_LIMIT);
}

#[test]
fn dense_layers_conform_f32() {
    conform::<f32>(fbp_linalg::BOXED_LIMIT);
}

#[test]
fn layers_without_a_matrix_conform_f64() {
    conform::<f64>(0);
}

#[test]
fn layers_without_a_matrix_conform_f32() {
    conform::<f32>(0);
}

/// A problem of a layer, and what the layer answers.
struct Run<T> {
    point: Mat<T>,
    report: ReverseReport,
}

fn forward<T: Real>(layer: &Conv2dReverse<T>, input: &Mat<T>) -> Mat<T> {
    let mut output = Mat::zeros(layer.out_shape().len(), input.ncols());
    let mut memory = MemBuffer::new(layer.forward_scratch(input.ncols(), Par::Seq));
    layer.forward(input.as_ref(), output.as_mut(), Par::Seq, MemStack::new(&mut memory)).unwrap();
    output
}

fn reverse<T: Real>(layer: &Conv2dReverse<T>, input: &Mat<T>, ends: (&Mat<T>, &Mat<T>), range: Interval<T>) -> Run<T> {
    let output = forward(layer, input);
    let wanted =
        Mat::from_fn(output.nrows(), output.ncols(), |i, j| output[(i, j)].clip(ends.0[(i, j)], ends.1[(i, j)]));
    let (mut point, mut lower, mut upper) = (input.clone(), input.clone(), input.clone());
    let pass = ReversePass {
        observed_in: input.as_ref(),
        observed_out: output.as_ref(),
        target_out: TargetBox { point: wanted.as_ref(), lower: ends.0.as_ref(), upper: ends.1.as_ref() },
        in_range: range,
        target_in: TargetBoxMut { point: point.as_mut(), lower: lower.as_mut(), upper: upper.as_mut() },
    };
    let mut memory = MemBuffer::new(layer.reverse_scratch(input.ncols(), Par::Seq));
    let report = layer.reverse(pass, Par::Seq, MemStack::new(&mut memory)).unwrap();
    Run { point, report }
}

/// Boxes as ReLU and pooling leave them: a third points, a third half-lines, a third intervals around an output that the
/// range can give.
fn boxes(reached: &Mat<f64>, coin: &Mat<f64>) -> (Mat<f64>, Mat<f64>) {
    let (rows, cols) = reached.shape();
    let size = reached.norm_max();
    let ends = |i: usize, j: usize| match (coin[(i, j)] * 3.0) as usize {
        0 => (reached[(i, j)], reached[(i, j)]),
        1 => (f64::NEG_INFINITY, reached[(i, j)]),
        _ => (reached[(i, j)] - 0.1 * size * coin[(i, j)], reached[(i, j)] + 0.05 * size),
    };
    (Mat::from_fn(rows, cols, |i, j| ends(i, j).0), Mat::from_fn(rows, cols, |i, j| ends(i, j).1))
}

#[test]
fn both_ways_give_the_same_points() {
    let geometries = [
        Conv2dParams::new(FeatureShape::image(4, 9, 8), 3, [3, 3]).padding([1, 1]),
        Conv2dParams::new(FeatureShape::image(3, 8, 9), 6, [3, 3]).stride([2, 2]).padding([1, 1]),
        Conv2dParams::new(FeatureShape::image(6, 7, 7), 6, [3, 3]).groups(6),
    ];
    for params in geometries {
        for_seeds(3, |rng| {
            let geometry = params.check().unwrap();
            let weight = normal_vec::<f64>(geometry.weight_len(), rng);
            for transposed in [false, true] {
                let channels = if transposed { geometry.in_shape() } else { geometry.out_shape() }.channels;
                let bias = normal_vec::<f64>(channels, rng);
                let build =
                    |limit| Conv2dReverse::build("conv", (geometry, transposed), (&weight, &bias), limit).unwrap();
                let (dense, free) = (build(fbp_linalg::BOXED_LIMIT), build(0));
                let relu = |x: Mat<f64>| Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)].max(0.0));
                let n = dense.in_shape().len();
                let (input, witness) = (relu(normal_mat(n, 3, rng)), relu(normal_mat(n, 3, rng)));
                let coin = uniform_mat::<f64>(dense.out_shape().len(), 3, 0.0, 1.0, rng);
                let (lower, upper) = boxes(&forward(&dense, &witness), &coin);
                let range = Interval::new(0.0, f64::INFINITY);
                let (a, b) =
                    (reverse(&dense, &input, (&lower, &upper), range), reverse(&free, &input, (&lower, &upper), range));
                // More points than inputs leave hardly any freedom. The multipliers are large, and so is their rounding in
                // the optimality conditions; and either way may end just short of the box, but says that it ran out of
                // steps.
                let is_tight = dense.out_shape().len() > n;
                let rounding = if is_tight { 64.0 * f64::EPSILON.sqrt() } else { f64::EPSILON.sqrt() };
                let is_short = |run: &Run<f64>, most: f64| {
                    let miss = run.report.violation_max / upper.norm_max();
                    is_tight && run.report.unattained > 0 && run.report.stopped_early && miss <= most
                };
                if is_short(&a, rounding) || is_short(&b, 1e-2) {
                    continue;
                }
                assert_eq!(a.report.unattained, 0, "{params:?} {transposed}: {:?}", a.report);
                assert_eq!(b.report.unattained, 0, "{params:?} {transposed}: {:?}", b.report);
                assert!(!b.report.stopped_early && b.report.kkt_max <= rounding, "{rounding:e}: {:?}", b.report);
                let gap = (&a.point - &b.point).norm_max() / a.point.norm_max();
                assert!(gap <= 8.0 * rounding, "{params:?} {transposed}: the points differ by {gap:e}");
            }
        });
    }
}

/// The optimality conditions at a size at which no other solver could answer, by direct evaluation.
#[test]
fn a_large_layer_meets_the_optimality_conditions() {
    for (channels, seed) in [(4, 1), (8, 2)] {
        let mut rng = rng(seed);
        let geometry = Conv2dParams::new(FeatureShape::image(8, 32, 32), channels, [5, 5]).padding([2, 2]);
        let geometry = geometry.check().unwrap();
        let weight: Vec<f32> = normal_vec::<f32>(geometry.weight_len(), &mut rng).iter().map(|w| w * 0.07).collect();
        let layer = Conv2dReverse::new("conv", geometry, &weight, &vec![0.05; channels]).unwrap();
        let relu = |x: Mat<f32>| Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)].max(0.0));
        let n = layer.in_shape().len();
        let (input, witness) = (relu(normal_mat(n, 1, &mut rng)), relu(normal_mat(n, 1, &mut rng)));
        let wide = |x: &Mat<f32>| Mat::from_fn(x.nrows(), x.ncols(), |i, j| f64::from(x[(i, j)]));
        let narrow = |x: &Mat<f64>| Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)] as f32);
        let coin = uniform_mat::<f64>(layer.out_shape().len(), 1, 0.0, 1.0, &mut rng);
        let (lower, upper) = boxes(&wide(&forward(&layer, &witness)), &coin);
        let clock = std::time::Instant::now();
        let run = reverse(&layer, &input, (&narrow(&lower), &narrow(&upper)), Interval::new(0.0, f32::INFINITY));
        println!("8 -> {channels}: {:?} {:?}", clock.elapsed(), run.report);
        assert_eq!(run.report.unattained, 0, "{:?}", run.report);
        assert!(!run.report.stopped_early && run.report.kkt_max <= 1e-5, "{:?}", run.report);
    }
}

#[test]
fn faulty_geometry_is_named() {
    let shape = FeatureShape::image(2, 3, 3);
    let params = ConvTranspose2dParams::new(shape, 2, [2, 2]);
    for (faulty, text) in [
        (params.stride([0, 1]), "at least 1"),
        (params.output_padding([1, 0]), "less than the stride"),
        (params.padding([2, 2]), "cuts off the whole"),
        (params.padding([usize::MAX, 0]), "overflows"),
        (params.groups(3), "groups"),
        (ConvTranspose2dParams::new(FeatureShape::image(2, 0, 3), 2, [2, 2]), "at least 1"),
    ] {
        let error = faulty.check().unwrap_err().to_string();
        assert!(error.contains(text), "{faulty:?}: {error}");
    }
    assert!(Conv1dParams::new(2, 3, 2, 4).check().is_err());
    assert!(Conv1dParams { output_padding: 1, stride: 2, ..Conv1dParams::new(2, 3, 2, 2) }.check().is_err());
}
