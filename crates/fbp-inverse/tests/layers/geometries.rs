//! Random geometries, faulty ones among them, against plain loops and dense oracles in double precision.

use faer::Mat;
use fbp_inverse::testkit::{ReverseCheck, check_derivatives, check_reverse_operator};
use fbp_inverse::{
    AvgDivisor, AvgPoolReverse, Conv1dParams, Conv2dReverse, ConvTranspose2dParams, Interval, InverseError,
    MaxPoolReverse, NormParameters, NormReverse, PoolWindow, ReverseOperator,
};
use fbp_linalg::conv2d::{Conv2dGeometry, Conv2dParams};
use fbp_linalg::qp_oracle::{BoxQp, qp_nearest};
use fbp_linalg::testkit::{Tol, normal_mat, normal_vec, rng, uniform_mat};
use fbp_linalg::{FeatureShape, LinalgError, Real, assert_close};
use proptest::prelude::*;

use crate::avg_pool::lstsq;
use crate::passes::{forward, reverse};

/// A layer to be, which need not exist.
#[derive(Clone, Copy, Debug)]
struct Draw {
    input: FeatureShape,
    out_channels: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    output_padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
    transposed: bool,
    seed: u64,
}

/// Strides 1 to 3, padding 0 to 3, dilation 1 to 3, groups, odd sizes, single pixels, kernels beyond the image; `line`
/// layers in one dimension. Zeros only if `faulty`.
fn draws(line: bool, faulty: bool) -> impl Strategy<Value = Draw> {
    let least = usize::from(!faulty);
    let pair = move |low: usize, high: usize, flat: usize| {
        let down = if line { (flat..=flat).boxed() } else { (low..=high).boxed() };
        (down, low..=high).prop_map(|(h, w)| [h, w])
    };
    let shape = (1..=2_usize, 1..=2_usize, 1..=3_usize, pair(least, 5, 1));
    let taps = (pair(least, 4, 1), pair(least, 3, 1), pair(0, 3, 0), pair(0, 1, 0), pair(least, 3, 1));
    (shape, taps, any::<bool>(), any::<u64>()).prop_map(move |(shape, taps, transposed, seed)| {
        let (per_in, per_out, groups, [height, width]) = shape;
        let (kernel, stride, padding, output_padding, dilation) = taps;
        let input = FeatureShape::image(per_in * groups, height, width);
        // Every seventh faulty draw has groups that do not divide the channels.
        let groups = if faulty && seed.is_multiple_of(7) { groups + 1 } else { groups };
        let out_channels = per_out * groups;
        Draw { input, out_channels, kernel, stride, padding, output_padding, dilation, groups, transposed, seed }
    })
}

impl Draw {
    fn geometry(&self) -> Result<Conv2dGeometry, LinalgError> {
        if self.transposed {
            let params = ConvTranspose2dParams::new(self.input, self.out_channels, self.kernel).stride(self.stride);
            let params = params.padding(self.padding).output_padding(self.output_padding);
            params.dilation(self.dilation).groups(self.groups).check()
        } else {
            let params = Conv2dParams::new(self.input, self.out_channels, self.kernel).stride(self.stride);
            params.padding(self.padding).dilation(self.dilation).groups(self.groups).check()
        }
    }

    /// Length of the output along an axis, by counting the positions at which something is written.
    fn out_len(&self, axis: usize) -> usize {
        let size = [self.input.height, self.input.width][axis];
        let span = (self.kernel[axis] - 1) * self.dilation[axis];
        if self.transposed {
            let whole = (size - 1) * self.stride[axis] + span + 1 + self.output_padding[axis];
            return whole.saturating_sub(2 * self.padding[axis]);
        }
        (0..).map(|at| at * self.stride[axis]).take_while(|at| at + span < size + 2 * self.padding[axis]).count()
    }

    /// Whether there is such a layer.
    fn exists(&self) -> bool {
        let FeatureShape { channels, height, width } = self.input;
        let sizes = [channels, height, width, self.out_channels, self.groups];
        let pairs = [self.kernel, self.stride, self.dilation];
        if sizes.contains(&0) || pairs.iter().flatten().any(|v| *v == 0) {
            return false;
        }
        let divides = channels.is_multiple_of(self.groups) && self.out_channels.is_multiple_of(self.groups);
        let added = (0..2).all(|axis| !self.transposed || self.output_padding[axis] < self.stride[axis]);
        divides && added && (0..2).all(|axis| self.out_len(axis) > 0)
    }

