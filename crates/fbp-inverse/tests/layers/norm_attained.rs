//! What normalisations report as attained, far from 0 and near it.

use faer::Mat;
use fbp_inverse::{Interval, NormParameters, NormReverse};
use fbp_linalg::attained::attained_slack;
use fbp_linalg::testkit::{for_seeds, normal_mat, normal_vec, uniform_vec};
use fbp_linalg::{FeatureShape, Real};

use crate::passes::{Reversed, forward, reverse};

/// One group: its normalisation as the definition has it, in double precision.
struct Oracle {
    weight: Vec<f64>,
    bias: Vec<f64>,
    epsilon: f64,
    centred: bool,
}

impl Oracle {
    /// Normalised entries of a group. Differences from the first entry are exact where they are small beside it.
    fn normalised<T: Real>(&self, group: &[T]) -> Vec<f64> {
        let n = group.len() as f64;
        let start = if self.centred { group[0].to_f64() } else { 0.0 };
        let moved: Vec<f64> = group.iter().map(|x| x.to_f64() - start).collect();
        let mean = if self.centred { moved.iter().sum::<f64>() / n } else { 0.0 };
        let variance = moved.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / n;
        moved.iter().map(|d| (d - mean) / (variance + self.epsilon).sqrt()).collect()
    }

    /// Largest distance of an output to its target beyond what may count as attained, and the largest distance itself.
    fn excess<T: Real>(&self, group: &[T], (lower, upper): (&[T], &[T]), tolerance: f64) -> (f64, f64) {
        let normal = self.normalised(group);
        let spread = normal.iter().map(|z| z.abs()).sum::<f64>() / normal.len() as f64;
        let spread = if self.centred { spread } else { 0.0 };
        let mut worst = (f64::NEG_INFINITY, 0.0_f64);
        for (i, z) in normal.iter().enumerate() {
            let (gain, shift) = (self.weight[i], self.bias[i]);
            let y = gain * z + shift;
            let distance = (lower[i].to_f64() - y).max(y - upper[i].to_f64()).max(0.0);
            let slack =
                attained_slack::<T>(2, gain.abs() * (z.abs() + spread) + shift.abs()) + tolerance * (gain * z).abs();
            worst = (worst.0.max(distance - slack), worst.1.max(distance));
        }
        worst
    }
}

/// Checks the report of one group against the oracle; rounding of the oracle's own is let through.
fn expect_honest<T: Real>(oracle: &Oracle, found: &Reversed<T>, target: (&Mat<T>, &Mat<T>), tolerance: f64) -> bool {
    if found.report.satisfied_before == 1 {
        return true;
    }
    let column = |m: &Mat<T>| (0..m.nrows()).map(|i| m[(i, 0)]).collect::<Vec<T>>();
    let (excess, miss) = oracle.excess(&column(&found.point), (&column(target.0), &column(target.1)), tolerance);
    let own = (0.1 * T::EPSILON.to_f64()).max(1e-13) * (1.0 + miss);
    assert!(found.report.unattained == 1 || excess <= own, "attained, but misses by {miss:e}, {excess:e} too much");
    assert!(found.report.unattained == 0 || excess >= -own, "unattained, but misses by {miss:e} only");
    let reported = found.report.violation_max;
    assert!((reported - miss).abs() <= own, "misses by {miss:e}, reported {reported:e}");
    found.report.unattained == 0
}

/// Layer normalisation of `n` entries, or RMS normalisation.
fn layer<T: Real>(oracle: &Oracle, tolerance: f64) -> NormReverse<T> {
    let narrow = |values: &[f64]| values.iter().map(|&v| T::from_f64(v)).collect::<Vec<_>>();
    let (weight, bias) = (narrow(&oracle.weight), narrow(&oracle.bias));
    let parameters = NormParameters { weight: &weight, bias: &bias, epsilon: oracle.epsilon };
    let (shape, n) = (FeatureShape::vector(weight.len()), weight.len());
    let layer = if oracle.centred {
        NormReverse::layer_norm("norm", shape, n, parameters)
    } else {
        NormReverse::rms_norm("norm", shape, n, parameters)
    };
    layer.unwrap().with_tolerance(tolerance).unwrap()
}

