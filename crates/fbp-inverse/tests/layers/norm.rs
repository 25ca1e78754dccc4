//! Normalisation by the statistics of the sample.

use faer::Mat;
use fbp_inverse::testkit::{ReverseCheck, check_derivatives, check_reverse_operator};
use fbp_inverse::{BatchNormReverse, Interval, InverseError, NormParameters, NormReverse, ReverseOperator};
use fbp_linalg::testkit::{for_seeds, normal_mat, normal_vec, uniform_mat};
use fbp_linalg::{FeatureShape, Real};

use crate::passes::{forward, reverse};

/// Scales that spread over a decade, and shifts.
fn parameters<T: Real>(count: usize, rng: &mut rand_chacha::ChaCha8Rng) -> (Vec<T>, Vec<T>) {
    let weight = normal_vec::<f64>(count, rng).into_iter().map(|v| T::from_f64((0.5 * v).exp()));
    (weight.collect(), normal_vec(count, rng))
}

/// One layer of each kind.
fn layers<T: Real>(rng: &mut rand_chacha::ChaCha8Rng, epsilon: f64) -> Vec<NormReverse<T>> {
    let mut all = Vec::new();
    let image = FeatureShape::image;
    for (shape, len) in [(FeatureShape::vector(7), 7), (image(3, 1, 5), 5), (image(2, 2, 3), 12)] {
        let (weight, bias) = parameters::<T>(len, rng);
        let parameters = NormParameters { weight: &weight, bias: &bias, epsilon };
        all.push(NormReverse::layer_norm(format!("layer norm {shape}/{len}"), shape, len, parameters).unwrap());
        all.push(NormReverse::rms_norm(format!("rms norm {shape}/{len}"), shape, len, parameters).unwrap());
    }
    let (weight, bias) = parameters::<T>(4, rng);
    let parameters = NormParameters { weight: &weight, bias: &bias, epsilon };
    all.push(NormReverse::group_norm("group norm", image(4, 2, 2), 2, parameters).unwrap());
    all.push(NormReverse::instance_norm("instance norm", image(4, 3, 2), parameters).unwrap());
    all
}

/// Everything without an input range; with one, boxes may be missed, and are then not missed by the least.
fn conform<T: Real>(tolerance: f64) {
    let allowed = (4.0 * tolerance / T::EPSILON.to_f64()).max(2048.0);
    let free = ReverseCheck::new().tolerance(allowed).ranges(&[(f64::NEG_INFINITY, f64::INFINITY)]);
    let ranges = ReverseCheck::new().tolerance(allowed).may_miss().misses_within(f64::INFINITY);
    for_seeds(2, |rng| {
        for layer in layers::<T>(rng, 1e-5) {
            let layer = layer.with_tolerance(tolerance).unwrap();
            for check in
                [free.clone().nearest_for_points_only().misses_within(1.01), ranges.clone().nearest_for_points_only()]
            {
                check_reverse_operator(&layer, &check).unwrap_or_else(|error| panic!("{}: {error}", T::NAME));
            }
            check_derivatives(&layer, &free).unwrap_or_else(|error| panic!("{}: {error}", T::NAME));
        }
    });
}

#[test]
fn norms_conform_f64() {
    conform::<f64>(1e-11);
}

#[test]
fn norms_conform_f32() {
    conform::<f32>(NormReverse::<f32>::DEFAULT_TOLERANCE);
}

fn attainable_targets_are_hit<T: Real>() {
    for_seeds(40, |rng| {
        for layer in layers::<T>(rng, 1e-5) {
            let len = layer.in_shape().len();
            let (input, witness) = (normal_mat::<T>(len, 8, rng), normal_mat::<T>(len, 8, rng));
            let target = forward(&layer, witness.as_ref());
            let reversed = reverse(&layer, input.as_ref(), (&target, &target), Interval::EVERYTHING).unwrap();
            assert_eq!(reversed.report.unattained, 0, "{}", layer.name());
            let reached = forward(&layer, reversed.point.as_ref());
            let miss = (&reached - &target).norm_max().to_f64() / target.norm_max().to_f64();
            // The default tolerance is 1e-6; 1.5e-6 is the worst that was seen.
            assert!(miss <= 1e-5, "{}: {miss:e}", layer.name());
            for sample in 0..8 {
                let distance = |x: &Mat<T>| (x.col(sample) - input.col(sample)).norm_l2().to_f64();
                assert!(distance(&reversed.point) <= distance(&witness) * (1.0 + 1e-6), "{}", layer.name());
            }
        }
    });
}

#[test]
fn attainable_targets_are_hit_no_farther_than_a_known_preimage() {
    attainable_targets_are_hit::<f64>();
    attainable_targets_are_hit::<f32>();
}