    /// The matrix of the layer, tap by tap.
    fn matrix(&self, weight: &[f64]) -> Mat<f64> {
        let (out_h, out_w) = (self.out_len(0), self.out_len(1));
        let FeatureShape { channels, height, width } = self.input;
        let mut matrix = Mat::zeros(self.out_channels * out_h * out_w, self.input.len());
        let (per_in, per_out) = (channels / self.groups, self.out_channels / self.groups);
        let [kh, kw] = self.kernel;
        // The image that the taps step over, and the one that they start from.
        let reach = |axis: usize, at: usize, tap: usize, len: usize| {
            let place = at * self.stride[axis] + tap * self.dilation[axis];
            (self.padding[axis]..self.padding[axis] + len).contains(&place).then(|| place - self.padding[axis])
        };
        for (o, c) in (0..self.out_channels).flat_map(|o| (0..channels).map(move |c| (o, c))) {
            if o / per_out != c / per_in {
                continue;
            }
            for (k, l) in (0..kh).flat_map(|k| (0..kw).map(move |l| (k, l))) {
                // A transposed layer has its inputs where a convolution has its outputs.
                let at = if self.transposed { c * per_out + o % per_out } else { o * per_in + c % per_in };
                let w = weight[(at * kh + k) * kw + l];
                let (starts, targets) =
                    if self.transposed { ((height, width), (out_h, out_w)) } else { ((out_h, out_w), (height, width)) };
                for (i, j) in (0..starts.0).flat_map(|i| (0..starts.1).map(move |j| (i, j))) {
                    let (Some(y), Some(x)) = (reach(0, i, k, targets.0), reach(1, j, l, targets.1)) else { continue };
                    let (start, end) = (i * starts.1 + j, y * targets.1 + x);
                    let (row, col) = if self.transposed { (end, start) } else { (start, end) };
                    matrix[(o * out_h * out_w + row, c * height * width + col)] += w;
                }
            }
        }
        matrix
    }

    fn layer<T: Real>(&self, weight: &[f64], bias: &[f64]) -> Conv2dReverse<T> {
        let geometry = self.geometry().unwrap();
        let narrow = |values: &[f64]| values.iter().map(|v| T::from_f64(*v)).collect::<Vec<_>>();
        let (weight, bias) = (narrow(weight), narrow(bias));
        if self.transposed {
            Conv2dReverse::transposed("layer", geometry, &weight, &bias).unwrap()
        } else {
            Conv2dReverse::new("layer", geometry, &weight, &bias).unwrap()
        }
    }
}

/// Forward pass, least squares for points and the nearest point within boxes, all against the matrix.
fn agrees_with_dense(draw: &Draw) {
    let mut random = rng(draw.seed);
    let geometry = draw.geometry().unwrap();
    // Quarters, which both scalars hold.
    let quarters = |values: Vec<f64>| values.into_iter().map(|v| (v * 4.0).round() / 4.0).collect::<Vec<_>>();
    let weight = quarters(normal_vec(geometry.weight_len(), &mut random));
    let bias = quarters(normal_vec(draw.out_channels, &mut random));
    let matrix = draw.matrix(&weight);
    let layer = draw.layer::<f64>(&weight, &bias);
    assert_eq!((layer.out_shape().len(), layer.in_shape()), (matrix.nrows(), draw.input), "{draw:?}");
    let plane = draw.out_len(0) * draw.out_len(1);
    let offset = Mat::from_fn(matrix.nrows(), 1, |i, _| bias[i / plane]);
    let input = normal_mat::<f64>(draw.input.len(), 1, &mut random);
    let expected = &matrix * &input + &offset;
    let size = expected.norm_max().max(1.0);
    let tol = Tol::eps::<f64>().times(64).scale(size);
    assert_close!(forward(&layer, input.as_ref()), expected, tol, "{draw:?}");
    let narrow = Mat::from_fn(input.nrows(), 1, |i, _| input[(i, 0)] as f32);
    let wide = Mat::from_fn(input.nrows(), 1, |i, _| f64::from(narrow[(i, 0)]));
    let tol = Tol::eps::<f32>().times(64).scale(size);
    let single = draw.layer::<f32>(&weight, &bias);
    assert_close!(forward(&single, narrow.as_ref()), &matrix * &wide + &offset, tol, "{draw:?}");

    let target = normal_mat::<f64>(matrix.nrows(), 1, &mut random);
    let reversed = reverse(&layer, input.as_ref(), (&target, &target), Interval::EVERYTHING).unwrap();
    if matrix.norm_max() > 0.0 {
        // What is left of the target is orthogonal to the layer, and the step to its null space.
        let gap = &target - &matrix * &reversed.point - &offset;
        let slope = (matrix.transpose() * &gap).norm_max();
        assert!(slope <= 1e-8 * matrix.norm_l2() * (1.0 + size), "{draw:?}: {slope:e}");
        let step = lstsq(matrix.as_ref(), (&target - &expected).as_ref());
        if step.norm_max() < 1e3 {
            let tol = Tol::eps::<f64>().times(1_000_000).scale(1.0 + step.norm_max());
            assert_close!(reversed.point, &input + &step, tol, "{draw:?}");
        }
    }
    boxes_agree_with_the_oracle(draw, &layer, &matrix, &offset);
}