#[test]
fn layer_norm_far_from_zero_reports_what_single_precision_cannot_hold() {
    let oracle = Oracle { weight: vec![1.0; 6], bias: vec![0.0; 6], epsilon: 1e-5, centred: true };
    let layer = layer::<f32>(&oracle, NormReverse::<f32>::DEFAULT_TOLERANCE);
    let target = Mat::from_fn(6, 1, |i, _| [0.0_f32, 0.1, 0.2, 0.3, -0.3, -0.3][i]);
    // The deviation that this target asks for is 7.5e-4: only near 0 single precision resolves it.
    for (mean, attained) in [(-3.5_f32, true), (100.0, false), (1e3, false), (1e4, false), (1e6, false)] {
        let input = Mat::from_fn(6, 1, |i, _| mean + 1.0 + i as f32);
        let found = reverse(&layer, input.as_ref(), (&target, &target), Interval::EVERYTHING).unwrap();
        println!("mean {mean}: misses by {:.2e}", found.report.violation_max);
        let honest = expect_honest(&oracle, &found, (&target, &target), NormReverse::<f32>::DEFAULT_TOLERANCE);
        assert_eq!(honest, attained, "mean {mean}");
    }
    // The same in double precision is attained with digits to spare.
    let wide = self::layer::<f64>(&oracle, 1e-12);
    for mean in [0.0, 100.0, 1e3] {
        let input = Mat::from_fn(6, 1, |i, _| mean + 1.0 + i as f64);
        let target = Mat::from_fn(6, 1, |i, _| [0.0_f64, 0.1, 0.2, 0.3, -0.3, -0.3][i]);
        let found = reverse(&wide, input.as_ref(), (&target, &target), Interval::EVERYTHING).unwrap();
        assert!(found.report.violation_max <= 1e-15 * (1.0 + mean) / 7.5e-4 * 4.0, "{:e}", found.report.violation_max);
    }
}

/// Means from 1 to 1e8 and deviations from 1e-3 to 1e3: no miss is called attained; how many are attained near 0.
fn any_mean<T: Real>(tolerance: f64) -> (usize, usize) {
    let (mut near, mut attained) = (0, 0);
    for_seeds(120, |rng| {
        for centred in [true, false] {
            let draw = uniform_vec::<f64>(6, 0.0, 1.0, rng);
            let n = 2 + (62.0 * draw[0]) as usize;
            let round = |v: f64| T::from_f64(v).to_f64();
            let weight: Vec<f64> = normal_vec::<f64>(n, rng).iter().map(|v| round((0.5 * v).exp())).collect();
            let bias: Vec<f64> =
                normal_vec::<f64>(n, rng).iter().map(|v| if draw[1] < 0.3 { 0.0 } else { round(*v) }).collect();
            let oracle = Oracle { weight, bias, epsilon: 1e-5, centred };
            let layer = layer::<T>(&oracle, tolerance);
            // In one half of the cases the mean is of the size of the deviation, which few entries may make small.
            let is_near = draw[2] < 0.5 && n >= 8;
            let deviation = 10.0_f64.powf(6.0 * draw[3] - 3.0);
            let mean = if is_near { 4.0 * deviation * draw[4] } else { 10.0_f64.powf(8.0 * draw[4]) };
            let place = |m: Mat<f64>| Mat::from_fn(n, 1, |i, _| T::from_f64(mean + deviation * m[(i, 0)]));
            let (input, witness) = (place(normal_mat(n, 1, rng)), place(normal_mat(n, 1, rng)));
            let output = forward(&layer, witness.as_ref());
            let width = if draw[5] < 0.5 { T::ZERO } else { T::from_f64(0.1) };
            let lower = Mat::from_fn(n, 1, |i, _| output[(i, 0)] - width);
            let upper = Mat::from_fn(n, 1, |i, _| output[(i, 0)] + width);
            let found = reverse(&layer, input.as_ref(), (&lower, &upper), Interval::EVERYTHING).unwrap();
            let honest = expect_honest(&oracle, &found, (&lower, &upper), tolerance);
            near += usize::from(is_near);
            attained += usize::from(is_near && honest);
        }
    });
    (near, attained)
}