/// Boxes around a known output: how often, and by how much, the known input is nearer than the answer.
#[test]
fn boxes_are_attained_and_nearer_than_a_known_preimage() {
    let (mut cases, mut farther, mut worst) = (0, 0, 1.0_f64);
    for_seeds(40, |rng| {
        for layer in layers::<f64>(rng, 1e-5) {
            let len = layer.in_shape().len();
            let input = normal_mat::<f64>(len, 8, rng);
            // Known inputs near and far.
            let step = normal_mat::<f64>(len, 8, rng);
            let witness = Mat::from_fn(len, 8, |i, j| input[(i, j)] + 0.25 * j as f64 * step[(i, j)]);
            let output = forward(&layer, witness.as_ref());
            let (down, up) = (uniform_mat::<f64>(len, 8, 0.0, 0.5, rng), uniform_mat::<f64>(len, 8, 0.0, 0.5, rng));
            let (lower, upper) = (&output - &down, &output + &up);
            let reversed = reverse(&layer, input.as_ref(), (&lower, &upper), Interval::EVERYTHING).unwrap();
            assert_eq!(reversed.report.unattained, 0, "{}", layer.name());
            for sample in 0..8 {
                let distance = |x: &Mat<f64>| (x.col(sample) - input.col(sample)).norm_l2();
                let (found, known) = (distance(&reversed.point), distance(&witness));
                cases += 1;
                farther += usize::from(found > known * (1.0 + 1e-6));
                worst = worst.max(if known > 0.0 { found / known } else { 1.0 });
            }
        }
    });
    // The set is not convex, but in these 2560 cases the answer was never farther.
    assert_eq!((cases, farther), (2560, 0), "worst factor {worst}");
}

#[test]
fn targets_off_the_sphere_are_missed_by_as_little_as_possible() {
    for_seeds(30, |rng| {
        for layer in layers::<f64>(rng, 1e-5) {
            let len = layer.in_shape().len();
            let input = normal_mat::<f64>(len, 4, rng);
            let attained = forward(&layer, normal_mat::<f64>(len, 4, rng).as_ref());
            let target = Mat::from_fn(len, 4, |i, j| 2.0 * attained[(i, j)] + 0.3);
            let reversed = reverse(&layer, input.as_ref(), (&target, &target), Interval::EVERYTHING).unwrap();
            assert!(reversed.report.unattained > 0);
            let miss = |x: &Mat<f64>| (forward(&layer, x.as_ref()) - &target).norm_l2();
            let least = miss(&reversed.point);
            for size in [1e-4, 1e-3, 1e-2, 0.1, 1.0] {
                let step = normal_mat::<f64>(len, 4, rng);
                let other = Mat::from_fn(len, 4, |i, j| reversed.point[(i, j)] + size * step[(i, j)]);
                assert!(miss(&other) >= least * (1.0 - 1e-5), "{}: {} {least}", layer.name(), miss(&other));
            }
        }
    });
}

#[test]
fn zero_scales_ask_for_nothing_and_are_reported() {
    let shape = FeatureShape::image(4, 1, 3);
    for_seeds(20, |rng| {
        let parameters = NormParameters { weight: &[1.5, 0.0, -0.5, 0.0], bias: &[0.0, 1.0, 0.5, -1.0], epsilon: 1e-5 };
        let layer = NormReverse::<f64>::group_norm("norm", shape, 2, parameters).unwrap();
        let input = normal_mat::<f64>(12, 3, rng);
        let target = forward(&layer, normal_mat::<f64>(12, 3, rng).as_ref());
        let reversed = reverse(&layer, input.as_ref(), (&target, &target), Interval::EVERYTHING).unwrap();
        assert_eq!(reversed.report.unattained, 0, "the constant channels ask for what they give");
        let beyond = Mat::from_fn(12, 3, |i, j| target[(i, j)] + if i / 3 == 1 { 0.25 } else { 0.0 });
        let missed = reverse(&layer, input.as_ref(), (&beyond, &beyond), Interval::EVERYTHING).unwrap();
        assert_eq!(missed.report.unattained, 3);
        assert!((missed.report.violation_max - 0.25).abs() < 1e-5, "{}", missed.report.violation_max);
    });
}

