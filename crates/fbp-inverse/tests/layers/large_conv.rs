//! Convolutions beyond the limit of dense plans.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{Mat, Par};
use fbp_inverse::{Conv2dReverse, Interval, LinearReverse, ReverseOperator, ReversePass, TargetBox, TargetBoxMut};
use fbp_linalg::FeatureShape;
use fbp_linalg::conv2d::Conv2dParams;
use fbp_linalg::testkit::{normal_mat, normal_vec, rng};

use rayon::prelude::*;

use crate::passes::forward;

#[test]
fn point_targets_are_attained() {
    let mut rng = rng(1);
    let geometry = Conv2dParams::new(FeatureShape::image(3, 40, 40), 2, [3, 3]).padding([1, 1]).check().unwrap();
    let weight = normal_vec::<f64>(geometry.weight_len(), &mut rng);
    let layer = Conv2dReverse::new("large", geometry, &weight, &[0.3, -0.2]).unwrap();
    let (rows, cols) = (geometry.out_len(), geometry.in_len());
    let forward = |input: &Mat<f64>| {
        let mut output = Mat::zeros(rows, 2);
        let mut memory = MemBuffer::new(layer.forward_scratch(2, Par::Seq));
        layer.forward(input.as_ref(), output.as_mut(), Par::Seq, MemStack::new(&mut memory)).unwrap();
        output
    };
    let start = normal_mat::<f64>(cols, 2, &mut rng);
    let observed = forward(&start);
    let target = normal_mat::<f64>(rows, 2, &mut rng);
    let (mut point, mut lower, mut upper) = (Mat::zeros(cols, 2), Mat::zeros(cols, 2), Mat::zeros(cols, 2));
    let mut reverse = |in_range| {
        let pass = ReversePass {
            observed_in: start.as_ref(),
            observed_out: observed.as_ref(),
            target_out: TargetBox { point: target.as_ref(), lower: target.as_ref(), upper: target.as_ref() },
            in_range,
            target_in: TargetBoxMut { point: point.as_mut(), lower: lower.as_mut(), upper: upper.as_mut() },
        };
        let mut memory = MemBuffer::new(layer.reverse_scratch(2, Par::Seq));
        layer.reverse(pass, Par::Seq, MemStack::new(&mut memory))
    };
    let report = reverse(Interval::EVERYTHING).unwrap();
    assert_eq!((report.unattained, report.samples), (0, 2));
    let missed = (forward(&point) - &target).norm_l2() / target.norm_l2();
    assert!(missed <= 1e-9, "residual {missed:e}");
    assert!(point == lower && point == upper);
}

#[test]
fn boxes_and_ranges_are_answered_without_the_matrix() {
    let mut rng = rng(2);
    let geometry = Conv2dParams::new(FeatureShape::image(3, 40, 40), 2, [3, 3]).padding([1, 1]).check().unwrap();
    let weight = normal_vec::<f32>(geometry.weight_len(), &mut rng);
    let layer = Conv2dReverse::new("large", geometry, &weight, &[0.3, -0.2]).unwrap();
    let relu = |x: Mat<f32>| Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)].max(0.0));
    let (input, witness) =
        (relu(normal_mat(geometry.in_len(), 2, &mut rng)), relu(normal_mat(geometry.in_len(), 2, &mut rng)));
    let attained = forward(&layer, witness.as_ref());
    // As a ReLU above leaves them: half of the rows are points, the others half-lines.
    let lower =
        Mat::from_fn(
            attained.nrows(),
            2,
            |i, j| {
                if attained[(i, j)] > 0.0 { attained[(i, j)] } else { f32::NEG_INFINITY }
            },
        );
    let upper = Mat::from_fn(attained.nrows(), 2, |i, j| attained[(i, j)].max(0.0));
    let range = Interval::new(0.0, f32::INFINITY);
    let found = crate::passes::reverse(&layer, input.as_ref(), (&lower, &upper), range).unwrap();
    assert_eq!((found.report.unattained, found.report.stopped_early), (0, false), "{:?}", found.report);
    assert!(found.report.kkt_max <= 1e-4, "{:?}", found.report);
    let distance = |x: &Mat<f32>, j: usize| (x.col(j) - input.col(j)).norm_l2();
    for sample in 0..2 {
        assert!(found.point.col(sample).iter().all(|v| *v >= 0.0));
        assert!(distance(&found.point, sample) < distance(&witness, sample));
    }
    // Out of reach: more than all inputs at their upper end can give.
    let unit = Interval::new(0.0, 1.0);
    let beyond = Mat::from_fn(attained.nrows(), 2, |_, _| 100.0_f32);
    let missed = crate::passes::reverse(&layer, input.as_ref(), (&beyond, &beyond), unit).unwrap();
    assert_eq!((missed.report.unattained, missed.report.stopped_early), (2, false), "{:?}", missed.report);
}

/// What a layer prepares at first use must not make the tasks of a thread pool wait for one another.
#[test]
fn tasks_of_a_pool_share_a_new_layer() {
    let mut rng = rng(3);
    let geometry = Conv2dParams::new(FeatureShape::image(3, 40, 40), 2, [3, 3]).padding([1, 1]).check().unwrap();
    let weight = normal_vec::<f64>(geometry.weight_len(), &mut rng);
    let large = Conv2dReverse::new("large", geometry, &weight, &[0.3, -0.2]).unwrap();
    let matrix = normal_mat::<f64>(300, 400, &mut rng);
    let dense = LinearReverse::new("dense", matrix.as_ref(), &[0.1; 300]).unwrap();
    let layers: [&dyn ReverseOperator<f64>; 2] = [&large, &dense];
    for layer in layers {
        let start = normal_mat::<f64>(layer.in_shape().len(), 2, &mut rng);
        let target = normal_mat::<f64>(layer.out_shape().len(), 2, &mut rng);
        let observed = forward(layer, start.as_ref());
        let reversed = |_| {
            let mut point = Mat::zeros(start.nrows(), 2);
            let (mut lower, mut upper) = (point.clone(), point.clone());
            let pass = ReversePass {
                observed_in: start.as_ref(),
                observed_out: observed.as_ref(),
                target_out: TargetBox { point: target.as_ref(), lower: target.as_ref(), upper: target.as_ref() },
                in_range: Interval::EVERYTHING,
                target_in: TargetBoxMut { point: point.as_mut(), lower: lower.as_mut(), upper: upper.as_mut() },
            };
            let par = Par::rayon(2);
            let mut memory = MemBuffer::new(layer.reverse_scratch(2, par));
            layer.reverse(pass, par, MemStack::new(&mut memory)).unwrap();
            point
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(8).build().unwrap();
        let points: Vec<Mat<f64>> = pool.install(|| (0..32).into_par_iter().map(reversed).collect());
        let tolerance = 4096.0 * f64::EPSILON * points[0].norm_l2();
        assert!(points.iter().all(|point| (point - &points[0]).norm_l2() <= tolerance));
    }
}