#[test]
fn no_mean_hides_a_miss() {
    for (near, attained) in [any_mean::<f32>(1e-6), any_mean::<f64>(1e-12)] {
        assert_eq!(attained, near, "samples near 0 that are attained");
    }
}

#[test]
fn norms_of_the_largest_and_smallest_numbers_are_those_of_plain_ones() {
    let oracle = Oracle { weight: vec![1.0; 4], bias: vec![0.0; 4], epsilon: 0.0, centred: true };
    let rms = Oracle { centred: false, weight: vec![1.0; 4], bias: vec![0.0; 4], epsilon: 0.0 };
    for oracle in [oracle, rms] {
        let norm = layer::<f64>(&oracle, 1e-6);
        let plain = Mat::from_fn(4, 1, |i, _| [1.0, -0.5, 0.25, 0.75][i]);
        let expected = forward(&norm, plain.as_ref());
        let wanted = forward(&norm, Mat::from_fn(4, 1, |i, _| [0.5, 1.0, -0.25, 0.75][i]).as_ref());
        for unit in [2.0_f64.powi(1022), 2.0_f64.powi(600), 2.0_f64.powi(-600), 2.0_f64.powi(-1018)] {
            let input = Mat::from_fn(4, 1, |i, _| plain[(i, 0)] * unit);
            let output = forward(&norm, input.as_ref());
            assert_eq!(output, expected, "{unit:e}");
            let found = reverse(&norm, input.as_ref(), (&wanted, &wanted), Interval::EVERYTHING).unwrap();
            assert_eq!(found.report.unattained, 0, "{unit:e}: {:e}", found.report.violation_max);
            assert!((0..4).all(|i| found.point[(i, 0)].is_finite()));
        }
    }
    // Beside ε a group of tiny entries is x/√ε.
    let oracle = Oracle { weight: vec![1.0; 4], bias: vec![0.0; 4], epsilon: 1e-4, centred: false };
    let norm = layer::<f64>(&oracle, 1e-6);
    let output = forward(&norm, Mat::full(4, 1, 1e-300).as_ref());
    assert!((output[(0, 0)] - 1e-298).abs() <= 8.0 * f64::EPSILON * 1e-298);
}