fn boxes_agree_with_the_oracle(draw: &Draw, layer: &Conv2dReverse<f64>, matrix: &Mat<f64>, offset: &Mat<f64>) {
    let (mut random, n) = (rng(!draw.seed), matrix.ncols());
    let relu = |x: Mat<f64>| Mat::from_fn(x.nrows(), 1, |i, _| x[(i, 0)].max(0.0));
    let (input, witness) = (relu(normal_mat(n, 1, &mut random)), relu(normal_mat(n, 1, &mut random)));
    let attained = matrix * &witness + offset;
    let width = uniform_mat::<f64>(matrix.nrows(), 1, 0.0, 1.0, &mut random);
    let lower = Mat::from_fn(matrix.nrows(), 1, |i, _| attained[(i, 0)] - width[(i, 0)]);
    let upper = Mat::from_fn(matrix.nrows(), 1, |i, _| attained[(i, 0)] + 0.5 * width[(i, 0)]);
    let reversed = reverse(layer, input.as_ref(), (&lower, &upper), Interval::new(0.0, f64::INFINITY)).unwrap();
    assert_eq!(reversed.report.unattained, 0, "{draw:?} {:?}", reversed.report);
    let qp = BoxQp {
        a: matrix.clone(),
        b: offset.col_as_slice(0).to_vec(),
        v0: input.col_as_slice(0).to_vec(),
        lower_out: lower.col_as_slice(0).to_vec(),
        upper_out: upper.col_as_slice(0).to_vec(),
        lower_in: vec![0.0; n],
        upper_in: vec![f64::INFINITY; n],
    };
    if let Ok(nearest) = qp_nearest(&qp) {
        assert_close!(reversed.point, nearest, Tol::eps::<f64>().times(100_000_000).scale(1.0), "{draw:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_agree_with_dense_matrices(draw in draws(false, false)) {
        prop_assume!(draw.exists());
        agrees_with_dense(&draw);
    }

    #[test]
    fn lines_agree_with_dense_matrices(draw in draws(true, false)) {
        prop_assume!(draw.exists());
        agrees_with_dense(&draw);
        let Draw { input, out_channels, kernel, stride, padding, output_padding, dilation, groups, .. } = draw;
        let line = Conv1dParams {
            stride: stride[1],
            padding: padding[1],
            output_padding: if draw.transposed { output_padding[1] } else { 0 },
            dilation: dilation[1],
            groups,
            ..Conv1dParams::new(input.channels, input.width, out_channels, kernel[1])
        };
        let geometry = if draw.transposed { line.check_transposed() } else { line.check() };
        prop_assert_eq!(geometry.unwrap(), draw.geometry().unwrap());
    }

    #[test]
    fn faulty_convolutions_are_refused(draw in draws(false, true)) {
        let geometry = draw.geometry();
        prop_assert_eq!(geometry.is_ok(), draw.exists(), "{:?}", geometry);
        if let Err(error) = geometry {
            prop_assert!(matches!(error, LinalgError::Geometry { .. }), "{error}");
        }
    }
}

proptest! {
    // The conformance kit takes a second for some of these.
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_conform(draw in draws(false, false)) {
        prop_assume!(draw.exists() && draw.input.len() <= 24);
        prop_assume!(draw.out_channels * draw.out_len(0) * draw.out_len(1) <= 48);
        let mut random = rng(draw.seed);
        // Through chains of far smaller weights, inputs act on outputs by less than these round in single precision.
        let weight = normal_vec::<f64>(draw.geometry().unwrap().weight_len(), &mut random);
        let weight: Vec<f64> = weight.into_iter().map(|w| w.signum() * w.abs().max(0.05)).collect();
        let bias = normal_vec::<f64>(draw.out_channels, &mut random);
        let conforms = |layer: &dyn ReverseOperator<f64>| {
            // Boxes that hardly any point reaches leave 1e-10 of the outputs.
            let check = ReverseCheck::new().seeds(6).tolerance(1_048_576.0);
            check_reverse_operator(layer, &check).map_err(|e| format!("{draw:?}: {e}"))?;
            check_derivatives(layer, &check).map_err(|e| format!("{draw:?}: {e}"))
        };
        prop_assert_eq!(conforms(&draw.layer::<f64>(&weight, &bias)).err(), None);
        let single = draw.layer::<f32>(&weight, &bias);
        let check = ReverseCheck::new().seeds(6).tolerance(16_384.0);
        let found = check_reverse_operator(&single, &check).map_err(|e| format!("{draw:?}: {e}"));
        prop_assert_eq!(found.err(), None);
    }

    #[test]
    fn pools_conform_or_are_refused(
        shape in (1..=2_usize, 0..=5_usize, 0..=5_usize),
        kernel in [0..=4_usize, 0..=4_usize],
        stride in [0..=3_usize, 0..=3_usize],
        padding in [0..=3_usize, 0..=3_usize],
        ceil_mode in any::<bool>(),
        divisor in 0..3_usize,
    ) {
        let shape = FeatureShape::image(shape.0, shape.1, shape.2);
        let window = PoolWindow { kernel, stride, padding, ceil_mode };
        let sizes = [shape.height, shape.width];
        let fits = |axis: usize| {
            let usable = sizes[axis] > 0 && kernel[axis] > 0 && stride[axis] > 0 && padding[axis] < kernel[axis];
            usable && sizes[axis] + 2 * padding[axis] >= kernel[axis]
        };
        let exists = fits(0) && fits(1);
        let divisor = [AvgDivisor::Window, AvgDivisor::Sites, AvgDivisor::Fixed(-2.5)][divisor];
        let max = MaxPoolReverse::<f64>::new("max", shape, window);
        let average = AvgPoolReverse::<f64>::with_divisor("average", shape, window, divisor);
        prop_assert_eq!((max.is_ok(), average.is_ok()), (exists, exists));
        let (max, average) = match (max, average) {
            (Ok(max), Ok(average)) => (max, average),
            (Err(error), _) | (_, Err(error)) => {
                prop_assert!(matches!(error, InverseError::Layer { .. }), "{error}");
                return Ok(());
            }
        };
        // Choosing the sites that reach their windows is a set cover, solved nearly; see the layer.
        let check = ReverseCheck::new().seeds(6).misses_within(1.2);
        prop_assert_eq!(check_reverse_operator(&max, &check).err().map(|e| e.to_string()), None);
        let check = ReverseCheck::new().seeds(6).tolerance(1_048_576.0);
        prop_assert_eq!(check_reverse_operator(&average, &check).err().map(|e| e.to_string()), None);
        prop_assert_eq!(check_derivatives(&average, &check).err().map(|e| e.to_string()), None);
    }

    #[test]
    fn norms_conform_or_are_refused(
        shape in (1..=4_usize, 1..=3_usize, 1..=3_usize),
        groups in 0..=4_usize,
        len in 0..=12_usize,
        seed in any::<u64>(),
    ) {
        let shape = FeatureShape::image(shape.0, shape.1, shape.2);
        let mut random = rng(seed);
        let scales = |count: usize, random: &mut rand_chacha::ChaCha8Rng| {
            normal_vec::<f64>(count, random).into_iter().map(|v| (0.5 * v).exp()).collect::<Vec<_>>()
        };
        let bias = normal_vec::<f64>(shape.len().max(len), &mut random);
        let per_channel = scales(shape.channels, &mut random);
        let per_entry = scales(len, &mut random);
        let with = |weight| NormParameters { weight, bias: &bias[..weight.len()], epsilon: 1e-5 };
        let layers = [
            (NormReverse::group_norm("group", shape, groups, with(&per_channel)), groups > 0 && shape.channels.is_multiple_of(groups)),
            (NormReverse::instance_norm("instance", shape, with(&per_channel)), true),
            (NormReverse::layer_norm("layer", shape, len, with(&per_entry)), len > 0 && shape.len().is_multiple_of(len)),
            (NormReverse::rms_norm("rms", shape, len, with(&per_entry)), len > 0 && shape.len().is_multiple_of(len)),
        ];
        for (layer, exists) in layers {
            prop_assert_eq!(layer.is_ok(), exists);
            let Ok(layer) = layer else { continue };
            let layer = layer.with_tolerance(1e-11).unwrap();
            let everything = [(f64::NEG_INFINITY, f64::INFINITY)];
            let check = ReverseCheck::new().seeds(6).tolerance(262_144.0).ranges(&everything);
            let check = check.nearest_for_points_only().may_miss().misses_within(f64::INFINITY);
            let found = check_reverse_operator(&layer, &check).err().map(|e| format!("{shape} {groups} {len}: {e}"));
            prop_assert_eq!(found, None);
        }
    }
}

/// Draws on which a solver once went in circles, gave up too early, or took the rounding of its factors for rank.
#[test]
fn draws_that_were_hard_conform() {
    let (conv, transposed) = (false, true);
    let draw = |[channels, height, width]: [usize; 3], out_channels, kernel, stride, padding| Draw {
        input: FeatureShape { channels, height, width },
        out_channels,
        kernel,
        stride,
        padding,
        output_padding: [0, 0],
        dilation: [1, 1],
        groups: 1,
        transposed: conv,
        seed: 0,
    };
    let hard = [
        Draw {
            output_padding: [0, 1],
            dilation: [3, 2],
            groups: 2,
            transposed,
            seed: 1_163_021_217_678_795_309,
            ..draw([4, 1, 1], 2, [4, 3], [1, 2], [2, 2])
        },
        Draw {
            dilation: [2, 1],
            groups: 3,
            seed: 6_500_484_316_989_519_356,
            ..draw([3, 4, 1], 6, [2, 1], [1, 1], [3, 0])
        },
        Draw { groups: 3, seed: 1_699_247_637_030_959_342, ..draw([6, 4, 1], 6, [4, 1], [1, 1], [3, 0]) },
        Draw { dilation: [1, 2], seed: 3_957_623_025_994_828_489, ..draw([2, 4, 2], 2, [3, 2], [1, 2], [3, 2]) },
        Draw {
            output_padding: [0, 1],
            dilation: [2, 2],
            transposed,
            seed: 5_859_695_704_376_472_715,
            ..draw([2, 2, 1], 2, [3, 2], [3, 2], [2, 0])
        },
        Draw { dilation: [2, 3], seed: 12_565_222_428_695_834_301, ..draw([1, 4, 4], 2, [2, 2], [2, 1], [0, 2]) },
        Draw { dilation: [2, 2], seed: 6_724_402_895_015_793_944, ..draw([1, 3, 5], 1, [3, 2], [3, 2], [3, 2]) },
        Draw {
            output_padding: [1, 1],
            dilation: [1, 2],
            transposed,
            seed: 12_810_931_412_600_066_441,
            ..draw([1, 2, 3], 2, [1, 4], [3, 2], [1, 3])
        },
        Draw { groups: 3, seed: 7_956_856_925_752_656_644, ..draw([6, 1, 4], 6, [3, 1], [2, 2], [3, 0]) },
    ];
    for draw in hard {
        let mut random = rng(draw.seed);
        let weight = normal_vec::<f64>(draw.geometry().unwrap().weight_len(), &mut random);
        let bias = normal_vec::<f64>(draw.out_channels, &mut random);
        let double = ReverseCheck::new().seeds(6).tolerance(1_048_576.0);
        check_reverse_operator(&draw.layer::<f64>(&weight, &bias), &double).unwrap_or_else(|e| panic!("{draw:?}: {e}"));
        let single = ReverseCheck::new().seeds(6).tolerance(16_384.0);
        check_reverse_operator(&draw.layer::<f32>(&weight, &bias), &single).unwrap_or_else(|e| panic!("{draw:?}: {e}"));
    }
}