#[test]
fn flat_inputs_and_single_entries_are_fine() {
    let parameters = NormParameters { weight: &[2.0, 1.0], bias: &[0.5, -0.5], epsilon: 1e-5 };
    let layer = NormReverse::<f64>::layer_norm("norm", FeatureShape::vector(2), 2, parameters).unwrap();
    let flat = Mat::full(2, 1, 3.0);
    let target = forward(&layer, Mat::from_fn(2, 1, |i, _| i as f64).as_ref());
    let reversed = reverse(&layer, flat.as_ref(), (&target, &target), Interval::EVERYTHING).unwrap();
    assert_eq!(reversed.report.unattained, 0);
    // The other way round: a target that only a flat input gives.
    let shift = forward(&layer, flat.as_ref());
    let input = Mat::from_fn(2, 1, |i, _| i as f64);
    let reversed = reverse(&layer, input.as_ref(), (&shift, &shift), Interval::EVERYTHING).unwrap();
    assert_eq!((reversed.report.unattained, reversed.point[(0, 0)]), (0, 0.5));
    let single = NormParameters { weight: &[2.0], bias: &[0.5], epsilon: 0.0 };
    let layer = NormReverse::<f64>::instance_norm("norm", FeatureShape::vector(1), single).unwrap();
    let (one, half) = (Mat::full(1, 1, 1.0), Mat::full(1, 1, 0.5));
    assert_eq!(forward(&layer, one.as_ref()), half);
    let reversed = reverse(&layer, one.as_ref(), (&one, &one), Interval::EVERYTHING).unwrap();
    assert_eq!((reversed.report.unattained, reversed.report.violation_max), (1, 0.5));
}

#[test]
fn no_epsilon_leaves_the_deviation_free() {
    for_seeds(20, |rng| {
        for layer in layers::<f64>(rng, 0.0) {
            let len = layer.in_shape().len();
            let (input, witness) = (normal_mat::<f64>(len, 2, rng), normal_mat::<f64>(len, 2, rng));
            let target = forward(&layer, witness.as_ref());
            let reversed = reverse(&layer, input.as_ref(), (&target, &target), Interval::EVERYTHING).unwrap();
            assert_eq!(reversed.report.unattained, 0, "{}", layer.name());
        }
    });
}

#[test]
fn faulty_parameters_are_named() {
    let shape = FeatureShape::image(4, 2, 2);
    let values = [1.0_f32; 16];
    let with = |count: usize, epsilon| NormParameters { weight: &values[..count], bias: &values[..count], epsilon };
    let is_layer = |error: InverseError| matches!(error, InverseError::Layer { .. });
    assert!(is_layer(NormReverse::layer_norm("norm", shape, 5, with(5, 0.1)).unwrap_err()));
    assert!(is_layer(NormReverse::layer_norm("norm", shape, 0, with(0, 0.1)).unwrap_err()));
    assert!(is_layer(NormReverse::group_norm("norm", shape, 3, with(4, 0.1)).unwrap_err()));
    assert!(is_layer(NormReverse::group_norm("norm", shape, 0, with(4, 0.1)).unwrap_err()));
    let wrong = NormReverse::rms_norm("norm", shape, 4, with(5, 0.1)).unwrap_err();
    assert!(matches!(wrong, InverseError::Solve { .. }), "{wrong}");
    for epsilon in [-1e-9, f64::NAN, f64::INFINITY] {
        let wrong = NormReverse::instance_norm("norm", shape, with(4, epsilon)).unwrap_err();
        assert!(matches!(wrong, InverseError::Parameter { name: "epsilon", .. }), "{wrong}");
    }
    let layer = NormReverse::instance_norm("norm", shape, with(4, 0.1)).unwrap();
    assert!(layer.with_tolerance(0.0).is_err());
}

#[test]
fn batch_norm_with_zero_scales_keeps_its_input_and_reports() {
    for shape in [FeatureShape::vector(3), FeatureShape::image(3, 2, 2)] {
        let (scale, shift) = (vec![2.0, 0.0, -1.0], vec![0.0, 0.5, 1.0]);
        let layer = BatchNormReverse::<f64>::from_affine("norm", shape, scale, shift).unwrap();
        for_seeds(5, |rng| {
            let (input, target) = (normal_mat::<f64>(shape.len(), 2, rng), normal_mat::<f64>(shape.len(), 2, rng));
            let range = Interval::new(-9.0, 9.0);
            let reversed = reverse(&layer, input.as_ref(), (&target, &target), range).unwrap();
            assert_eq!(reversed.report.unattained, 2);
            let plane = shape.plane();
            let mut worst = 0.0_f64;
            for (i, j) in (plane..2 * plane).flat_map(|i| [(i, 0), (i, 1)]) {
                assert_eq!(reversed.point[(i, j)], input[(i, j)]);
                assert_eq!((reversed.lower[(i, j)], reversed.upper[(i, j)]), (-9.0, 9.0));
                worst = worst.max((target[(i, j)] - 0.5).abs());
            }
            assert_eq!(reversed.report.violation_max, worst);
        });
    }
}