/// The same boxes from many starts: the answer is never farther than inputs known to lie in the box.
fn boxes_from_known_inputs(range: Interval<f64>) -> (usize, usize, f64) {
    let (mut cases, mut farther, mut worst) = (0, 0, 1.0_f64);
    for_seeds(60, |rng| {
        for n in [3, 16, 100] {
            let weight: Vec<f64> = normal_vec::<f64>(n, rng).iter().map(|v| (0.5 * v).exp()).collect();
            let oracle = Oracle { weight, bias: normal_vec(n, rng), epsilon: 1e-5, centred: true };
            let norm = layer::<f64>(&oracle, 1e-9);
            let clipped = |m: Mat<f64>| Mat::from_fn(n, 1, |i, _| range.clip(m[(i, 0)]));
            let (input, far) = (clipped(normal_mat::<f64>(n, 1, rng)), clipped(normal_mat::<f64>(n, 1, rng)));
            for (share, width) in [(0.1, 0.0), (0.1, 0.3), (0.5, 0.05), (1.0, 0.3)] {
                let witness = Mat::from_fn(n, 1, |i, _| input[(i, 0)] + share * (far[(i, 0)] - input[(i, 0)]));
                let output = forward(&norm, witness.as_ref());
                // Half of the entries are those of a ReLU above: points where positive, everything below elsewhere.
                let relu = width == 0.0;
                let lower = Mat::from_fn(n, 1, |i, _| match output[(i, 0)] {
                    y if relu && y <= 0.0 => f64::NEG_INFINITY,
                    y => y - width,
                });
                let upper =
                    Mat::from_fn(n, 1, |i, _| if relu { output[(i, 0)].max(0.0) } else { output[(i, 0)] + width });
                let found = reverse(&norm, input.as_ref(), (&lower, &upper), range).unwrap();
                let distance = |x: &Mat<f64>| (x - &input).norm_l2();
                let ratio = distance(&found.point) / distance(&witness);
                cases += 1;
                let is_farther = found.report.unattained == 1 || ratio > 1.0 + 1e-6;
                farther += usize::from(is_farther);
                worst = worst.max(if found.report.unattained == 1 { f64::INFINITY } else { ratio });
            }
        }
    });
    (cases, farther, worst)
}

#[test]
fn boxes_are_reached_no_farther_than_by_known_inputs() {
    assert_eq!(boxes_from_known_inputs(Interval::EVERYTHING), (720, 0, 1.0));
    let (cases, farther, worst) = boxes_from_known_inputs(Interval::new(0.0, f64::INFINITY));
    println!("within [0, ∞): {farther} of {cases} farther or missed, worst {worst}");
}

/// Boxes as wide as 64 roundings of the inputs, around an output that is known to exist.
fn wide_boxes_far_from_zero<T: Real>() {
    for_seeds(60, |rng| {
        let draw = uniform_vec::<f64>(3, 0.0, 1.0, rng);
        let n = 3 + (20.0 * draw[0]) as usize;
        let mean = 10.0_f64.powf(1.0 + 4.0 * draw[1]);
        let epsilon = if draw[2] < 0.5 { 1e-5 } else { 1e-12 };
        let weight: Vec<f64> = uniform_vec::<f64>(n, 0.2, 2.0, rng).iter().map(|v| T::from_f64(*v).to_f64()).collect();
        let oracle = Oracle { weight, bias: vec![0.0; n], epsilon, centred: true };
        let layer = layer::<T>(&oracle, NormReverse::<T>::DEFAULT_TOLERANCE);
        let place = |m: Mat<f64>| Mat::from_fn(n, 1, |i, _| T::from_f64(mean + m[(i, 0)]));
        let (input, witness) = (place(normal_mat(n, 1, rng)), place(normal_mat(n, 1, rng)));
        let output = forward(&layer, witness.as_ref());
        let width = 128.0 * T::EPSILON.to_f64() * (1.0 + mean);
        let end = |sign: f64| Mat::from_fn(n, 1, |i, _| T::from_f64(output[(i, 0)].to_f64() + sign * width));
        let target = (&end(-1.0), &end(1.0));
        let found = reverse(&layer, input.as_ref(), target, Interval::EVERYTHING).unwrap();
        assert!(expect_honest(&oracle, &found, target, NormReverse::<T>::DEFAULT_TOLERANCE), "mean {mean:e}");
        let distance = |x: &Mat<T>| (x.col(0) - input.col(0)).norm_l2().to_f64();
        let rounding = T::EPSILON.to_f64() * mean * (n as f64).sqrt();
        // Not the nearest for sure, but no farther than a change of the deviation to twice of what it is takes.
        assert!(distance(&found.point) <= 2.0 * distance(&witness) + rounding, "mean {mean:e}");
    });
}

#[test]
fn boxes_that_the_precision_resolves_are_attained_far_from_zero() {
    wide_boxes_far_from_zero::<f32>();
    wide_boxes_far_from_zero::<f64>();
}
